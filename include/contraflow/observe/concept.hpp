#pragma once

/// @file
/// The concept Observer.

#include <concepts>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <contraflow/observe/report.hpp>

namespace contraflow {

/// `o(report)`: is told of an epoch; returns nothing or a Verdict.
template <class O>
concept HasReport = requires(O& o, const EpochReport& report) {
  o(report);
}
&&(std::same_as<std::invoke_result_t<O&, const EpochReport&>, void> ||
   std::convertible_to<std::invoke_result_t<O&, const EpochReport&>, Verdict>);

/// `o.start(info)`: is told of the beginning of a run.
template <class O>
concept HasStart = requires(O& o, const RunInfo& info) {
  o.start(info);
};

/// `o.warn(warning)`: is told of warnings, its own included.
template <class O>
concept HasWarn = requires(O& o, const Warning& warning) {
  o.warn(warning);
};

/// `o.finish(report)`: is told of the end of a run.
template <class O>
concept HasFinish = requires(O& o, const RunReport& report) {
  o.finish(report);
};

/// Watches a run: shows it, writes it down, or ends it.
///
/// Valid expressions: that of HasReport; those of HasStart, HasWarn and HasFinish where it uses
/// them. A lambda is an observer. Laws: an observer does not change what a run computes, except by
/// ending it.
template <class O>
concept Observer = HasReport<O>;

/// Says in a sentence why @p O is not an Observer.
template <class O>
consteval bool explain_observer() {
  static_assert(Observer<O>,
                "contraflow: an Observer must be callable as `observer(report)` with a const "
                "EpochReport&, returning nothing or a Verdict");
  return true;
}

/// Several observers as one.
template <class... Os>
class Observers {
 public:
  /// @param observers told in this order; they must outlive this object
  explicit Observers(Os&... observers) : observers_(observers...) {
    static_assert((explain_observer<Os>() && ...));
  }

  /// Tells all that want to know of the beginning of a run.
  void start(const RunInfo& info) {
    each([&](auto& o) {
      if constexpr (HasStart<std::remove_reference_t<decltype(o)>>) o.start(info);
    });
  }
  /// Tells all that want to know of a warning.
  void warn(const Warning& warning) {
    each([&](auto& o) {
      if constexpr (HasWarn<std::remove_reference_t<decltype(o)>>) o.warn(warning);
    });
  }
  /// Tells all that want to know of the end of a run.
  void finish(const RunReport& report) {
    each([&](auto& o) {
      if constexpr (HasFinish<std::remove_reference_t<decltype(o)>>) o.finish(report);
    });
  }

  /// Tells all of an epoch; a stop is the first one's that asked for it.
  Verdict operator()(const EpochReport& report) {
    Verdict joined;
    each([&](auto& o) {
      using Result = std::invoke_result_t<decltype(o), const EpochReport&>;
      if constexpr (std::same_as<Result, void>) {
        o(report);
      } else {
        join(joined, o(report));
      }
    });
    for (const Warning& warning : joined.warnings) warn(warning);
    return joined;
  }

 private:
  template <class F>
  void each(F&& f) {
    std::apply([&](auto&... o) { (f(o), ...); }, observers_);
  }
  static void join(Verdict& joined, Verdict own) {
    if (own.stop && !joined.stop) {
      joined.stop = true;
      joined.reason = std::move(own.reason);
    }
    for (Warning& warning : own.warnings) joined.warnings.push_back(std::move(warning));
  }
  std::tuple<Os&...> observers_;
};

}  // namespace contraflow
