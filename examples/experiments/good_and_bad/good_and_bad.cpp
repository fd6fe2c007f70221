// Learning from a set of good and a set of bad examples, with nothing generated in between: NFT on
// both sets, whose step beyond its start is 2 / beta times the improvement that the examples show,
// and plain fine-tuning on the good ones.

#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <utility>

#include <CLI/CLI.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/io/file.hpp>
#include <contraflow/toy/tasks.hpp>
#include <contraflow/train/offline.hpp>

#include "support/files.hpp"
#include "support/format.hpp"
#include "support/html.hpp"
#include "support/options.hpp"
#include "support/run.hpp"
#include "support/statistics.hpp"
#include "support/svg.hpp"
#include "support/table.hpp"

namespace {

namespace cf = contraflow;
using cf::Tensor;

/// A few examples that a person has sorted: so many of each kind that the task rewards or not.
struct Examples {
  Tensor good, bad;
};

Examples sorted_examples(const cf::toy::Task& task, std::int64_t of_each) {
  cf::Generator generator = cf::seeded(11);
  const Tensor all = task.data(16 * of_each, generator);
  const Tensor is_good = task(all) > 0.5;
  const auto first = [&](const Tensor& wanted) {
    return all.index_select(0, wanted.nonzero().flatten().narrow(0, 0, of_each));
  };
  return {first(is_good), first(is_good.logical_not())};
}

/// Samples of a model for fixed noise.
Tensor sampled(cf::MlpVelocity& model, std::int64_t dimension) {
  const at::NoGradGuard no_gradient;
  cf::Generator generator = cf::seeded(12);
  const Tensor noise = cf::normal({2000, dimension}, generator);
  const auto velocity = [&](const Tensor& x, double sigma) {
    return model(x, at::full({x.size(0)}, sigma));
  };
  return cf::integrate(cf::DpmSolver<2>{}, velocity, noise, cf::uniform_grid(20), generator);
}

/// The trained model after passes over stored samples with one objective.
template <class Objective>
cf::MlpVelocity trained(const cf::MlpVelocity& base, const cf::StoredSamples& samples,
                        const Objective& objective) {
  auto trainer =
      cf::OfflineTrainer(cf::SnapshotPolicy(cf::clone_of(base)), samples, objective,
                         cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  trainer.run(300);
  return trainer.policy().model(cf::Role::average);
}

/// Mean distance of samples to the nearest example: near 0 where examples are only repeated.
double distance_to(const Tensor& examples, const Tensor& x0, const cf::toy::Task& task) {
  const Tensor good = x0.index_select(0, (task(x0) > 0.5).nonzero().flatten());
  return at::cdist(good, examples).amin(1).mean().item<double>();
}

std::string picture(const cf::toy::Task& task, const Tensor& x0, const std::string& caption) {
  using namespace support;
  const Tensor places = x0.narrow(0, 0, std::min<std::int64_t>(x0.size(0), 500)).contiguous();
  const Tensor rewarded = task(places);
  svg::Cloud plain{"var(--muted)", {}}, good{"var(--series-3)", {}};
  for (std::int64_t i = 0; i < places.size(0); ++i) {
    const auto* xy = cf::data_of<const float>(places) + 2 * i;
    (rewarded[i].item<float>() > 0 ? good : plain).points.push_back({xy[0], xy[1]});
  }
  return html::element("figure", svg::scatter({plain, good}, task.limit).inline_text() +
                                     html::element("figcaption", html::escaped(caption)));
}

}  // namespace

int main(int argc, char** argv) try {
  std::filesystem::path output = "out/good_and_bad";
  std::int64_t of_each = 32;
  CLI::App app("Good and bad examples");
  app.add_option("--output", output, "folder of the page")->capture_default_str();
  app.add_option("--examples", of_each, "of each kind")
      ->check(support::at_least(1))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  cf::make_folder(output);  // fails before the work, if at all
  at::set_num_threads(1);

  const cf::toy::Task task = cf::toy::ring_task();
  const cf::MlpVelocity base = support::pretrained(task, 1500, 256, 0).model;
  const Examples examples = sorted_examples(task, of_each);

  support::Table table({"samples", "reward", "shares of modes", "distance to an example"});
  std::string pictures =
      picture(task, examples.good, "good examples") + picture(task, examples.bad, "bad examples");
  const auto add = [&](const std::string& name, const Tensor& x0) {
    const double reward = task(x0).mean().item<double>();
    table.add({name, support::fixed(reward, 3), support::percentages(task.shares(x0)),
               support::fixed(distance_to(examples.good, x0, task), 3)});
    pictures += picture(task, x0, name + ", reward " + support::fixed(reward, 2));
    return reward;
  };
  const auto sample_of = [&](cf::MlpVelocity model) { return sampled(model, task.dimension); };

  const cf::StoredSamples both = cf::good_and_bad(examples.good, examples.bad);
  const cf::StoredSamples good_alone{examples.good, at::ones({of_each}, at::kDouble),
                                     at::zeros({of_each}, at::kLong)};
  const auto nft = [](double beta) {
    return cf::Nft{.beta = beta, .optimality = cf::Optimality{.clip = 2}} + 0.01 * cf::VelocityKl{};
  };
  cf::Generator generator = cf::seeded(13);
  add("data", task.data(2000, generator));
  const double before = add("base", sample_of(base));
  add("fine-tuned on the good ones", sample_of(trained(base, good_alone, cf::FlowMatching{})));
  add("NFT on both, beta 1", sample_of(trained(base, both, nft(1))));
  const double after = add("NFT on both, beta 0.3", sample_of(trained(base, both, nft(0.3))));

  std::cout << of_each << " good and as many bad examples; nothing is generated while training.\n\n"
            << table.text() << "\n";
  support::write_and_say(
      output / "good_and_bad.html",
      support::html::page("Good and bad examples",
                          support::html::element("h1", "Good and bad examples") +
                              support::html::table(table) +
                              support::html::element("div", pictures, "class=\"grid five\"")));
  return after > before + 0.3 ? 0 : 1;
} catch (const std::exception& failure) {
  return support::failed("good_and_bad", failure);
}
