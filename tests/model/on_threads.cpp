// Batches divided between threads: nothing but the time may show it.

#include <algorithm>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <contraflow/model/mlp.hpp>
#include <contraflow/model/module_velocity.hpp>
#include <contraflow/model/on_threads.hpp>
#include <contraflow/model/unet.hpp>
#include <contraflow/network/lora.hpp>

#include "laws/errors.hpp"
#include "laws/model.hpp"
#include "network/tiny_mmdit.hpp"

namespace cf = contraflow;
using cf::OnThreads;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

// Layers this small are slower on several threads, by far where other programs run.
const bool one_thread = (at::set_num_threads(1), true);

cf::MlpVelocity labelled() {
  return cf::MlpVelocity({.dimension = 3, .width = 16, .depth = 2, .classes = 4});
}
Tensor labels(std::int64_t rows) { return at::arange(rows, at::kLong) % 4; }

// Of x, t and two numbers a sample, in float64 so that sums in another order are the same.
auto wide_model() {
  torch::nn::Sequential net(torch::nn::Linear(6, 8), torch::nn::Tanh(), torch::nn::Linear(8, 3));
  net->to(at::kDouble);
  std::uint64_t seed = 20;
  const at::NoGradGuard no_gradient;
  for (const Tensor& p : net->parameters()) Tensor(p).copy_(laws::doubles(p.sizes(), ++seed));
  return cf::ModuleVelocity(
      net, [](auto& module, const Tensor& x, const Tensor& t, const Tensor& condition) {
        return module->forward(at::cat({x, t.unsqueeze(1), condition}, 1));
      });
}

struct Input {
  Tensor x, t, condition;
};
Input wide_input(std::int64_t rows) {
  return {laws::doubles({rows, 3}, 2), at::linspace(0.1, 0.9, rows, at::kDouble),
          laws::doubles({rows, 2}, 3)};
}

// The velocity, and the gradients of x_t and of all parameters, of which some may be undefined.
template <class M, class C>
std::vector<Tensor> velocity_and_gradients(M& model, const Tensor& x, const Tensor& t,
                                           const C& condition) {
  cf::module_of(model)->zero_grad();
  const Tensor x_t = x.clone().set_requires_grad(true);
  const Tensor v = cf::velocity_of(model, x_t, t, condition);
  (v * laws::doubles(v.sizes(), 9).to(v.scalar_type())).sum().backward();
  std::vector<Tensor> all{v.detach(), x_t.grad()};
  for (const Tensor& parameter : cf::module_of(model)->parameters()) {
    all.push_back(parameter.grad().defined() ? parameter.grad().clone() : Tensor());
  }
  return all;
}

// Largest distance, relative to the largest number of the tensors expected.
double distance(const std::vector<Tensor>& got, const std::vector<Tensor>& expected) {
  REQUIRE(got.size() == expected.size());
  double largest = 0, worst = 0;
  for (const Tensor& x : expected) {
    if (x.defined()) largest = std::max(largest, x.abs().max().item<double>());
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    REQUIRE(got[i].defined() == expected[i].defined());
    if (!got[i].defined()) continue;
    REQUIRE(got[i].sizes() == expected[i].sizes());
    worst = std::max(worst, (got[i] - expected[i]).abs().max().item<double>());
  }
  return worst / largest;
}

// A model that remembers who called it, with what.
struct Watched {
  struct Seen {
    std::mutex mutex;
    std::set<std::thread::id> threads;
    std::multiset<std::int64_t> rows;
    int with_gradient = 0;
  };
  std::shared_ptr<Seen> seen = std::make_shared<Seen>();

  Tensor operator()(const Tensor& x, const Tensor& t) {
    {
      const std::lock_guard lock(seen->mutex);
      seen->threads.insert(std::this_thread::get_id());
      seen->rows.insert(x.size(0));
      seen->with_gradient += at::GradMode::is_enabled();
    }
    return x.square() * t.unsqueeze(1);
  }
};

}  // namespace

