// Terms of objectives: their laws, their formulas and bad input.

#include "archetypes/terms.hpp"

#include <cmath>
#include <limits>
#include <map>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <contraflow/advantage/advantages.hpp>
#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/objective/regression.hpp>

#include "laws/errors.hpp"
#include "laws/term.hpp"

namespace cf = contraflow;
using Catch::Matchers::WithinAbs;
using cf::Role;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

constexpr std::int64_t size = 6;

cf::Scores scores(std::vector<double> reward, std::vector<std::int64_t> group) {
  const Tensor r = at::tensor(reward, at::kDouble);
  return {r, r - r.mean(), at::tensor(group, at::kLong)};
}

// Inputs of an NFT loss, in float64 but for what @p dtype says of the velocities.
cf::NftInputs nft_inputs(at::ScalarType dtype, bool with_reference) {
  const std::vector<std::int64_t> shape{size, 3, 4};
  return {laws::doubles(shape, 1).to(dtype),
          laws::doubles(shape, 2).to(dtype),
          with_reference ? laws::doubles(shape, 3).to(dtype) : Tensor(),
          laws::doubles(shape, 4),
          laws::doubles(shape, 5),
          at::linspace(0.1, 1, size, at::kDouble),
          at::linspace(0, 1, size, at::kDouble)};
}

template <class Loss>
std::pair<Tensor, Tensor> value_and_gradient(cf::NftInputs in, Loss&& loss) {
  in.v = in.v.detach().clone().requires_grad_();
  const Tensor total = loss(in).total;
  const Tensor upstream = at::linspace(-1, 2, size, at::kDouble);
  (total * upstream).sum().backward();
  return {total.detach(), in.v.grad()};
}

template <class T>
Tensor loss_of(const T& term, const Tensor& signal = {}) {
  const std::vector<std::int64_t> shape{size, 3};
  const auto batch = laws::batch_of<typename T::Velocities>(typename T::Points{}, shape);
  cf::Statistics statistics;
  return term.loss(batch, signal, statistics);
}

}  // namespace

TEST_CASE("terms keep the laws of terms") {
  laws::term(cf::Nft{});
  laws::term(cf::Nft{.beta = 0.1, .negative_branch = false});
  laws::term(cf::Nft{.informative_only = true});
  laws::term(cf::PaperNft{});
  laws::term(cf::PaperNft{.beta = 2, .weight = cf::time_weight::t});
  laws::term(cf::PaperNft{.weight = [](const Tensor& t) { return t.square() + 1; }});
  laws::term(cf::VelocityKl{});
  laws::term(cf::Awm{});
  laws::term(cf::Dpo{}, 2);
  laws::term(cf::RewardWeighted{});
  laws::term(cf::BestOfGroup{});
  laws::term(cf::FlowMatching{});
  laws::term(cf::Grpo{.clip_range = 0.2});
  laws::term(cf::GrpoGuard{.clip_range = 0.2});
  laws::term(cf::TransitionKl{});
  laws::term(archetypes::PlainTerm{});
  laws::term(archetypes::PlainTransitionTerm{});
}

TEST_CASE("the fused NFT loss is the composed one, gradient included") {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const bool reference : {false, true}) {
      for (const bool negative : {true, false}) {
        INFO(dtype << " " << reference << " " << negative);
        const cf::NftInputs in = nft_inputs(dtype, reference);
        const cf::NftSettings settings{0.7, reference ? 0.3 : 0.0, negative};
        const cf::kernels::AdaptiveWeighting adaptive{5, 1e-5};
        const double tolerance = dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-5 : 2e-2;
        const auto fused = value_and_gradient(
            in, [&](const auto& x) { return cf::adaptive_nft_loss(x, settings, adaptive); });
        const auto composed = value_and_gradient(in, [&](const auto& x) {
          return cf::detail::composed_nft_loss(x, settings, &adaptive, {});
        });
        CHECK(relative_distance(fused.first, composed.first) < tolerance);
        CHECK(relative_distance(fused.second, composed.second) < tolerance);
        CHECK(fused.second.scalar_type() == dtype);

        const Tensor weight = at::linspace(0.5, 2, size, at::kDouble);
        const auto fixed = value_and_gradient(
            in, [&](const auto& x) { return cf::weighted_nft_loss(x, settings, weight); });
        const auto by_hand = value_and_gradient(in, [&](const auto& x) {
          return cf::detail::composed_nft_loss(x, settings, nullptr, weight);
        });
        CHECK(relative_distance(fixed.first, by_hand.first) < tolerance);
        CHECK(relative_distance(fixed.second, by_hand.second) < tolerance);
      }
    }
  }
}

