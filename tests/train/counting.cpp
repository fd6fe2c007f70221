// What is not needed is not computed: velocities, counted in the models themselves.

#include <memory>
#include <utility>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <contraflow/objective/regression.hpp>
#include <contraflow/solver/black_box.hpp>
#include <contraflow/solver/window.hpp>

#include "laws/errors.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;

namespace {

// A model that counts the rows it was given; a clone counts anew.
class Counted {
 public:
  Tensor operator()(const Tensor& x, const Tensor& t) {
    *rows_ += x.size(0);
    return net_(x, t);
  }
  std::shared_ptr<torch::nn::Module> module() const { return net_.ptr(); }
  Counted clone() const {
    Counted copy;
    copy.net_ = cf::clone_of(net_);
    return copy;
  }
  std::vector<std::int64_t> sample_shape() const { return {2}; }
  std::int64_t rows() const { return *rows_; }

 private:
  cf::MlpVelocity net_ = small::model();
  std::shared_ptr<std::int64_t> rows_ = std::make_shared<std::int64_t>(0);
};

// The same under labels, which it does not read.
class CountedUnderLabels : public Counted {
 public:
  CountedUnderLabels() = default;
  Tensor operator()(const Tensor& x, const Tensor& t, const Tensor&) {
    return Counted::operator()(x, t);
  }
  CountedUnderLabels clone() const { return CountedUnderLabels(Counted::clone()); }

 private:
  explicit CountedUnderLabels(Counted counted) : Counted(std::move(counted)) {}
};

constexpr std::int64_t samples = 12, rollout = samples * 5, trained = samples * 4;

struct Rows {
  std::int64_t current = 0, old = 0, reference = 0, average = 0;
  bool operator==(const Rows&) const = default;
};

template <class P>
std::int64_t rows_of(P& policy, Role role) {
  try {
    return policy.model(role).rows();
  } catch (const cf::Error&) {
    return -1;  // the role does not even exist
  }
}

// Rows that each role was given in one epoch; checks the trainer's own count against them.
template <class S, class O>
Rows counted(const S& solver, const O& objective,
             const small::Options& options = small::options()) {
  auto trainer =
      small::trainer(cf::SnapshotPolicy(Counted{}), solver, small::reward(), objective, options);
  const cf::EpochReport report = trainer.run_epoch();
  auto& policy = trainer.policy();
  const Rows rows{rows_of(policy, Role::current), rows_of(policy, Role::old),
                  rows_of(policy, Role::reference), rows_of(policy, Role::average)};
  CHECK(report.forward_evaluations == rows.current + std::max<std::int64_t>(rows.old, 0) +
                                          std::max<std::int64_t>(rows.reference, 0));
  CHECK(report.forward_evaluations == trainer.evaluations().forward);
  const bool current_collects = cf::as_sum(objective).collector == Role::current;
  const std::int64_t sampled = current_collects ? rows.current : rows.old;
  CHECK(sampled >= samples);
  if (!current_collects) CHECK(report.backward_evaluations == rows.current);
  return rows;
}

constexpr std::int64_t absent = -1;

}  // namespace

TEST_CASE("NFT runs the old and the current role, the reference for a KL only") {
  CHECK(counted(cf::DpmSolver<2>{}, cf::Nft{}) == Rows{trained, rollout + trained, absent, 0});
  CHECK(counted(cf::Euler{}, cf::PaperNft{}) == Rows{trained, rollout + trained, absent, 0});
  CHECK(counted(cf::DpmSolver<2>{}, cf::Nft{} + 1e-3 * cf::VelocityKl{}) ==
        Rows{trained, rollout + trained, trained, 0});
}

TEST_CASE("GRPO runs the current role alone, the reference for a KL only") {
  CHECK(counted(cf::FlowSde{}, cf::Grpo{}) == Rows{rollout + trained, absent, absent, 0});
  CHECK(counted(cf::FlowSde{}, cf::GrpoGuard{}) == Rows{rollout + trained, absent, absent, 0});
  CHECK(counted(cf::FlowSde{}, cf::Grpo{} + 0.04 * cf::TransitionKl{}) ==
        Rows{rollout + trained, absent, trained, 0});
}

TEST_CASE("terms at transitions and at fresh noise each run what they need") {
  CHECK(counted(cf::FlowSde{}, cf::Grpo{} + 0.1 * cf::FlowMatching{}) ==
        Rows{rollout + 2 * trained, absent, absent, 0});
  CHECK(counted(cf::FlowSde{}, cf::Grpo{} + 0.1 * cf::VelocityKl{}) ==
        Rows{rollout + 2 * trained, absent, trained, 0});
}

TEST_CASE("a solver of several velocities a step costs them, a black box its own") {
  CHECK(counted(cf::Heun{}, cf::FlowMatching{}) == Rows{2 * rollout + trained, absent, absent, 0});
  const cf::BlackBox one_shot(
      [](auto& velocity, const Tensor& x, cf::Generator&) { return x - velocity(x, 1.0); });
  CHECK(counted(one_shot, cf::Nft{}) == Rows{trained, samples + trained, absent, 0});
  const cf::BlackBox foreign([](const Tensor& x) { return x * 0.5; });
  CHECK(counted(foreign, cf::FlowMatching{}).current == trained);
}

