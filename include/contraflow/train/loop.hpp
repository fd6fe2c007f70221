#pragma once

/// @file
/// The only loop over epochs.

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <contraflow/observe/concept.hpp>
#include <contraflow/train/epoch_watch.hpp>
#include <contraflow/train/ranks.hpp>

namespace contraflow {

namespace detail {

/// An epoch of a trainer, with the warnings of all ranks.
template <class T, class All>
EpochReport epoch_of(T& trainer, All& observers) {
  const auto& communicator = trainer.communicator();
  if constexpr (is_alone<std::remove_cvref_t<decltype(communicator)>>) {
    return trainer.run_epoch([&](const Warning& warning) { observers.warn(warning); });
  } else {
    std::vector<Warning> own;
    EpochReport report = trainer.run_epoch([&](const Warning& warning) { own.push_back(warning); });
    for (const Warning& warning : warnings_of_all(communicator, own)) observers.warn(warning);
    return report;
  }
}

/// Whether what is done was given up in the middle, on all ranks.
template <class F>
bool is_given_up(F&& f) {
  try {
    f();
  } catch (const EpochGivenUp&) {
    return true;
  }
  return false;
}

/// Lets observers that interrupt give up an epoch, while this lives.
template <class T>
class Watched {
 public:
  template <class All>
  Watched(T& trainer, const All& observers) : trainer_(trainer) {
    if constexpr (All::interrupt && can_be_watched) {
      trainer.watch(EpochWatch([&observers] { return !observers.interruption().empty(); }));
      is_set_ = true;
    }
  }
  Watched(const Watched&) = delete;
  ~Watched() {
    if constexpr (can_be_watched) {
      if (is_set_) trainer_.watch({});
    }
  }

 private:
  static constexpr bool can_be_watched = requires(T & trainer) { trainer.watch(EpochWatch{}); };
  T& trainer_;
  bool is_set_ = false;
};

}  // namespace detail

/// Runs a trainer until @p epochs epochs are finished in total, or an observer asks for the end.
///
/// With several ranks each of them runs this loop with the same observers: all measure and act
/// behind an epoch everywhere, those of rank 0 are told of it, and what one of them or of those
/// that listen on every rank answers holds for all.
///
/// An observer that interrupts may end the run in the middle of an epoch, which is undone.
/// @param trainer has `epoch()`, `run_number()`, `communicator()`, `reason_to_end()` and
///   `run_epoch(warn)`, which gives an EpochReport; where its epochs can be given up,
///   `watch(EpochWatch)`
/// @param epochs total, those of a resumed run included
/// @param observers in an epoch all of them measure, then all are told, then all are called behind
/// @return how it ended, the same on all ranks
template <class T, class... Os>
RunReport run_loop(T& trainer, std::int64_t epochs, Os&... observers) {
  const auto& communicator = trainer.communicator();
  Observers<std::remove_reference_t<Os>...> all(communicator.rank() == 0, observers...);
  all.start({trainer.epoch() + 1, epochs, trainer.run_number()});
  RunReport run{trainer.epoch(), false, {}, {}};
  const detail::Watched watched(trainer, all);
  while (trainer.epoch() < epochs && !run.stopped) {
    if (detail::is_given_up([&] { run.last = detail::epoch_of(trainer, all); })) {
      run.stopped = true;
      break;
    }
    run.epochs = trainer.epoch();
    // Observers may evaluate: that is given up too, and the epoch stands.
    const bool gave_up = detail::is_given_up([&] { all.measure(trainer, run.last); });
    Verdict verdict = all(run.last);
    if (std::string reason = trainer.reason_to_end(); !reason.empty() && !verdict.stop) {
      verdict = {true, std::move(reason), {}};
    }
    run.stopped = communicator.agree(verdict.stop) || gave_up;
    if (run.stopped) run.reason = reason_of_all(communicator, verdict.reason);
    if (detail::is_given_up([&] { all.after(trainer, run.last); })) run.stopped = true;
  }
  if (run.stopped && run.reason.empty()) {
    run.reason = reason_of_all(communicator, all.interruption());
  }
  all.finish(trainer, run);
  return run;
}

}  // namespace contraflow
