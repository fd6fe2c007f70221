// A reward that sees more of its prompt than the model does: here a record in JSON.
#include <iostream>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/contraflow.hpp>

namespace cf = contraflow;
using cf::Tensor;
using nlohmann::json;

//! [reward]
/// 1 within a distance of a goal; both stand in the prompt's record.
Tensor reaches_goal(const Tensor& x0, const std::vector<json>& records) {
  Tensor scores = at::empty({x0.size(0)});
  for (std::int64_t i = 0; i < x0.size(0); ++i) {
    const json& record = records[std::size_t(i)];
    const Tensor goal = at::tensor(record.at("goal").get<std::vector<float>>());
    scores[i] = (x0[i] - goal).norm().item<float>() < record.at("within").get<float>();
  }
  return scores;
}
//! [reward]

int main() {
  at::set_num_threads(1);  // what so small a network takes
  //! [prompts]
  // The model is conditioned on a label, the reward is told the record: a row each a prompt.
  const std::vector<json> records{{{"goal", {1.0, 0.0}}, {"within", 0.7}},
                                  {{"goal", {-1.0, 0.5}}, {"within", 0.6}}};
  const cf::PromptRows prompts(at::arange(2), records);
  //! [prompts]
  const auto anywhere = [](std::int64_t count, cf::Generator& generator) {
    return cf::ConditionedData<Tensor>{cf::normal({count, 2}, generator),
                                       cf::integers(2, count, generator)};
  };
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2, .classes = 2});
  cf::pretrain(model, anywhere, cf::Pretraining{.steps = 300});
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, reaches_goal,
      cf::Nft{} + 0.01 * cf::VelocityKl{}, prompts,
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 2e-3})});
  const double before = trainer.evaluate().reward;
  trainer.run(30);
  const double after = trainer.evaluate().reward;
  std::cout << "goals reached before: " << before << ", after: " << after << '\n';
  return after > before + 0.3 ? 0 : 1;
}
