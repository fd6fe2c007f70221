// The transformer and the U-Net learn a flow.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/model/dit.hpp>
#include <contraflow/model/unet.hpp>
#include <contraflow/train/pretrain.hpp>

#include "laws/compare.hpp"

namespace cf = contraflow;
using cf::Tensor;

namespace {

// One image a class: a bar that stands or lies.
Tensor bars() {
  Tensor images = at::full({2, 1, 8, 8}, -1.0F);
  images[0][0].select(1, 3).fill_(1);
  images[1][0].select(0, 3).fill_(1);
  return images;
}

auto data() {
  return [](std::int64_t count, cf::Generator& generator) {
    const Tensor labels = (cf::uniform({count}, generator) * 2).to(at::kLong);
    return cf::ConditionedData<Tensor>{bars().index_select(0, labels), labels};
  };
}

struct SmallDit {
  static cf::Dit model() {
    return cf::Dit({.num_layers = 2,
                    .num_attention_heads = 2,
                    .attention_head_dim = 16,
                    .conditioning = {.classes = 2}},
                   1);
  }
};
struct SmallUnet {
  static cf::Unet model() {
    return cf::Unet(
        {.level_channels = {8, 16}, .attention_head_dim = 16, .conditioning = {.classes = 2}}, 1);
  }
};

// Flow-matching loss on fixed noise and times.
template <class M>
double loss(M& model) {
  const at::NoGradGuard no_gradient;
  const Tensor labels = at::arange(64) % 2, x0 = bars().index_select(0, labels);
  const Tensor eps = laws::floats({64, 1, 8, 8}, 9), t = at::linspace(0.02, 0.98, 64);
  const Tensor v = cf::velocity_of(model, cf::interpolate(x0, eps, t), t, labels);
  return (v - cf::velocity_target(x0, eps)).square().mean().template item<double>();
}

}  // namespace

TEMPLATE_TEST_CASE("networks for images learn one image a class", "", SmallDit, SmallUnet) {
  auto model = TestType::model();
  const double before = loss(model);
  cf::pretrain(model, data(), cf::Pretraining{.steps = 60, .batch = 16}, cf::Seed{3});
  CHECK(loss(model) < 0.5 * before);
}
