#pragma once

/// @file
/// The concept Observer.

#include <array>
#include <concepts>
#include <cstddef>
#include <exception>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <contraflow/core/error.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow {

/// The trainer with which concepts are tested: a hook that asks something of its trainer has to be
/// a template over it.
struct ProbeTrainer {};

/// `o(report)`: is told of an epoch; returns nothing or a Verdict.
template <class O>
concept HasReport = requires(O& o, const EpochReport& report) {
  o(report);
}
&&(std::same_as<std::invoke_result_t<O&, const EpochReport&>, void> ||
   std::convertible_to<std::invoke_result_t<O&, const EpochReport&>, Verdict>);

/// `o.measure(trainer, report)`: adds to a report before anyone is told of it.
template <class O, class T>
concept HasMeasure = requires(O& o, T& trainer, EpochReport& report) {
  o.measure(trainer, report);
};

/// `o(trainer, report)`: the same, for lambdas: `[](auto& trainer, EpochReport& report)`.
template <class O, class T>
concept IsMeasure = std::invocable<O&, T&, EpochReport&>;

/// `o.after(trainer, report)`: is called when all have been told of an epoch.
template <class O, class T>
concept HasAfter = requires(O& o, T& trainer, const EpochReport& report) {
  o.after(trainer, report);
};

/// `o.check(info)`: refuses a run, by an Error, before any observer has begun.
template <class O>
concept HasCheck = requires(O& o, const RunInfo& info) {
  o.check(info);
};

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

/// `o.finish(trainer, report)`: is told of the end of a run, with its trainer.
template <class O, class T>
concept HasFinishOf = requires(O& o, T& trainer, const RunReport& report) {
  o.finish(trainer, report);
};

/// `o.interruption()`: is asked, often, in the middle of an epoch: why it is to be given up, and
/// the run to end; empty where it is not.
template <class O>
concept HasInterruption = requires(const O& o) {
  { o.interruption() } -> std::convertible_to<std::string>;
};

/// `O::on_every_rank`: is told of a run by every one of its ranks, not by the first alone.
template <class O>
concept IsOnEveryRank = O::on_every_rank;

/// Watches a run: shows it, writes it down, adds to its reports, or ends it.
///
/// Valid expressions: one of HasReport, HasMeasure, IsMeasure and HasAfter at least; those of
/// HasCheck, HasStart, HasWarn, HasFinish, HasFinishOf and HasInterruption where it uses them. A
/// lambda is an observer: of one parameter it is told, of two it measures. In an epoch all measure,
/// in the order in which they were given to the run; then all are told, and of each other's
/// warnings; then `after` of all is called. One that throws WriteError is warned of and called
/// again. Of a run of several ranks each has the same observers: all measure, act behind an epoch
/// and at the end with their trainer on every rank, and are told by the first alone, unless they
/// say `static constexpr bool on_every_rank = true`. Laws: an observer does not change what a run
/// computes, except by ending it.
template <class O, class T = ProbeTrainer>
concept Observer = HasReport<O> || HasMeasure<O, T> || IsMeasure<O, T> || HasAfter<O, T>;

/// Says in a sentence why @p O is not an Observer of a trainer @p T.
template <class O, class T = ProbeTrainer>
consteval bool explain_observer() {
  static_assert(Observer<O, T>,
                "contraflow: an Observer must be callable as `observer(report)` with a const "
                "EpochReport&, returning nothing or a Verdict, or as `observer(trainer, report)` "
                "with an EpochReport& that it adds to, or have `measure(trainer, report)`");
  return true;
}

/// Several observers as one.
template <class... Os>
class Observers {
 public:
  /// @param observers told in this order; they must outlive this object
  explicit Observers(Os&... observers) : Observers(true, observers...) {}
  /// @param is_first whether this is the first of the ranks, or the only one
  /// @param observers told in this order; they must outlive this object
  explicit Observers(bool is_first, Os&... observers)
      : is_first_(is_first), observers_(observers...) {}

