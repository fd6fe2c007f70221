// How the cost of an epoch grows: time, memory and operations of LibTorch of an epoch of NFT and of
// FlowGRPO, one quantity at a time over powers of two, beside what one would write down for it.
//
// Time is the processor's, of all threads. Memory is the most that tensors hold during an epoch
// beyond what they hold before it. Models are taken to be right at the base; a quantity bends where
// what is measured leaves 1.25 times the model, up or down, as one goes away from the base.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <ctime>
#include <exception>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/core/memory.hpp>
#include <contraflow/core/stopwatch.hpp>

#include "../../examples/support/files.hpp"
#include "../../examples/support/format.hpp"
#include "../../examples/support/options.hpp"
#include "../../examples/support/svg.hpp"
#include "../../examples/support/table.hpp"
#include "counted_memory.hpp"

namespace {

namespace cf = contraflow;
using cf::Tensor;
using nlohmann::json;

/// An epoch; the values are those of the base.
struct Setting {
  std::int64_t samples = 1024, dimension = 32, width = 128, steps = 8, times = 2, terms = 2,
               threads = 1;
};

constexpr std::int64_t group_size = 16, micro_batch = 256, depth = 3, frequencies = 4;

/// A quantity that is varied, and over what.
struct Quantity {
  std::string name;
  std::int64_t Setting::*field;
  std::vector<std::int64_t> values;
};

std::vector<std::int64_t> powers_of_two(std::int64_t first, std::int64_t last) {
  std::vector<std::int64_t> all;
  for (std::int64_t value = first; value <= last; value *= 2) all.push_back(value);
  return all;
}

std::vector<Quantity> quantities(bool quick) {
  if (quick) {
    return {{"samples", &Setting::samples, {16, 1024}},
            {"dimension", &Setting::dimension, {32, 64}},
            {"steps", &Setting::steps, {8, 32}},
            {"terms", &Setting::terms, {1, 2, 3}},
            {"threads", &Setting::threads, {1, 2}}};
  }
  return {{"samples", &Setting::samples, powers_of_two(16, 16384)},
          {"dimension", &Setting::dimension, powers_of_two(1, 2048)},
          {"width", &Setting::width, powers_of_two(16, 1024)},
          {"steps", &Setting::steps, powers_of_two(4, 128)},
          {"times", &Setting::times, powers_of_two(1, 4)},
          {"terms", &Setting::terms, {1, 2, 3}},
          {"threads", &Setting::threads, powers_of_two(1, 4)}};
}

/// The method of a row; FlowGRPO has two terms at most.
enum class Method { nft, flow_grpo };
constexpr std::array<Method, 2> methods{Method::nft, Method::flow_grpo};
std::string name_of(Method method) { return method == Method::nft ? "NFT" : "FlowGRPO"; }
bool exists(Method method, const Setting& setting) {
  return method == Method::nft || setting.terms <= 2;
}
/// Whose velocities an update takes: of the current policy; for NFT of the old one; with a second
/// term of the reference.
std::int64_t roles_of(Method method, const Setting& setting) {
  return (method == Method::nft ? 2 : 1) + (setting.terms >= 2 ? 1 : 0);
}

// What one would write down.

/// Multiplications of one velocity.
double products(const Setting& s) {
  const std::int64_t inputs = s.dimension + 2 * frequencies;
  return double(s.width * (inputs + (depth - 1) * s.width + s.dimension) + 2 * frequencies);
}
cf::EvaluationCount evaluations(Method method, const Setting& s) {
  return {s.samples * (s.steps + s.times * roles_of(method, s)), s.samples * s.times};
}
/// Additions and multiplications of an epoch: a backward pass takes as many as two forward passes.
double operations(Method method, const Setting& s) {
  const cf::EvaluationCount count = evaluations(method, s);
  return 2 * products(s) * double(count.forward + 2 * count.backward);
}
/// Bytes: the samples, for FlowGRPO each of their states, and what a backward pass of a micro-batch
/// needs.
double bytes(Method method, const Setting& s) {
  const std::int64_t states = method == Method::nft ? 1 : s.steps + 1;
  const std::int64_t rows = std::min(micro_batch, s.samples * s.times);
  const std::int64_t kept = 2 * depth * s.width + s.dimension * roles_of(method, s);
  return 4 * double(s.samples * s.dimension * states + rows * kept);
}

// What is measured.

/// A trainer, whatever its types are.
struct Run {
  std::function<void()> epoch;
  std::function<cf::EvaluationCount()> evaluations;
};

/// How far from a ring of radius 2, in as many dimensions as there are.
Tensor near_ring(const Tensor& x) { return -(x.norm(2, 1) - 2).abs(); }

template <class Solver, class Objective, class Points>
Run run_of(const Setting& s, const Solver& solver, const Objective& objective,
           const Points& points) {
  const auto made = [&] {
    return cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({.dimension = s.dimension,
                                                           .width = s.width,
                                                           .depth = depth,
                                                           .frequencies = frequencies})),
                       solver, near_ring, objective, points,
                       cf::Collection{.prompts_per_epoch = s.samples / group_size,
                                      .group_size = group_size,
                                      .grid = cf::uniform_grid(int(s.steps))},
                       cf::Optimization{.micro_batch = micro_batch});
  };
  using Trainer = decltype(made());
  const std::shared_ptr<Trainer> trainer(new Trainer(made()));
  return {[trainer] { trainer->run_epoch(); }, [trainer] { return trainer->evaluations(); }};
}

