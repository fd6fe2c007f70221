// expect: this Reward takes captions, and the prompts give another reference
#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/records.hpp>

namespace cf = contraflow;

cf::ScoreSheet run(const cf::Tensor& images, const cf::Records& records) {
  const auto length = [](const cf::Tensor&, const cf::Captions& captions) {
    return std::vector<double>(captions.size());
  };
#ifdef POSITIVE_CONTROL
  return cf::as_rewards(cf::OnCaptions(length)).score(images, records);
#else
  return cf::as_rewards(length).score(images, records);
#endif
}
