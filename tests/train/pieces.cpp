// Pre-training, optimisers, prompts; and the least models of each concept through every algorithm.

#include <cmath>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/regression.hpp>
#include <contraflow/toy/mixture.hpp>
#include <contraflow/train/offline.hpp>
#include <contraflow/train/pretrain.hpp>

#include "archetypes/advantages.hpp"
#include "archetypes/policies.hpp"
#include "archetypes/prompts.hpp"
#include "archetypes/solvers.hpp"
#include "archetypes/terms.hpp"
#include "laws/errors.hpp"
#include "laws/prompt_source.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;
using laws::check_error;

namespace {

cf::Pretraining short_training() { return {.steps = 60, .batch = 64, .report_every = 20}; }
cf::Optimization fast() { return {.optimizer = cf::adamw({.learning_rate = 1e-2})}; }

cf::toy::Mixture data() { return cf::toy::ring(3, 1, 0.2); }

Tensor weights(const cf::MlpVelocity& model) {
  std::vector<Tensor> flat;
  for (const Tensor& p : model->parameters()) flat.push_back(p.detach().flatten());
  return at::cat(flat);
}

}  // namespace

TEST_CASE("pre-training lowers the matching error and reports it") {
  cf::MlpVelocity model = small::model();
  std::vector<double> losses;
  const cf::RunReport report = cf::pretrain(
      model, data(), cf::Pretraining{.steps = 310, .batch = 64, .report_every = 100}, fast(),
      [&](const cf::EpochReport& epoch) { losses.push_back(*epoch.find("loss")); });
  // The last ten steps are reported as well.
  REQUIRE(losses.size() == 4);
  CHECK(losses[2] < 0.95 * losses[0]);
  CHECK(report.epochs == 4);
  CHECK(report.last.gradient_steps == 310);
  CHECK(report.last.forward_evaluations == 310 * 64);
  CHECK(report.last.find("skipped_steps") == 0);
  CHECK_FALSE(report.stopped);
}

TEST_CASE("pre-training gives the same bits for the same seed only") {
  const auto trained = [](std::uint64_t seed) {
    cf::MlpVelocity model = small::model();
    cf::pretrain(model, data(), short_training(), cf::Seed{seed});
    return weights(model);
  };
  CHECK(laws::same_bits(trained(1), trained(1)));
  CHECK_FALSE(at::equal(trained(1), trained(2)));
}

TEST_CASE("pre-training takes conditions with the data") {
  cf::MlpVelocity model({.width = 16, .classes = 2});
  const auto labelled = [](std::int64_t count, cf::Generator& generator) {
    const Tensor label = (cf::uniform({count}, generator) < 0.5).to(at::kLong);
    const Tensor x0 = (label * 4 - 2).unsqueeze(1) + 0.1 * cf::normal({count, 2}, generator);
    return cf::ConditionedData<Tensor>{x0, label};
  };
  cf::pretrain(model, labelled, cf::Pretraining{.steps = 300, .batch = 64}, fast(),
               cf::ForwardProcess{.times = cf::StratifiedTimes{}});
  // The velocity at noise points to where the class lives.
  const Tensor x = at::zeros({2, 2}), t = at::full({2}, 0.9);
  const Tensor v = model(x, t, at::tensor({0, 1}, at::kLong)).mean(1);
  CHECK(v[0].item<double>() > 0.8);
  CHECK(v[1].item<double>() < -0.8);
}

TEST_CASE("an observer ends pre-training") {
  cf::MlpVelocity model = small::model();
  const cf::RunReport report =
      cf::pretrain(model, data(), short_training(), [](const cf::EpochReport& epoch) {
        return cf::Verdict{epoch.epoch == 2, "enough"};
      });
  CHECK(report.stopped);
  CHECK(report.reason == "enough");
  CHECK(report.epochs == 2);
}

TEST_CASE("pre-training skips what is not finite, counts it, and still reports") {
  cf::MlpVelocity model = small::model();
  int calls = 0;
  const auto spoilt = [&](std::int64_t count, cf::Generator& generator) {
    Tensor x0 = data().sample(count, generator);
    if (++calls % 20 == 0) x0[0] = std::nan("");
    return x0;
  };
  std::vector<double> losses;
  double skipped = 0;
  const cf::RunReport report =
      cf::pretrain(model, spoilt, short_training(), fast(), [&](const cf::EpochReport& epoch) {
        losses.push_back(*epoch.find("loss"));
        skipped += *epoch.find("skipped_steps");
      });
  CHECK(report.epochs == 3);
  CHECK(skipped == 3);
  CHECK(report.last.gradient_steps == 57);
  REQUIRE(losses.size() == 3);
  for (const double loss : losses) CHECK(std::isfinite(loss));
  CHECK(weights(model).isfinite().all().item<bool>());
}

