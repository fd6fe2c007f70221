#pragma once

/// @file
/// How an epoch is given up half-way.

#include <functional>
#include <utility>

namespace contraflow {

/// Thrown within an epoch that is given up; whoever began the epoch undoes what it has changed.
struct EpochGivenUp {};

/// Asked within an epoch, at every velocity that is computed, whether the epoch is to be given up.
class EpochWatch {
 public:
  EpochWatch() = default;  ///< no epoch is given up
  /// @param asked whether the epoch under way is to be given up; quick
  explicit EpochWatch(std::function<bool()> asked) : asked_(std::move(asked)) {}

  /// Whether anybody may want an epoch to be given up.
  bool is_on() const { return static_cast<bool>(asked_); }

  /// @throws EpochGivenUp where the epoch is to be given up
  void check() const {
    if (asked_ && asked_()) throw EpochGivenUp{};
  }

  /// Does this rank's part of what all ranks do next to each other: collective, where it is on.
  /// @param communicator of the ranks
  /// @param part computes, and is not collective
  /// @throws EpochGivenUp on all ranks, where one of them has given up its part
  template <class Comm, class Part>
  void together(const Comm& communicator, Part&& part) const {
    if (!is_on()) return part();
    bool given_up = false;
    try {
      part();
    } catch (const EpochGivenUp&) {
      given_up = true;
    }
    if (communicator.agree(given_up)) throw EpochGivenUp{};
  }

 private:
  std::function<bool()> asked_;
};

}  // namespace contraflow
