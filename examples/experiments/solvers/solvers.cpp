// Every solver on a mixture of Gaussians whose velocity is known exactly: how far its samples are
// from where the flow really ends, against what it costs.

#include <cmath>
#include <exception>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/toy/mixture.hpp>

#include "support/files.hpp"
#include "support/format.hpp"
#include "support/options.hpp"
#include "support/svg.hpp"
#include "support/table.hpp"

namespace {

namespace cf = contraflow;
namespace svg = support::svg;
using cf::Tensor;

/// A solver on grids of any number of steps.
struct Entry {
  std::string name;
  bool is_stochastic;
  /// Velocities a sample that @p steps cost, and samples from noise.
  std::function<Tensor(const Tensor& noise, int steps, std::int64_t& evaluations)> sample;
};

/// The exact velocity, counting how often it is asked.
struct Counted {
  const cf::toy::Mixture& mixture;
  std::int64_t evaluations = 0;
  Tensor operator()(const Tensor& x, double sigma) {
    ++evaluations;
    return mixture.velocity(x, at::full({x.size(0)}, sigma, x.options()));
  }
};

template <class Solver>
Entry entry(const std::string& name, const cf::toy::Mixture& mixture, const Solver& solver) {
  const auto sample = [=, &mixture](const Tensor& noise, int steps, std::int64_t& evaluations) {
    Counted velocity{mixture};
    cf::Generator generator = cf::seeded(3);
    const Tensor x0 = cf::integrate(solver, velocity, noise, cf::uniform_grid(steps), generator);
    evaluations = velocity.evaluations;
    return x0;
  };
  return {name, cf::StochasticSolver<Solver>, sample};
}

std::vector<Entry> all_solvers(const cf::toy::Mixture& mixture) {
  return {entry("Euler", mixture, cf::Euler{}),
          entry("Midpoint", mixture, cf::Midpoint{}),
          entry("Heun", mixture, cf::Heun{}),
          entry("RK4", mixture, cf::Rk4{}),
          entry("DPM-Solver++ 1", mixture, cf::DpmSolver<1>{}),
          entry("DPM-Solver++ 2", mixture, cf::DpmSolver<2>{}),
          entry("DPM-Solver++ 3", mixture, cf::DpmSolver<3>{}),
          entry("Flow-SDE 0.7", mixture, cf::FlowSde{.noise_level = 0.7}),
          entry("Dance-SDE 0.3", mixture, cf::DanceSde{.noise_level = 0.3}),
          entry("CPS 0.7", mixture, cf::Cps{.noise_level = 0.7}),
          entry("DDIM, eta 1", mixture, cf::Ddim{.eta = 1}),
          entry("Window of 2", mixture, cf::Window{})};
}

/// Where the flow ends, to many digits.
Tensor exact_end(const cf::toy::Mixture& mixture, const Tensor& noise) {
  Counted velocity{mixture};
  cf::Generator unused = cf::seeded(0);
  return cf::integrate(cf::DormandPrince{.relative_tolerance = 1e-8, .absolute_tolerance = 1e-8},
                       velocity, noise, cf::uniform_grid(8), unused);
}

/// Root mean square of the distance to the exact end of the same noise.
double distance_of_points(const Tensor& x0, const Tensor& exact) {
  return (x0 - exact).square().sum(1).mean().sqrt().item<double>();
}

/// Sliced Wasserstein distance of two clouds of equal size: the mean distance of their sorted
/// shadows, over directions of the plane.
double distance_of_clouds(const Tensor& x0, const Tensor& data) {
  const Tensor angle = at::arange(64, at::kDouble) * (M_PI / 64);
  const Tensor directions = at::stack({angle.cos(), angle.sin()});
  const auto shadows = [&](const Tensor& x) {
    return std::get<0>(at::matmul(x, directions).sort(0));
  };
  return (shadows(x0) - shadows(data)).abs().mean().item<double>();
}

/// One adaptive solver is a point for each tolerance rather than for each number of steps.
svg::Series adaptive(const cf::toy::Mixture& mixture, const Tensor& noise, const Tensor& exact) {
  svg::Series series{"Dormand-Prince", 7, {}, {}, {}, {}, true};
  for (const double tolerance : {1e-1, 1e-2, 1e-3, 1e-4, 1e-5}) {
    Counted velocity{mixture};
    cf::Generator unused = cf::seeded(0);
    const cf::DormandPrince solver{.relative_tolerance = tolerance,
                                   .absolute_tolerance = tolerance};
    const Tensor x0 = cf::integrate(solver, velocity, noise, cf::uniform_grid(1), unused);
    series.x.push_back(double(velocity.evaluations));
    series.y.push_back(distance_of_points(x0, exact));
  }
  return series;
}

/// What was measured, as curves and as rows.
struct Measured {
  std::vector<svg::Series> points, clouds;
  support::Table table;
};

Measured measured(const std::vector<Entry>& solvers, const std::vector<int>& steps,
                  const Tensor& noise, const Tensor& exact, const Tensor& data) {
  std::vector<std::string> header{"solver", "velocities a step"};
  for (const int count : steps) header.push_back(std::to_string(count) + " steps");
  Measured result{{}, {}, support::Table(header)};
  for (const Entry& solver : solvers) {
    // The same as Euler's, so both have to be seen.
    const bool is_dashed = solver.name == "DPM-Solver++ 1";
    svg::Series points{solver.name, result.points.size(), {}, {}, {}, {}, true, is_dashed};
    svg::Series clouds{solver.name, result.clouds.size(), {}, {}, {}, {}, true};
    std::vector<std::string> row{solver.name, ""};
    for (const int count : steps) {
      std::int64_t evaluations = 0;
      const Tensor x0 = solver.sample(noise, count, evaluations);
      points.x.push_back(double(evaluations));
      points.y.push_back(distance_of_points(x0, exact));
      clouds.x.push_back(double(evaluations));
      clouds.y.push_back(distance_of_clouds(x0, data));
      row[1] = support::fixed(double(evaluations) / count, 1);
      row.push_back(support::scientific(solver.is_stochastic ? clouds.y.back() : points.y.back()));
    }
    if (!solver.is_stochastic) result.points.push_back(std::move(points));
    if (solver.is_stochastic || solver.name == "Euler") result.clouds.push_back(std::move(clouds));
    result.table.add(std::move(row));
  }
  return result;
}

svg::Axis axis_over(const std::string& label, const std::vector<svg::Series>& series,
                    const std::vector<double> svg::Series::*values) {
  svg::Axis axis{label, 1e300, 0, true};
  for (const svg::Series& one : series) {
    for (const double value : one.*values) {
      axis.low = std::min(axis.low, value / 1.3);
      axis.high = std::max(axis.high, value * 1.3);
    }
  }
  return axis;
}

void draw(const std::filesystem::path& path, const std::string& label,
          const std::vector<svg::Series>& series) {
  const svg::Axis x = axis_over("velocities a sample", series, &svg::Series::x);
  const svg::Axis y = axis_over(label, series, &svg::Series::y);
  support::write_and_say(path, svg::line_plot(x, y, series, 620, 420).file_text());
}

}  // namespace