TEST_CASE("bad input of pre-training is refused") {
  cf::MlpVelocity model = small::model();
  const auto with = [&](auto change) {
    return [&model, change] {
      cf::Pretraining options = short_training();
      change(options);
      cf::pretrain(model, data(), options);
    };
  };
  check_error(with([](auto& o) { o.steps = 0; }), "steps", "at least 1");
  check_error(with([](auto& o) { o.batch = 0; }), "batch", "at least 1");
  check_error(with([](auto& o) { o.report_every = 0; }), "report_every", "at least 1");
  const auto flat = [](std::int64_t count, cf::Generator&) { return at::zeros({count}); };
  check_error([&] { cf::pretrain(model, flat, short_training()); }, "data", "[64]");
}

TEST_CASE("the fused AdamW gives the numbers of torch's") {
  const auto weights_after = [](auto make) {
    std::vector<Tensor> parameters{laws::floats({7, 5}, 1), laws::floats({5}, 2),
                                   laws::doubles({3}, 3), laws::floats({2}, 4)};
    for (Tensor& p : parameters) p.requires_grad_();
    const auto optimizer = make(parameters);
    for (int step = 0; step < 12; ++step) {
      optimizer->zero_grad();
      Tensor loss = at::zeros({}, at::kDouble);
      // The last parameter never has a gradient, the second only at times.
      for (std::size_t i = 0; i < 3; ++i) {
        if (i == 1 && step % 3 == 0) continue;
        loss = loss + (parameters[i].to(at::kDouble) - double(i)).pow(4).sum();
      }
      loss.backward();
      if (step == 6) optimizer->param_groups()[0].options().set_lr(0.02);
      optimizer->step();
    }
    return parameters;
  };
  const auto fused = weights_after([](std::vector<Tensor> p) {
    return cf::adamw({.learning_rate = 0.05, .beta1 = 0.8, .beta2 = 0.95, .weight_decay = 0.1})(
        std::move(p));
  });
  const auto plain = weights_after([](std::vector<Tensor> p) {
    return std::make_unique<torch::optim::AdamW>(
        std::move(p),
        torch::optim::AdamWOptions(0.05).betas({0.8, 0.95}).eps(1e-8).weight_decay(0.1));
  });
  for (std::size_t i = 0; i < fused.size(); ++i) {
    CHECK(laws::relative_distance(fused[i], plain[i]) < 1e-5);
  }
}

TEST_CASE("norms and factors of gradients") {
  std::vector<Tensor> parameters{at::zeros({2}), at::zeros({3}), at::zeros({1})};
  CHECK(cf::gradient_norm(parameters).item<double>() == 0);
  parameters[0].mutable_grad() = at::tensor({3.0F, 0.0F});
  parameters[1].mutable_grad() = at::tensor({0.0F, 4.0F, 0.0F});
  CHECK(std::abs(cf::gradient_norm(parameters).item<double>() - 5) < 1e-6);
  cf::scale_gradients(parameters, 0.5);
  CHECK(std::abs(cf::gradient_norm(parameters).item<double>() - 2.5) < 1e-6);
}

TEST_CASE("prompt sources keep the laws of prompts") {
  laws::prompt_source(cf::class_prompts(5));
  laws::prompt_source(cf::PromptRows(laws::floats({4, 3})));
  laws::prompt_source(archetypes::CaptionPrompts{},
                      [](const auto& a, const auto& b) { return a == b; });
  laws::prompt_source(cf::NoPrompts{}, [](cf::Unconditional, cf::Unconditional) { return true; });
}

TEST_CASE("prompts are drawn evenly") {
  cf::Generator generator = cf::seeded(0);
  for (const auto& [size, count] : {std::pair{5, 3}, {5, 5}, {5, 13}, {1, 4}}) {
    const Tensor ids = cf::draw_prompts(size, count, generator);
    CHECK(ids.sizes() == at::IntArrayRef({count}));
    CHECK(ids.scalar_type() == at::kLong);
    const Tensor times = at::bincount(ids, {}, size);
    CHECK(times.max().item<int>() - times.min().item<int>() <= 1);
  }
  CHECK_FALSE(at::equal(cf::draw_prompts(50, 50, generator), at::arange(50)));
}

