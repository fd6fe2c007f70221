#pragma once

/// @file
/// Sheets of scores: put together, and which of their samples count.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <contraflow/advantage/groups.hpp>
#include <contraflow/distributed/text.hpp>
#include <contraflow/reward/combination.hpp>

namespace contraflow {

/// What a score counts as that a reward failed to give.
enum class FailedScore {
  left_out,        ///< nothing: the sample is left out of the epoch
  worst_of_group,  ///< the worst score of that reward within the sample's group
};

/// Which scores a sheet lacks although the reward did not abstain: bool [R, N].
inline Tensor failed_scores(const ScoreSheet& sheet) {
  const Tensor missing = sheet.scores.isfinite().logical_not();
  return sheet.abstained.defined() ? missing.logical_and(sheet.abstained.logical_not()) : missing;
}

/// The samples of a sheet that a reward has scored and none has failed on: positions int64 [N], out
/// of more.
inline Tensor scored_samples(const ScoreSheet& sheet) {
  return sheet.scores.isfinite()
      .any(0)
      .logical_and(failed_scores(sheet).any(0).logical_not())
      .nonzero()
      .flatten();
}

/// Scores as RewardBag combines them, and of which samples.
struct CountedScores {
  Tensor scores;   ///< float64 [R, N]: finite, NaN or minus infinity
  Tensor samples;  ///< positions int64 [N] out of those of the sheet
};

namespace detail {

/// Whether a reward failed on some samples of a group and scored none: there is no worst score.
inline bool lacks_worst(const Tensor& failed, const Tensor& scored) {
  return failed.any(1).logical_and(scored.any(1).logical_not()).any().item<bool>();
}

/// The samples of a sheet for which each failed score has a worst one of its group to stand for it.
inline Tensor samples_with_worst(const ScoreSheet& sheet, const Tensor& group) {
  const Tensor failed = failed_scores(sheet), scored = sheet.scores.isfinite();
  const Tensor keep = scored.logical_or(failed).any(0);
  for (const auto& members : members_of_groups(group)) {
    const Tensor rows = at::tensor(members, at::kLong);
    if (lacks_worst(failed.index_select(1, rows), scored.index_select(1, rows))) {
      keep.index_fill_(0, rows, false);
    }
  }
  return keep.nonzero().flatten();
}

}  // namespace detail

/// The scores of a sheet that count.
///
/// Where a failed score counts as the worst of its group, a group of which a reward has scored no
/// sample and failed on some is left out.
/// @param sheet of more samples
/// @param group of each, int64
/// @param failure what a failed score counts as
inline CountedScores counted_scores(const ScoreSheet& sheet, const Tensor& group,
                                    FailedScore failure) {
  if (failure == FailedScore::left_out) {
    const Tensor samples = scored_samples(sheet);
    return {sheet.scores.index_select(1, samples), samples};
  }
  const Tensor samples = detail::samples_with_worst(sheet, group);
  const Tensor scores =
      sheet.scores.masked_fill(failed_scores(sheet), -std::numeric_limits<double>::infinity());
  return {scores.index_select(1, samples), samples};
}

/// How failures are spread over groups: those of bad samples alone shift the mean of what is left.
struct FailureCounts {
  std::int64_t samples = 0;  ///< with a failed score
  std::int64_t groups = 0;   ///< with such a sample
  double largest_share = 0;  ///< of a group's samples
};

/// Counts failures.
/// @par Shape
/// @p failed bool [N], @p group int64 [N]
inline FailureCounts count_failures(const Tensor& failed, const Tensor& group) {
  FailureCounts counts{failed.sum().item<std::int64_t>()};
  if (counts.samples == 0) return counts;
  for (const auto& members : members_of_groups(group)) {
    const Tensor own = failed.index_select(0, at::tensor(members, at::kLong));
    const double share = own.to(at::kDouble).mean().item<double>();
    counts.groups += share > 0 ? 1 : 0;
    counts.largest_share = std::max(counts.largest_share, share);
  }
  return counts;
}

/// The mean of those of a reward's scores that are there; nothing without any.
inline std::optional<double> mean_score(const Tensor& scores) {
  const Tensor there = scores.masked_select(scores.isfinite());
  if (there.numel() == 0) return std::nullopt;
  return there.mean().item<double>();
}

/// The sheets of batches that follow each other as one; without any a sheet without names.
inline ScoreSheet joined_sheets(std::vector<ScoreSheet> sheets) {
  ScoreSheet all;
  std::vector<Tensor> scores, abstained;
  for (ScoreSheet& sheet : sheets) {
    all.names = std::move(sheet.names);
    scores.push_back(sheet.scores);
    if (sheet.abstained.defined()) abstained.push_back(sheet.abstained);
    all.failures.insert(all.failures.end(), sheet.failures.begin(), sheet.failures.end());
  }
  if (!scores.empty()) all.scores = at::cat(scores, 1);
  if (!abstained.empty()) all.abstained = at::cat(abstained, 1);
  return all;
}

/// A sheet of the scores of all ranks' samples, in the order of the ranks: collective.
/// @param communicator of the ranks
/// @param sheet of this rank's samples; without names where it has none
template <class Comm>
ScoreSheet sheet_of_all(const Comm& communicator, ScoreSheet sheet) {
  if constexpr (!is_alone<Comm>) sheet.names = gathered_lines(communicator, sheet.names);
  const auto rewards = std::int64_t(sheet.names.size());
  if (!sheet.scores.defined()) sheet.scores = at::empty({rewards, 0}, at::kDouble);
  if constexpr (!is_alone<Comm>) {
    const auto of_all = [&](const Tensor& rows) {
      return communicator.gather(rows.t().contiguous()).t();
    };
    if (communicator.agree(sheet.abstained.defined())) {
      if (!sheet.abstained.defined()) sheet.abstained = at::zeros({rewards, 0}, at::kBool);
      sheet.abstained = of_all(sheet.abstained.to(at::kLong)).to(at::kBool);
    }
    sheet.scores = of_all(sheet.scores);
  }
  return sheet;
}

}  // namespace contraflow
