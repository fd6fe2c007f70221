// The fused layers of transformers against the same layers composed of tensor operations, on one
// thread. Both run in turn, and what is reported is processor time: others may use the machine.

#include <ctime>
#include <memory>
#include <vector>

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <contraflow/core/memory.hpp>
#include <contraflow/model/mmdit.hpp>

namespace cf = contraflow;
using cf::Tensor;

namespace {

constexpr std::int64_t side = 8, patch = 2, image_tokens = 16, text_tokens = 8, width = 64;

double processor_seconds() { return double(std::clock()) / CLOCKS_PER_SEC; }

template <class F>
double seconds_of(F&& f) {
  const double start = processor_seconds();
  f();
  return processor_seconds() - start;
}

/// Runs @p work fused and composed in turn.
template <class F>
void in_turn(benchmark::State& state, F&& work) {
  at::set_num_threads(1);
  cf::keep_freed_memory();
  double fused = 0, composed = 0;
  work();
  for (auto _ : state) {
    const double once = seconds_of(work);
    fused += once;
    state.SetIterationTime(once);
    const cf::ComposedOnly only;
    composed += seconds_of(work);
  }
  const auto count = double(state.iterations());
  state.counters["fused_ms"] = 1000 * fused / count;
  state.counters["composed_ms"] = 1000 * composed / count;
  state.counters["ratio"] = composed / fused;
}

struct Network {
  std::shared_ptr<cf::MmditNetwork> module;
  Tensor x_t, t;
  cf::TextCondition condition;

  explicit Network(std::int64_t batch) {
    const cf::MmditOptions shape{.sample_size = side,
                                 .patch_size = patch,
                                 .in_channels = 1,
                                 .out_channels = 1,
                                 .num_layers = 3,
                                 .num_attention_heads = 2,
                                 .attention_head_dim = width / 2,
                                 .joint_attention_dim = width,
                                 .caption_projection_dim = width,
                                 .pooled_projection_dim = width,
                                 .pos_embed_max_size = side / patch,
                                 .dual_attention_layers = {}};
    module = std::make_shared<cf::MmditNetwork>(shape);
    cf::Generator generator = cf::seeded(0);
    cf::initialise(*module, generator);
    Tensor(cf::named_weights(*module).at("pos_embed.pos_embed"))
        .set_data(cf::position_table(shape));
    cf::set_trainable(*module, true);
    x_t = cf::normal({batch, 1, side, side}, generator);
    t = cf::uniform({batch}, generator);
    condition = {cf::normal({batch, text_tokens, width}, generator),
                 cf::normal({batch, width}, generator)};
  }
  Tensor velocity() const { return module->forward(x_t, t, condition); }
};

void mmdit_forward(benchmark::State& state) {
  const Network network(state.range(0));
  in_turn(state, [&] {
    const at::NoGradGuard no_gradient;
    benchmark::DoNotOptimize(network.velocity());
  });
}

void mmdit_forward_and_backward(benchmark::State& state) {
  const Network network(state.range(0));
  in_turn(state, [&] {
    network.velocity().square().sum().backward();
    network.module->zero_grad();
  });
}

/// Inputs of a layer, [batch, image tokens, ...] and rows of a sample.
struct Layer {
  Tensor x, y, wide, rows, gradient, wide_gradient;

  explicit Layer(std::int64_t batch) {
    cf::Generator generator = cf::seeded(0);
    const auto drawn = [&](at::IntArrayRef shape) {
      return cf::normal(shape, generator).set_requires_grad(true);
    };
    x = drawn({batch, image_tokens, width});
    y = drawn({batch, image_tokens, width});
    wide = drawn({batch, image_tokens, 4 * width});
    rows = drawn({batch, 6 * width});
    gradient = cf::normal_like(x, generator);
    wide_gradient = cf::normal_like(wide, generator);
  }
};

using Tensors = std::vector<Tensor>;

/// @p layer alone, then with its gradients by @p inputs.
template <class F>
void layer_alone(benchmark::State& state, F&& layer, const Tensors& inputs,
                 const Tensors& gradients) {
  if (state.range(1) == 0) {
    in_turn(state, [&] {
      const at::NoGradGuard no_gradient;
      benchmark::DoNotOptimize(layer());
    });
    return;
  }
  in_turn(state, [&] { torch::autograd::grad(layer(), inputs, gradients); });
}

void modulated_norm(benchmark::State& state) {
  const Layer in(state.range(0));
  const auto layer = [&] {
    const auto m = in.rows.chunk(6, 1);
    return Tensors{cf::detail::modulated(cf::detail::normalised_layer(in.x), m[0], m[1])};
  };
  layer_alone(state, layer, {in.x, in.rows}, {in.gradient});
}

void gated_residual(benchmark::State& state) {
  const Layer in(state.range(0));
  const auto layer = [&] { return Tensors{cf::detail::gated(in.x, in.rows.chunk(6, 1)[2], in.y)}; };
  layer_alone(state, layer, {in.x, in.y, in.rows}, {in.gradient});
}

void gelu(benchmark::State& state) {
  const Layer in(state.range(0));
  // What is given away may be overwritten, so both are given a copy.
  const auto layer = [&] { return Tensors{cf::gelu_tanh(in.wide.clone())}; };
  layer_alone(state, layer, {in.wide}, {in.wide_gradient});
}

void joint_attention(benchmark::State& state) {
  const auto image = state.range(2), text = image / 2;
  cf::Generator generator = cf::seeded(0);
  const auto drawn = [&](std::int64_t tokens) {
    return cf::normal({state.range(0), tokens, width}, generator).set_requires_grad(true);
  };
  const Tensor weight = at::ones({width / 2}).set_requires_grad(true);
  const auto stream = [&](std::int64_t tokens) {
    return cf::AttentionTokens{drawn(tokens), drawn(tokens), drawn(tokens), weight, weight};
  };
  const cf::AttentionTokens a = stream(image), b = stream(text);
  const Tensors gradients{cf::normal_like(a.query, generator), cf::normal_like(b.query, generator)};
  layer_alone(
      state,
      [&] {
        return cf::attended({a, b}, 2);
      },
      {a.query, a.key, a.value, b.query, b.key, b.value, weight}, gradients);
}

void networks(benchmark::internal::Benchmark* run) {
  run->ArgName("batch")->Arg(96)->Arg(288)->UseManualTime()->Unit(benchmark::kMillisecond);
}
void layers(benchmark::internal::Benchmark* run) {
  run->ArgNames({"batch", "backward"})->ArgsProduct({{288}, {0, 1}});
  run->UseManualTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK(mmdit_forward)->Apply(networks);
BENCHMARK(mmdit_forward_and_backward)->Apply(networks);
BENCHMARK(modulated_norm)->Apply(layers);
BENCHMARK(gated_residual)->Apply(layers);
BENCHMARK(gelu)->Apply(layers);
BENCHMARK(joint_attention)
    ->ArgNames({"batch", "backward", "image"})
    ->ArgsProduct({{288}, {0, 1}, {16, 64}})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