TEST_CASE("the gradient of the NFT loss is that of finite differences") {
  cf::NftInputs in = nft_inputs(at::kDouble, true);
  const Tensor weight = at::linspace(0.5, 2, size, at::kDouble);
  const auto loss = [&](const cf::NftInputs& x) {
    return cf::weighted_nft_loss(x, {0.7, 0.3, true}, weight);
  };
  const Tensor gradient = value_and_gradient(in, loss).second;
  const Tensor direction = laws::doubles(in.v.sizes(), 9), v = in.v;
  const Tensor upstream = at::linspace(-1, 2, size, at::kDouble);
  const auto at_step = [&](double h) {
    in.v = v + h * direction;
    return (loss(in).total * upstream).sum().item<double>();
  };
  const double slope = (at_step(1e-5) - at_step(-1e-5)) / 2e-5;
  CHECK_THAT(slope, WithinAbs((gradient * direction).sum().item<double>(), 1e-6));
}

TEST_CASE("no gradient is computed for what asks for none") {
  const cf::NftInputs in = nft_inputs(at::kFloat, false);
  const cf::kernels::AdaptiveWeighting adaptive{5, 1e-5};
  CHECK_FALSE(cf::adaptive_nft_loss(in, {}, adaptive).total.requires_grad());
  cf::NftInputs trained = in;
  trained.v = in.v.clone().requires_grad_();
  CHECK(cf::adaptive_nft_loss(trained, {}, adaptive).total.requires_grad());
  CHECK_FALSE(cf::adaptive_nft_loss(trained, {}, adaptive).policy.requires_grad());
  const at::NoGradGuard no_gradient;
  CHECK_FALSE(cf::adaptive_nft_loss(trained, {}, adaptive).total.requires_grad());
}

TEST_CASE("data that are predicted exactly weigh no more than the floor allows") {
  cf::NftInputs in = nft_inputs(at::kDouble, false);
  in.t = at::tensor({0.0, 1e-9, 0.5, 0.5, 1.0, 1.0}, at::kDouble);
  const cf::kernels::AdaptiveWeighting adaptive{5, 1e-5};
  const auto [value, gradient] = value_and_gradient(in, [&](const auto& x) {
    return cf::adaptive_nft_loss(x, {1, 0, true}, adaptive);
  });
  CHECK(value.isfinite().all().item<bool>());
  CHECK(gradient.isfinite().all().item<bool>());
  CHECK(value[0].item<double>() == 0);
  CHECK(gradient[0].abs().max().item<double>() == 0);
  // At 1e-9 the errors lie far below the floor: it is what divides them.
  const Tensor error = 1e-9 * (in.v_old - in.eps + in.x0)[1], step = 1e-9 * (in.v - in.v_old)[1];
  const double r = in.r[1].item<double>();
  const double expected =
      5 / 1e-5 *
      (r * (error + step).square().mean() + (1 - r) * (error - step).square().mean())
          .item<double>();
  CHECK_THAT(value[1].item<double>() / expected, WithinAbs(1, 1e-9));
}

TEST_CASE("the map from advantages to r is the published one in every mode") {
  const Tensor a = at::tensor({-7.0, -5.0, -2.5, 0.0, 2.5, 5.0, 7.0}, at::kDouble);
  const auto r = [&](cf::AdvantageMode mode) { return cf::Optimality{.clip = 5, .mode = mode}(a); };
  const auto is = [](std::vector<double> values) { return at::tensor(values, at::kDouble); };
  using Mode = cf::AdvantageMode;
  CHECK(relative_distance(r(Mode::all), is({0, 0, 0.25, 0.5, 0.75, 1, 1})) < 1e-15);
  CHECK(relative_distance(r(Mode::positive_only), is({0.5, 0.5, 0.5, 0.5, 0.75, 1, 1})) < 1e-15);
  CHECK(relative_distance(r(Mode::negative_only), is({0, 0, 0.25, 0.5, 0.5, 0.5, 0.5})) < 1e-15);
  CHECK(relative_distance(r(Mode::one_only), is({0.5, 0.5, 0.5, 0.5, 0.6, 0.6, 0.6})) < 1e-15);
  CHECK(relative_distance(r(Mode::binary), is({0.4, 0.4, 0.4, 0.5, 0.6, 0.6, 0.6})) < 1e-15);
  // The paper's equation: 1/2 + 1/2 clip(a, -1, 1).
  CHECK(relative_distance(cf::PaperNft{}.optimality(a / 5), is({0, 0, 0.25, 0.5, 0.75, 1, 1})) <
        1e-15);
  check_error([&] { cf::Optimality{.clip = 0}(a); }, "clip", "above 0");
}

