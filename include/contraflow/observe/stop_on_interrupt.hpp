#pragma once

/// @file
/// An observer that ends a run on a signal.

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <mutex>
#include <string>
#include <utility>

#include <signal.h>

#include <contraflow/observe/report.hpp>

namespace contraflow {

namespace detail {

/// The process's handlers for SIGINT, SIGTERM and SIGHUP, installed while anyone asks for them.
///
/// Signals belong to the process, so this is the one place of global state: a count of runs that
/// watch, the actions found when the first of them began, and the signal that came.
class InterruptWatch {
 public:
  static void acquire() {
    const std::lock_guard lock(mutex_);
    if (users_++ > 0) return;
    received_ = 0;
    for (std::size_t i = 0; i < signals.size(); ++i) install(i);
  }

  static void release() {
    const std::lock_guard lock(mutex_);
    if (--users_ == 0) restore();
  }

  /// Number of the signal that came since the first watching run began; 0 when none did.
  static int received() noexcept { return received_; }

 private:
  static constexpr std::array<int, 3> signals = {SIGINT, SIGTERM, SIGHUP};

  static void install(std::size_t i) {
    sigaction(signals[i], nullptr, &previous_[i]);
    // Ignored by whoever started the program, as for a job in the background: it stays ignored.
    if (!(previous_[i].sa_flags & SA_SIGINFO) && previous_[i].sa_handler == SIG_IGN) return;
    struct sigaction action = {};
    action.sa_handler = &InterruptWatch::receive;
    action.sa_flags = SA_RESTART;  // files being written are not disturbed
    sigemptyset(&action.sa_mask);
    sigaction(signals[i], &action, nullptr);
  }

  /// Handler: only what is safe in one. With the earlier actions back, a second signal ends a
  /// program whose epoch takes too long.
  static void receive(int number) {
    received_ = number;
    restore();
  }

  static void restore() {
    for (std::size_t i = 0; i < signals.size(); ++i) {
      struct sigaction now = {};
      sigaction(signals[i], nullptr, &now);
      const bool ours = !(now.sa_flags & SA_SIGINFO) && now.sa_handler == &InterruptWatch::receive;
      if (ours) sigaction(signals[i], &previous_[i], nullptr);
    }
  }

  static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not take a lock");
  inline static std::mutex mutex_;
  inline static int users_ = 0;
  inline static std::array<struct sigaction, 3> previous_ = {};
  inline static std::atomic<int> received_ = 0;
};

}  // namespace detail

/// Observer that ends a run in good order on SIGINT (Ctrl-C), SIGTERM or SIGHUP (a terminal that is
/// gone), within seconds, with every other observer finishing its files.
///
/// The epoch under way is given up between two evaluations of the model: all is as it was before
/// that epoch, so a Checkpoint beside this holds the last whole epoch, and a run that is resumed
/// has the bits of one that was not interrupted. Behind the last gradient step of an epoch nothing
/// is given up but its evaluation. A reward that is being asked in the same thread is waited for.
/// Epochs of several gradient steps are copied for this, into the host's memory, before they begin;
/// in epochs of one step, buffers that a model's forward pass changes are not undone.
///
/// The handlers are installed when the run starts and the earlier ones put back at the first
/// signal, when the run ends, or when the observer goes, whichever is first; so a second signal
/// does what it did before, which is as a rule to end the program at once. A signal that the
/// process ignored stays ignored. Several runs may watch at a time: a signal stops them all.
///
/// Draws no random numbers.
class StopOnInterrupt {
 public:
  static constexpr bool on_every_rank = true;  ///< a signal may come to any of them

  StopOnInterrupt() = default;
  /// Takes over what the other watches.
  StopOnInterrupt(StopOnInterrupt&& other) noexcept
      : watching_(std::exchange(other.watching_, false)) {}
  StopOnInterrupt& operator=(StopOnInterrupt&&) = delete;
  ~StopOnInterrupt() { release(); }

  /// Whether a signal came since the latest run that watches began: for a program of several runs,
  /// which has to leave out those to come.
  static bool interrupted() noexcept { return detail::InterruptWatch::received() != 0; }

  /// Installs the handlers.
  void start(const RunInfo&) {
    release();
    detail::InterruptWatch::acquire();
    watching_ = true;
  }

  /// Which signal came; empty where none did.
  std::string interruption() const {
    const int number = detail::InterruptWatch::received();
    if (!watching_ || number == 0) return "";
    return std::string("interrupted by ") + (number == SIGINT    ? "SIGINT"
                                             : number == SIGTERM ? "SIGTERM"
                                                                 : "SIGHUP");
  }
  /// A stop, if a signal came.
  Verdict operator()(const EpochReport&) const {
    std::string reason = interruption();
    const bool stop = !reason.empty();
    return {.stop = stop, .reason = std::move(reason)};
  }

  /// Puts the earlier handlers back.
  void finish(const RunReport&) { release(); }

 private:
  void release() {
    if (std::exchange(watching_, false)) detail::InterruptWatch::release();
  }

  bool watching_ = false;
};

}  // namespace contraflow