TEST_CASE("only the stochastic steps of a window are trained") {
  const cf::Window<> window{.place = {.first = 1, .length = 2}};
  CHECK(counted(window, cf::Grpo{}) == Rows{rollout + 2 * samples, absent, absent, 0});
}

TEST_CASE("a share or a number of the recorded steps may be trained") {
  small::Options options = small::options();
  options.transitions.per_sample = 2;
  CHECK(counted(cf::FlowSde{}, cf::Grpo{}, options).current == rollout + 2 * samples);
  options.transitions.per_sample = 0;
  options.transitions.fraction = 0.6;
  CHECK(counted(cf::FlowSde{}, cf::Grpo{}, options).current == rollout + 3 * samples);
  options.transitions.fraction = 1;
  CHECK(counted(cf::FlowSde{}, cf::Grpo{}, options).current == rollout + 5 * samples);
  // The last step of DDIM to data is deterministic: nothing to train on.
  CHECK(counted(cf::Ddim{.eta = 1}, cf::Grpo{}, options).current == rollout + 4 * samples);
}

TEST_CASE("only samples that teach anything are trained on") {
  CHECK(counted(cf::Euler{}, cf::BestOfGroup{}).current == rollout + 3 * 4);
  CHECK(counted(cf::Euler{}, cf::Dpo{}) == Rows{rollout + 2 * 3 * 4, absent, 2 * 3 * 4, 0});
  const auto flat = [](const Tensor& x0) { return at::ones({x0.size(0)}); };
  const auto rows = [&](const auto& objective) {
    auto trainer = small::trainer(cf::SnapshotPolicy(Counted{}), cf::FlowSde{}, flat, objective,
                                  small::options());
    const cf::EpochReport report = trainer.run_epoch();
    CHECK(report.find("zero_std_ratio") == 1);
    CHECK(report.gradient_steps == 0);
    return rows_of(trainer.policy(), Role::current);
  };
  CHECK(rows(cf::Grpo{}) == rollout);
  CHECK(rows(cf::Dpo{}) == rollout);
  CHECK(rows(cf::BestOfGroup{}) == rollout);
}

TEST_CASE("NFT trains on groups without a difference, unless it is told not to") {
  // Samples of the first prompt are all as good as each other, those of the other two are not.
  const auto reward = [](const Tensor& x0, const Tensor& label) {
    return at::where(label == 0, at::ones_like(x0.select(1, 0)), x0.select(1, 0));
  };
  const auto rows = [&](const auto& objective) {
    auto trainer = small::trainer(cf::SnapshotPolicy(CountedUnderLabels{}), cf::Euler{}, reward,
                                  objective, small::options(), cf::class_prompts(3));
    const cf::EpochReport report = trainer.run_epoch();
    CHECK_THAT(*report.find("zero_std_ratio"), Catch::Matchers::WithinAbs(1.0 / 3, 1e-12));
    CHECK(report.gradient_steps == 1);
    auto& policy = trainer.policy();
    CHECK(policy.model(Role::old).rows() == rollout + policy.model(Role::current).rows());
    return policy.model(Role::current).rows();
  };
  const std::int64_t of_two_groups = trained * 2 / 3;
  CHECK(rows(cf::Nft{}) == trained);
  CHECK(rows(cf::PaperNft{}) == trained);
  CHECK(rows(cf::Nft{.informative_only = true}) == of_two_groups);
  CHECK(rows(cf::PaperNft{.informative_only = true}) == of_two_groups);
  // What another term of the sum wants is trained on.
  CHECK(rows(cf::Nft{.informative_only = true} + 0.1 * cf::Nft{}) == trained);
}

TEST_CASE("NFT that is told to leave out all groups takes no step") {
  const auto flat = [](const Tensor& x0) { return at::ones({x0.size(0)}); };
  auto trainer = small::trainer(cf::SnapshotPolicy(Counted{}), cf::Euler{}, flat,
                                cf::Nft{.informative_only = true}, small::options());
  CHECK(trainer.run_epoch().gradient_steps == 0);
  CHECK(rows_of(trainer.policy(), Role::current) == 0);
}

TEST_CASE("an evaluation runs the average where it is due, and is not counted as training") {
  small::Options options = small::options();
  options.evaluation.every = 2;
  auto trainer = small::trainer(cf::SnapshotPolicy(Counted{}), cf::Euler{}, small::reward(),
                                cf::Nft{}, options);
  const auto average = [&] { return rows_of(trainer.policy(), Role::average); };
  CHECK_FALSE(trainer.run_epoch().find("evaluation/reward").has_value());
  CHECK(average() == 0);
  CHECK(trainer.run_epoch().find("evaluation/reward").has_value());
  CHECK(average() == 16 * 4);
  CHECK(trainer.evaluations().forward == 2 * (rollout + 2 * trained));
  CHECK(trainer.evaluations().backward == 2 * trained);
}

TEST_CASE("sampling in batches costs the same") {
  small::Options options = small::options();
  options.collection.rollout_batch = 5;
  CHECK(counted(cf::Euler{}, cf::Nft{}, options) == Rows{trained, rollout + trained, absent, 0});
}
