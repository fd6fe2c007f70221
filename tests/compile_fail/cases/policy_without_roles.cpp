// expect: a Policy must name its roles
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct Policy {
#ifdef POSITIVE_CONTROL
  using Available = cf::Roles<cf::Role::current>;
#endif
  template <class C>
  cf::Tensor velocity(cf::Role, const cf::Tensor& x_t, const cf::Tensor& t, const C&) {
    return model(x_t, t);
  }
  std::vector<cf::Tensor> parameters() { return model->parameters(); }
  template <class R>
  void keep(R) {}
  void after_gradient_step(std::int64_t) {}
  void after_epoch(std::int64_t) {}
  std::map<std::string, cf::Tensor> state() { return {}; }
  void load(const std::map<std::string, cf::Tensor>&) {}
  cf::MlpVelocity model{cf::MlpOptions{}};
};

void run() {
  auto trainer = cf::Trainer(Policy{}, cf::Euler{}, cf::toy::InModes{{1, 4}}, cf::FlowMatching{});
  trainer.run(1);
}
