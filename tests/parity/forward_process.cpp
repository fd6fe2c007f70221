// Newer losses on the forward process.

#include <contraflow/objective/crd.hpp>
#include <contraflow/objective/dgpo.hpp>

#include "parity/steps.hpp"

namespace parity {

namespace {

Tensor velocity_kl(const Tensor& v, const Tensor& v_ref) {
  return cf::mean_per_sample((v - v_ref).square());
}

// Numbers from 0 for those of a column.
Tensor numbered(const Tensor& group) {
  return std::get<1>(at::_unique(group, /*sorted=*/true, /*return_inverse=*/true));
}

cf::CrdFit fit_named(const std::string& name) {
  if (name == "mse") return cf::CrdFit::squares;
  if (name == "bce") return cf::CrdFit::cross_entropy;
  throw cf::Error("loss", "mse or bce", name);
}

void crd_loss(Case& c) {
  const auto centre = c.setting<std::string>("centre");
  if (centre != "batch" && centre != "group") throw cf::Error("centre", "batch or group", centre);
  const cf::CrdOptions options{.beta = c.setting<double>("beta"),
                               .fit = fit_named(c.setting<std::string>("loss")),
                               .clip = c.setting<double>("advantage_clip"),
                               .weight_floor = c.setting<double>("weight_floor"),
                               .adaptive = c.setting<bool>("adaptive"),
                               .temperature = c.setting<double>("temperature")};
  const auto kl_weight = c.setting<double>("kl_weight");
  const cf::Optimality optimality{.clip = options.clip};
  const cf::OptimalityKl kl_term{
      .bad = c.setting<bool>("adaptive_kl") ? c.setting<double>("kl_floor") : kl_weight,
      .good = kl_weight,
      .optimality = optimality};
  const Tensor v = trained(c.in("v")), r = optimality(scores_of(c).advantage);
  const Tensor group = numbered(c.in("prompt"));
  const Tensor implicit =
      cf::implicit_reward(v, c.in("v_old"), c.in("noise") - c.in("x0"), options);
  const Tensor policy =
      cf::crd_loss(implicit, r, centre == "group" ? group : at::zeros_like(group), options);
  const Tensor kl = velocity_kl(v, c.in("v_ref"));
  const Tensor weighted = kl_term.signal(scores_of(c)) * kl;
  const Tensor loss = policy.mean() + weighted.mean();
  loss.backward();
  c.compare("out.implicit_reward", implicit);
  c.compare("out.r", r);
  c.compare("out.policy_loss", policy.mean());
  c.compare("out.kl", kl.mean());
  c.compare("out.weighted_kl", weighted.mean());
  c.compare("out.loss", loss);
  c.compare("grad.v", v.grad());
}

void dgpo_loss(Case& c) {
  const auto against = c.setting<std::string>("against");
  if (against != "reference" && against != "old") {
    throw cf::Error("against", "reference or old", against);
  }
  const cf::Dgpo dgpo{
      .beta = c.setting<double>("beta"),
      .clip_range = c.setting<double>("clip_range"),
      .advantage_clip = c.setting<double>("advantage_clip"),
      .kl_weight = c.setting<double>("kl_weight"),
      .clip_error = c.setting<bool>("clip_error"),
      .clip_kl = c.setting<bool>("clip_kl"),
      .against = against == "old" ? cf::DgpoAgainst::old : cf::DgpoAgainst::reference};
  const Tensor v = trained(c.in("v")), target = c.in("noise") - c.in("x0");
  const cf::DgpoErrors errors = cf::dgpo_errors(v, c.in("v_old"), c.in("v_ref"), target);
  const Tensor kl = velocity_kl(v, c.in("v_ref"));
  const cf::DgpoTerms terms = dgpo.of_errors(errors, kl, dgpo.signal(scores_of(c)), c.in("prompt"),
                                             c.setting<std::int64_t>("group_size"));
  terms.total.mean().backward();
  c.compare("out.error", errors.current);
  c.compare("out.group_weight", terms.group_weight);
  c.compare("out.clipped", terms.clipped);
  c.compare("out.policy_loss", terms.policy.mean());
  c.compare("out.kl", kl.mean());
  c.compare("out.loss", terms.total.mean());
  c.compare("grad.v", v.grad());
}

}  // namespace

Kinds kinds_of_forward_process() { return {{"crd_loss", crd_loss}, {"dgpo_loss", dgpo_loss}}; }

}  // namespace parity
