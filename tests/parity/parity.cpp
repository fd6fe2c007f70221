// Runs every reference case of a folder through the library's public functions.
//
// The folder is CONTRAFLOW_FIXTURES of the environment, else the copy among the tests. A case is a
// safetensors file: `kind` and `config` in its metadata, inputs `in.*`, expected results `out.*`
// and expected gradients `grad.*`. Settings come from the config and shapes from the tensors, so
// that folders with other settings and shapes work as well. A case passes when every expected
// tensor was compared and all agree.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include <contraflow/advantage/advantages.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/objective/algebra.hpp>
#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/path/rectified_flow.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/integrate.hpp>
#include <contraflow/solver/sde.hpp>
#include <contraflow/time/schedule.hpp>

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;

namespace {

constexpr double tolerance = 1e-5;
constexpr double tolerance_of_doubles = 1e-6;

// One file of reference numbers, and how far the library's are from them.
class Case {
 public:
  explicit Case(const std::filesystem::path& path)
      : file_(cf::read_safetensors(path)), config_(nlohmann::json::parse(metadata("config"))) {
    for (const auto& [name, tensor] : file_.tensors) {
      if (name.starts_with("in.") && tensor.is_floating_point()) {
        is_double_ = is_double_ && tensor.scalar_type() == at::kDouble;
      }
    }
  }

  std::string kind() const { return metadata("kind"); }

  template <class T>
  T setting(const char* name) const {
    if (!config_.contains(name))
      throw cf::Error("config", std::string("a setting ") + name, "none");
    return config_.at(name).get<T>();
  }

  bool has(const std::string& name) const { return file_.tensors.contains(name); }
  const Tensor& in(const std::string& name) const { return tensor("in." + name); }
  const Tensor& expected(const std::string& name) const { return tensor(name); }

  // Compares a result with the tensor of the file called @p name.
  void compare(const std::string& name, const Tensor& result) {
    const Tensor& wanted = tensor(name);
    compared_.insert(name);
    const bool is_number = result.numel() == 1 && wanted.numel() == 1;
    const Tensor got = is_number ? result.view(wanted.sizes()) : result;
    if (got.sizes() != wanted.sizes()) {
      throw cf::Error(name, "shape " + cf::shape_text(wanted), cf::shape_text(got));
    }
    const double error = relative_error(got, wanted);
    const bool is_double = is_double_ && wanted.scalar_type() == at::kDouble;
    const double allowed = is_double ? tolerance_of_doubles : tolerance;
    if (!(error <= worst_)) {
      worst_ = error;
      worst_name_ = name;
    }
    passed_ = passed_ && error <= allowed;
  }
  void compare(const std::string& name, double got) {
    compare(name, at::scalar_tensor(got, at::kDouble));
  }

  // Throws unless every expected tensor of the file was compared.
  void expect_complete() const {
    for (const auto& [name, tensor] : file_.tensors) {
      if (name.starts_with("in.") || compared_.contains(name)) continue;
      throw cf::Error(name, "a result that this kind of case has", "an unknown one");
    }
    if (compared_.empty()) throw cf::Error("out.*", "at least one expected result", "none");
  }

  bool passed() const { return passed_; }
  double worst() const { return std::max(worst_, 0.0); }
  const std::string& worst_name() const { return worst_name_; }

 private:
  // Largest difference over the largest expected entry; infinite for what is not a number.
  static double relative_error(const Tensor& got, const Tensor& wanted) {
    const Tensor reference = wanted.to(at::kDouble);
    const Tensor difference = got.detach().to(at::kDouble) - reference;
    if (!difference.isfinite().all().item<bool>()) return std::numeric_limits<double>::infinity();
    if (difference.numel() == 0) return 0;
    const auto size = reference.abs().max().item<double>();
    return difference.abs().max().item<double>() / (size > 0 ? size : 1);
  }

  const std::string& metadata(const char* name) const {
    const auto found = file_.metadata.find(name);
    if (found == file_.metadata.end()) throw cf::Error("metadata", name, "none");
    return found->second;
  }

  const Tensor& tensor(const std::string& name) const {
    const auto found = file_.tensors.find(name);
    if (found == file_.tensors.end()) throw cf::Error("tensors", name, "none");
    return found->second;
  }

