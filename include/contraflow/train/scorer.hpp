#pragma once

/// @file
/// From samples to what they are worth.

#include <future>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/advantage/concept.hpp>
#include <contraflow/advantage/groups.hpp>
#include <contraflow/objective/batch.hpp>
#include <contraflow/observe/report.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/train/prompts.hpp>
#include <contraflow/train/rollout.hpp>

namespace contraflow {

/// Samples that have scores, and the scores: one numbering for both.
template <class Record>
struct ScoredRollout {
  Rollout<Record> rollout;  ///< of N samples
  Scores scores;            ///< of these N; undefined where nobody asked for any
};

/// Samples whose scores are all there, out of a sheet for more of them: positions int64 [N].
inline Tensor scored_samples(const ScoreSheet& sheet) {
  return sheet.scores.isfinite().all(0).nonzero().flatten();
}

/// Scores samples by rewards, takes out those without a score, and turns scores into advantages.
template <class R, class A, class Prompts>
class Scorer {
 public:
  /// @param rewards a bag of rewards
  /// @param advantage of the samples of a group
  /// @param prompts which give references to the rewards; must outlive the scorer
  /// @param asynchronous whether a batch is scored while the next one is made
  Scorer(R rewards, A advantage, const Prompts& prompts, bool asynchronous)
      : rewards_(std::move(rewards)),
        advantage_(std::move(advantage)),
        prompts_(prompts),
        asynchronous_(asynchronous) {
    static_assert(explain_advantage<A>());
  }

  /// The rewards.
  const R& rewards() const { return rewards_; }

  /// Forgets what an epoch that was ended by an exception has left unfinished.
  void reset() { sheets_.clear(); }

  /// Begins to score the next samples of the epoch.
  /// @param x0 clean samples [B, ...]
  /// @param prompt the number of each sample's prompt, int64 [B]
  void begin(const Tensor& x0, const Tensor& prompt) {
    const auto policy = asynchronous_ ? std::launch::async : std::launch::deferred;
    sheets_.push_back(std::async(policy, [this, x0, reference = reference_of(prompts_, prompt)] {
      const at::NoGradGuard no_gradient;
      return rewards_.score(x0, reference);
    }));
  }

  /// Waits until all that was begun is scored.
  void wait() {
    for (const auto& sheet : sheets_) sheet.wait();
  }

  /// Ends the scoring of an epoch.
  /// @param rollout all its samples, in the order of begin()
  /// @param report is given the metrics
  /// @param warn told of rewards that failed
  /// @return the samples that have all scores, maybe none
  /// @throws Error if a reward broke its contract
  template <class Record, class Warn>
  ScoredRollout<Record> finish(Rollout<Record> rollout, EpochReport& report, Warn&& warn) {
    const ScoreSheet sheet = joined();
    for (const std::string& failure : sheet.failures) warn(Warning{"reward/failure", 1, failure});
    const Tensor valid = scored_samples(sheet);
    const std::int64_t masked = rollout.size() - valid.numel();
    report.add("reward/masked", double(masked));
    add_scores(report, sheet, valid);
    if (valid.numel() == 0) {
      warn(Warning{"reward/masked", double(masked),
                   "no sample of this epoch has a score: nothing was trained"});
      add_statistics(report, {});
      return {};
    }
    ScoredRollout<Record> scored{masked > 0 ? rollout.select(valid) : std::move(rollout), {}};
    scored.scores = valued(sheet.scores.index_select(1, valid), scored.rollout.group);
    add_statistics(report, scored.scores);
    return scored;
  }

 private:
  ScoreSheet joined() {
    ScoreSheet all;
    std::vector<Tensor> scores;
    for (auto& future : std::exchange(sheets_, {})) {
      ScoreSheet sheet = future.get();
      all.names = std::move(sheet.names);
      scores.push_back(sheet.scores);
      all.failures.insert(all.failures.end(), sheet.failures.begin(), sheet.failures.end());
    }
    all.scores = at::cat(scores, 1);
    return all;
  }

  Scores valued(const Tensor& sheet, const Tensor& group) const {
    Scores scores;
    scores.reward = rewards_.combine(sheet);
    scores.group = group;
    scores.advantage = advantage_(scores.reward, scores.group);
    return scores;
  }

  static void add_scores(EpochReport& report, const ScoreSheet& sheet, const Tensor& valid) {
    for (std::size_t i = 0; i < sheet.names.size(); ++i) {
      std::optional<double> mean;
      if (valid.numel() > 0) {
        mean = sheet.scores[std::int64_t(i)].index_select(0, valid).mean().template item<double>();
      }
      report.add("score/" + sheet.names[i], mean);
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

  R rewards_;
  A advantage_;
  const Prompts& prompts_;
  bool asynchronous_;
  std::vector<std::future<ScoreSheet>> sheets_;
};

}  // namespace contraflow