TEST_CASE("models divided between threads keep the laws of models") {
  for (const int threads : {1, 2, 3}) {
    const Tensor x = laws::floats({6, 3});
    OnThreads plain(cf::MlpVelocity({.dimension = 3, .width = 16, .depth = 2}), threads);
    laws::flow_model(plain, x);
    laws::trainable_model(plain, x);
    OnThreads conditional(labelled(), threads);
    laws::flow_model(conditional, x, labels(6));
    laws::trainable_model(conditional, x, labels(6));
    CHECK(conditional.threads() == threads);
    CHECK(conditional.clone().threads() == threads);
    CHECK(cf::sample_shape_of(conditional) == std::vector<std::int64_t>{3});
    const tiny::Input in = tiny::input(4);
    OnThreads transformer(tiny::mmdit(), threads);
    laws::flow_model(transformer, in.x_t, in.condition);
    laws::trainable_model(transformer, in.x_t, in.condition);
  }
}

TEST_CASE("velocity and gradients of a divided batch are those of the whole") {
  for (const int threads : {1, 2, 3}) {
    for (const std::int64_t rows : {1, 2, 5}) {
      INFO(threads << " threads, " << rows << " rows");
      auto model = wide_model();
      const Input in = wide_input(rows);
      const auto expected = velocity_and_gradients(model, in.x, in.t, in.condition);
      OnThreads parallel(model, threads);
      const auto got = velocity_and_gradients(parallel, in.x, in.t, in.condition);
      CHECK(distance(got, expected) < 1e-13);
      const at::NoGradGuard no_gradient;
      const Tensor v = parallel(in.x, in.t, in.condition);
      CHECK(relative_distance(v, expected[0]) < 1e-13);
      CHECK_FALSE(v.requires_grad());
    }
  }
}

TEST_CASE("gradients are added to those of before") {
  auto model = wide_model();
  OnThreads parallel(model, 2);
  const Input in = wide_input(5);
  const auto backward = [&] { parallel(in.x, in.t, in.condition).square().sum().backward(); };
  backward();
  const Tensor once = model.module()->parameters()[0].grad().clone();
  backward();
  CHECK(relative_distance(model.module()->parameters()[0].grad(), 2 * once) < 1e-14);
}

TEST_CASE("equal input gives equal bits, gradients included") {
  const tiny::Input in = tiny::input(5);
  const auto run = [&] {
    OnThreads parallel(tiny::mmdit(), 3);
    return velocity_and_gradients(parallel, in.x_t, in.t, in.condition);
  };
  const auto first = run();
  for (int again = 0; again < 5; ++again) {
    const auto next = run();
    for (std::size_t i = 0; i < first.size(); ++i) CHECK(same_bits(next[i], first[i]));
  }
}

TEST_CASE("a transformer under prompts is divided with them, its activations recomputed or not") {
  const tiny::Input in = tiny::input(5);
  for (const bool recompute : {false, true}) {
    cf::Mmdit model = tiny::mmdit(1, {.recompute = recompute});
    const auto expected = velocity_and_gradients(model, in.x_t, in.t, in.condition);
    OnThreads parallel(model, 2);
    CHECK(distance(velocity_and_gradients(parallel, in.x_t, in.t, in.condition), expected) < 1e-5);
  }
}

// Within the regions of at::parallel_for convolutions wait for threads that never come.
TEST_CASE("a network of convolutions is divided") {
  cf::Unet model(
      {.channels = 2, .level_channels = {8, 16}, .attention_head_dim = 8, .norm_num_groups = 4});
  cf::Generator generator = cf::seeded(1);
  cf::initialise(model.network(), generator,
                 [](const std::string&, at::IntArrayRef shape, cf::Generator& g) {
                   return cf::normal(shape, g) * 0.2;
                 });
  const Tensor x = laws::floats({5, 2, 8, 8}), t = at::linspace(0.1, 0.9, 5);
  const auto expected = velocity_and_gradients(model, x, t, cf::Unconditional{});
  OnThreads parallel(model, 2);
  CHECK(distance(velocity_and_gradients(parallel, x, t, cf::Unconditional{}), expected) < 1e-4);
}