// The least model of each concept, through every algorithm.

namespace {
small::Options shaped(const cf::AnyTrainingTimes& times = {}) {
  small::Options options = small::options();
  options.forward.times = times;
  options.collection.sample_shape = {2};
  options.collection.rollout_batch = 5;
  return options;
}

// Three epochs leave finite weights that have moved.
template <class T>
void runs(T&& trainer) {
  const small::State before = small::state_of(trainer);
  int epochs = 0;
  trainer.run(3, [&](const cf::EpochReport&) { ++epochs; });
  CHECK(epochs == 3);
  CHECK(small::is_finite(small::state_of(trainer)));
  CHECK_FALSE(small::same_bits(small::state_of(trainer), before));
}

const auto plain_reward = [](const Tensor& x0) {
  std::vector<float> scores;
  for (std::int64_t i = 0; i < x0.size(0); ++i) scores.push_back(x0[i][0].item<float>());
  return scores;
};
struct PlainTimes {
  Tensor operator()(std::int64_t units, const cf::TimeGrid&, cf::Generator&) const {
    return at::full({units, 2}, 0.5);
  }
};
}  // namespace

TEST_CASE("the least models of all concepts together are enough for a run") {
  const archetypes::PlainModel model(2);
  runs(small::trainer(archetypes::PlainPolicy(model), archetypes::PlainSolver{}, plain_reward,
                      archetypes::PlainTerm{}, shaped(PlainTimes{}), archetypes::PlainAdvantage{}));
}

TEST_CASE("each least model works beside the library's own") {
  const auto plain_policy = [] { return archetypes::PlainPolicy(archetypes::PlainModel(2)); };
  runs(small::trainer(plain_policy(), cf::FlowSde{}, small::reward(), cf::Grpo{}, shaped()));
  runs(
      small::trainer(plain_policy(), cf::Euler{}, small::reward(), cf::RewardWeighted{}, shaped()));
  runs(small::trainer(cf::SnapshotPolicy(archetypes::PlainModel(2)), cf::Heun{}, small::reward(),
                      cf::Nft{}, shaped()));
  runs(small::trainer(small::policy(), archetypes::PlainSolver{}, small::reward(), cf::Nft{},
                      shaped()));
  runs(small::trainer(small::policy(), archetypes::NoisySolver{}, small::reward(),
                      cf::GrpoGuard{} + 0.1 * cf::TransitionKl{}, shaped()));
  runs(small::trainer(small::policy(), archetypes::NoisySolver{}, plain_reward,
                      archetypes::PlainTransitionTerm{} + 0.1 * archetypes::PlainTerm{}, shaped()));
  runs(
      small::trainer(small::policy(), archetypes::OneShot{}, small::reward(), cf::Nft{}, shaped()));
  runs(small::trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{},
                      shaped(PlainTimes{}), archetypes::PlainAdvantage{}));
}

TEST_CASE("a condition of the user's goes through a run") {
  const auto reward = [](const Tensor& x0, const archetypes::Caption& caption) {
    return x0.select(1, 0) * at::tensor(caption.weight).to(at::kFloat);
  };
  auto trainer =
      small::trainer(cf::SnapshotPolicy(archetypes::CaptionedModel{}), cf::DpmSolver<2>{}, reward,
                     cf::Nft{}, shaped(), archetypes::CaptionPrompts{});
  runs(trainer);
  CHECK(trainer.evaluate().x0.size(0) == 16);
  CHECK(trainer.sample(4).size(0) == 4);
}

TEST_CASE("the least model is pre-trained and trained on stored samples") {
  archetypes::PlainModel model(2);
  const auto plain_data = [](std::int64_t count, cf::Generator& generator) {
    return cf::normal({count, 2}, generator);
  };
  CHECK(cf::pretrain(model, plain_data, short_training()).epochs == 3);
  const cf::StoredSamples samples{laws::floats({8, 2}), laws::doubles({8}),
                                  at::zeros({8}, at::kLong)};
  cf::OfflineTrainer trainer(archetypes::PlainPolicy(model), samples, archetypes::PlainTerm{});
  runs(trainer);
}