Run run_of(Method method, const Setting& s) {
  if (method == Method::nft) {
    const cf::ForwardProcess points{.times = cf::GridTimes{.per_sample = int(s.times)}};
    const auto one = cf::Nft{};
    const auto two = one + 1e-4 * cf::VelocityKl{};
    if (s.terms == 1) return run_of(s, cf::DpmSolver<2>{}, one, points);
    if (s.terms == 2) return run_of(s, cf::DpmSolver<2>{}, two, points);
    return run_of(s, cf::DpmSolver<2>{}, two + 0.1 * cf::FlowMatching{}, points);
  }
  const cf::RecordedTransitions points{.per_sample = s.times};
  if (s.terms == 1) return run_of(s, cf::FlowSde{}, cf::Grpo{}, points);
  return run_of(s, cf::FlowSde{}, cf::Grpo{} + 0.04 * cf::TransitionKl{}, points);
}

/// Operations that LibTorch was asked for, those within others too.
std::atomic<std::int64_t> dispatched = 0;
std::unique_ptr<at::ObserverContext> count_operation(const at::RecordFunction&) {
  ++dispatched;
  return nullptr;
}
template <class F>
std::int64_t operations_in(F&& f) {
  dispatched = 0;
  const auto handle = at::addGlobalCallback(
      at::RecordFunctionCallback(count_operation).scopes({at::RecordScope::FUNCTION}));
  f();
  at::removeCallback(handle);
  return dispatched;
}

double median(const std::vector<double>& values) { return *support::quantile(values, 0.5); }

/// One row: what was measured, a time a round.
struct Measured {
  std::vector<double> seconds, wall;
  std::int64_t operations = 0, bytes = 0;
};

void measure(Method method, const Setting& setting, int least, Measured& into) {
  at::set_num_threads(int(setting.threads));
  CountedMemory& memory = CountedMemory::installed();
  const Run run = run_of(method, setting);
  run.epoch();
  const cf::EvaluationCount count = run.evaluations(), expected = evaluations(method, setting);
  if (count.forward != expected.forward || count.backward != expected.backward) {
    throw std::runtime_error("an epoch computes " + std::to_string(count.forward) +
                             " velocities, not " + std::to_string(expected.forward));
  }
  const std::int64_t before = memory.held();
  memory.forget_peak();
  into.operations = operations_in(run.epoch);
  into.bytes = memory.peak() - before;
  std::vector<double> seconds, wall;
  constexpr double enough = 0.15;
  for (double all = 0; int(seconds.size()) < least || (all < enough && seconds.size() < 100);) {
    const cf::Stopwatch watch;
    const std::clock_t clock = std::clock();
    run.epoch();
    seconds.push_back(double(std::clock() - clock) / CLOCKS_PER_SEC);
    wall.push_back(watch.seconds());
    all += seconds.back();
  }
  into.seconds.push_back(median(seconds));
  into.wall.push_back(median(wall));
}

/// A value of a quantity.
struct Row {
  std::int64_t value;
  Setting setting;
  bool is_base;
  Measured measured;
};
/// A quantity under a method.
struct Sweep {
  std::string quantity;
  Method method;
  std::vector<Row> rows;