int main(int argc, char** argv) try {
  std::filesystem::path output = "out/solvers";
  bool quick = false;
  CLI::App app("Error of every solver against its cost");
  app.add_option("--output", output, "folder of the pictures")->capture_default_str();
  app.add_flag("--quick", quick, "fewer samples and steps");
  CLI11_PARSE(app, argc, argv);
  cf::make_folder(output);  // fails before the work, if at all
  at::set_num_threads(1);

  const cf::toy::Mixture ring = cf::toy::ring(8, 2, 0.3);
  const cf::toy::Mixture mixture(ring.means().to(at::kDouble), ring.std());
  cf::Generator generator = cf::seeded(1);
  const std::int64_t count = quick ? 1000 : 4000;
  const Tensor noise = cf::normal({count, 2}, generator).to(at::kDouble);
  const Tensor exact = exact_end(mixture, noise);
  const Tensor data = mixture.sample(count, generator);

  std::vector<int> steps{4, 8, 16, 32, 64};
  if (!quick) steps.push_back(128);
  Measured result = measured(all_solvers(mixture), steps, noise, exact, data);
  result.points.push_back(adaptive(mixture, noise, exact));
  const double least = distance_of_clouds(exact, data);
  result.clouds.push_back(
      {"exact flow", 7, result.clouds[0].x, std::vector<double>(steps.size(), least)});
  result.clouds.back().is_dashed = true;

  std::cout << "Deterministic solvers: root mean square distance to the exact end.\n"
            << "Stochastic ones: distance of the cloud of samples to data, which for samples of "
               "the exact flow is "
            << support::scientific(least) << ".\n\n"
            << result.table.text() << "\n";
  draw(output / "deterministic.svg", "distance to the exact end", result.points);
  draw(output / "stochastic.svg", "distance of samples to data", result.clouds);
  return result.points.front().y.back() < result.points.front().y.front() ? 0 : 1;
} catch (const std::exception& failure) {
  return support::failed("solvers", failure);
}
