// Roles and terms of a user's, without a change of the library.

#include <string_view>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/policy/with_role.hpp>
#include <contraflow/train/offline.hpp>

#include "archetypes/policies.hpp"
#include "laws/policy.hpp"
#include "train/small_runs.hpp"

// A term outside of every namespace, and one in the user's own: both are weighted and added.
struct GlobalTerm {
  using Velocities = contraflow::Roles<contraflow::Role::current>;
  using Points = contraflow::ForwardProcess;
  static constexpr std::string_view name = "global";
  template <class Batch>
  contraflow::Tensor loss(const Batch& batch, const contraflow::Tensor&,
                          contraflow::Statistics&) const {
    return contraflow::mean_per_sample(
        contraflow::velocity<contraflow::Role::current>(batch).square());
  }
};

namespace mine {

inline constexpr contraflow::Role teacher{"teacher"};
inline constexpr contraflow::Role start{"second_reference"};

// Pulls the velocity to that of a role.
template <contraflow::Role R>
struct Towards {
  using Velocities = contraflow::Roles<contraflow::Role::current, R>;
  using Points = contraflow::ForwardProcess;
  static constexpr std::string_view name = R == teacher ? "teacher" : "start";
  template <class Batch>
  contraflow::Tensor loss(const Batch& batch, const contraflow::Tensor&,
                          contraflow::Statistics&) const {
    return contraflow::mean_per_sample(
        (contraflow::velocity<contraflow::Role::current>(batch) - contraflow::velocity<R>(batch))
            .square());
  }
};

// Owns a frozen network under the labels of the prompts.
struct Labelled {
  using Velocities = contraflow::Roles<contraflow::Role::current>;
  using Points = contraflow::ForwardProcess;
  static constexpr std::string_view name = "labelled";
  contraflow::MlpVelocity network;
  std::vector<std::int64_t>* labels;

  // The samples that are not the first of their group: rows of the condition are chosen, too.
  contraflow::Tensor keep(const contraflow::Scores& scores) const {
    return at::arange(scores.group.numel(), at::kLong).remainder(4) > 0;
  }
  template <class Batch>
  contraflow::Tensor loss(const Batch& batch, const contraflow::Tensor&,
                          contraflow::Statistics&) const {
    contraflow::MlpVelocity frozen = network;
    for (std::int64_t i = 0; i < batch.condition.size(0); ++i) {
      labels->push_back(batch.condition[i].template item<std::int64_t>());
    }
    const contraflow::Tensor wanted = frozen(batch.x_t, batch.t, batch.condition).detach();
    return contraflow::mean_per_sample(
        (contraflow::velocity<contraflow::Role::current>(batch) - wanted).square());
  }
};

}  // namespace mine

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;

static_assert(mine::teacher.name() == "teacher" && mine::teacher != Role::reference);
static_assert(mine::teacher == cf::Role{"teacher"});

TEST_CASE("terms of any namespace are weighted and added") {
  const auto sum = cf::Nft{} + 0.1 * GlobalTerm{} + 0.2 * mine::Towards<mine::teacher>{};
  CHECK(sum.weights == std::array<double, 3>{1, 0.1, 0.2});
  CHECK((GlobalTerm{} + mine::Towards<mine::teacher>{}).weights == std::array<double, 2>{1, 1});
  CHECK((2.0 * (GlobalTerm{} + 0.5 * GlobalTerm{})).weights == std::array<double, 2>{2, 1});
}

