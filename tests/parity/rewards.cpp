// Gradients of rewards, stale samples, and rewards of groups.

#include <limits>

#include <torch/torch.h>

#include <contraflow/advantage/advantages.hpp>
#include <contraflow/objective/stale_samples.hpp>
#include <contraflow/reward/differentiable.hpp>
#include <contraflow/reward/of_groups.hpp>
#include <contraflow/solver/reward_path.hpp>

#include "parity/case.hpp"

namespace parity {

namespace {

template <class V>
Tensor end_of_path(const Case& c, V& velocity) {
  const auto method = c.setting<std::string>("method");
  const cf::TimeGrid grid = grid_of(c);
  const Tensor& x = c.in("x");
  if (method == "refl") return cf::refl_x0(velocity, x, grid, c.setting<std::size_t>("step"));
  if (method == "draft_lv") {
    const Tensor& noise = c.in("noise");
    if (noise.size(0) != c.setting<std::int64_t>("samples")) {
      throw cf::Error("in.noise", "as many copies as the config says", cf::shape_text(noise));
    }
    return cf::draft_lv_x0(velocity, x, grid, noise);
  }
  if (method == "drtune") {
    return cf::drtune_x0(velocity, x, grid, c.setting<std::vector<std::size_t>>("train_steps"),
                         c.setting<std::size_t>("stop_step"));
  }
  if (method != "draft_k") throw cf::Error("method", "refl, draft_k, draft_lv or drtune", method);
  cf::Generator unused = cf::seeded(0);
  return cf::draft_k_x0(cf::Euler{}, velocity, x, grid, c.setting<std::size_t>("K"), unused);
}

void reward_gradient(Case& c) {
  const Tensor M = trained(c.in("M")), C = trained(c.in("C"));
  auto velocity = [&](const Tensor& x, double sigma) { return M * x + C * sigma + x.tanh(); };
  const Tensor x0 = end_of_path(c, velocity);
  const Tensor& target = c.in("target");
  const auto reward = cf::differentiable([&](const Tensor& x) {
    const std::int64_t copies = x.size(0) / target.size(0);
    const Tensor all = at::cat(std::vector<Tensor>(std::size_t(copies), target));
    return cf::mean_per_sample(x.sin() - (x - all).square() / 2);
  });
  const Tensor scores = cf::differentiable_scores(reward, x0, cf::Unconditional{});
  const Tensor loss =
      cf::reward_loss(scores, c.optional_setting<double>("reward_clip"), c.setting<double>("scale"))
          .mean();
  loss.backward();
  c.compare("out.x0", x0);
  c.compare("out.reward", scores);
  c.compare("out.loss", loss);
  c.compare("grad.M", M.grad());
  c.compare("grad.C", C.grad());
}

cf::ImportanceOver importance_named(const std::string& name) {
  if (name == "none") return cf::ImportanceOver::none;
  if (name == "step") return cf::ImportanceOver::step;
  if (name == "sequence") return cf::ImportanceOver::sequence;
  throw cf::Error("importance", "none, step or sequence", name);
}

cf::Rejection rejection_named(const std::string& name) {
  static const std::map<std::string, cf::RejectBy> by{{"token", cf::RejectBy::step},
                                                      {"seq_sum", cf::RejectBy::sum},
                                                      {"seq_mean", cf::RejectBy::mean},
                                                      {"seq_max", cf::RejectBy::max}};
  static const std::map<std::string, cf::Divergence> divergences{
      {"k1", cf::Divergence::k1}, {"k2", cf::Divergence::k2}, {"k3", cf::Divergence::k3}};
  const auto place = name.rfind('_');
  const std::string first = name.substr(0, place);
  const std::string last = place == std::string::npos ? "" : name.substr(place + 1);
  if (!by.contains(first) || !divergences.contains(last)) {
    throw cf::Error("rejection", "token or seq_sum, seq_mean, seq_max, and k1, k2 or k3", name);
  }
  return {.divergence = divergences.at(last), .by = by.at(first)};
}

std::vector<cf::Rejection> rejections_of(const Case& c) {
  std::vector<cf::Rejection> rejections;
  const auto& bounds = c.config().at("rejection_bounds");
  for (const auto& name : c.config().at("rejection")) {
    cf::Rejection rejection = rejection_named(name.get<std::string>());
    const auto& own = bounds.at(rejections.size());
    rejection.upper = own.at(1).get<double>();
    // Without a lower bound every ratio is above it.
    rejection.lower =
        own.at(0).is_null() ? std::numeric_limits<double>::min() : own.at(0).get<double>();
    rejections.push_back(rejection);
  }
  return rejections;
}

void rollout_correction(Case& c) {
  const auto mode = c.setting<std::string>("mode");
  if (mode != "decoupled" && mode != "bypass") {
    throw cf::Error("mode", "decoupled or bypass", mode);
  }
  const auto clip = c.setting<double>("advantage_clip");
  const cf::Importance importance{.over = importance_named(c.setting<std::string>("importance")),
                                  .upper = c.setting<double>("importance_upper"),
                                  .lower = c.optional_setting<double>("importance_lower"),
                                  .normalise = c.setting<bool>("normalise")};
  const Tensor log_prob = trained(c.in("log_prob"));
  const cf::StaleLogProbs log_probs{log_prob, mode == "bypass" ? Tensor() : c.in("old_log_prob"),
                                    c.in("rollout_log_prob")};
  const cf::CorrectedTerms terms =
      cf::corrected_policy_loss(log_probs, c.in("advantage").clamp(-clip, clip),
                                c.setting<double>("clip_range"), importance, rejections_of(c));
  terms.loss.mean().backward();
  const cf::Staleness stale = cf::staleness(terms.log_ratio);
  c.compare("out.weight", terms.weight);
  c.compare("out.kept", terms.kept);
  if (c.has("out.effective_sample_share")) {
    c.compare("out.effective_sample_share", cf::effective_sample_share(terms.importance));
  }
  c.compare("out.kl", stale.kl);
  c.compare("out.k3", stale.k3);
  c.compare("out.chi2_step", stale.chi2_step);
  c.compare("out.chi2_sequence", stale.chi2_sequence);
  c.compare("out.loss", terms.loss.mean());
  c.compare("grad.log_prob", log_prob.grad());
}

void pairwise_reward(Case& c) {
  const auto items = c.setting<std::int64_t>("items");
  const auto decimals = c.setting<int>("decimals");
  const Tensor &first = c.in("first"), &second = c.in("second");
  Tensor reward = cf::win_rates(first, second, c.in("winner"), items, decimals);
  if (c.has("in.category_winner")) {
    std::vector<Tensor> categories;
    for (const Tensor& winner : c.in("category_winner").unbind(1)) {
      categories.push_back(cf::win_rates(first, second, winner, items, -1));
    }
    const cf::CategoryRates rates =
        cf::category_rates(reward, at::stack(categories), c.setting<double>("overall_weight"),
                           c.setting<double>("category_weight"), decimals);
    c.compare("out.overall", rates.overall);
    c.compare("out.category_mean", rates.category_mean);
    reward = rates.reward;
  }
  const cf::GroupAdvantage advantage{.spread = cf::Spread::group,
                                     .epsilon = c.setting<double>("epsilon"),
                                     .guard = cf::Guard::add,
                                     .unbiased = true};
  c.compare("out.reward", reward);
  c.compare("out.advantage", advantage(reward, at::zeros({items}, at::kLong)));
}

void rank_reward(Case& c) { c.compare("out.reward", cf::rank_rewards(c.in("score"))); }

}  // namespace

Kinds kinds_of_rewards() {
  return {{"reward_gradient", reward_gradient},
          {"rollout_correction", rollout_correction},
          {"pairwise_reward", pairwise_reward},
          {"rank_reward", rank_reward}};
}

}  // namespace parity