  const Row& base() const {
    return *std::find_if(rows.begin(), rows.end(), [](const Row& row) { return row.is_base; });
  }
};

std::vector<Sweep> sweeps_of(bool quick) {
  std::vector<Sweep> sweeps;
  for (const Quantity& quantity : quantities(quick)) {
    for (const Method method : methods) {
      Sweep sweep{quantity.name, method, {}};
      for (const std::int64_t value : quantity.values) {
        Setting setting;
        const bool is_base = setting.*quantity.field == value;
        setting.*quantity.field = value;
        if (exists(method, setting)) sweep.rows.push_back({value, setting, is_base, {}});
      }
      sweeps.push_back(std::move(sweep));
    }
  }
  return sweeps;
}

/// What is measured over a model, at each value.
struct Ratio {
  std::string what;
  std::vector<double> values;
};
Ratio ratio(const Sweep& sweep, const std::string& what, double (*measured)(const Row&),
            double (*model)(Method, const Setting&)) {
  Ratio result{what, {}};
  const Row& base = sweep.base();
  const double unit = measured(base) / model(sweep.method, base.setting);
  for (const Row& row : sweep.rows) {
    result.values.push_back(measured(row) / (unit * model(sweep.method, row.setting)));
  }
  return result;
}
double seconds_of(const Row& row) { return median(row.measured.seconds); }
double bytes_of(const Row& row) { return double(row.measured.bytes); }
Ratio time_ratio(const Sweep& sweep) { return ratio(sweep, "time", seconds_of, operations); }
Ratio memory_ratio(const Sweep& sweep) { return ratio(sweep, "memory", bytes_of, bytes); }

/// The values, next to the base, at which a ratio has left 1.25: below and above it.
std::vector<std::size_t> bends(const Sweep& sweep, const Ratio& ratio) {
  const auto leaves = [&](std::size_t i) {
    return ratio.values[i] > 1.25 || ratio.values[i] < 1 / 1.25;
  };
  const auto base = std::size_t(&sweep.base() - sweep.rows.data());
  std::vector<std::size_t> found;
  for (std::size_t i = base; i-- > 0;) {
    if (!leaves(i)) continue;
    found.push_back(i);
    break;
  }
  for (std::size_t i = base + 1; i < sweep.rows.size(); ++i) {
    if (!leaves(i)) continue;
    found.push_back(i);
    break;
  }
  return found;
}

std::string range_of(const std::vector<double>& seconds) {
  const auto [low, high] = std::minmax_element(seconds.begin(), seconds.end());
  return support::scientific(*low * 1e3) + " to " + support::scientific(*high * 1e3);
}

std::string text_of(const Sweep& sweep) {
  support::Table table({sweep.quantity, "evaluations", "differentiated", "operations", "ms",
                        "range of rounds", "over model", "kB", "over model"});
  const Ratio time = time_ratio(sweep), memory = memory_ratio(sweep);
  for (std::size_t i = 0; i < sweep.rows.size(); ++i) {
    const Row& row = sweep.rows[i];
    const cf::EvaluationCount count = evaluations(sweep.method, row.setting);
    table.add({std::to_string(row.value) + (row.is_base ? " (base)" : ""),
               std::to_string(count.forward), std::to_string(count.backward),
               std::to_string(row.measured.operations), support::scientific(seconds_of(row) * 1e3),
               range_of(row.measured.seconds), support::fixed(time.values[i], 2),
               support::fixed(bytes_of(row) / 1e3, 0), support::fixed(memory.values[i], 2)});
  }
  std::string result = name_of(sweep.method) + ", by " + sweep.quantity + "\n" + table.text();
  for (const Ratio& one : {time, memory}) {
    for (const std::size_t i : bends(sweep, one)) {
      result += one.what + " bends at " + std::to_string(sweep.rows[i].value) + ": " +
                support::fixed(one.values[i], 2) + " times the model\n";
    }
  }
  return result + "\n";
}

