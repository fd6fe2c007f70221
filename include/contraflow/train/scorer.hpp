#pragma once

/// @file
/// From samples to what they are worth.

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/advantage/concept.hpp>
#include <contraflow/advantage/groups.hpp>
#include <contraflow/advantage/per_reward.hpp>
#include <contraflow/distributed/text.hpp>
#include <contraflow/objective/batch.hpp>
#include <contraflow/observe/report.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/train/epoch_watch.hpp>
#include <contraflow/train/prompts.hpp>
#include <contraflow/train/rollout.hpp>
#include <contraflow/train/score_sheet.hpp>
#include <contraflow/train/scoring_thread.hpp>

namespace contraflow {

/// Samples that have scores, and the scores: one numbering for both.
///
/// With several ranks each has the scores of all samples of the epoch, and of the samples
/// themselves all, or those that it made: positions `first` to `first + rollout.size() - 1`.
template <class Record>
struct ScoredRollout {
  Rollout<Record> rollout;     ///< of this rank's samples
  Scores scores;               ///< of all N; undefined where nobody asked for any
  Tensor all_ids = {};         ///< of all N, int64 on the CPU; undefined where the rollout has them
  std::int64_t first = 0;      ///< position of the first sample of the rollout among all
  bool is_everywhere = false;  ///< every rank has all samples

  /// The ids of all samples, int64 [N]; undefined where there are none.
  const Tensor& ids() const { return all_ids.defined() ? all_ids : rollout.id; }
  /// Number of samples of all ranks, N.
  std::int64_t size() const { return ids().defined() ? ids().size(0) : 0; }
};

/// How scores become rewards: a component of a Trainer.
struct Scoring {
  /// What a score counts as that a reward failed to give. Where a judge fails on bad samples alone,
  /// leaving them out shifts the mean of their group: `reward/failed_share` shows it.
  FailedScore failed = FailedScore::left_out;
};

/// Scores samples by rewards, takes out those without a score, and turns scores into advantages.
template <class R, class A, class Prompts, class Comm = Alone>
class Scorer {
 public:
  /// @param rewards a bag of rewards
  /// @param advantage of the samples of a group
  /// @param prompts which give references to the rewards; must outlive the scorer
  /// @param asynchronous whether batches are scored by a thread of the scorer's, one after the
  ///   other, while the next ones are made
  /// @param communicator of the ranks that have a part of the samples each
  /// @param scoring settings
  Scorer(R rewards, A advantage, const Prompts& prompts, bool asynchronous, Comm communicator = {},
         Scoring scoring = {})
      : rewards_(std::move(rewards)),
        advantage_(std::move(advantage)),
        prompts_(prompts),
        communicator_(std::move(communicator)),
        scoring_(scoring),
        thread_(asynchronous ? std::make_unique<detail::ScoringThread>() : nullptr) {
    static_assert(explain_advantage<A>());
  }

  /// The rewards.
  const R& rewards() const { return rewards_; }

  /// Forgets what an epoch that was ended by an exception has left unfinished: a batch that is
  /// being scored is not waited for, and those behind it are not scored.
  void reset() {
    if (thread_) thread_->leave();
    sheets_.clear();
  }

  /// Epochs in a row, up to the last, in which no sample had a score.
  std::int64_t unscored_epochs() const { return unscored_epochs_; }
  /// Tells that the last epoch had scores and was learnt from.
  void learnt() { unscored_epochs_ = 0; }
  /// What a reward has said that threw in the last epoch without a score; empty where none has.
  const std::string& last_failure() const { return last_failure_; }

  /// Begins to score the next samples of the epoch.
  /// @param x0 clean samples [B, ...]
  /// @param prompt the number of each sample's prompt, int64 [B]
  void begin(const Tensor& x0, const Tensor& prompt) {
    if (x0.size(0) == 0) return;
    auto score = [this, x0, reference = reference_of(prompts_, prompt)] {
      const at::NoGradGuard no_gradient;
      return rewards_.score(x0, reference);
    };
    sheets_.push_back(thread_ ? thread_->add(std::move(score))
                              : std::async(std::launch::deferred, std::move(score)));
  }

  /// What was begun since this was last called: the scores of an epoch.
  PendingScores taken() { return std::exchange(sheets_, {}); }

  /// Waits until all that was begun is scored.
  /// @param watch is asked meanwhile
  void wait(const EpochWatch& watch = {}) const { wait(sheets_, watch); }
  /// Waits until an epoch is scored.
  /// @param pending its scores
  /// @param watch is asked meanwhile
  static void wait(const PendingScores& pending, const EpochWatch& watch = {}) {
    for (const auto& sheet : pending) wait(sheet, watch);
  }

