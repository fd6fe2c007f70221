// The diffusion transformer and the U-Net: laws, conditions, recomputation, adapters, training.

#include <algorithm>

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/model/dit.hpp>
#include <contraflow/model/guidance.hpp>
#include <contraflow/model/unet.hpp>
#include <contraflow/network/lora.hpp>

#include "laws/errors.hpp"
#include "laws/model.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

// Layers this small are slower on several threads, by far where other programs run.
const bool one_thread = (at::set_num_threads(1), true);

// What both networks are tried with: small, and every weight random, so that nothing is hidden by
// the zeros that initialisation puts behind every branch.
struct DitCase {
  using Model = cf::Dit;
  using Options = cf::DitOptions;
  static Options options() {
    return {.channels = 2, .num_layers = 2, .num_attention_heads = 2, .attention_head_dim = 8};
  }
};
struct UnetCase {
  using Model = cf::Unet;
  using Options = cf::UnetOptions;
  static Options options() {
    return {
        .channels = 2, .level_channels = {8, 16}, .attention_head_dim = 8, .norm_num_groups = 4};
  }
};

template <class Case>
typename Case::Model model(cf::ConditioningOptions conditioning = {}, bool recompute = false) {
  auto options = Case::options();
  options.conditioning = conditioning;
  options.recompute = recompute;
  typename Case::Model result(options);
  cf::Generator generator = cf::seeded(1);
  cf::initialise(result.network(), generator,
                 [](const std::string& name, at::IntArrayRef shape, cf::Generator& g) {
                   if (shape.size() > 1) return cf::initial_weight(name, shape, g);
                   return cf::normal(shape, g) * 0.1 + (name.ends_with("bias") ? 0 : 1);
                 });
  return result;
}

constexpr cf::ConditioningOptions classes{.classes = 3};
constexpr cf::ConditioningOptions prompts{.text_size = 5, .pooled_size = 4};

Tensor samples() { return laws::floats({6, 2, 8, 8}); }
Tensor labels() { return at::tensor({0, 1, 2, 3, 1, 0}, at::kLong); }
cf::TextCondition text() { return {laws::floats({6, 7, 5}, 2), laws::floats({6, 4}, 3)}; }

// Every parameter has a gradient that is not zero.
template <class M, class C>
void check_gradients(M model, const C& condition) {
  cf::velocity_of(model, samples(), at::linspace(0.1, 0.9, 6), condition).square().sum().backward();
  for (const auto& item : cf::module_of(model)->named_parameters()) {
    // The softmax does not see what is added to all keys.
    if (item.key().ends_with("to_k.bias")) continue;
    INFO(item.key());
    REQUIRE(item.value().grad().defined());
    CHECK(item.value().grad().norm().template item<double>() > 0);
  }
}

template <class M, class C>
Tensor velocity(M model, const C& condition, double t = 0.3) {
  return cf::velocity_of(model, samples(), at::full({6}, t), condition);
}

}  // namespace

TEMPLATE_TEST_CASE("networks for images keep the laws of models", "", DitCase, UnetCase) {
  auto plain = model<TestType>();
  laws::flow_model(plain, samples());
  laws::trainable_model(plain, samples());
  auto labelled = model<TestType>(classes);
  laws::flow_model(labelled, samples(), labels());
  laws::trainable_model(labelled, samples(), labels());
  auto written = model<TestType>(prompts);
  laws::flow_model(written, samples(), text());
  laws::trainable_model(written, samples(), text());
  CHECK(cf::sample_shape_of(plain) == std::vector<std::int64_t>{2, 8, 8});
}

TEMPLATE_TEST_CASE("gradients reach every weight of networks for images", "", DitCase, UnetCase) {
  check_gradients(model<TestType>(), cf::Unconditional{});
  check_gradients(model<TestType>(classes), labels());
  check_gradients(model<TestType>(prompts), text());
}

TEMPLATE_TEST_CASE("time and condition are seen", "", DitCase, UnetCase) {
  auto labelled = model<TestType>(classes);
  const Tensor v = velocity(labelled, labels());
  CHECK(relative_distance(velocity(labelled, labels(), 0.31), v) > 1e-4);
  const Tensor none = at::full({6}, 3, at::kLong);
  CHECK(relative_distance(velocity(labelled, none)[0], v[0]) > 1e-3);
  CHECK(relative_distance(velocity(labelled, none)[3], v[3]) < 1e-5);
  cf::Guided guided(labelled, none.narrow(0, 0, 1), 2.0);
  CHECK(relative_distance(velocity(guided, labels()), 2 * v - velocity(labelled, none)) < 1e-5);

  auto written = model<TestType>(prompts);
  const Tensor w = velocity(written, text());
  cf::TextCondition other = text();
  other.sequence = other.sequence + 1;
  CHECK(relative_distance(velocity(written, other), w) > 1e-3);
  other = text();
  other.pooled = other.pooled + 1;
  CHECK(relative_distance(velocity(written, other), w) > 1e-3);
}

TEMPLATE_TEST_CASE("what is computed again gives the same", "", DitCase, UnetCase) {
  const auto results = [](bool recompute) {
    auto network = model<TestType>(prompts, recompute);
    const Tensor v = velocity(network, text());
    v.square().sum().backward();
    std::vector<Tensor> all{v};
    for (const Tensor& parameter : network.module()->parameters()) all.push_back(parameter.grad());
    return all;
  };
  const auto kept = results(false), again = results(true);
  double largest = 0;
  for (const Tensor& x : kept) largest = std::max(largest, x.abs().max().template item<double>());
  for (std::size_t i = 0; i < kept.size(); ++i) {
    CHECK((again[i] - kept[i]).abs().max().template item<double>() < 1e-6 * largest);
  }
}