  cf::SafetensorsFile file_;
  nlohmann::json config_;
  std::set<std::string> compared_;
  bool is_double_ = true;
  bool passed_ = true;
  double worst_ = -1;
  std::string worst_name_;
};

std::vector<double> doubles(const Tensor& values) {
  const Tensor plain = values.to(at::kDouble).contiguous();
  return {cf::data_of<const double>(plain), cf::data_of<const double>(plain) + plain.numel()};
}

cf::TimeGrid grid_of(const Case& c) { return cf::TimeGrid(doubles(c.in("sigmas"))); }

cf::Step step_of(const Case& c) {
  const cf::TimeGrid grid = grid_of(c);
  const auto index = c.setting<std::size_t>("index");
  if (index >= grid.steps()) throw cf::Error("index", "a step of the grid", cf::shown(index));
  return grid.step(index);
}

void time_grid(Case& c) {
  const auto table = c.setting<int>("num_train_timesteps");
  const cf::TimeGrid grid = cf::sd3_grid(
      c.setting<int>("steps"), {.shift = c.setting<double>("shift"), .num_train_timesteps = table});
  const Tensor sigmas = at::tensor(grid.sigmas(), at::kDouble);
  c.compare("out.sigmas", sigmas);
  c.compare("out.timesteps", sigmas.slice(0, 0, -1) * table);
}

// A solver whose noise is given instead of drawn.
template <class S>
struct Replayed {
  using State = typename S::State;
  S solver;
  Tensor noise;  // [steps, B, ...]

  State init(const Tensor& x) const { return solver.init(x); }

