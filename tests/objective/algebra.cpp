// Sums of terms: what they need, what they record, what they compute.

#include <map>
#include <string>
#include <type_traits>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/algebra.hpp>
#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/train/rollout.hpp>

#include "archetypes/terms.hpp"
#include "laws/errors.hpp"
#include "laws/term.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

template <class O>
using SumOf = decltype(cf::as_sum(std::declval<O>()));

template <class O>
using Needed = typename SumOf<O>::AllVelocities;

// The set of exactly these roles.
template <class Set, Role... R>
constexpr bool is_exactly = Set::size == sizeof...(R) && (Set::template contains<R> && ...);

using NftKl = decltype(cf::Nft{} + 1.0 * cf::VelocityKl{});
using GrpoKl = decltype(cf::Grpo{} + 1.0 * cf::TransitionKl{});
using Mixed = decltype(cf::Grpo{} + 1.0 * cf::FlowMatching{} + 1.0 * cf::VelocityKl{});

static_assert(is_exactly<Needed<cf::Nft>, Role::current, Role::old>);
static_assert(is_exactly<Needed<NftKl>, Role::current, Role::old, Role::reference>);
static_assert(is_exactly<Needed<cf::Grpo>, Role::current>);
static_assert(is_exactly<Needed<GrpoKl>, Role::current, Role::reference>);
static_assert(is_exactly<Needed<cf::Dpo>, Role::current, Role::reference>);
static_assert(is_exactly<Needed<cf::Awm>, Role::current, Role::old>);
static_assert(is_exactly<Needed<cf::RewardWeighted>, Role::current>);

// Each kind of point has its own needs: no reference is asked for at transitions here.
using Forward = cf::TermsAt<cf::ForwardProcess>;
using Transitions = cf::TermsAt<cf::RecordedTransitions>;
static_assert(is_exactly<Mixed::VelocitiesOf<Transitions>, Role::current>);
static_assert(is_exactly<Mixed::VelocitiesOf<Forward>, Role::current, Role::reference>);

// A term that compares pairs has samples of its own, and so velocities: no reference is computed
// for the samples of the other term.
using Paired = decltype(cf::FlowMatching{} + 1.0 * cf::Dpo{});
static_assert(is_exactly<Paired::VelocitiesOf<Forward>, Role::current>);
static_assert(is_exactly<Paired::VelocitiesOf<cf::OwnTerm<1>>, Role::current, Role::reference>);
static_assert(Paired::has_own_batches && Paired::uses_forward && !SumOf<cf::Dpo>::uses_forward);

// Nobody but the policy that collected is `old`; without it the current one collects.
static_assert(SumOf<cf::Nft>::collector == Role::old && NftKl::collector == Role::old);
static_assert(SumOf<cf::Awm>::collector == Role::old);
static_assert(GrpoKl::collector == Role::current && SumOf<cf::Dpo>::collector == Role::current);

// What is not needed does not exist as a type.
static_assert(std::is_same_v<cf::RecordOf<NftKl>, cf::NothingRecorded>);
static_assert(std::is_empty_v<cf::NothingRecorded>);
static_assert(sizeof(cf::Rollout<cf::NothingRecorded>) == 4 * sizeof(Tensor));
static_assert(std::is_same_v<cf::RecordOf<GrpoKl>, cf::RecordedSteps<false>>);
static_assert(std::is_same_v<cf::RecordOf<SumOf<cf::GrpoGuard>>, cf::RecordedSteps<true>>);
static_assert(std::is_same_v<cf::RecordOf<Mixed>, cf::RecordedSteps<false>>);
static_assert(!NftKl::uses_transitions && NftKl::uses_forward);
static_assert(GrpoKl::uses_transitions && !GrpoKl::uses_forward);
static_assert(Mixed::uses_transitions && Mixed::uses_forward);

static_assert(cf::Objective<cf::Nft> && cf::Objective<NftKl> && !cf::Objective<int>);

struct Result {
  Tensor loss, gradient;
  std::map<std::string, double> means;
};

constexpr std::int64_t size = 8;
const Tensor members = at::arange(size, at::kLong);

// The shares of the terms in a gradient step that looks at every sample once.
template <class O>
auto shares_of(const O& sum, const cf::Scores& scores = laws::scores_of(size)) {
  auto shares = sum.shares(scores, at::kCPU);
  sum.template set_scales<Forward>(shares, members, 1);
  if constexpr (O::uses_transitions) sum.template set_scales<Transitions>(shares, members, 1);
  return shares;
}

