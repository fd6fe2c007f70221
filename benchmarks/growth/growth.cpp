// How the cost of an epoch grows: time, memory and operations of LibTorch of an epoch of NFT and of
// FlowGRPO, one quantity at a time over powers of two, beside what one would write down for it.
//
// Time is the processor's, of all threads; its model is proportional to the arithmetic, and right
// at the base. Memory is the most that tensors hold during an epoch beyond what they hold before
// it; its model is in bytes. A quantity bends where, as one goes away from the base, what is
// measured has left 1.25 times the model, up or down.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
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
#include <contraflow/io/json.hpp>

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
/// Bytes of the larger one of two phases. The rollout holds the samples, for FlowGRPO each of their
/// states, and what a step of the solver works with; the update the samples, and for a micro-batch
/// the activations with their gradients.
double bytes(Method method, const Setting& s) {
  // Arrays of the size of the samples, and of a micro-batch.
  constexpr double of_step = 8, of_point = 4;
  const double array = double(s.samples * s.dimension);
  const double recorded = method == Method::nft ? 0 : double(s.steps);
  const auto rows = double(std::min(micro_batch, s.samples * s.times));
  const double rollout = array * (of_step + recorded);
  const double activations = rows * double(2 * depth * s.width);
  const double points = rows * of_point * double(s.dimension);
  return 4 * std::max(rollout, array * (1 + recorded) + activations + points);
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

/// A cost: how it is measured, and what one would write down.
struct Cost {
  std::string name, unit;
  double in_unit;
  double (*measured)(const Row&);
  double (*model)(Method, const Setting&);
  bool is_proportional;  ///< the model has to be made right at the base
};
const std::array<Cost, 2> costs{
    {{"time", "ms of the processor an epoch", 1e3,
      [](const Row& row) { return median(row.measured.seconds); }, operations, true},
     {"memory", "kB an epoch", 1e-3, [](const Row& row) { return double(row.measured.bytes); },
      bytes, false}}};

/// What the model of a cost says, at each value.
std::vector<double> modelled(const Sweep& sweep, const Cost& cost) {
  const Row& base = sweep.base();
  const double unit =
      cost.is_proportional ? cost.measured(base) / cost.model(sweep.method, base.setting) : 1;
  std::vector<double> values;
  for (const Row& row : sweep.rows) values.push_back(unit * cost.model(sweep.method, row.setting));
  return values;
}
std::vector<double> ratios(const Sweep& sweep, const Cost& cost) {
  std::vector<double> values = modelled(sweep, cost);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = cost.measured(sweep.rows[i]) / values[i];
  }
  return values;
}

/// The values next to the base at which a ratio has left 1.25, below and above it.
std::vector<std::size_t> bends(const Sweep& sweep, const std::vector<double>& ratios) {
  const std::ptrdiff_t base = &sweep.base() - sweep.rows.data();
  const auto count = std::ptrdiff_t(ratios.size());
  std::vector<std::size_t> found;
  for (const std::ptrdiff_t away : {-1, 1}) {
    for (std::ptrdiff_t i = base + away; i >= 0 && i < count; i += away) {
      const double ratio = ratios[std::size_t(i)];
      if (ratio <= 1.25 && ratio >= 1 / 1.25) continue;
      found.push_back(std::size_t(i));
      break;
    }
  }
  return found;
}

std::string range_of(const std::vector<double>& seconds) {
  const auto [low, high] = std::minmax_element(seconds.begin(), seconds.end());
  return support::scientific(*low * 1e3) + " to " + support::scientific(*high * 1e3);
}

std::string text_of(const Sweep& sweep) {
  support::Table table({sweep.quantity, "velocities", "differentiated", "operations", "ms",
                        "range of rounds", "over model", "kB", "over model"});
  const std::vector<double> time = ratios(sweep, costs[0]), memory = ratios(sweep, costs[1]);
  for (std::size_t i = 0; i < sweep.rows.size(); ++i) {
    const Row& row = sweep.rows[i];
    const cf::EvaluationCount count = evaluations(sweep.method, row.setting);
    table.add({std::to_string(row.value) + (row.is_base ? " (base)" : ""),
               std::to_string(count.forward), std::to_string(count.backward),
               std::to_string(row.measured.operations),
               support::scientific(costs[0].measured(row) * 1e3), range_of(row.measured.seconds),
               support::fixed(time[i], 2), support::fixed(costs[1].measured(row) / 1e3, 0),
               support::fixed(memory[i], 2)});
  }
  std::string result = name_of(sweep.method) + ", by " + sweep.quantity + "\n" + table.text();
  for (const Cost& cost : costs) {
    const std::vector<double> all = ratios(sweep, cost);
    for (const std::size_t i : bends(sweep, all)) {
      result += cost.name + " bends at " + std::to_string(sweep.rows[i].value) + ": " +
                support::fixed(all[i], 2) + " times the model\n";
    }
  }
  return result + "\n";
}