  template <class V>
  Tensor step(V& velocity, const Tensor& x, const cf::Step& step, State& state,
              cf::Generator& generator) const {
    Tensor next = solver.step(velocity, x, step, state, generator);
    if constexpr (cf::StochasticSolver<S>) {
      const cf::Transition transition = solver.transition(step);
      if (!transition.is_stochastic()) return next;
      const Tensor own = noise.select(0, static_cast<std::int64_t>(step.index));
      next = at::add(state.mean, own, transition.std);
    }
    return next;
  }
};

template <class S>
void trajectory(Case& c, const S& solver) {
  const auto velocity = [&](const Tensor& x, double sigma) {
    return c.in("M") * x + c.in("C") * sigma + x.tanh();
  };
  std::vector<Tensor> states{c.in("x")}, log_probs;
  const auto watch = [&](const cf::Step& step, const Tensor&, const Tensor& next,
                         const auto& state) {
    states.push_back(next);
    if constexpr (cf::StochasticSolver<S>) {
      const cf::Transition transition = solver.transition(step);
      if (!transition.is_stochastic()) return;
      log_probs.push_back(transition.log_density(next, state.mean));
    }
  };
  cf::Generator generator = cf::seeded(0);
  const Replayed<S> replayed{solver, c.has("in.noise") ? c.in("noise") : Tensor()};
  cf::integrate(replayed, velocity, c.in("x"), grid_of(c), generator, watch);
  c.compare("out.x", at::stack(states));
  if (c.has("out.log_prob")) c.compare("out.log_prob", at::stack(log_probs));
}

void solver(Case& c) {
  const auto name = c.setting<std::string>("solver");
  const bool is_ode = c.setting<bool>("deterministic");
  const double eta = is_ode ? 0 : c.setting<double>("eta");
  if (!is_ode && eta > 0 && !c.has("in.noise")) throw cf::Error("in.noise", "the noise", "none");
  if (name == "flow" && is_ode) return trajectory(c, cf::Euler{});
  if (name == "flow") return trajectory(c, cf::FlowSde{.noise_level = eta});
  if (name == "dance") return trajectory(c, cf::DanceSde{.noise_level = eta});
  if (name == "ddim") return trajectory(c, cf::Ddim{.eta = eta});
  if (name == "dpm1") return trajectory(c, cf::DpmSolver<1>{});
  if (name == "dpm2") return trajectory(c, cf::DpmSolver<2>{});
  throw cf::Error("solver", "flow, dance, ddim, dpm1 or dpm2", name);
}

void flow_sde_score(Case& c) {
  const cf::FlowSde sde{.noise_level = c.setting<double>("noise_level")};
  const cf::Transition transition = sde.transition(step_of(c));
  const Tensor mean = transition.mean(c.in("x"), c.in("v"));
  c.compare("out.mean", mean);
  c.compare("out.std", at::full_like(c.expected("out.std"), transition.std, at::kDouble));
  c.compare("out.log_prob", transition.log_density(c.in("next"), mean));
}

void cps_step(Case& c) {
  const cf::Cps sde{.noise_level = c.setting<double>("noise_level")};
  const cf::Transition transition = sde.transition(step_of(c));
  const Tensor mean = transition.mean(c.in("x"), c.in("v"));
  const Tensor next = at::add(mean, c.in("noise"), transition.std);
  c.compare("out.mean", mean);
  c.compare("out.std", at::full_like(c.expected("out.std"), transition.std, at::kDouble));
  c.compare("out.next", next);
  c.compare("out.log_prob", transition.log_density(next, mean));
}

void advantages(Case& c) {
  const Tensor reward = c.in("reward").to(at::kDouble), group = c.in("prompt").to(at::kLong);
  const auto spread = c.setting<bool>("global_std") ? cf::Spread::global : cf::Spread::group;
  const cf::GroupAdvantage advantage{.spread = spread, .epsilon = c.setting<double>("epsilon")};
  c.compare("out.advantage", advantage(reward, group));
  const cf::GroupStatistics statistics = cf::group_statistics(reward, group);
  c.compare("out.zero_std_ratio", statistics.zero_std_ratio);
  c.compare("out.reward_std_mean", statistics.mean_std);
  // The published trainer holds a reward once for each training time of its sample, two in these
  // cases; that moves the percentiles of the small groups.
  const Tensor held = reward.repeat_interleave(2), held_group = group.repeat_interleave(2);
  std::vector<double> tops;
  for (const double percent : {100, 75, 50, 25, 10}) {
    tops.push_back(cf::mean_of_top(held, held_group, percent));
  }
  c.compare("out.mean_of_top_100_75_50_25_10", at::tensor(tops, at::kDouble));
}

void decay(Case& c, const cf::Schedule& schedule) {
  std::vector<double> values;
  for (const double step : doubles(c.in("step"))) {
    values.push_back(schedule(static_cast<std::int64_t>(step)));
  }
  c.compare("out.decay", at::tensor(values, at::kDouble));
}

void old_policy_decay(Case& c) {
  switch (c.setting<int>("type")) {
    case 0:
      return decay(c, cf::Constant{0});
    case 1:
      return decay(c, cf::Ramp{.rate = 0.001, .max = 0.5});
    case 2:
      return decay(c, cf::Ramp{.rate = 0.0075, .max = 0.999, .flat = 75});
    default:
      throw cf::Error("type", "0, 1 or 2", cf::shown(c.setting<int>("type")));
  }
}

void ema_decay(Case& c) { decay(c, cf::WarmingUp{.max = c.setting<double>("decay")}); }

Tensor trained(const Tensor& x) { return x.detach().clone().requires_grad_(); }

// Means of the quantities that terms report.
std::map<std::string, double> means(const cf::Statistics& statistics) {
  std::map<std::string, double> result;
  statistics.for_each([&](std::string_view name, double mean) { result.emplace(name, mean); });
  return result;
}

// Scores that hold the advantages of the case.
cf::Scores scores_of(const Case& c) {
  const Tensor advantage = c.in("advantage").to(at::kDouble);
  return {advantage, advantage, at::zeros_like(advantage, at::kLong)};
}

// The loss of a gradient step on all samples of a batch, each looked at once.
template <class Points, class Objective, class Batch>
Tensor loss_of_step(const Objective& objective, const Batch& batch,
                    typename Objective::Shares shares, cf::Statistics& statistics) {
  using Terms = cf::TermsAt<Points>;
  const Tensor& v = cf::velocity<Role::current>(batch);
  const Tensor members = at::arange(v.size(0), at::kLong);
  objective.template set_scales<Terms>(shares, members, 1);
  return objective.template loss<Terms>(batch, members, shares, statistics);
}

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

// Transitions whose mean is the velocity itself, so that a gradient by the velocity is one by the
// mean.
cf::TransitionRows transitions(const Case& c) {
  const Tensor& mean = c.in("mean");
  std::vector<cf::Transition> steps;
  for (const double std : doubles(c.in("std").reshape({-1}).expand({mean.size(0)}))) {
    steps.push_back(cf::Transition::gaussian(0, 1, std));
  }
  const auto column = [&](double cf::Transition::*member) {
    std::vector<double> values;
    for (const cf::Transition& step : steps) values.push_back(step.*member);
    return at::tensor(values, at::kDouble).to(mean.scalar_type());
  };
  return {column(&cf::Transition::on_x), column(&cf::Transition::on_v),
          column(&cf::Transition::std), column(&cf::Transition::log_density_scale),
          column(&cf::Transition::log_density_offset)};
}

template <class Objective>
std::map<std::string, double> transition_loss(Case& c, const Objective& objective) {
  const Tensor mean = trained(c.in("mean"));
  using Velocities =
      typename Objective::template VelocitiesOf<cf::TermsAt<cf::RecordedTransitions>>;
  cf::TransitionBatch<Velocities> batch;
  batch.x = at::zeros_like(mean);
  batch.next = c.in("next");
  batch.old_log_prob = c.in("old_log_prob");
  batch.transition = transitions(c);
  batch.velocities.template get<Role::current>() = mean;
  if constexpr (Velocities::template contains<Role::reference>) {
    batch.velocities.template get<Role::reference>() = c.in("mean_ref");
  }
  cf::Statistics statistics;
  // Every sample is in the reference's mean, also one without an advantage.
  auto shares = objective.shares(scores_of(c), at::kCPU);
  for (auto& share : shares) share.keep = Tensor();
  const Tensor loss = loss_of_step<cf::RecordedTransitions>(objective, batch, shares, statistics);
  loss.backward();
  c.compare("out.loss", loss);
  c.compare("grad.mean", mean.grad());
  c.compare("out.log_prob", batch.transition.log_density(batch.next, mean));
  return means(statistics);
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

const std::map<std::string, std::function<void(Case&)>> kinds{
    {"time_grid", time_grid},           {"solver", solver},
    {"flow_sde_score", flow_sde_score}, {"cps_step", cps_step},
    {"advantages", advantages},         {"old_policy_decay", old_policy_decay},
    {"ema_decay", ema_decay},           {"nft_loss_code", nft_loss_code},
    {"nft_loss_paper", nft_loss_paper}, {"grpo_loss", grpo_loss},
};

// Runs one file and prints its line.
bool passes(const std::filesystem::path& path) {
  const std::string name = path.stem().string();
  try {
    Case c(path);
    const auto found = kinds.find(c.kind());
    if (found == kinds.end()) throw cf::Error("kind", "a known kind of case", c.kind());
    found->second(c);
    c.expect_complete();
    std::printf("%s  %-32s %-18s largest relative error %.1e (%s)\n", c.passed() ? "ok  " : "FAIL",
                name.c_str(), c.kind().c_str(), c.worst(), c.worst_name().c_str());
    return c.passed();
  } catch (const std::exception& failure) {
    std::printf("FAIL  %-32s %s\n", name.c_str(), failure.what());
    return false;
  }
}

std::vector<std::filesystem::path> files_of(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

int main() {
  const char* chosen = std::getenv("CONTRAFLOW_FIXTURES");
  const std::filesystem::path folder =
      chosen != nullptr && *chosen != '\0' ? chosen : CONTRAFLOW_TEST_DATA "/rl";
  std::vector<std::filesystem::path> files;
  try {
    files = files_of(folder);
  } catch (const std::filesystem::filesystem_error& failure) {
    std::printf("%s\n", failure.what());
  }
  if (files.empty()) std::printf("FAIL  no reference cases in %s\n", folder.c_str());
  const auto passed = std::count_if(files.begin(), files.end(), passes);
  const auto failed = static_cast<std::ptrdiff_t>(files.size()) - passed;
  std::printf("%td passed, %td failed\n", passed, failed);
  return passed > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