TEST_CASE("adapters in use get their gradient, what is frozen or not in use none") {
  const tiny::Input in = tiny::input(4);
  cf::Mmdit model = tiny::mmdit();
  cf::set_trainable(*model.module(), false);
  cf::Lora lora(model.module());
  cf::Generator generator = cf::seeded(5);
  for (const char* name : {"current", "old"}) {
    lora.add(name, {.rank = 2, .alpha = 4}, generator);
    for (Tensor& tensor : lora.parameters(name)) {
      tensor.copy_(cf::normal_like(tensor, generator) / 3);
    }
    lora.set_trainable(name, true);
  }
  lora.use("current");
  const auto gradients = [&](auto& any) {
    std::vector<Tensor> all;
    for (Tensor& tensor : lora.parameters("current")) tensor.mutable_grad() = Tensor();
    const Tensor v = any(in.x_t, in.t, in.condition);
    (v * laws::floats(v.sizes(), 9)).sum().backward();
    for (const Tensor& tensor : lora.parameters("current")) all.push_back(tensor.grad());
    return all;
  };
  const auto expected = gradients(model);
  OnThreads parallel(model, 3);
  CHECK(distance(gradients(parallel), expected) < 1e-4);
  for (const Tensor& tensor : lora.parameters("old")) CHECK_FALSE(tensor.grad().defined());
  for (const Tensor& weight : model.module()->parameters()) CHECK_FALSE(weight.grad().defined());
  lora.use(std::nullopt);
  CHECK_FALSE(parallel(in.x_t, in.t, in.condition).requires_grad());
}

TEST_CASE("another role between the two passes does not disturb the gradient") {
  const tiny::Input in = tiny::input(4);
  cf::Mmdit model = tiny::mmdit(1, {.recompute = true});
  cf::set_trainable(*model.module(), false);
  cf::Lora lora(model.module());
  cf::Generator generator = cf::seeded(5);
  for (const char* name : {"current", "old"}) {
    lora.add(name, {.rank = 2, .alpha = 4}, generator);
    for (Tensor& tensor : lora.parameters(name)) {
      tensor.copy_(cf::normal_like(tensor, generator) / 3);
    }
  }
  lora.set_trainable("current", true);
  OnThreads parallel(model, 2);
  const auto gradients = [&](bool other_role_between) {
    std::vector<Tensor> all;
    for (Tensor& tensor : lora.parameters("current")) tensor.mutable_grad() = Tensor();
    lora.use("current");
    const Tensor v = parallel(in.x_t, in.t, in.condition);
    if (other_role_between) {
      lora.use("old");
      const at::NoGradGuard no_gradient;
      parallel(in.x_t, in.t, in.condition);
    }
    v.square().sum().backward();
    for (const Tensor& tensor : lora.parameters("current")) all.push_back(tensor.grad());
    return all;
  };
  const auto plain = gradients(false);
  CHECK(distance(gradients(true), plain) < 1e-5);
}

TEST_CASE("frozen parameters get no gradient, and the others theirs") {
  auto model = wide_model();
  auto parameters = model.module()->parameters();
  parameters[0].set_requires_grad(false);
  OnThreads parallel(model, 2);
  const Input in = wide_input(4);
  const auto got = velocity_and_gradients(parallel, in.x, in.t, in.condition);
  CHECK_FALSE(got[2].defined());
  CHECK(distance(got, velocity_and_gradients(model, in.x, in.t, in.condition)) < 1e-13);
  // Without a gradient of x_t, which otherwise asks for one of its own.
  model.module()->zero_grad();
  parallel(in.x, in.t, in.condition).sum().backward();
  CHECK_FALSE(parameters[0].grad().defined());
  CHECK(parameters[1].grad().abs().max().item<double>() > 0);
  CHECK_FALSE(in.x.grad().defined());
}

TEST_CASE("every thread takes its share of the rows") {
  const Tensor x = laws::floats({5, 3}), t = at::linspace(0.1, 0.9, 5);
  Watched model;
  OnThreads parallel(model, 3);
  CHECK(same_bits(parallel(x, t), model(x, t)));
  model.seen->rows.erase(5);
  CHECK(model.seen->rows == std::multiset<std::int64_t>{1, 2, 2});
  CHECK(model.seen->threads.contains(std::this_thread::get_id()));
  CHECK(model.seen->threads.size() >= 2);
  // Of a module there is none: the gradient is that of x_t alone.
  const Tensor leaf = x.clone().set_requires_grad(true);
  parallel(leaf, t).sum().backward();
  CHECK(relative_distance(leaf.grad(), 2 * x * t.unsqueeze(1)) < 1e-6);
}

