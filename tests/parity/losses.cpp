// Losses of DiffusionNFT and Flow-GRPO.

#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/path/rectified_flow.hpp>

#include "parity/steps.hpp"

namespace parity {

namespace {

// The loss of an objective on the forward process at the tensors of the case, and its gradient.
template <class Objective>
void forward_process_loss(Case& c, const Objective& objective,
                          const typename Objective::Shares& shares) {
  using Velocities = typename Objective::template VelocitiesOf<cf::TermsAt<cf::ForwardProcess>>;
  const Tensor v = trained(c.in("v"));
  cf::ForwardBatch<Velocities> batch;
  batch.x0 = c.in("x0");
  batch.eps = c.in("noise");
  batch.t = c.in("t");
  batch.x_t = cf::interpolate(batch.x0, batch.eps, batch.t);
  batch.velocities.template get<Role::current>() = v;
  batch.velocities.template get<Role::old>() = c.in("v_old");
  if constexpr (Velocities::template contains<Role::reference>) {
    batch.velocities.template get<Role::reference>() = c.in("v_ref");
  }
  cf::Statistics statistics;
  const Tensor loss = loss_of_step<cf::ForwardProcess>(objective, batch, shares, statistics);
  loss.backward();
  c.compare("out.loss", loss);
  c.compare("grad.v", v.grad());
}

cf::AdvantageMode mode_named(const std::string& name) {
  static const std::map<std::string, cf::AdvantageMode> modes{
      {"all", cf::AdvantageMode::all},
      {"positive_only", cf::AdvantageMode::positive_only},
      {"negative_only", cf::AdvantageMode::negative_only},
      {"one_only", cf::AdvantageMode::one_only},
      {"binary", cf::AdvantageMode::binary}};
  const auto found = modes.find(name);
  if (found == modes.end()) throw cf::Error("advantage_mode", "a published mode", name);
  return found->second;
}

void nft_loss_code(Case& c) {
  const cf::Nft nft{.beta = c.setting<double>("beta"),
                    .optimality = {.clip = c.setting<double>("advantage_clip"),
                                   .mode = mode_named(c.setting<std::string>("advantage_mode"))},
                    .weight_floor = c.setting<double>("weight_floor")};
  const auto kl_weight = c.setting<double>("kl_weight");
  const auto run = [&](const auto& objective) {
    forward_process_loss(c, objective, objective.shares(scores_of(c), at::kCPU));
  };
  kl_weight > 0 ? run(nft + kl_weight * cf::VelocityKl{}) : run(cf::as_sum(nft));

  const Tensor r = nft.signal(scores_of(c));
  c.compare("out.r", r);
  const cf::NftTerms terms = cf::adaptive_nft_loss(
      {c.in("v"), c.in("v_old"), c.in("v_ref"), c.in("x0"), c.in("noise"), c.in("t"), r},
      {.beta = nft.beta, .kl_weight = kl_weight}, {nft.optimality.clip, nft.weight_floor});
  c.compare("out.positive", terms.positive);
  c.compare("out.negative", terms.negative);
  c.compare("out.policy_loss", terms.policy.mean());
  c.compare("out.kl", terms.kl.mean());
  c.compare("out.loss", terms.total.mean());
}

void nft_loss_paper(Case& c) {
  using Weight = Tensor (*)(const Tensor&);
  static const std::map<std::string, Weight> weights{{"one", cf::time_weight::one},
                                                     {"t", cf::time_weight::t},
                                                     {"one_minus_t", cf::time_weight::one_minus_t}};
  const auto name = c.setting<std::string>("weight");
  if (!weights.contains(name)) throw cf::Error("weight", "one, t or one_minus_t", name);
  const Weight weight = weights.at(name);
  const auto beta = c.setting<double>("beta");
  forward_process_loss(c, cf::as_sum(cf::PaperNft{.beta = beta, .weight = weight}),
                       {cf::TermShare{.signal = c.in("r")}});

  const cf::NftTerms terms = cf::weighted_nft_loss(
      {c.in("v"), c.in("v_old"), {}, c.in("x0"), c.in("noise"), c.in("t"), c.in("r")},
      {.beta = beta}, weight(c.in("t")));
  c.compare("out.positive", terms.positive);
  c.compare("out.negative", terms.negative);
}

void grpo_loss(Case& c) {
  const cf::Grpo grpo{.clip_range = c.setting<double>("clip_range"),
                      .advantage_clip = c.setting<double>("advantage_clip")};
  const auto kl_weight = c.setting<double>("kl_weight");
  const auto reported = kl_weight > 0 ? transition_loss(c, grpo + kl_weight * cf::TransitionKl{})
                                      : transition_loss(c, cf::as_sum(grpo));
  c.compare("out.policy_loss", reported.at("grpo"));
  c.compare("out.clip_fraction", reported.at("clip_fraction"));
  // A difference of nearly equal float32 numbers: the reference's own, since its five digits depend
  // on the last bits of both.
  const Tensor log_ratio = c.expected("out.log_prob") - c.in("old_log_prob");
  c.compare("out.approx_kl", cf::approximate_kl(log_ratio).mean());
  c.compare("out.kl", cf::transition_kl(c.in("mean"), c.in("mean_ref"), transitions(c).std).mean());
}

}  // namespace

Kinds kinds_of_losses() {
  return {{"nft_loss_code", nft_loss_code},
          {"nft_loss_paper", nft_loss_paper},
          {"grpo_loss", grpo_loss}};
}

}  // namespace parity
