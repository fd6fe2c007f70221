// Handwritten digits, the case of real data: a class-conditional U-Net learns 8 x 8 images of them
// and is improved by NFT for a classifier's confidence and for the brightness of strokes. A second
// classifier, which NFT never sees, and the diversity of the samples say what that cost.

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <contraflow/contraflow.hpp>
#include <contraflow/io/contact_sheet.hpp>
#include <contraflow/io/png.hpp>
#include <contraflow/model/unet.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/picture.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/observe/stop_on_interrupt.hpp>
#include <contraflow/observe/tensorboard.hpp>
#include <contraflow/toy/digits.hpp>

#include "classifier.hpp"
#include "measures.hpp"
#include "support/checkpoints.hpp"
#include "support/files.hpp"
#include "support/format.hpp"
#include "support/options.hpp"
#include "support/phases.hpp"
#include "support/progress.hpp"
#include "support/ranks.hpp"

namespace {

namespace cf = contraflow;
namespace fs = std::filesystem;
using cf::Tensor;
using digits::Measures;
using namespace cf::literals;

struct Settings {
  fs::path data = CONTRAFLOW_DIGITS, output = "out/digits";
  std::int64_t classifier_steps = 600, flow_steps = 600, epochs = 30;
  std::int64_t group_size = 24;
  std::int64_t samples = 500, measure_every = 5;
  double learning_rate = 3e-4, kl_weight = 0.3;
  std::uint64_t seed = 0;
  int threads = 1;
  bool resume = false;

  /// A seed of its own for each part.
  std::uint64_t seed_of(std::uint64_t part) const { return cf::stream_seed(seed, part); }
};

/// Two classifiers that have learnt the same images; only their seeds differ.
struct Classifiers {
  Classifiers(const cf::toy::Digits& data, const Settings& settings)
      : reward(digits::trained_classifier(data, settings.classifier_steps, settings.seed_of(1))),
        judge(digits::trained_classifier(data, settings.classifier_steps, settings.seed_of(2))) {}

  std::shared_ptr<digits::Classifier> reward, judge;
};

/// Where a program goes on, and with whom.
struct Place {
  fs::path checkpoints;  ///< folder
  const support::Ranks& ranks;
};

/// A class-conditional flow that has learnt digits.
cf::Unet pretrained(const cf::toy::Digits& data, const Settings& settings, const Place& place) {
  constexpr std::int64_t part = 50;
  const fs::path checkpoints = place.checkpoints / "flow";
  support::Progress progress(int(settings.flow_steps / part), "parts",
                             support::is_first(place.ranks));
  const auto show = [&](const cf::EpochReport& report) {
    progress.advance("loss " + support::fixed(report.find("loss").value_or(NAN), 3));
  };
  //! [pretrain]
  cf::Unet model(
      cf::UnetOptions{.level_channels = {16, 32},
                      .conditioning = cf::ConditioningOptions{.classes = cf::toy::digit_classes}},
      settings.seed_of(3));
  cf::Pretrainer trainer(
      model, data,
      cf::Pretraining{.steps = settings.flow_steps, .batch = 128, .report_every = part},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 2e-3}),
                       .learning_rate_factor = cf::Cosine{.steps = double(settings.flow_steps)}},
      cf::Seed{settings.seed_of(4)}, place.ranks);
  support::resumed(trainer, checkpoints);
  support::run_kept(trainer, trainer.epochs(), checkpoints, 4, show, cf::StopOnInterrupt{});
  //! [pretrain]
  progress.finish();
  return model;
}

/// A trainer that improves the flow for both rewards at once.
auto trainer_of(const cf::Unet& model, const Classifiers& classifiers, const Settings& settings,
                const support::Ranks& ranks) {
  //! [nft]
  auto rewards = cf::rewards(
      "confidence"_r =
          cf::weighted(digits::Confidence{classifiers.reward}, 1, cf::Normalisation::standard),
      "brightness"_r = cf::weighted(digits::StrokeBrightness{}, 1, cf::Normalisation::standard));
  return cf::Trainer(
      cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, rewards,
      cf::Nft{.optimality = cf::Optimality{.clip = 2}} + settings.kl_weight * cf::VelocityKl{},
      cf::class_prompts(cf::toy::digit_classes),
      cf::Collection{.prompts_per_epoch = cf::toy::digit_classes,
                     .group_size = settings.group_size,
                     .grid = cf::uniform_grid(10)},
      cf::ForwardProcess{.times = cf::GridTimes{.per_sample = 3}},
      cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = settings.learning_rate})},
      cf::Seed{settings.seed_of(5)}, ranks);
  //! [nft]
}