TEMPLATE_TEST_CASE("adapters change networks for images and leave the base", "", DitCase,
                   UnetCase) {
  auto network = model<TestType>(classes);
  cf::set_trainable(*network.module(), false);
  const Tensor base = velocity(network, labels());
  cf::Lora lora(network.module());
  cf::Generator generator = cf::seeded(2);
  lora.add("current",
           {.rank = 2, .alpha = 4, .targets = {"attn.to_q", "attn.to_v", "attn.to_out.0"}},
           generator);
  lora.set_trainable("current", true);
  lora.use("current");
  CHECK(relative_distance(velocity(network, labels()), base) < 1e-6);
  velocity(network, labels()).square().sum().backward();
  {
    const at::NoGradGuard no_gradient;
    for (Tensor& tensor : lora.parameters("current")) {
      REQUIRE(tensor.grad().defined());
      tensor.add_(0.1);
    }
  }
  CHECK(relative_distance(velocity(network, labels()), base) > 1e-4);
  lora.use(std::nullopt);
  CHECK(at::equal(velocity(network, labels()), base));
}

TEMPLATE_TEST_CASE("new networks for images are the seed's and begin with no velocity", "", DitCase,
                   UnetCase) {
  using Model = typename TestType::Model;
  const auto weights_of = [](std::uint64_t seed) {
    return cf::named_weights(Model(TestType::options(), seed).network());
  };
  Model fresh(TestType::options(), 5);
  CHECK(velocity(fresh, cf::Unconditional{}).abs().max().template item<double>() == 0);
  const auto first = weights_of(5), second = weights_of(5), other = weights_of(6);
  bool differs = false;
  for (const auto& [name, weight] : first) {
    CHECK(at::equal(weight, second.at(name)));
    differs = differs || !at::equal(weight, other.at(name));
  }
  CHECK(differs);
}

TEMPLATE_TEST_CASE("networks for images in half precision give the dtype of the samples", "",
                   DitCase, UnetCase) {
  auto network = model<TestType>(prompts);
  const Tensor v = velocity(network, text());
  cf::move_weights(*network.module(), {.dtype = at::kBFloat16});
  const Tensor rounded = velocity(network, text());
  CHECK(rounded.scalar_type() == at::kFloat);
  CHECK(relative_distance(rounded, v) < 0.1);
}

TEMPLATE_TEST_CASE("networks for images name what is wrong", "", DitCase, UnetCase) {
  auto plain = model<TestType>();
  auto labelled = model<TestType>(classes);
  auto written = model<TestType>(prompts);
  const Tensor t = at::full({6}, 0.5), wide = laws::floats({6, 2, 8, 10});
  check_error([&] { plain(wide, t); }, "x_t", "[2, 8, 8] of a sample, got [6, 2, 8, 10]");
  check_error([&] { plain(samples(), at::full({5}, 0.5)); }, "t", "[6], got [5]");
  check_error([&] { plain(samples(), t, labels()); }, "condition",
              "no labels, for a model that has no classes, got [6]");
  check_error([&] { plain(samples(), t, text()); }, "condition",
              "no prompts, for a model without text, got [6, 7, 5]");
  check_error([&] { labelled(samples(), t); }, "condition",
              "class labels, for a model that has classes, got nothing");
  check_error([&] { written(samples(), t); }, "condition",
              "prompts, for a model that is conditioned on text, got nothing");
  check_error([&] { labelled(samples(), t, labels() + 1); }, "condition",
              "class labels in [0, 3], the last for no class, got 4");
  check_error([&] { labelled(samples(), t, labels() - 1); }, "condition",
              "the last for no class, got -1");
  check_error([&] { labelled(samples(), t, labels().to(at::kInt)); }, "condition",
              "dtype Long, got Int");
  auto condition = text();
  condition.sequence = laws::floats({6, 7, 4});
  check_error([&] { written(samples(), t, condition); }, "condition.sequence",
              "shape [B, L, 5], got [6, 7, 4]");
  condition = text();
  condition.pooled = laws::floats({6, 5});
  check_error([&] { written(samples(), t, condition); }, "condition.pooled",
              "shape [B, 4], got [6, 5]");
  check_error([] { model<TestType>({.classes = 2, .text_size = 3, .pooled_size = 2}); },
              "text_size", "0, for a model that has classes, got 3");
  check_error([] { model<TestType>({.text_size = 3}); }, "pooled_size",
              "above 0 exactly where text_size is, got 0");
}

TEST_CASE("options of the transformer and the U-Net are checked") {
  check_error([] { cf::Dit({.sample_size = 7}); }, "sample_size",
              "a positive multiple of patch_size, got 7");
  check_error([] { cf::Dit({.num_attention_heads = 1, .attention_head_dim = 6}); },
              "attention_head_dim", "a multiple of 4, got 6");
  check_error([] { cf::Unet({.sample_size = 7}); }, "sample_size", "2^(levels - 1), got 7");
  check_error([] { cf::Unet({.attention_levels = {2}}); }, "attention_levels",
              "numbers of levels, got 2");
  check_error([] { cf::Unet({.attention_head_dim = 24}); }, "attention_head_dim",
              "a divisor of the channels with attention, got 24");
  check_error([] { cf::Unet({.level_channels = {}}); }, "level_channels", "1 to 16 levels, got 0");
}