TEST_CASE("without its negative branch NFT ignores what is bad") {
  const Tensor zero = at::zeros({size}, at::kDouble), one = at::ones({size}, at::kDouble);
  const cf::Nft ablated{.negative_branch = false};
  CHECK(loss_of(ablated, zero).abs().max().item<double>() == 0);
  CHECK(relative_distance(loss_of(ablated, one), loss_of(cf::Nft{}, one)) < 1e-12);
  CHECK(loss_of(cf::Nft{}, zero).min().item<double>() > 0);
}

TEST_CASE("the clipped loss stops where the ratio has gone far enough") {
  const auto loss = [](double ratio, double advantage) {
    return cf::clipped_policy_loss(at::tensor({ratio}), at::tensor({advantage}), 0.2)
        .item<double>();
  };
  CHECK_THAT(loss(1.5, 1), WithinAbs(-1.2, 1e-7));
  CHECK_THAT(loss(0.5, 1), WithinAbs(-0.5, 1e-7));
  CHECK_THAT(loss(1.5, -1), WithinAbs(1.5, 1e-7));
  CHECK_THAT(loss(0.5, -1), WithinAbs(0.8, 1e-7));
  CHECK(at::equal(cf::is_clipped(at::tensor({0.7F, 0.9F, 1.1F, 1.3F}), 0.2),
                  at::tensor({1.0F, 0.0F, 0.0F, 1.0F})));
}

TEST_CASE("GRPO begins at a ratio of 1") {
  const std::vector<std::int64_t> shape{size, 3};
  auto batch = laws::batch_of<cf::Grpo::Velocities>(cf::RecordedTransitions{}, shape);
  const Tensor v = cf::velocity<Role::current>(batch);
  batch.old_mean = batch.transition.mean(batch.x, v.detach());
  batch.old_log_prob = batch.transition.log_density(batch.next, batch.old_mean);
  const Tensor advantage = at::linspace(-1, 2, size, at::kDouble);
  const auto begin = [&](const auto& term) {
    cf::Statistics statistics;
    CHECK(relative_distance(term.loss(batch, advantage, statistics), -advantage) < 1e-6);
    std::map<std::string_view, double> means;
    statistics.for_each([&](std::string_view name, double mean) { means[name] = mean; });
    CHECK(means.at("clip_fraction") == 0);
    CHECK(means.at("approximate_kl") < 1e-10);
  };
  begin(cf::Grpo{.clip_range = 0.1});
  begin(cf::GrpoGuard{.clip_range = 0.1, .reweight = false});
}

// With x' = mean_old + std z the plain log-ratio is z d / std - d^2 / (2 std^2) for a difference of
// means d; the normalised one is z d, whatever the std: mean 0 and of the same spread everywhere.
TEST_CASE("the normalised ratio has neither bias nor scale") {
  const std::int64_t n = 3;
  cf::TransitionBatch<cf::GrpoGuard::Velocities> batch;
  std::vector<cf::Transition> steps;
  for (const double std : {0.1, 0.5, 2.0}) steps.push_back(cf::Transition::gaussian(0, 1, std));
  batch.transition = cf::TransitionRows::of(steps, at::arange(n, at::kLong));
  batch.x = at::zeros({n, 1});
  batch.old_mean = at::zeros({n, 1});
  batch.next = at::tensor({0.1F, 0.5F, 2.0F}).view({n, 1});  // z = 1
  batch.old_log_prob = batch.transition.log_density(batch.next, batch.old_mean);
  batch.velocities.get<Role::current>() = at::full({n, 1}, 0.05).requires_grad_();
  cf::Statistics statistics;
  const Tensor minus = at::full({n}, -1, at::kDouble);
  const cf::GrpoGuard ratio_alone{.clip_range = 10, .reweight = false};
  const Tensor log_ratio = ratio_alone.loss(batch, minus, statistics).log();
  CHECK(relative_distance(log_ratio, at::full({n}, 0.05)) < 1e-4);
}

TEST_CASE("the KL of transitions is that of Gaussians of one std") {
  const Tensor a = laws::floats({4, 3}, 1), b = laws::floats({4, 3}, 2);
  const Tensor std = at::tensor({0.5F, 1.0F, 2.0F, 4.0F});
  const Tensor kl = cf::transition_kl(a, b, std);
  CHECK(relative_distance(kl, (a - b).square().mean(1) / (2 * std.square())) < 1e-6);
  CHECK(cf::transition_kl(a, a, std).abs().max().item<double>() == 0);
}