constexpr std::int64_t sheet_rows = 8;

/// Images as a sheet for a person, a class a column.
/// @par Shape
/// @p x0 [B, 1, 8, 8], classes in turn; result [3, H, W]
Tensor sheet_of(const Tensor& x0) {
  constexpr std::int64_t scale = 4;
  const Tensor pixels = digits::ink_of(x0.narrow(0, 0, sheet_rows * cf::toy::digit_classes))
                            .repeat_interleave(scale, 2)
                            .repeat_interleave(scale, 3)
                            .expand({-1, 3, -1, -1});
  return cf::contact_sheet(pixels.unbind(), cf::toy::digit_classes, 2);
}

/// The first real images of each class, classes in turn.
Tensor first_of_each_class(const cf::toy::Digits& data) {
  std::vector<Tensor> columns;
  for (std::int64_t digit = 0; digit < cf::toy::digit_classes; ++digit) {
    const Tensor rows = (data.labels == digit).nonzero().flatten();
    columns.push_back(data.images.index_select(0, rows.narrow(0, 0, sheet_rows)));
  }
  return at::stack(columns, 1).flatten(0, 1);
}

/// Measures the averaged policy now and then, for fixed prompts and noise; observers are told.
class Watch {
 public:
  Watch(const digits::Judge& judge, const Settings& settings)
      : judge_(judge), settings_(settings) {}

  /// Measures now; the sheet of samples goes to a file.
  template <class Trainer>
  const Measures& operator()(const std::string& name, Trainer& trainer) {
    const Tensor x0 = measured(trainer);
    if (support::is_first(trainer.communicator())) {
      cf::write_png(settings_.output / (name + ".png"), sheet_of(x0));
    }
    return history_.at(trainer.epoch());
  }
  /// Takes over what was measured before a run was resumed.
  void recall(const cf::EpochReport& report) {
    Measures measures;
    for (const digits::Measure& one : digits::all_measures) {
      const auto value = report.find(metric_of(one));
      if (!value) return;
      measures.*one.of = *value;
    }
    history_.insert_or_assign(report.epoch, measures);
  }
  //! [measure]
  template <class Trainer>
  void measure(Trainer& trainer, cf::EpochReport& report) {
    if (report.epoch % settings_.measure_every != 0) return;
    report.pictures.push_back(cf::picture_of("samples", sheet_of(measured(trainer))));
    for (const digits::Measure& one : digits::all_measures) {
      report.add(metric_of(one), history_.at(report.epoch).*one.of);
    }
  }
  //! [measure]

  nlohmann::ordered_json history() const {
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const auto& [epoch, measures] : history_) {
      all.push_back({{"epoch", epoch}, {"measures", digits::to_json(measures)}});
    }
    return all;
  }

 private:
  static std::string metric_of(const digits::Measure& one) {
    return std::string("measured/") + one.name;
  }
  /// Samples, with what was measured of them in the history.
  template <class Trainer>
  Tensor measured(Trainer& trainer) {
    const Tensor x0 = trainer.sample(settings_.samples, settings_.seed_of(6));
    const Tensor asked = at::arange(settings_.samples).remainder(cf::toy::digit_classes);
    history_.insert_or_assign(trainer.epoch(), judge_(x0, asked));
    return x0;
  }

  const digits::Judge& judge_;
  const Settings& settings_;
  std::map<std::int64_t, Measures> history_;  ///< by epoch
};

/// What a run gave.
struct Outcome {
  double reward_accuracy = 0;  ///< of the classifier that is the reward, on held-out digits
  Measures real = {};          ///< of held-out digits
  Measures before = {}, after = {};

  /// Whether what was asked for rose, and the judge still sees the digits.
  bool is_improved() const {
    return after.brightness > before.brightness && after.accuracy > before.accuracy - 0.02;
  }
  std::string text() const {
    return "accuracy on held-out digits: " + support::fixed(reward_accuracy, 3) +
           " of the reward's classifier, " + support::fixed(real.accuracy, 3) +
           " of the judge\n\n" +
           digits::table_of({{"held-out digits", real}, {"before", before}, {"after", after}})
               .text();
  }
};

