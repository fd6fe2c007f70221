#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <contraflow/observe/progress_bar.hpp>

namespace cf = contraflow;

namespace {

/// A stream into memory, which is not a terminal.
class Memory {
 public:
  Memory() : stream_(open_memstream(&data_, &size_)) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    std::fclose(stream_);
    free(data_);
  }
  std::FILE* stream() { return stream_; }
  /// What was written since the last call.
  std::string fresh() {
    std::fflush(stream_);
    const std::string text(data_ + read_, size_ - read_);
    read_ = size_;
    return text;
  }

 private:
  char* data_ = nullptr;
  std::size_t size_ = 0, read_ = 0;
  std::FILE* stream_;
};

/// A terminal of the given number of columns.
class Terminal {
 public:
  explicit Terminal(unsigned short columns) {
    winsize size = {};
    size.ws_row = 24;
    size.ws_col = columns;
    int slave = -1;
    if (openpty(&master_, &slave, nullptr, nullptr, &size) != 0) {
      SKIP("this machine gives no pseudo terminal");
    }
    stream_ = fdopen(slave, "w");
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    std::fclose(stream_);
    close(master_);
  }
  std::FILE* stream() { return stream_; }
  /// What the terminal got since the last call; there has to be something.
  std::string fresh() {
    std::string text;
    std::array<char, 4096> part;
    // The system hands on what was written in parts, each when it comes to it.
    pollfd more{.fd = master_, .events = POLLIN, .revents = 0};
    do {
      const auto count = read(master_, part.data(), part.size());
      text.append(part.data(), count > 0 ? static_cast<std::size_t>(count) : 0);
    } while (poll(&more, 1, /*milliseconds=*/200) > 0);
    return text;
  }
  void resize(unsigned short columns) {
    winsize size = {};
    size.ws_col = columns;
    ioctl(master_, TIOCSWINSZ, &size);
  }

 private:
  int master_ = -1;
  std::FILE* stream_ = nullptr;
};

cf::EpochReport report(std::int64_t epoch, double seconds, std::vector<cf::Metric> metrics) {
  return {.epoch = epoch, .seconds = seconds, .metrics = std::move(metrics)};
}

}  // namespace

TEST_CASE("ProgressBar redraws one line and ends it with a newline", "[observe]") {
  Memory memory;
  cf::ProgressBar bar{{.stream = memory.stream(), .width = 72}};
  bar.start({.first_epoch = 1, .last_epoch = 20});
  CHECK(memory.fresh() == "");
  bar(report(5, 2, {{"reward/mean", 0.25}, {"evaluation/reward", 0.5}}));
  CHECK(memory.fresh() ==
        "\repoch  5/20 [====>           ]  reward 0.25  eval 0.5  2.0 s  ETA 6.0 s");
  bar(report(10, 2.01, {{"reward/mean", 0.3}}));
  CHECK(memory.fresh() == "");  // too soon after the last time
  bar(report(20, 30, {{"reward/mean", 0.987654}}));
  CHECK(memory.fresh() ==
        "\repoch 20/20 [==========================]  reward 0.9877  eval 0.5  30 s");
  const auto last = report(20, 30, {{"reward/mean", 1}});
  bar.finish({.epochs = 20, .stopped = false, .reason = "", .last = last});
  CHECK(memory.fresh() ==
        "\repoch 20/20 [==============================]  reward 1  eval 0.5  30 s \n");
}

TEST_CASE("ProgressBar gives warnings and the reason of a stop lines of their own", "[observe]") {
  Memory memory;
  cf::ProgressBar bar{{.stream = memory.stream(), .width = 30}};
  bar.start({.first_epoch = 1, .last_epoch = 9});
  bar(report(1, 1, {}));
  CHECK(memory.fresh() == "\repoch 1/9  1.0 s  ETA 8.0 s");
  bar.warn({.quantity = "q", .value = 1, .message = "q is high"});
  CHECK(memory.fresh() == "\rwarning: q is high         \n");
  bar.finish({.epochs = 2, .stopped = true, .reason = "enough", .last = report(2, 2, {})});
  CHECK(memory.fresh() == "\repoch 2/9  2.0 s  ETA 7.0 s\nstopped: enough\n");
}