TEST_CASE("AWM is the clipped gradient with matching errors for densities") {
  const std::vector<std::int64_t> shape{size, 3};
  const auto batch = laws::batch_of<cf::Awm::Velocities>(cf::ForwardProcess{}, shape);
  const Tensor target = batch.eps - batch.x0;
  const auto error = [&](const Tensor& v) { return (v - target).square().mean(1); };
  const Tensor ratio =
      (error(cf::velocity<Role::old>(batch)) - error(cf::velocity<Role::current>(batch))).exp();
  const Tensor a = at::linspace(-1, 1, size);
  cf::Statistics statistics;
  CHECK(relative_distance(cf::Awm{}.loss(batch, a, statistics),
                          cf::clipped_policy_loss(ratio, a, 0.2)) < 1e-6);
}

TEST_CASE("DPO prefers the first of a pair to the second") {
  const std::vector<std::int64_t> shape{2, 3};
  auto batch = laws::batch_of<cf::Dpo::Velocities>(cf::ForwardProcess{}, shape);
  const Tensor target = batch.eps - batch.x0;
  const Tensor reference = cf::velocity<Role::reference>(batch);
  const auto loss = [&](const Tensor& current) {
    batch.velocities.get<Role::current>() = current;
    cf::Statistics statistics;
    return cf::Dpo{.beta = 2}.loss(batch, {}, statistics);
  };
  // At the reference the margin is 0.
  CHECK(relative_distance(loss(reference), at::full({2}, std::log(2.0))) < 1e-6);
  Tensor better = reference.clone(), worse = reference.clone();
  better[0] = target[0];
  worse[1] = target[1];
  CHECK(loss(better)[0].item<double>() < std::log(2.0) - 0.01);
  CHECK(loss(worse)[0].item<double>() > std::log(2.0) + 0.01);
  const double excess = -(reference[0] - target[0]).square().mean().item<double>();
  CHECK_THAT(loss(better)[1].item<double>(), WithinAbs(std::log1p(std::exp(excess)), 1e-6));
}

TEST_CASE("pairs are the best and the worst of each group that differs") {
  const auto pairs = [](const cf::Scores& s) { return cf::Dpo{}.pairs(s); };
  const Tensor found = pairs(scores({1, 5, 2, 7, 7, 0, 3, 3}, {4, 4, 4, 1, 1, 1, 9, 9}));
  CHECK(at::equal(found, at::tensor({1, 0, 3, 5}, at::kLong).view({2, 2})));
  CHECK(pairs(scores({3, 3, 1}, {0, 0, 1})).sizes() == at::IntArrayRef({0, 2}));
}

TEST_CASE("only the best of a group that differs is imitated") {
  const cf::Scores s = scores({1, 5, 2, 7, 7, 0, 3, 3}, {4, 4, 4, 1, 1, 1, 9, 9});
  const Tensor best = at::tensor({0, 1, 0, 1, 0, 0, 0, 0}, at::kInt).to(at::kBool);
  CHECK(at::equal(cf::BestOfGroup{}.keep(s), best));
  CHECK(at::equal(cf::BestOfGroup{}.signal(s), best.to(at::kFloat)));
}

TEST_CASE("weights of rewards are exponential and of mean 1") {
  const cf::Scores s = scores({0, 1, 3}, {0, 0, 0});
  for (const double temperature : {0.5, 2.0}) {
    const Tensor w = cf::RewardWeighted{.temperature = temperature}.signal(s);
    CHECK_THAT(w.mean().item<double>(), WithinAbs(1, 1e-14));
    CHECK_THAT((w[2] / w[0]).log().item<double>(), WithinAbs(3 / temperature, 1e-12));
  }
}

TEST_CASE("advantages are clipped, and samples without any are left out") {
  cf::Scores s = scores({0, 0, 0, 0}, {0, 0, 0, 0});
  s.advantage = at::tensor({-9.0, 0.0, 0.5, 9.0}, at::kDouble);
  const Tensor clipped = at::tensor({-2.0, 0.0, 0.5, 2.0}, at::kDouble);
  const Tensor kept = at::tensor({1, 0, 1, 1}, at::kInt).to(at::kBool);
  CHECK(at::equal(cf::Grpo{.advantage_clip = 2}.signal(s), clipped));
  CHECK(at::equal(cf::GrpoGuard{.advantage_clip = 2}.signal(s), clipped));
  CHECK(at::equal(cf::Awm{.advantage_clip = 2}.signal(s), clipped));
  CHECK(at::equal(cf::Grpo{}.keep(s), kept));
  CHECK(at::equal(cf::Awm{}.keep(s), kept));
}