json json_of(const std::vector<Sweep>& sweeps) {
  json all = json::array();
  for (const Sweep& sweep : sweeps) {
    for (const Row& row : sweep.rows) {
      all.push_back({{"method", name_of(sweep.method)},
                     {"quantity", sweep.quantity},
                     {"value", row.value},
                     {"dispatched", row.measured.operations},
                     {"bytes", row.measured.bytes},
                     {"processor_seconds", row.measured.seconds},
                     {"wall_seconds", row.measured.wall}});
    }
  }
  return all;
}

/// What an earlier run has measured.
void read(const std::filesystem::path& file, std::vector<Sweep>& sweeps) {
  const json all = cf::read_json(file);
  for (Sweep& sweep : sweeps) {
    for (Row& row : sweep.rows) {
      const auto is_of_row = [&](const json& one) {
        return one.at("method") == name_of(sweep.method) && one.at("quantity") == sweep.quantity &&
               one.at("value") == row.value;
      };
      const auto found = std::find_if(all.begin(), all.end(), is_of_row);
      if (found == all.end()) throw std::runtime_error(file.string() + " holds another run");
      found->at("processor_seconds").get_to(row.measured.seconds);
      found->at("wall_seconds").get_to(row.measured.wall);
      found->at("dispatched").get_to(row.measured.operations);
      found->at("bytes").get_to(row.measured.bytes);
    }
  }
}

/// A cost under both methods, with its models dashed.
support::svg::Canvas plot(const std::vector<const Sweep*>& sweeps, const Cost& cost) {
  std::vector<support::svg::Series> all;
  std::vector<double> shown;
  for (const Sweep* sweep : sweeps) {
    support::svg::Series own{name_of(sweep->method), all.size() / 2, {}, {}}, model = own;
    const std::vector<double> values = modelled(*sweep, cost);
    for (std::size_t i = 0; i < values.size(); ++i) {
      own.x.push_back(double(sweep->rows[i].value));
      own.y.push_back(cost.measured(sweep->rows[i]) * cost.in_unit);
      model.y.push_back(values[i] * cost.in_unit);
      shown.insert(shown.end(), {own.y.back(), model.y.back()});
    }
    own.has_marks = model.is_dashed = true;
    model.x = own.x;
    model.name += ", model";
    all.push_back(std::move(own));
    all.push_back(std::move(model));
  }
  const auto [low, high] = std::minmax_element(shown.begin(), shown.end());
  const std::vector<Row>& rows = sweeps.front()->rows;
  return support::svg::line_plot(
      {sweeps.front()->quantity, double(rows.front().value), double(rows.back().value), true},
      {cost.unit, *low / 1.2, *high * 1.2, true}, all);
}

void write(const std::vector<Sweep>& sweeps, const std::filesystem::path& folder) {
  support::write_and_say(folder / "growth.json", json_of(sweeps).dump(1) + "\n");
  for (std::size_t i = 0; i < sweeps.size(); i += methods.size()) {
    for (const Cost& cost : costs) {
      const std::string name = "growth_" + cost.name + "_" + sweeps[i].quantity + ".svg";
      support::write_and_say(folder / name, plot({&sweeps[i], &sweeps[i + 1]}, cost).file_text());
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  bool quick = false;
  int rounds = 3, epochs = 3;
  std::filesystem::path output, earlier;
  CLI::App app("How time and memory of an epoch grow, beside what one would write down");
  app.add_flag("--quick", quick, "few values, once: whether it works");
  app.add_option("--rounds", rounds, "through all values")->check(support::at_least(1));
  app.add_option("--epochs", epochs, "that are measured a value and round, at least")
      ->check(support::at_least(1));
  app.add_option("--output", output, "folder for growth.json and pictures");
  app.add_option("--from", earlier, "growth.json of an earlier run: measure nothing");
  CLI11_PARSE(app, argc, argv);
  if (quick) rounds = epochs = 1;
  cf::keep_freed_memory();

  std::vector<Sweep> sweeps = sweeps_of(quick);
  if (!earlier.empty()) {
    read(earlier, sweeps);
    rounds = 0;
  }
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