TEST_CASE("ProgressBar reckons the pace of a resumed run from its first report", "[observe]") {
  Memory memory;
  cf::ProgressBar bar{{.stream = memory.stream(), .width = 36}};
  bar.start({.first_epoch = 50, .last_epoch = 60});
  bar(report(50, 4000, {}));
  CHECK(memory.fresh() == "\repoch 50/60 [=========> ]  1 h 06 m");
  bar(report(52, 4040, {}));
  CHECK(memory.fresh() == "\repoch 52/60  1 h 07 m  ETA 2 m 40 s");
}

TEST_CASE("ProgressBar is as wide as the terminal, also after a change", "[observe]") {
  Terminal terminal(20);
  cf::ProgressBar bar{{.stream = terminal.stream()}};
  bar.start({.first_epoch = 1, .last_epoch = 9});
  bar(report(1, 1, {{"reward/mean", 0.5}}));
  CHECK(terminal.fresh() == "\repoch 1/9 [>      ]");
  terminal.resize(40);
  bar(report(3, 3, {{"reward/mean", 0.5}}));
  CHECK(terminal.fresh() == "\repoch 3/9  reward 0.5  3.0 s  ETA 6.0 s");
  bar.finish({.epochs = 3, .stopped = false, .reason = "", .last = report(9, 9, {})});
  CHECK(terminal.fresh() == "\repoch 9/9 [====================]  9.0 s\r\n");
}

TEST_CASE("ProgressBar takes 80 columns for a terminal that does not say", "[observe]") {
  Terminal terminal(0);
  cf::ProgressBar bar{{.stream = terminal.stream()}};
  bar.start({.first_epoch = 1, .last_epoch = 2});
  bar(report(1, 100, {}));
  CHECK(terminal.fresh() == "\repoch 1/2 [===============>              ]  1 m 40 s  ETA 1 m 40 s");
}

TEST_CASE("ProgressBar writes warnings alone where there is no terminal", "[observe]") {
  Memory memory;
  std::FILE* file = std::tmpfile();
  for (std::FILE* stream : {memory.stream(), file}) {
    cf::ProgressBar bar{{.stream = stream}};
    bar.start({.first_epoch = 1, .last_epoch = 2});
    bar(report(1, 1, {{"reward/mean", 0.5}}));
    bar.warn({.quantity = "q", .value = 1, .message = "q is high"});
    bar.finish({.epochs = 1, .stopped = true, .reason = "enough", .last = report(1, 1, {})});
  }
  const std::string expected = "warning: q is high\n";
  CHECK(memory.fresh() == expected);
  CHECK(std::ftell(file) == long(expected.size()));
  std::fclose(file);
}

TEST_CASE("ProgressBar leaves a whole line when a run is torn down by an exception", "[observe]") {
  Memory memory;
  {
    cf::ProgressBar bar{{.stream = memory.stream(), .width = 30}};
    bar.start({.first_epoch = 1, .last_epoch = 9});
    bar(report(1, 1, {}));
    memory.fresh();
    const cf::ProgressBar moved = std::move(bar);
  }
  CHECK(memory.fresh() == "\n");
}

TEST_CASE("ProgressBar refuses a metric of the user's that there is not", "[observe]") {
  Memory memory;
  const auto first = [&](cf::ProgressBarOptions options, std::vector<std::string> later) {
    options.stream = memory.stream();
    cf::ProgressBar bar{std::move(options)};
    bar.start({.first_epoch = 1, .last_epoch = 9});
    bar({.epoch = 1, .metrics = {{"score/a", 1}}, .later = std::move(later)});
  };
  CHECK_NOTHROW(first({}, {}));  // those by default are not always there
  CHECK_NOTHROW(first({.reward = "score/a", .evaluation = "mine"}, {"mine"}));
  CHECK_THROWS_WITH(first({.reward = "score/b"}, {}),
                    Catch::Matchers::StartsWith("ProgressBar.reward: expected a metric of this run "
                                                "(score/a)"));
  CHECK_THROWS_WITH(first({.evaluation = "mine"}, {"other"}),
                    Catch::Matchers::StartsWith("ProgressBar.evaluation: expected a metric of this "
                                                "run (score/a, other)"));
}

TEST_CASE("lengths of time are written for a person", "[observe]") {
  using cf::detail::duration_text;
  CHECK(duration_text(0) == "0.0 s");
  CHECK(duration_text(9.94) == "9.9 s");
  CHECK(duration_text(9.96) == "10 s");
  CHECK(duration_text(59.4) == "59 s");
  CHECK(duration_text(59.6) == "1 m 00 s");
  CHECK(duration_text(3599.6) == "1 h 00 m");
  CHECK(duration_text(7440) == "2 h 04 m");
}