  /// Tells all that want to know of the beginning of a run, unless one refuses it: a run that is
  /// refused leaves what other runs have written.
  void start(const RunInfo& info) {
    each([&](auto& o) {
      using O = std::remove_reference_t<decltype(o)>;
      if constexpr (HasCheck<O>) {
        if (is_told<O>()) o.check(info);
      }
    });
    each([&](auto& o) {
      using O = std::remove_reference_t<decltype(o)>;
      if constexpr (HasStart<O>) {
        if (is_told<O>()) o.start(info);
      }
    });
  }
  /// Lets all that measure add to a report.
  template <class T>
  void measure(T& trainer, EpochReport& report) {
    each([&](auto& o) {
      using O = std::remove_reference_t<decltype(o)>;
      static_assert(explain_observer<O, T>());
      if constexpr (HasMeasure<O, T>) {
        o.measure(trainer, report);
      } else if constexpr (IsMeasure<O, T>) {
        o(trainer, report);
      }
    });
  }
  /// Calls all that act when everybody was told of an epoch.
  template <class T>
  void after(T& trainer, const EpochReport& report) {
    each_trying([&](auto& o) {
      if constexpr (HasAfter<std::remove_reference_t<decltype(o)>, T>) o.after(trainer, report);
    });
  }
  /// Tells all that want to know of a warning.
  void warn(const Warning& warning) {
    each_told([&](auto& o) {
      if constexpr (HasWarn<std::remove_reference_t<decltype(o)>>) o.warn(warning);
    });
  }
  /// Tells all that want to know of the end of a run, with its trainer: all of them, whatever one
  /// throws.
  /// @throws what the first has thrown, behind all
  template <class T>
  void finish(T& trainer, const RunReport& report) {
    std::exception_ptr failure;
    each([&](auto& o) {
      try {
        finish_one(o, trainer, report);
      } catch (...) {
        if (!failure) failure = std::current_exception();
      }
    });
    if (failure) std::rethrow_exception(failure);
  }

  /// Whether any of them may interrupt an epoch.
  static constexpr bool interrupt = (HasInterruption<Os> || ...);
  /// The first reason to give up the epoch under way; empty where there is none.
  std::string interruption() const {
    std::string reason;
    const auto ask = [&](const auto& o) {
      using O = std::remove_cvref_t<decltype(o)>;
      if constexpr (HasInterruption<O>) {
        if (reason.empty() && is_told<O>()) reason = o.interruption();
      }
    };
    std::apply([&](const auto&... o) { (ask(o), ...); }, observers_);
    return reason;
  }

  /// Tells all of an epoch; a stop is the first one's that asked for it.
  Verdict operator()(const EpochReport& report) {
    Verdict joined;
    each_told([&](auto& o) {
      if constexpr (HasReport<std::remove_reference_t<decltype(o)>>) {
        using Result = std::invoke_result_t<decltype(o), const EpochReport&>;
        if constexpr (std::same_as<Result, void>) {
          o(report);
        } else {
          join(joined, o(report));
        }
      }
    });
    for (const Warning& warning : joined.warnings) warn(warning);
    return joined;
  }

 private:
  template <class O, class T>
  void finish_one(O& o, T& trainer, const RunReport& report) {
    if constexpr (HasFinishOf<O, T>) {
      o.finish(trainer, report);
    } else if constexpr (HasFinish<O>) {
      if (is_told<O>()) o.finish(report);
    }
  }
  template <class F>
  void each(F&& f) {
    std::apply([&](auto&... o) { (f(o), ...); }, observers_);
  }
  /// Calls each; who could not write a file goes on with the next occasion, and is told of once.
  template <class F>
  void each_trying(F&& f) {
    std::size_t which = 0;
    each([&](auto& o) {
      const std::size_t own = which++;
      try {
        f(o);
      } catch (const WriteError& failure) {
        if (std::exchange(has_failed_[own], true)) return;
        warn(Warning{"observer/failed", 1, std::string("the run goes on: ") + failure.what()});
      }
    });
  }
  template <class O>
  bool is_told() const {
    return is_first_ || IsOnEveryRank<O>;
  }
  template <class F>
  void each_told(F&& f) {
    each_trying([&](auto& o) {
      if (is_told<std::remove_reference_t<decltype(o)>>()) f(o);
    });
  }
  static void join(Verdict& joined, Verdict own) {
    if (own.stop && !joined.stop) {
      joined.stop = true;
      joined.reason = std::move(own.reason);
    }
    for (Warning& warning : own.warnings) joined.warnings.push_back(std::move(warning));
  }
  bool is_first_;
  std::tuple<Os&...> observers_;
  std::array<bool, sizeof...(Os) + 1> has_failed_ = {};  ///< one more than there are: none is empty
};

}  // namespace contraflow
