#include <csignal>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include <catch2/catch_test_macros.hpp>
#include <signal.h>

#include <contraflow/observe/stop_on_interrupt.hpp>

namespace cf = contraflow;

namespace {

int earlier_calls = 0;
void earlier(int) { ++earlier_calls; }
void another(int) {}

/// Handlers of a test's own for all three signals, so that none ends the test program.
class Handlers {
 public:
  explicit Handlers(void (*handler)(int)) {
    earlier_calls = 0;
    interrupt_ = std::signal(SIGINT, handler);
    terminate_ = std::signal(SIGTERM, handler);
    hang_up_ = std::signal(SIGHUP, handler);
  }
  Handlers(const Handlers&) = delete;
  Handlers& operator=(const Handlers&) = delete;
  ~Handlers() {
    std::signal(SIGINT, interrupt_);
    std::signal(SIGTERM, terminate_);
    std::signal(SIGHUP, hang_up_);
  }

 private:
  void (*interrupt_)(int);
  void (*terminate_)(int);
  void (*hang_up_)(int);
};

void (*current(int number))(int) {
  struct sigaction now = {};
  sigaction(number, nullptr, &now);
  return now.sa_handler;
}

}  // namespace

TEST_CASE("StopOnInterrupt stops at the next epoch, and the earlier handler is back at once",
          "[observe]") {
  const Handlers handlers(earlier);
  const std::map<int, std::string> names{
      {SIGINT, "SIGINT"}, {SIGTERM, "SIGTERM"}, {SIGHUP, "SIGHUP"}};
  for (const auto& [number, name] : names) {
    cf::StopOnInterrupt stop;
    stop.start({});
    CHECK(!stop({.epoch = 1, .metrics = {}}).stop);
    CHECK(!cf::StopOnInterrupt::interrupted());
    earlier_calls = 0;
    std::raise(number);
    CHECK(earlier_calls == 0);
    CHECK(current(SIGINT) == earlier);
    CHECK(current(SIGTERM) == earlier);
    CHECK(current(SIGHUP) == earlier);
    const cf::Verdict verdict = stop({.epoch = 2, .metrics = {}});
    CHECK(verdict.stop);
    CHECK(verdict.reason == "interrupted by " + name);
    std::raise(SIGINT);
    CHECK(earlier_calls == 1);
    stop.finish({});
    CHECK(cf::StopOnInterrupt::interrupted());
  }
}

TEST_CASE("StopOnInterrupt puts the handlers back when the run ends or the observer goes",
          "[observe]") {
  const Handlers handlers(earlier);
  {
    cf::StopOnInterrupt stop;
    CHECK(current(SIGINT) == earlier);
    stop.start({});
    CHECK(current(SIGINT) != earlier);
    CHECK(current(SIGTERM) != earlier);
    stop.finish({});
    CHECK(current(SIGINT) == earlier);
    CHECK(current(SIGTERM) == earlier);
    stop.start({});
    cf::StopOnInterrupt moved = std::move(stop);
    std::optional<cf::StopOnInterrupt> gone(std::move(moved));
    CHECK(current(SIGINT) != earlier);
    gone.reset();
    CHECK(current(SIGINT) == earlier);
  }
  CHECK(current(SIGTERM) == earlier);
}

TEST_CASE("StopOnInterrupt begins each run without the signal of the one before", "[observe]") {
  const Handlers handlers(earlier);
  cf::StopOnInterrupt stop;
  stop.start({});
  std::raise(SIGINT);
  stop.start({});  // without a finish, as after an exception
  CHECK(!stop({}).stop);
  std::raise(SIGINT);
  CHECK(stop({}).stop);
  CHECK(earlier_calls == 0);
}

TEST_CASE("StopOnInterrupt serves runs side by side", "[observe]") {
  const Handlers handlers(earlier);
  cf::StopOnInterrupt one, two;
  one.start({});
  two.start({});
  one.finish({});
  CHECK(current(SIGINT) != earlier);
  std::raise(SIGINT);
  CHECK(two({}).stop);
  CHECK(!one({}).stop);  // its run is over
  two.finish({});
  CHECK(current(SIGINT) == earlier);
}

TEST_CASE("StopOnInterrupt leaves ignored signals ignored and others' handlers alone",
          "[observe]") {
  {
    const Handlers handlers(SIG_IGN);
    cf::StopOnInterrupt stop;
    stop.start({});
    std::raise(SIGINT);
    CHECK(!stop({}).stop);
    CHECK(current(SIGINT) == SIG_IGN);
  }
  const Handlers handlers(earlier);
  cf::StopOnInterrupt stop;
  stop.start({});
  std::signal(SIGINT, another);  // someone else takes over during the run
  stop.finish({});
  CHECK(current(SIGINT) == another);
  CHECK(current(SIGTERM) == earlier);
}