TEST_CASE("NFT takes all samples, or those of groups that differ when asked") {
  // Groups 4 and 9 differ; 1 and 6 do not. The second of group 9 is as good as its mean.
  cf::Scores s = scores({1, 5, 7, 7, 1, 2, 3, 0}, {4, 4, 1, 1, 9, 9, 9, 6});
  s.advantage = cf::GroupAdvantage{}(s.reward, s.group);
  REQUIRE(s.advantage[5].item<double>() == 0);
  const Tensor informative = at::tensor({1, 1, 0, 0, 1, 1, 1, 0}, at::kInt).to(at::kBool);
  CHECK_FALSE(cf::Nft{}.keep(s).defined());
  CHECK_FALSE(cf::PaperNft{}.keep(s).defined());
  CHECK_FALSE(cf::VelocityKl{}.keep(s).defined());
  CHECK(at::equal(cf::Nft{.informative_only = true}.keep(s), informative));
  CHECK(at::equal(cf::PaperNft{.informative_only = true}.keep(s), informative));
  CHECK(at::equal(cf::VelocityKl{.informative_only = true}.keep(s), informative));
  // What is kept has the target that it had.
  CHECK(at::equal(cf::Nft{.informative_only = true}.signal(s), cf::Nft{}.signal(s)));
  CHECK(at::equal(cf::PaperNft{.informative_only = true}.signal(s), cf::PaperNft{}.signal(s)));
}

TEST_CASE("settings out of range are refused") {
  const Tensor signal = at::full({size}, 0.5, at::kDouble);
  const auto with = [&](const auto& term) { return [=] { loss_of(term, signal); }; };
  const double nan = std::nan("");
  check_error(with(cf::Nft{.beta = 0}), "beta", "above 0, got 0");
  check_error(with(cf::Nft{.beta = -1}), "beta", "got -1");
  check_error(with(cf::Nft{.beta = nan}), "beta", "nan");
  check_error(with(cf::Nft{.weight_floor = 0}), "weight_floor", "above 0");
  check_error(with(cf::PaperNft{.beta = 0}), "beta", "above 0");
  check_error(with(cf::PaperNft{.weight = [](const Tensor& t) { return t.sum(); }}), "weight",
              "shape [6]");
  check_error(with(cf::Grpo{.clip_range = 0}), "clip_range", "above 0");
  check_error(with(cf::GrpoGuard{.clip_range = -1}), "clip_range", "above 0");
  check_error(with(cf::Awm{.clip_range = 0}), "clip_range", "above 0");
  check_error(with(cf::Dpo{.beta = 0}), "beta", "above 0");
  const cf::Scores s = scores({0, 1}, {0, 0});
  check_error([&] { cf::Grpo{.advantage_clip = 0}.signal(s); }, "advantage_clip", "above 0");
  check_error([&] { cf::Awm{.advantage_clip = -1}.signal(s); }, "advantage_clip", "above 0");
  check_error([&] { cf::RewardWeighted{.temperature = 0}.signal(s); }, "temperature", "above 0");
  check_error([&] { cf::Nft{.optimality = {.clip = -1}}.signal(s); }, "clip", "above 0");
}

TEST_CASE("inputs of the NFT loss that do not fit are refused by name") {
  const cf::kernels::AdaptiveWeighting adaptive{5, 1e-5};
  const auto with = [&](auto change) {
    return [=] {
      cf::NftInputs in = nft_inputs(at::kFloat, true);
      change(in);
      cf::adaptive_nft_loss(in, {}, adaptive);
    };
  };
  const Tensor bent = at::zeros({size, 3, 5});
  check_error(with([](auto& in) { in.v = at::zeros({0, 3, 4}); }), "v", "non-empty");
  check_error(with([&](auto& in) { in.v_old = bent; }), "v_old", "[6, 3, 4], got [6, 3, 5]");
  check_error(with([&](auto& in) { in.v_ref = bent; }), "v_ref", "[6, 3, 5]");
  check_error(with([&](auto& in) { in.x0 = bent; }), "x0", "[6, 3, 5]");
  check_error(with([](auto& in) { in.eps = Tensor(); }), "eps", "nothing");
  check_error(with([](auto& in) { in.t = at::zeros({5}); }), "t", "[6], got [5]");
  check_error(with([](auto& in) { in.r = at::zeros({6, 1}); }), "r", "[6, 1]");
  check_error(with([](auto& in) { in.v = in.v.to(at::kLong); }), "v", "floating-point");
  const cf::NftInputs in = nft_inputs(at::kFloat, false);
  check_error([&] { cf::weighted_nft_loss(in, {}, at::ones({5})); }, "weight", "[6], got [5]");
}