TEST_CASE("guards of the caller hold on every thread") {
  const Tensor x = laws::floats({4, 3}).set_requires_grad(true), t = at::full({4}, 0.5);
  Watched model;
  OnThreads parallel(model, 2);
  {
    const at::NoGradGuard no_gradient;
    CHECK_FALSE(parallel(x, t).requires_grad());
  }
  CHECK(model.seen->rows.size() == 2);
  CHECK(model.seen->with_gradient == 0);
  CHECK(parallel(x, t).requires_grad());
  CHECK(model.seen->with_gradient == 2);
}

TEST_CASE("layers are kept to LibTorch on every thread, or on none") {
  const tiny::Input in = tiny::input(4);
  cf::Mmdit model = tiny::mmdit(1);
  OnThreads parallel(model, 2);
  const at::NoGradGuard no_gradient;
  const Tensor fused = parallel(in.x_t, in.t, in.condition);
  const cf::ComposedOnly composed;
  const Tensor plain = parallel(in.x_t, in.t, in.condition);
  for (const std::int64_t i : {0, 3}) CHECK_FALSE(same_bits(plain[i], fused[i]));
  const auto alone = [&](std::int64_t first) {
    const Tensor ids = at::arange(first, first + 2);
    return model(in.x_t.narrow(0, first, 2), in.t.narrow(0, first, 2), select(in.condition, ids));
  };
  CHECK(same_bits(plain, at::cat({alone(0), alone(2)})));
}

TEST_CASE("a graph that is kept can be gone through again, and second derivatives are refused") {
  const Input in = wide_input(5);
  auto model = wide_model();
  OnThreads parallel(model, 2);
  const auto parameters = model.module()->parameters();
  const Tensor loss = parallel(in.x, in.t, in.condition).square().sum();
  const auto first = torch::autograd::grad({loss}, parameters, {}, /*retain_graph=*/true);
  const auto second = torch::autograd::grad({loss}, parameters);
  for (std::size_t i = 0; i < first.size(); ++i) CHECK(same_bits(first[i], second[i]));
  check_error(
      [&] {
        const Tensor again = parallel(in.x, in.t, in.condition).square().sum();
        torch::autograd::grad({again}, parameters, {}, /*retain_graph=*/true,
                              /*create_graph=*/true);
      },
      "create_graph", "first derivatives only");
}

TEST_CASE("an exception on any thread reaches the caller, and the threads go on") {
  const Tensor t = at::full({6}, 0.5);
  const auto model = [](const Tensor& x, const Tensor&) {
    if (x.max().item<float>() > 1) throw std::out_of_range("forward");
    Tensor v = 2 * x;
    if (v.requires_grad()) {
      v.register_hook([](const Tensor& gradient) -> Tensor {
        if (gradient.max().item<float>() > 1) throw std::out_of_range("backward");
        return gradient;
      });
    }
    return v;
  };
  OnThreads parallel(model, 3);
  for (const std::int64_t bad : {0, 2, 5}) {
    Tensor x = at::zeros({6, 1}), weight = at::ones({6, 1});
    x[bad] = 2;
    weight[bad] = 2;
    CHECK_THROWS_AS(parallel(x, t), std::out_of_range);
    CHECK_THROWS_AS(parallel(x.set_requires_grad(true), t), std::out_of_range);
    const Tensor leaf = at::zeros({6, 1}).set_requires_grad(true);
    CHECK_THROWS_AS((parallel(leaf, t) * weight).sum().backward(), std::out_of_range);
    parallel(leaf, t).sum().backward();
    CHECK(at::equal(leaf.grad(), at::full({6, 1}, 2.0F)));
  }
}

TEST_CASE("a batch can be divided between one thread or more") {
  check_error([] { OnThreads none(labelled(), 0); }, "threads", "at least 1, got 0");
  check_error([] { OnThreads less(labelled(), -2); }, "threads", "at least 1, got -2");
}

TEST_CASE("times and conditions of another batch are refused however it is divided") {
  const Tensor x = laws::floats({4, 3}), t = at::full({4}, 0.5);
  for (const int threads : {1, 2}) {
    OnThreads parallel(labelled(), threads);
    check_error([&] { parallel(x, t, labels(6)); }, "condition", "got 6");
    check_error([&] { parallel(x, at::full({6}, 0.5), labels(4)); }, "t", "[4], got [6]");
  }
}
