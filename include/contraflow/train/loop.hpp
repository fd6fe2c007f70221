#pragma once

/// @file
/// The only loop over epochs.

#include <cstdint>
#include <type_traits>

#include <contraflow/observe/concept.hpp>

namespace contraflow {

/// Runs a trainer until @p epochs epochs are finished in total, or an observer asks for the end.
/// @param trainer has `epoch()` and `run_epoch(warn)`, which gives an EpochReport
/// @param epochs total, those of a resumed run included
/// @param observers in an epoch all of them measure, then all are told, then all are called behind
/// @return how it ended
template <class T, class... Os>
RunReport run_loop(T& trainer, std::int64_t epochs, Os&... observers) {
  Observers<std::remove_reference_t<Os>...> all(observers...);
  all.start({trainer.epoch() + 1, epochs});
  RunReport run{trainer.epoch(), false, {}, {}};
  while (trainer.epoch() < epochs && !run.stopped) {
    run.last = trainer.run_epoch([&](const Warning& warning) { all.warn(warning); });
    all.measure(trainer, run.last);
    const Verdict verdict = all(run.last);
    all.after(trainer, run.last);
    run.epochs = trainer.epoch();
    run.stopped = verdict.stop;
    run.reason = verdict.reason;
  }
  all.finish(trainer, run);
  return run;
}

}  // namespace contraflow