TEST_CASE("a policy with a role more keeps the laws of policies") {
  const Tensor x = laws::floats({5, 2});
  const auto make = [] {
    // The law of the start asks that all roles begin alike.
    cf::SnapshotPolicy policy(small::model());
    return cf::with_role<mine::teacher>(policy, cf::clone_of(policy.model(Role::current)));
  };
  using P = decltype(make());
  static_assert(cf::Policy<P> && P::Available::size == 6);
  static_assert(P::Available::contains<mine::teacher> && P::Available::contains<Role::old>);
  P policy = make();
  policy.keep(P::Available{});
  const Tensor t = at::full({5}, 0.3);
  const auto velocity = [&](Role role) { return policy.velocity(role, x, t, cf::Unconditional{}); };
  const Tensor before = velocity(mine::teacher);
  CHECK(laws::relative_distance(velocity(Role::current), before) < 1e-6);
  CHECK_FALSE(before.requires_grad());
  CHECK(velocity(Role::current).requires_grad());
  laws::move_parameters(policy);
  policy.after_gradient_step(1);
  policy.after_epoch(1);
  CHECK(laws::same_bits(velocity(mine::teacher), before));
  CHECK(laws::relative_distance(velocity(Role::current), before) > 1e-3);
  // Checkpoints do not hold what is not trained.
  for (const auto& [name, tensor] : policy.state()) CHECK_FALSE(name.starts_with("teacher"));
  CHECK(policy.old_deviation().has_value());
  CHECK(policy.sample_shape() == std::vector<std::int64_t>{2});
}

TEST_CASE("a run learns from a teacher and a second reference") {
  small::Options options = small::options();
  auto policy = cf::with_role<mine::start>(
      cf::with_role<mine::teacher>(small::policy(), small::model(5)), small::model(6));
  const auto objective = mine::Towards<mine::teacher>{} + 1e-3 * mine::Towards<mine::start>{};
  auto trainer = small::trainer(policy, cf::Euler{}, small::reward(), objective, options);
  const double first = *trainer.run_epoch().find("loss/teacher");
  const cf::EpochReport last = trainer.run(25).last;
  CHECK(*last.find("loss/teacher") < 0.5 * first);
  CHECK(last.find("loss/start").has_value());
  // Rows of the roles: 60 to collect, 48 each of current, teacher and second reference.
  CHECK(last.forward_evaluations == 25 * (60 + 3 * 48));
  CHECK(last.backward_evaluations == 25 * 48);
}

TEST_CASE("a policy of one role is given another") {
  auto trainer = small::trainer(
      cf::with_role<mine::teacher>(archetypes::PlainPolicy(archetypes::PlainModel(2)),
                                   archetypes::PlainModel(2)),
      cf::Euler{}, small::reward(), mine::Towards<mine::teacher>{}, [] {
        small::Options options = small::options();
        options.collection.sample_shape = {2};
        return options;
      }());
  // The teacher is where the policy begins: nothing is to be learnt at first.
  CHECK(*trainer.run_epoch().find("loss/teacher") < 1e-12);
}

TEST_CASE("a term of one's own is trained with stored samples") {
  const cf::StoredSamples samples{laws::floats({8, 2}), laws::doubles({8}, 2),
                                  at::zeros({8}, at::kLong)};
  cf::OfflineTrainer trainer(cf::with_role<mine::teacher>(small::policy(), small::model(5)),
                             samples, cf::Nft{} + 0.1 * mine::Towards<mine::teacher>{});
  CHECK(trainer.run(2).last.find("loss/teacher").has_value());
}

TEST_CASE("a batch carries its condition, of the samples that a term wants") {
  std::vector<std::int64_t> labels;
  const cf::MlpVelocity far({.width = 8, .classes = 3, .seed = 4});
  for (const Tensor& p : far->parameters()) {
    const at::NoGradGuard no_gradient;
    Tensor(p).add_(laws::floats(p.sizes(), 9), 0.5);
  }
  const mine::Labelled term{far, &labels};
  std::vector<std::int64_t> drawn;
  const auto reward = [&](const Tensor& x0, const Tensor& label) {
    for (std::int64_t i = 0; i < label.size(0); ++i) drawn.push_back(label[i].item<std::int64_t>());
    return x0.select(1, 0);
  };
  small::Options options = small::options();
  options.forward.times = cf::UniformTimes{};
  options.optimization.micro_batch = 5;
  auto trainer =
      small::trainer(cf::SnapshotPolicy(cf::MlpVelocity({.width = 16, .depth = 2, .classes = 3})),
                     cf::Euler{}, reward, term + 0.1 * cf::Nft{}, options, cf::class_prompts(3));
  const double first = *trainer.run_epoch().find("loss/labelled");
  std::vector<std::int64_t> expected;
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    if (i % 4 > 0) expected.push_back(drawn[i]);
  }
  CHECK(labels == expected);
  CHECK(*trainer.run(20).last.find("loss/labelled") < first);
}
