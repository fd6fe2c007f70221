// The pieces of each room by themselves, a few lines each; what they give is checked.

#include <cstdint>
#include <filesystem>
#include <iostream>
#include <vector>

#include <contraflow/contraflow.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/kernels/nft_loss.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;
using namespace cf::literals;

namespace {

bool errors_name_the_argument() {
  //! [errors]
  try {
    cf::uniform_grid(0);
  } catch (const cf::Error& error) {
    // error.what(): "steps: expected at least 1, got 0"
    return error.argument() == "steps" && error.got() == "0";
  }
  //! [errors]
  return false;
}

bool one_seed_gives_one_stream() {
  //! [random]
  cf::Generator generator = cf::seeded(7);
  const Tensor a = cf::normal({4, 2}, generator);
  cf::Generator same = cf::seeded(7);
  cf::Generator other = cf::seeded(cf::stream_seed(7, 1));
  //! [random]
  return a.equal(cf::normal({4, 2}, same)) && !a.equal(cf::normal({4, 2}, other));
}

bool grids_begin_and_end() {
  //! [grids]
  const cf::TimeGrid published = cf::sd3_grid(10);                // shift 3, as SD3 samples
  const cf::TimeGrid even = cf::uniform_grid(10);                 // 1, 0.9, ..., 0
  const cf::TimeGrid own({1.0, 0.7, 0.2, 0.0});                   // any that falls strictly
  const cf::Ramp ramp{.rate = 0.0075, .max = 0.999, .flat = 75};  // the old policy's, type 2
  const cf::LogitNormalTimes times{.mean = 0, .std = 1};          // for training
  cf::Generator generator = cf::seeded(0);
  const Tensor t = times(/*units=*/16, published, generator);  // [16, 1]
  //! [grids]
  return published.steps() == 10 && even.sigmas().back() == 0 && own.steps() == 3 &&
         ramp(75) == 0 && t.size(0) == 16;
}

bool predictions_agree() {
  const Tensor x0 = at::randn({8, 2}), eps = at::randn({8, 2}), t = at::full({8}, 0.25);
  //! [path]
  const Tensor x_t = cf::interpolate(x0, eps, t);       // (1 - t) x0 + t eps
  const Tensor v = cf::velocity_target(x0, eps);        // eps - x0
  const Tensor back = cf::x0_from_velocity(x_t, v, t);  // x_t - t v
  //! [path]
  return back.allclose(x0, 1e-5, 1e-6);
}

bool adapters_compose() {
  //! [adapters]
  // A model of another library: predicts the noise, counts time from 0 to 1000.
  auto predicts_noise = [](const Tensor& x_t, const Tensor& t) {
    return x_t * (t / 1000).unsqueeze(1);
  };
  auto velocity = cf::PredictsEps(cf::ScaledTime(predicts_noise, 1000));
  static_assert(cf::FlowModel<decltype(velocity)>);
  //! [adapters]
  const Tensor x = at::ones({1, 2}), t = at::full({1}, 0.5);
  return velocity(x, t).allclose(-at::ones({1, 2}));
}

bool guidance_extrapolates() {
  //! [guidance]
  auto model = cf::MlpVelocity({.dimension = 2, .classes = 3});
  const Tensor nothing = at::zeros({1}, at::kLong);  // the class that stands for no condition
  cf::Guided guided(model, nothing, /*scale=*/4.5);
  //! [guidance]
  const Tensor x = at::randn({4, 2}), t = at::full({4}, 0.5), label = at::full({4}, 2, at::kLong);
  const Tensor u = model(x, t, at::zeros({4}, at::kLong)), c = model(x, t, label);
  return guided(x, t, label).allclose(u + 4.5 * (c - u), 1e-4, 1e-5);
}

bool hooks_see_every_step() {
  //! [integrate]
  const cf::toy::Mixture data = cf::toy::ring();
  const auto velocity = [&](const Tensor& x, double sigma) {
    return data.velocity(x, at::full({x.size(0)}, sigma));
  };
  cf::Generator generator = cf::seeded(0);
  std::vector<Tensor> trajectory;
  const Tensor noise = cf::normal({256, 2}, generator);
  const Tensor x0 = cf::integrate(cf::DpmSolver<2>{}, velocity, noise, cf::sd3_grid(20), generator,
                                  [&](const cf::Step&, const Tensor&, const Tensor& next,
                                      const auto& /*state*/) { trajectory.push_back(next); });
  //! [integrate]
  return trajectory.size() == 20 && trajectory.back().equal(x0);
}

bool windows_have_noise_inside() {
  //! [window]
  const cf::Window<cf::FlowSde, cf::DpmSolver<2>> fast{.sde = {.noise_level = 0.7},
                                                       .place = {.first = 1, .length = 2}};
  const cf::Window<cf::FlowSde, cf::Euler> sliding{
      .place = {.length = 2, .slide_every = 25, .slide_until = 7}};
  //! [window]
  const cf::TimeGrid grid = cf::sd3_grid(10);
  return fast.transition(grid.step(1)).is_stochastic() &&
         !fast.transition(grid.step(3)).is_stochastic() && sliding.at_epoch(50).place.first == 2;
}

bool rewards_keep_their_scores() {
  //! [rewards]
  const auto bag = cf::rewards(
      "target"_r = cf::toy::InModes{{1, 4}},
      "compact"_r =
          cf::weighted(cf::NegativeDistance{at::zeros({2})}, 0.5, cf::Normalisation::standard),
      "inside"_r = [](const Tensor& x0) { return (x0.norm(2, 1) < 3).to(at::kFloat); });
  //! [rewards]
  const cf::ScoreSheet sheet = bag.score(at::randn({6, 2}), cf::Unconditional{});
  return sheet.names.size() == 3 && sheet.scores.size(1) == 6 && sheet.failures.empty();
}

bool advantages_average_to_zero() {
  //! [advantages]
  const Tensor reward = at::tensor({1.0, 0.0, 0.0, 5.0, 5.0, 5.0}, at::kDouble);
  const Tensor group = at::tensor({0, 0, 0, 1, 1, 1}, at::kLong);
  const cf::GroupAdvantage advantage{.spread = cf::Spread::group};
  const Tensor a = advantage(reward, group);  // the second group teaches nothing: exactly 0
  const Tensor r = cf::Optimality{.clip = 5}(a);
  //! [advantages]
  return std::abs(a.sum().item<double>()) < 1e-9 && a[3].item<double>() == 0 &&
         r[3].item<double>() == 0.5;
}

bool sums_know_their_needs() {
  //! [algebra]
  auto objective = cf::Nft{} + 1e-4 * cf::VelocityKl{};
  using Needs = decltype(objective)::AllVelocities;
  static_assert(Needs::contains<cf::Role::current> && Needs::contains<cf::Role::old> &&
                Needs::contains<cf::Role::reference>);
  static_assert(std::same_as<cf::RecordOf<decltype(objective)>, cf::NothingRecorded>);
  static_assert(!cf::Sum<cf::Grpo>::AllVelocities::contains<cf::Role::reference>);
  //! [algebra]
  return objective.weights[1] == 1e-4;
}

bool kernels_need_no_tensors() {
  //! [kernel]
  const std::vector<float> v(8, 0.5F), v_old(8, 0.25F), x0(8, 0), eps(8, 1);
  const std::vector<double> t(2, 0.5), r(2, 1.0);
  std::vector<float> gradient(8);
  std::vector<double> positive(2), negative(2), kl(2);
  cf::kernels::NftLossArrays<float, float> arrays;
  arrays.v_theta = v.data();
  arrays.v_old = v_old.data();
  arrays.x0 = x0.data();
  arrays.eps = eps.data();
  arrays.t = t.data();
  arrays.r = r.data();
  arrays.gradient = gradient.data();
  arrays.batch = 2;
  arrays.elements = 4;
  const auto value = cf::kernels::nft_loss(arrays, {.beta = 1}, cf::kernels::FixedWeighting{},
                                           {positive.data(), negative.data(), kl.data()});
  //! [kernel]
  return std::abs(value.total - 0.25) < 1e-6 && gradient[0] < 0;
}

bool tensors_come_back() {
  const std::filesystem::path path = "pieces.safetensors";
  const Tensor weight = at::randn({3, 2});
  //! [io]
  cf::write_safetensors(path, {{"weight", weight}}, {{"note", "any text"}});
  const cf::SafetensorsFile file = cf::read_safetensors(path);
  //! [io]
  return file.tensors.at("weight").equal(weight) && file.metadata.at("note") == "any text";
}

bool black_boxes_collect() {
  auto model = cf::MlpVelocity({.dimension = 2, .width = 16, .depth = 1});
  //! [black box]
  // A sampler of another library: it is given the velocity and noise, and returns clean samples.
  const cf::BlackBox sampler([](auto& velocity, const Tensor& noise, cf::Generator&) -> Tensor {
    return noise - velocity(noise, 1.0);
  });
  auto trainer = cf::Trainer(cf::SnapshotPolicy(model), sampler, cf::toy::InModes{{1, 4}},
                             cf::Nft{}, {.prompts_per_epoch = 2, .group_size = 8});
  //! [black box]
  return trainer.run(1).epochs == 1;
}

}  // namespace

int main() {
  struct Piece {
    const char* name;
    bool (*holds)();
  };
  const std::vector<Piece> pieces = {
      {"errors", errors_name_the_argument},   {"random numbers", one_seed_gives_one_stream},
      {"grids", grids_begin_and_end},         {"path", predictions_agree},
      {"adapters", adapters_compose},         {"guidance", guidance_extrapolates},
      {"integrate", hooks_see_every_step},    {"window", windows_have_noise_inside},
      {"rewards", rewards_keep_their_scores}, {"advantages", advantages_average_to_zero},
      {"objectives", sums_know_their_needs},  {"kernel", kernels_need_no_tensors},
      {"safetensors", tensors_come_back},     {"black box", black_boxes_collect}};
  int failed = 0;
  for (const Piece& piece : pieces) {
    const bool holds = piece.holds();
    failed += holds ? 0 : 1;
    std::cout << (holds ? "holds  " : "FAILS  ") << piece.name << '\n';
  }
  return failed == 0 ? 0 : 1;
}