json json_of(const std::vector<Sweep>& sweeps) {
  json all = json::array();
  for (const Sweep& sweep : sweeps) {
    const Ratio time = time_ratio(sweep), memory = memory_ratio(sweep);
    for (std::size_t i = 0; i < sweep.rows.size(); ++i) {
      const Row& row = sweep.rows[i];
      const cf::EvaluationCount count = evaluations(sweep.method, row.setting);
      all.push_back({{"method", name_of(sweep.method)},
                     {"quantity", sweep.quantity},
                     {"value", row.value},
                     {"evaluations", count.forward},
                     {"differentiated", count.backward},
                     {"model_operations", operations(sweep.method, row.setting)},
                     {"model_bytes", bytes(sweep.method, row.setting)},
                     {"dispatched", row.measured.operations},
                     {"bytes", row.measured.bytes},
                     {"processor_seconds", row.measured.seconds},
                     {"wall_seconds", row.measured.wall},
                     {"time_over_model", time.values[i]},
                     {"memory_over_model", memory.values[i]}});
    }
  }
  return all;
}

/// Both methods' curves of a quantity, with their models dashed.
support::svg::Canvas plot(const std::vector<const Sweep*>& sweeps, const std::string& label,
                          double unit, double (*measured)(const Row&),
                          double (*model)(Method, const Setting&)) {
  std::vector<support::svg::Series> all;
  double low = 1e300, high = 0;
  for (const Sweep* sweep : sweeps) {
    support::svg::Series own{name_of(sweep->method), all.size() / 2, {}, {}}, expected = own;
    const Row& base = sweep->base();
    const double scale = measured(base) / model(sweep->method, base.setting);
    for (const Row& row : sweep->rows) {
      own.x.push_back(double(row.value));
      own.y.push_back(measured(row) * unit);
      expected.y.push_back(scale * model(sweep->method, row.setting) * unit);
      low = std::min({low, own.y.back(), expected.y.back()});
      high = std::max({high, own.y.back(), expected.y.back()});
    }
    own.has_marks = expected.is_dashed = true;
    expected.x = own.x;
    expected.name = "its model";
    all.push_back(std::move(own));
    all.push_back(std::move(expected));
  }
  const std::vector<Row>& rows = sweeps.front()->rows;
  const support::svg::Axis x{sweeps.front()->quantity, double(rows.front().value),
                             double(rows.back().value), true};
  return support::svg::line_plot(x, {label, low / 1.2, high * 1.2, true}, all);
}

void write(const std::vector<Sweep>& sweeps, const std::filesystem::path& folder) {
  support::write_and_say(folder / "growth.json", json_of(sweeps).dump(1) + "\n");
  for (std::size_t i = 0; i + 1 < sweeps.size(); i += methods.size()) {
    const std::vector<const Sweep*> both{&sweeps[i], &sweeps[i + 1]};
    const std::string end = sweeps[i].quantity + ".svg";
    support::write_and_say(
        folder / ("growth_time_" + end),
        plot(both, "ms of the processor an epoch", 1e3, seconds_of, operations).file_text());
    support::write_and_say(folder / ("growth_memory_" + end),
                           plot(both, "kB an epoch", 1e-3, bytes_of, bytes).file_text());
  }
}

}  // namespace

int main(int argc, char** argv) try {
  bool quick = false;
  int rounds = 3, epochs = 3;
  std::filesystem::path output;
  CLI::App app("How time and memory of an epoch grow, beside what one would write down");
  app.add_flag("--quick", quick, "few values, once: whether it works");
  app.add_option("--rounds", rounds, "through all values")->check(support::at_least(1));
  app.add_option("--epochs", epochs, "that are measured a value and round, at least")
      ->check(support::at_least(1));
  app.add_option("--output", output, "folder for growth.json and pictures");
  CLI11_PARSE(app, argc, argv);
  if (quick) rounds = epochs = 1;
  cf::keep_freed_memory();

  std::vector<Sweep> sweeps = sweeps_of(quick);
  for (int round = 0; round < rounds; ++round) {
    for (Sweep& sweep : sweeps) {
      for (Row& row : sweep.rows) measure(sweep.method, row.setting, epochs, row.measured);
      std::cerr << "round " << round + 1 << ": " << name_of(sweep.method) << " by "
                << sweep.quantity << '\n';
    }
  }
  for (const Sweep& sweep : sweeps) std::cout << text_of(sweep);
  if (!output.empty()) write(sweeps, output);
  return 0;
} catch (const std::exception& failure) {
  std::cerr << failure.what() << '\n';
  return 1;
}
