// Peak memory, each case in a process of its own: what an epoch keeps, by method and number of
// sampling steps; and what four roles cost on one base.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <contraflow/contraflow.hpp>
#include <contraflow/model/mmdit.hpp>
#include <contraflow/policy/lora_policy.hpp>

#include "../../examples/support/phases.hpp"
#include "../../examples/support/table.hpp"

namespace {

namespace cf = contraflow;

/// The least model that can be trained: v = s x.
class ScaleImpl : public torch::nn::Cloneable<ScaleImpl> {
 public:
  ScaleImpl() { reset(); }
  void reset() override { scale_ = register_parameter("scale", at::full({1}, 0.1)); }
  cf::Tensor forward(const cf::Tensor& x_t, const cf::Tensor&) { return x_t * scale_; }

 private:
  cf::Tensor scale_;
};
TORCH_MODULE(Scale);

/// An epoch of 96 samples of the size of 512 x 512 latents, 25 MB in all.
/// @param points one time, or one transition, a sample
template <class Solver, class Objective, class Points>
void epoch(const Solver& solver, const Objective& objective, const Points& points, int steps) {
  const auto reward = [](const cf::Tensor& x) { return x.mean({1, 2, 3}); };
  cf::Trainer trainer(cf::SnapshotPolicy(Scale{}), solver, reward, objective, points,
                      cf::Collection{.prompts_per_epoch = 4,
                                     .group_size = 24,
                                     .grid = cf::sd3_grid(steps),
                                     .rollout_batch = 8,
                                     .sample_shape = {16, 64, 64}},
                      cf::Optimization{.micro_batch = 8});
  trainer.run_epoch();
}

cf::MmditOptions middle_size() {
  return {.num_layers = 6,
          .num_attention_heads = 12,
          .joint_attention_dim = 512,
          .caption_projection_dim = 768,
          .pooled_projection_dim = 256,
          .pos_embed_max_size = 64,
          .dual_attention_layers = {0, 1}};
}

cf::Mmdit drawn_model() {
  auto network = std::make_shared<cf::MmditNetwork>(middle_size());
  cf::Generator generator = cf::seeded(0);
  cf::initialise(*network, generator);
  return cf::Mmdit(network);
}

template <class Policy>
void velocities_of_all_roles(Policy policy) {
  policy.keep(cf::Roles<cf::Role::old, cf::Role::reference>{});
  const at::NoGradGuard no_gradient;
  const cf::TextCondition condition{at::zeros({1, 8, 512}), at::zeros({1, 256})};
  for (const cf::Role role :
       {cf::Role::current, cf::Role::old, cf::Role::reference, cf::Role::average}) {
    policy.velocity(role, at::zeros({1, 16, 8, 8}), at::full({1}, 0.5), condition);
  }
}

void run_case(const std::string& name, int steps) {
  if (name == "nft") {
    const cf::ForwardProcess one_time{.times = cf::GridTimes{.per_sample = 1}};
    return epoch(cf::DpmSolver<2>{}, cf::Nft{}, one_time, steps);
  }
  if (name == "grpo") {
    return epoch(cf::FlowSde{}, cf::Grpo{}, cf::RecordedTransitions{.per_sample = 1}, steps);
  }
  if (name == "snapshots") return velocities_of_all_roles(cf::SnapshotPolicy(drawn_model()));
  if (name == "adapters") return velocities_of_all_roles(cf::LoraPolicy(drawn_model()));
  if (name == "base") {
    drawn_model();
    return;
  }
  throw std::invalid_argument(name);
}

/// Bytes that a case takes at most, beside those of an idle process.
double megabytes_of(const std::string& program, const std::string& name, int steps) {
  const std::string command = program + " " + name + " " + std::to_string(steps);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  unsigned long long bytes = 0;
  if (!pipe || std::fscanf(pipe.get(), "%llu", &bytes) != 1) {
    throw std::runtime_error("cannot run " + command);
  }
  return static_cast<double>(bytes) / 1e6;
}

}  // namespace

int main(int argc, char** argv) {
  at::set_num_threads(1);
  if (argc == 3) {
    // What LibTorch takes once for its own use is no part of a case.
    at::matmul(at::ones({8, 8}), at::ones({8, 8}));
    const std::uint64_t before = cf::peak_memory();
    run_case(argv[1], std::atoi(argv[2]));
    std::cout << cf::peak_memory() - before << '\n';
    return 0;
  }
  const std::string program = argv[0];
  support::Table rollout({"an epoch of 96 samples, 25 MB", "5 steps", "10", "20", "40"});
  for (const std::string method : {"nft", "grpo"}) {
    std::vector<std::string> row{method};
    for (const int steps : {5, 10, 20, 40}) {
      row.push_back(support::fixed(megabytes_of(program, method, steps), 0) + " MB");
    }
    rollout.add(row);
  }
  const auto base = static_cast<double>(cf::weight_count(cf::MmditNetwork(middle_size()))) * 4e-6;
  support::Table roles({"weights of " + support::fixed(base, 0) + " MB", "peak"});
  for (const std::string name : {"base", "adapters", "snapshots"}) {
    roles.add({name, support::fixed(megabytes_of(program, name, 0), 0) + " MB"});
  }
  std::cout << rollout.text() << '\n' << roles.text();
  return 0;
}
