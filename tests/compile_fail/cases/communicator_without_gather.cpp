// expect: a Communicator must have `Tensor gather(rows) const`
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct Ranks {
  int rank() const { return 0; }
  int size() const { return 1; }
  void sum(const std::vector<contraflow::Tensor>&) const {}
  void broadcast(const std::vector<contraflow::Tensor>&) const {}
  bool agree(bool flag) const { return flag; }
#ifdef POSITIVE_CONTROL
  contraflow::Tensor gather(const contraflow::Tensor& rows) const { return rows; }
#endif
};

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::Euler{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{}, Ranks{});
  trainer.run(1);
}
