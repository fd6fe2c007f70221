#pragma once

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <contraflow/core/memory.hpp>
#include <contraflow/core/stopwatch.hpp>

#include "format.hpp"
#include "table.hpp"

namespace support {

/// Lets the peak of the memory start anew, where the system allows it.
inline void restart_peak() { std::ofstream("/proc/self/clear_refs") << 5; }

inline std::string gibibytes(std::uint64_t bytes) {
  return fixed(static_cast<double>(bytes) / (1 << 30), 2) + " GiB";
}

/// Seconds and peak memory of the parts of a program.
class Phases {
 public:
  /// @param speaks whether it says what begins
  explicit Phases(bool speaks = true) : speaks_(speaks) {}

  /// Says something to who watches.
  void say(const std::string& text) const {
    if (speaks_) std::fprintf(stderr, "%s\n", text.c_str());
  }
  /// Ends the part before, says what begins, and begins it.
  void begin(const std::string& name) {
    end();
    say(name);
    rows_.push_back({name, 0, 0});
    restart_peak();
    watch_ = contraflow::Stopwatch();
    runs_ = true;
  }
  void end() {
    if (!runs_) return;
    rows_.back().seconds = watch_.seconds();
    rows_.back().peak = contraflow::peak_memory();
    runs_ = false;
  }
  Table table() {
    end();
    Table result({"phase", "seconds", "peak memory"});
    for (const Row& row : rows_) {
      result.add({row.name, fixed(row.seconds, 1), gibibytes(row.peak)});
    }
    return result;
  }

 private:
  struct Row {
    std::string name;
    double seconds;
    std::uint64_t peak;
  };
  bool speaks_;
  std::vector<Row> rows_;
  contraflow::Stopwatch watch_;
  bool runs_ = false;
};

}  // namespace support