  /// Whether a thread of the scorer's calls the rewards.
  bool is_asynchronous() const { return thread_ != nullptr; }
  /// Waits until that thread calls them no more, so that they can be called by another.
  /// @param watch is asked meanwhile
  void wait_for_thread(const EpochWatch& watch = {}) {
    if (thread_) wait(thread_->add([] { return ScoreSheet{}; }), watch);
  }

  /// Ends the scoring of what was begun last: collective.
  template <class Record, class Warn>
  ScoredRollout<Record> finish(Rollout<Record> rollout, EpochReport& report, Warn&& warn) {
    return finish(std::move(rollout), taken(), report, warn);
  }
  /// Ends the scoring of an epoch: collective.
  /// @param rollout this rank's samples, in the order of begin()
  /// @param pending their scores
  /// @param report is given the metrics
  /// @param warn told of rewards that failed
  /// @return the samples whose scores count, maybe none
  /// @throws Error if a reward broke its contract, or two ranks have made the same sample
  template <class Record, class Warn>
  ScoredRollout<Record> finish(Rollout<Record> rollout, PendingScores pending, EpochReport& report,
                               Warn&& warn) {
    ScoreSheet own = sheet_of(std::move(pending));
    score_groups(own, rollout);
    const std::vector<std::string> failures = own.failures;
    for (const std::string& failure : failures) warn(Warning{"reward/failure", 1, failure});
    const ScoreSheet sheet = sheet_of_all(communicator_, std::move(own));
    const Numbers all = numbers_of_all(rollout);
    const CountedScores counted = counted_scores(sheet, all.group, scoring_.failed);
    const std::int64_t masked = sheet.scores.size(1) - counted.samples.numel();
    report.add("reward/masked", double(masked));
    add_failures(report, sheet, all.group);
    add_scores(report, sheet, counted.scores);
    if (counted.samples.numel() == 0) {
      warn(Warning{"reward/masked", double(masked),
                   "no sample of this epoch has a score: nothing was trained"});
      ++unscored_epochs_;
      const auto of_all = gathered_lines(communicator_, failures);
      last_failure_ = of_all.empty() ? "" : of_all.back();
      add_statistics(report, {});
      add_shares(report, sheet, {}, {});
      return {};
    }
    ScoredRollout<Record> scored = placed(std::move(rollout), all, counted.samples, masked > 0);
    add_statistics(report, scored.scores = valued(counted.scores, scored.scores.group));
    add_shares(report, sheet, counted.scores, scored.scores.group);
    return scored;
  }

 private:
  static void wait(const std::future<ScoreSheet>& sheet, const EpochWatch& watch) {
    using namespace std::chrono_literals;
    while (watch.is_on() && sheet.wait_for(100ms) == std::future_status::timeout) watch.check();
    sheet.wait();
  }
  /// The sheet of this rank's samples.
  static ScoreSheet sheet_of(PendingScores pending) {
    std::vector<ScoreSheet> sheets;
    for (auto& future : pending) sheets.push_back(future.get());
    return joined_sheets(std::move(sheets));
  }

  /// Adds the scores of rewards that see whole groups, now that all samples of them are there.
  template <class Record>
  void score_groups(ScoreSheet& sheet, const Rollout<Record>& rollout) const {
    if constexpr (HasGroupRewards<R, decltype(reference_of(prompts_, rollout.prompt))>) {
      if (rollout.size() == 0) return;
      const at::NoGradGuard no_gradient;
      rewards_.score_groups(sheet, rollout.x0, reference_of(prompts_, rollout.prompt),
                            rollout.group);
    }
  }

  /// The numbers of all ranks' samples, int64 [N].
  struct Numbers {
    Tensor id, group;
    std::int64_t begin = 0;  ///< of this rank's
  };
  template <class Record>
  Numbers numbers_of_all(const Rollout<Record>& rollout) const {
    if constexpr (is_alone<Comm>) {
      return {rollout.id, rollout.group};
    } else {
      const Tensor sizes = communicator_.gather(at::full({1}, rollout.size(), at::kLong));
      const Tensor all = communicator_.gather(at::stack({rollout.id, rollout.group}, 1));
      expects_distinct(all.select(1, 0));
      return {all.select(1, 0), all.select(1, 1),
              sizes.narrow(0, 0, communicator_.rank()).sum().template item<std::int64_t>()};
    }
  }

