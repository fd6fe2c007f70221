// Peak memory of each rank where a transformer of 100 million weights is trained whole, by NFT with
// a KL term: with the roles and the optimiser on every rank, and divided between them.
//
//   mpirun -n 4 sharding whole|divided

#include <cstdint>
#include <exception>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/contraflow.hpp>
#include <contraflow/core/stopwatch.hpp>
#include <contraflow/distributed/mpi.hpp>
#include <contraflow/model/mmdit.hpp>
#include <contraflow/policy/sharded_policy.hpp>

#include "../../examples/support/format.hpp"
#include "../../examples/support/table.hpp"

namespace {

namespace cf = contraflow;

constexpr int epochs = 1;

cf::MmditOptions shape() {
  return {.num_layers = 5,
          .num_attention_heads = 12,
          .joint_attention_dim = 512,
          .caption_projection_dim = 768,
          .pooled_projection_dim = 256,
          .pos_embed_max_size = 32,
          .dual_attention_layers = {}};
}

cf::Mmdit drawn_model() {
  auto network = std::make_shared<cf::MmditNetwork>(shape());
  cf::Generator generator = cf::seeded(0);
  cf::initialise(*network, generator);
  const auto table = cf::named_weights(*network).at("pos_embed.pos_embed");
  cf::Tensor(table).set_data(cf::position_table(shape()));
  return cf::Mmdit(network);
}

/// Processes, and the seconds that this one was in what moves weights and gradients, its waiting
/// for others included.
class Timed {
 public:
  explicit Timed(cf::Mpi mpi) : mpi_(std::move(mpi)) {}

  int rank() const { return mpi_.rank(); }
  int size() const { return mpi_.size(); }
  void sum(const std::vector<cf::Tensor>& tensors) const {
    timed([&] { mpi_.sum(tensors); });
  }
  void sum_to(const std::vector<cf::Tensor>& tensors, int rank) const {
    timed([&] { mpi_.sum_to(tensors, rank); });
  }
  cf::Tensor gather(const cf::Tensor& rows) const { return mpi_.gather(rows); }
  void broadcast(const std::vector<cf::Tensor>& tensors) const { mpi_.broadcast(tensors); }
  void broadcast_from(const std::vector<cf::Tensor>& tensors, int rank) const {
    timed([&] { mpi_.broadcast_from(tensors, rank); });
  }
  bool agree(bool flag) const { return mpi_.agree(flag); }
  std::int64_t bytes_sent() const { return mpi_.bytes_sent(); }
  double seconds() const { return *seconds_; }

 private:
  template <class F>
  void timed(F&& f) const {
    const cf::Stopwatch watch;
    f();
    *seconds_ += watch.seconds();
  }

  cf::Mpi mpi_;
  std::shared_ptr<double> seconds_ = std::make_shared<double>(0);
};
static_assert(cf::Communicator<Timed>);

/// Epochs of two steps each, the second with all of the optimiser, of latents so small that weights
/// are what takes the memory; and an evaluation.
template <class Policy>
cf::EpochReport trained(Policy policy, const Timed& mpi) {
  const auto brightness = [](const cf::Tensor& x0) { return x0.flatten(1).mean(1); };
  const cf::TextCondition prompts{at::ones({4, 8, 512}), at::ones({4, 256})};
  cf::Trainer trainer(std::move(policy), cf::Euler{}, brightness,
                      cf::Nft{} + 0.1 * cf::VelocityKl{}, cf::PromptRows(prompts),
                      cf::Collection{.prompts_per_epoch = 4,
                                     .group_size = 2,
                                     .grid = cf::uniform_grid(2),
                                     .sample_shape = {16, 8, 8}},
                      cf::Learning{.gradient_steps = 2}, cf::Optimization{.micro_batch = 1},
                      cf::EvaluationOptions{.every = 1, .samples = 4, .grid = cf::uniform_grid(2)},
                      mpi);
  const cf::EpochReport report = trainer.run(epochs).last;
  if (report.gradient_steps != 2 * epochs) throw std::runtime_error("not all steps were made");
  return report;
}

cf::EpochReport run_case(const std::string& name, const Timed& mpi) {
  if (name == "whole") return trained(cf::SnapshotPolicy(drawn_model()), mpi);
  if (name == "divided") return trained(cf::ShardedPolicy(drawn_model(), mpi), mpi);
  throw std::invalid_argument(name + " is neither whole nor divided");
}

void run(const std::string& name, const Timed& mpi) {
  // What LibTorch takes once for its own use is no part of a case.
  at::matmul(at::ones({8, 8}), at::ones({8, 8}));
  const auto before = std::int64_t(cf::peak_memory());
  const cf::EpochReport report = run_case(name, mpi);
  const auto own = std::int64_t(cf::peak_memory()) - before;
  const cf::Tensor peaks = mpi.gather(at::full({1}, own, at::kLong));
  if (mpi.rank() != 0) return;
  const auto weights = double(cf::weight_count(cf::MmditNetwork(shape())));
  const auto largest = double(peaks.max().item<std::int64_t>());
  support::Table table({"case", "ranks", "weights", "peak of the largest rank, MB",
                        "bytes a weight", "MB sent an epoch", "s an epoch", "of these sending"});
  table.add({name, std::to_string(mpi.size()), support::fixed(weights * 1e-6, 1) + " million",
             support::fixed(largest * 1e-6, 0), support::fixed(largest / weights, 1),
             support::fixed(report.find("ranks/bytes").value_or(0) * 1e-6, 0),
             support::fixed(report.find("seconds/epoch").value_or(0), 1),
             support::fixed(mpi.seconds() / epochs, 1)});
  std::cout << table.text();
}

}  // namespace

int main(int argc, char** argv) try {
  const Timed mpi{cf::Mpi(argc, argv)};
  at::set_num_threads(1);
  if (argc != 2) throw std::invalid_argument("usage: mpirun -n 4 sharding whole|divided");
  run(argv[1], mpi);
  return 0;
} catch (const std::exception& failure) {
  std::cerr << failure.what() << '\n';
  return 1;
}