// The loss of an objective on the forward process, and its gradient.
template <class O>
Result evaluated(const O& objective, const cf::Scores& scores = laws::scores_of(size)) {
  const auto sum = cf::as_sum(objective);
  const std::vector<std::int64_t> shape{size, 3};
  using Roles = cf::Roles<Role::current, Role::old, Role::reference>;
  const auto batch = laws::batch_of<Roles>(cf::ForwardProcess{}, shape);
  cf::Statistics statistics;
  const Tensor loss =
      sum.template loss<Forward>(batch, members, shares_of(sum, scores), statistics);
  loss.backward();
  Result result{loss.detach(), cf::velocity<Role::current>(batch).grad(), {}};
  statistics.for_each([&](auto name, double mean) { result.means[std::string(name)] = mean; });
  return result;
}

void same(const Result& a, const Result& b, double tolerance = 1e-5) {
  CHECK(relative_distance(a.loss, b.loss) < tolerance);
  CHECK(relative_distance(a.gradient, b.gradient) < tolerance);
}

}  // namespace

TEST_CASE("a sum adds weighted terms, however it was written") {
  const Result nft = evaluated(cf::PaperNft{}), kl = evaluated(cf::VelocityKl{}),
               fm = evaluated(cf::FlowMatching{});
  const Result by_hand{nft.loss + 0.3 * kl.loss + 2 * fm.loss,
                       nft.gradient + 0.3 * kl.gradient + 2 * fm.gradient,
                       {}};
  same(evaluated(cf::PaperNft{} + 0.3 * cf::VelocityKl{} + 2.0 * cf::FlowMatching{}), by_hand);
  same(evaluated(cf::PaperNft{} + (0.3 * cf::VelocityKl{} + 2.0 * cf::FlowMatching{})), by_hand);
  same(evaluated(2.0 * cf::FlowMatching{} + 0.3 * cf::VelocityKl{} + cf::PaperNft{}), by_hand);
  same(evaluated(0.5 * (2.0 * cf::PaperNft{} + 0.6 * cf::VelocityKl{} + 4.0 * cf::FlowMatching{})),
       by_hand);
}

TEST_CASE("NFT takes a velocity KL that follows it into its own operation") {
  const Result nft = evaluated(cf::Nft{}), kl = evaluated(cf::VelocityKl{});
  const Result by_hand{3 * nft.loss + 0.6 * kl.loss, 3 * nft.gradient + 0.6 * kl.gradient, {}};
  const Result absorbed = evaluated(3.0 * (cf::Nft{} + 0.2 * cf::VelocityKl{}));
  same(absorbed, by_hand);
  same(evaluated(0.6 * cf::VelocityKl{} + 3.0 * cf::Nft{}), by_hand);
  const auto means = absorbed.means;
  CHECK(std::abs(means.at("nft") - nft.loss.item<double>()) < 1e-6);
  CHECK(std::abs(means.at("velocity_kl") - kl.loss.item<double>()) < 1e-6);
}

TEST_CASE("NFT takes a velocity KL in only where both see the same samples") {
  cf::Scores scores = laws::scores_of(size);
  scores.advantage.narrow(0, 0, 4).zero_();
  const auto check = [&](const cf::Nft& nft, const cf::VelocityKl& kl) {
    const Result a = evaluated(nft, scores), b = evaluated(kl, scores);
    same(evaluated(nft + 0.2 * kl, scores),
         {a.loss + 0.2 * b.loss, a.gradient + 0.2 * b.gradient, {}});
  };
  for (const bool nft : {false, true}) {
    for (const bool kl : {false, true}) {
      INFO("informative only: NFT " << nft << ", KL " << kl);
      check(cf::Nft{.informative_only = nft}, cf::VelocityKl{.informative_only = kl});
    }
  }
  // The samples that say nothing have no part in the gradient of a term that leaves them out.
  const Tensor gradient = evaluated(cf::VelocityKl{.informative_only = true}, scores).gradient;
  CHECK(gradient.narrow(0, 0, 4).abs().max().item<double>() == 0);
  CHECK(gradient.narrow(0, 4, 4).abs().min().item<double>() > 0);
}

TEST_CASE("every term takes its own signal") {
  const cf::Scores scores = laws::scores_of(size);
  const auto sum = cf::Awm{} + 1.0 * cf::VelocityKl{} + 1.0 * cf::RewardWeighted{};
  const auto shares = sum.shares(scores, at::kCPU);
  CHECK(at::equal(shares[0].signal, cf::Awm{}.signal(scores)));
  CHECK_FALSE(shares[1].signal.defined());
  CHECK(at::equal(shares[2].signal, cf::RewardWeighted{}.signal(scores)));
}