  /// This rank's samples out of those at @p valid among all ranks', and the numbers of all.
  template <class Record>
  ScoredRollout<Record> placed(Rollout<Record> rollout, const Numbers& all, const Tensor& valid,
                               bool some) const {
    if constexpr (is_alone<Comm>) {
      ScoredRollout<Record> scored{some ? rollout.select(valid) : std::move(rollout), {}};
      scored.scores.group = scored.rollout.group;
      return scored;
    } else {
      const Tensor own = valid.masked_select(
          valid.ge(all.begin).logical_and(valid.lt(all.begin + rollout.size())));
      ScoredRollout<Record> scored{rollout.select(own - all.begin), {}};
      scored.all_ids = all.id.index_select(0, valid);
      scored.scores.group = all.group.index_select(0, valid);
      scored.first = valid.lt(all.begin).sum().template item<std::int64_t>();
      return scored;
    }
  }

  static void expects_distinct(const Tensor& ids) {
    const Tensor sorted = std::get<0>(ids.sort());
    const Tensor same = sorted.slice(0, 1).eq(sorted.slice(0, 0, -1)).nonzero();
    if (same.numel() == 0) return;
    throw Error("collector", "each sample of an epoch made by one rank: take context.share(count)",
                "sample " + shown(sorted[same[0].item()].template item<std::int64_t>()) + " twice");
  }

  Scores valued(const Tensor& sheet, const Tensor& group) const {
    Scores scores;
    scores.reward = rewards_.combine(sheet, group);
    scores.group = group;
    if constexpr (HasAdvantagesOfRewards<A>) {
      static_assert(HasComponents<R>,
                    "contraflow: this Advantage compares each reward by itself, and these rewards "
                    "give their sum alone: give the trainer rewards(...), a RewardList, or a bag "
                    "with `components(scores, group) const`");
      if constexpr (HasComponents<R>) {
        const RewardComponents each = rewards_.components(sheet, group);
        scores.advantage = advantage_.of_rewards(each.values, each.weights, group);
      }
    } else {
      scores.advantage = advantage_(scores.reward, scores.group);
    }
    return scores;
  }

  static void add_failures(EpochReport& report, const ScoreSheet& sheet, const Tensor& group) {
    const FailureCounts counts = count_failures(failed_scores(sheet).any(0), group);
    report.add("reward/failed", double(counts.samples));
    report.add("reward/failed_groups", double(counts.groups));
    report.add("reward/failed_share", counts.largest_share);
  }

  static void add_scores(EpochReport& report, const ScoreSheet& sheet, const Tensor& counted) {
    for (std::size_t i = 0; i < sheet.names.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i);
      report.add("score/" + sheet.names[i], mean_score(counted[row]));
      if (sheet.abstained.defined()) {
        report.add("abstained/" + sheet.names[i],
                   sheet.abstained[row].sum().template item<double>());
      }
    }
  }

  static void add_statistics(EpochReport& report, const Scores& scores) {
    std::optional<double> mean, std, flat, spread;
    if (scores.reward.defined()) {
      const GroupStatistics groups = group_statistics(scores.reward, scores.group);
      mean = scores.reward.mean().template item<double>();
      std = scores.reward.std(/*unbiased=*/false).template item<double>();
      flat = groups.zero_std_ratio;
      spread = groups.mean_std;
    }
    report.add("reward/mean", mean);
    report.add("reward/std", std);
    report.add("zero_std_ratio", flat);
    report.add("reward/group_std", spread);
  }

  /// Where advantages are made of the sum of several rewards: what each has in it.
  void add_shares(EpochReport& report, const ScoreSheet& sheet, const Tensor& counted,
                  const Tensor& group) const {
    if constexpr (HasComponents<R> && !HasAdvantagesOfRewards<A>) {
      if (sheet.names.size() < 2) return;
      Tensor shares;
      if (counted.defined()) {
        const RewardComponents each = rewards_.components(counted, group);
        shares = variance_shares(each.weights.unsqueeze(1) * each.values, group);
      }
      for (std::size_t k = 0; k < sheet.names.size(); ++k) {
        std::optional<double> share;
        if (shares.defined()) share = shares[std::int64_t(k)].template item<double>();
        report.add("reward/share/" + sheet.names[k], share);
      }
    }
  }

  R rewards_;
  A advantage_;
  const Prompts& prompts_;
  [[no_unique_address]] Comm communicator_;
  Scoring scoring_;
  PendingScores sheets_;
  std::int64_t unscored_epochs_ = 0;
  std::string last_failure_;
  std::unique_ptr<detail::ScoringThread> thread_;  ///< goes first: it calls the rewards
};

}  // namespace contraflow