/// Improves a flow, and measures it before, meanwhile and after.
void improve(const cf::Unet& model, const Classifiers& classifiers, const digits::Judge& judge,
             const Settings& settings, const Place& place, Outcome& outcome) {
  auto trainer = trainer_of(model, classifiers, settings, place.ranks);
  const fs::path checkpoints = place.checkpoints / "nft", lines = settings.output / "nft.jsonl";
  Watch watch(judge, settings);
  outcome.before = watch("before", trainer);
  for (const auto& report : support::resumed(trainer, checkpoints, lines)) watch.recall(report);
  const cf::RunReport report =
      support::run_kept(trainer, settings.epochs, checkpoints, settings.measure_every, watch,
                        cf::ProgressBar{{.reward = "score/confidence"}}, cf::StopOnInterrupt{},
                        cf::JsonLines{lines}, cf::TensorBoard{settings.output / "tensorboard"});
  outcome.after = watch("after", trainer);
  if (!support::is_first(place.ranks)) return;
  const nlohmann::ordered_json summary{{"seed", settings.seed},
                                       {"kl_weight", settings.kl_weight},
                                       {"epochs", report.epochs},
                                       {"accuracy_of_reward_classifier", outcome.reward_accuracy},
                                       {"held_out_digits", digits::to_json(outcome.real)},
                                       {"history", watch.history()}};
  support::write_text(settings.output / "summary.json", summary.dump(2) + "\n");
}

/// In which a run that goes on must agree with the one before it.
nlohmann::ordered_json to_json(const Settings& settings) {
  return {{"classifier steps", settings.classifier_steps},
          {"flow steps", settings.flow_steps},
          {"learning rate", settings.learning_rate},
          {"kl", settings.kl_weight},
          {"seed", settings.seed}};
}

/// @return whether the digits were improved
bool run(const Settings& settings, const support::Ranks& ranks) {
  at::set_num_threads(settings.threads);
  cf::StopOnInterrupt interrupt;  // a signal shortens every part, and what there is is written
  interrupt.start({});
  const auto [train, held_out] = cf::toy::read_digits(settings.data);
  const Place place{
      support::checkpoint_folder(settings.output, to_json(settings), settings.resume, ranks),
      ranks};
  support::by_first(ranks, [&, &known = train] {
    cf::write_png(settings.output / "data.png", sheet_of(first_of_each_class(known)));
  });
  support::Phases phases(support::is_first(ranks));

  phases.begin("training two classifiers");
  const Classifiers classifiers(train, settings);
  const digits::Judge judge(classifiers.judge, classifiers.reward, train);
  Outcome outcome{
      .reward_accuracy = digits::accuracy(*classifiers.reward, held_out.images, held_out.labels),
      .real = judge(held_out.images, held_out.labels)};
  phases.begin("pre-training the flow");
  const cf::Unet model = pretrained(train, settings, place);
  phases.begin("improving it by NFT");
  improve(model, classifiers, judge, settings, place, outcome);

  if (!support::is_first(ranks)) return outcome.is_improved();
  std::cout << outcome.text() << "\n"
            << phases.table().text() << "\npictures and records in " << settings.output.string()
            << "\n";
  return outcome.is_improved();
}

/// Sizes with which the whole path takes seconds.
void make_quick(Settings& settings) {
  settings.classifier_steps = 150;
  settings.flow_steps = 150;
  settings.epochs = 4;
  settings.samples = 200;
  settings.measure_every = 2;
}

void add_options(CLI::App& app, Settings& settings) {
  const auto option = [&](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->capture_default_str();
  };
  option("--data", settings.data, "file made by scripts/prepare_digits");
  option("--output", settings.output, "folder of the results");
  option("--classifier-steps", settings.classifier_steps, "gradient steps of each classifier")
      ->check(support::at_least(1));
  option("--flow-steps", settings.flow_steps, "gradient steps of pre-training")
      ->check(support::at_least(1));
  option("--epochs", settings.epochs, "of NFT")->check(support::at_least(1));
  option("--learning-rate", settings.learning_rate, "of NFT")->check(support::above_0());
  option("--kl", settings.kl_weight, "weight of the velocity KL")->check(support::above_0());
  option("--seed", settings.seed, "of everything that is drawn")->check(support::natural());
  option("--threads", settings.threads, "of LibTorch")->check(support::at_least(1));
  app.add_flag("--resume", settings.resume, "go on: what is finished in the output is kept");
}

}  // namespace

int main(int argc, char** argv) try {
  const support::Ranks ranks(argc, argv);
  Settings settings;
  CLI::App app("Handwritten digits, improved by NFT");
  app.add_flag_callback(
      "--quick", [&] { make_quick(settings); }, "a short run of everything");
  add_options(app, settings);
  CLI11_PARSE(app, argc, argv);
  return run(settings, ranks) ? 0 : 1;
} catch (const std::exception& failure) {
  return support::failed("digits", failure);
}