TEST_CASE("a sample is looked at if any term wants it") {
  cf::Scores scores = laws::scores_of(size);
  const auto units = [&](const auto& objective) {
    const auto sum = cf::as_sum(objective);
    return sum.units(Forward{}, sum.shares(scores, at::kCPU), size);
  };
  const auto set = [](const Tensor& wanted) { return wanted.nonzero(); };
  scores.advantage[2] = 0;
  scores.advantage[5] = 0;
  CHECK(at::equal(units(cf::Awm{}), at::tensor({0, 1, 3, 4, 6, 7}, at::kLong).view({6, 1})));
  CHECK(units(cf::Nft{}).size(0) == 8);
  CHECK(units(cf::BestOfGroup{}).size(0) == 2);
  // The best of the first group has no advantage: one term wants it and the other does not.
  const std::int64_t best = scores.reward.narrow(0, 0, 4).argmax().item<std::int64_t>();
  scores.advantage[best] = 0;
  const Tensor either = cf::Awm{}.keep(scores).logical_or(cf::BestOfGroup{}.keep(scores));
  const auto sum = cf::Awm{} + 1.0 * cf::BestOfGroup{};
  CHECK(at::equal(units(sum), set(either)));
  CHECK(units(sum).size(0) > units(cf::Awm{}).size(0));
}

TEST_CASE("a term averages over the samples that it wants") {
  const auto sum = 3.0 * cf::FlowMatching{} + 0.5 * cf::BestOfGroup{};
  auto shares = sum.shares(laws::scores_of(size), at::kCPU);
  sum.set_scales<Forward>(shares, members, 4);
  CHECK(shares[0].scale == 3.0 / (8 * 4));
  CHECK(shares[1].scale == 0.5 / (2 * 4));
  // In a gradient step of one group one of its samples is wanted.
  sum.set_scales<Forward>(shares, members.narrow(0, 0, 4), 1);
  CHECK(shares[0].scale == 3.0 / 4);
  CHECK(shares[1].scale == 0.5);
}

TEST_CASE("terms that compare pairs each have pairs of their own") {
  const cf::Scores scores = laws::scores_of(size);
  const auto sum = cf::Dpo{} + 0.1 * cf::FlowMatching{} + 0.5 * cf::Dpo{.beta = 3} + cf::Grpo{};
  CHECK(at::equal(sum.own_units(cf::OwnTerm<0>{}, scores), cf::Dpo{}.pairs(scores)));
  CHECK(at::equal(sum.own_units(cf::OwnTerm<2>{}, scores), cf::Dpo{}.pairs(scores)));
  std::string seen;
  std::remove_cvref_t<decltype(sum)>::for_each_selection([&]<class Selection>(Selection) {
    if constexpr (std::is_same_v<Selection, Forward>) seen += "forward ";
    if constexpr (std::is_same_v<Selection, cf::OwnTerm<0>>) seen += "0 ";
    if constexpr (std::is_same_v<Selection, cf::OwnTerm<2>>) seen += "2 ";
    if constexpr (std::is_same_v<Selection, Transitions>) seen += "transitions ";
  });
  CHECK(seen == "forward 0 2 transitions ");
}

TEST_CASE("terms at other points are left out of a loss") {
  const Mixed mixed = cf::Grpo{} + 1.0 * cf::FlowMatching{} + 1.0 * cf::VelocityKl{};
  same(evaluated(mixed), evaluated(cf::FlowMatching{} + 1.0 * cf::VelocityKl{}));
  const std::vector<std::int64_t> shape{size, 3};
  const auto batch =
      laws::batch_of<Mixed::VelocitiesOf<Transitions>>(cf::RecordedTransitions{}, shape);
  cf::Statistics one, other;
  const auto shares = shares_of(mixed);
  const Tensor alone = cf::Grpo{}.loss(batch, shares[0].signal, other);
  CHECK(relative_distance(mixed.loss<Transitions>(batch, members, shares, one), alone.mean()) <
        1e-6);
}

TEST_CASE("weights are finite and above 0") {
  const double inf = std::numeric_limits<double>::infinity();
  check_error([] { 0.0 * cf::Nft{}; }, "weight", "above 0");
  check_error([] { -1.0 * cf::VelocityKl{}; }, "weight", "above 0");
  check_error([&] { inf* cf::Nft{}; }, "weight", "finite");
  check_error([&] { std::nan("") * cf::Nft{}; }, "weight", "finite");
}

TEST_CASE("statistics are means over all that was added") {
  cf::Statistics statistics;
  statistics.add("a", at::tensor({1.0F, 2.0F}));
  statistics.add("b", at::tensor({5.0F}));
  statistics.add("a", at::tensor({6.0F}));
  statistics.add("none", at::zeros({0}));
  std::string seen;
  statistics.for_each([&](std::string_view name, double mean) {
    seen += std::string(name) + "=" + std::to_string(int(mean)) + " ";
  });
  CHECK(seen == "a=3 b=5 ");
}
