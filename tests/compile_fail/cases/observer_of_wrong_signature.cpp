// expect: an Observer must be callable as `observer(report)` with a const EpochReport&
#include <contraflow/observe/concept.hpp>

namespace cf = contraflow;

void run() {
#ifdef POSITIVE_CONTROL
  auto observer = [](const cf::EpochReport&) {};
#else
  auto observer = [](int) {};
#endif
  cf::Observers<decltype(observer)> all(observer);
  cf::ProbeTrainer trainer;
  cf::EpochReport report;
  all.measure(trainer, report);
}
