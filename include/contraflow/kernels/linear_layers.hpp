#pragma once

/// @file
/// Linear layers with activations between them as one operation in float32 on the host, forward and
/// backward.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/kernels/gelu_silu.hpp>
#include <contraflow/kernels/products.hpp>

namespace contraflow::kernels {

/// A linear layer: `y = x W' + b`.
struct MlpLayer {
  const float* weight = nullptr;  ///< [out, in]
  const float* bias = nullptr;    ///< [out]; null for none
  std::int64_t in = 0;            ///< features that go in
  std::int64_t out = 0;           ///< features that come out
};

/// What is added to what comes out in proportion to what went in: x times the inner product of g
/// with the last numbers of x, for the first numbers of x, as many as come out.
struct MlpGate {
  const float* weight = nullptr;  ///< g; null for no gate
  std::int64_t size = 0;          ///< of g
};

/// What a forward pass reads and writes.
struct MlpForward {
  std::int64_t rows = 0;         ///< of all arrays
  const float* x = nullptr;      ///< [rows, in of the first layer]
  const float* added = nullptr;  ///< to what the first layer gives, of that shape; null: nothing
  float* v = nullptr;            ///< [rows, out of the last layer]
  float* saved = nullptr;        ///< of Mlp::saved_size() for a backward pass; null: none will come
};

/// Where the gradients of a layer go.
struct MlpLayerGradient {
  float* weight = nullptr;  ///< [out, in]
  float* bias = nullptr;    ///< [out]; null for none
};

/// What a backward pass reads and writes.
struct MlpBackward {
  std::int64_t rows = 0;         ///< of all arrays
  const float* x = nullptr;      ///< what went in
  const float* saved = nullptr;  ///< by the forward pass
  const float* dv = nullptr;     ///< gradient of what came out
  float* dx = nullptr;           ///< gradient of what went in; null where nobody wants it
  float* dadded = nullptr;       ///< gradient of what was added; null where nobody wants it
  float* dgate = nullptr;        ///< gradient of the gate; null where nobody wants it
  std::vector<MlpLayerGradient> layers = {};  ///< of all layers; empty where nobody wants them
};

/// Linear layers with an activation between them.
///
/// A block of rows is taken through all layers while it is in the cache, so that what lies between
/// two layers does not pass through memory; a backward pass needs what each activation was given,
/// and nothing else. What a row becomes does not depend on the others.
/// @tparam Activation Silu, GeluTanh or one like them
template <class Activation>
class Mlp {
 public:
  /// @param layers at least one, each taking what the one before gives; their arrays outlive this
  /// @param gate of what comes out, no more of it than goes in
  explicit Mlp(std::vector<MlpLayer> layers, const MlpGate& gate = {})
      : layers_(std::move(layers)), gate_(gate) {
    for (const MlpLayer& layer : layers_) operations_ += 2 * layer.in * layer.out;
    for (std::size_t l = 1; l < layers_.size(); ++l) widest_ = std::max(widest_, layers_[l].in);
  }

  /// Numbers that a forward pass of @p rows rows leaves for the backward pass.
  std::int64_t saved_size(std::int64_t rows) const {
    return whole_rows(rows) * hidden() * saved_stride();
  }

  /// `v = f(x)`.
  /// @param pass what is read and written
  /// @param loop parallel loop, see SerialLoop; bits do not depend on its number of threads
  template <class Loop = SerialLoop>
  void forward(const MlpForward& pass, const Loop& loop = {}) const {
    const std::vector<Panels> panels = panels_of(/*is_transposed=*/true);
    const std::vector<std::vector<float>> biases = padded_biases();
    each_part(pass.rows, loop, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      Block block(*this, /*is_backward=*/false);
      for (std::int64_t first = begin; first < end; first += block_rows) {
        forward_block(panels, biases, block, {first, std::min(block_rows, end - first)}, pass);
      }
    });
  }

  /// The gradients.
  /// @param pass what is read and written
  /// @param loop parallel loop, see SerialLoop; bits do not depend on its number of threads
  template <class Loop = SerialLoop>
  void backward(const MlpBackward& pass, const Loop& loop = {}) const {
    const std::vector<Panels> panels = panels_of(/*is_transposed=*/false);
    std::vector<Sums> sums(std::size_t(parts_of(pass.rows)));
    each_part(pass.rows, loop, [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
      Sums& own = sums[std::size_t(part)];
      own = Sums(pass.layers.empty() ? std::vector<MlpLayer>{} : layers_, gate_.size);
      Block block(*this, /*is_backward=*/true);
      for (std::int64_t first = begin; first < end; first += block_rows) {
        backward_block(panels, block, own, {first, std::min(block_rows, end - first)}, pass);
      }
    });
    for (std::size_t i = 1; i < sums.size(); ++i) sums[0].add(sums[i]);
    sums[0].write(layers_, pass);
  }

 private:
  using Floats = detail::Floats;
  static constexpr std::int64_t lanes = detail::float_lanes;
  static constexpr std::int64_t block_rows = 96;
  static_assert(block_rows % tile_rows == 0);
  // A part is what one thread does: about a millisecond, far more than waking a thread costs.
  static constexpr std::int64_t part_operations = std::int64_t{1} << 26;
  static constexpr std::int64_t most_parts = 64;

  // Rows of an array, and of a block: as many, up to whole tiles.
  struct Rows {
    std::int64_t first, count;
    std::int64_t whole() const { return whole_rows(count); }
    bool are_whole() const { return count == whole(); }
  };

  // A matrix as it lies.
  struct Matrix {
    float* data;
    std::int64_t stride;
  };

  // What a block of rows passes through.
  struct Block {
    std::int64_t in_stride, stride, out_stride;
    std::vector<float> x, z, h, slope, d, next, v;

    Block(const Mlp& mlp, bool is_backward)
        : in_stride(block_stride(mlp.layers_.front().in)),
          stride(block_stride(mlp.widest_)),
          out_stride(block_stride(mlp.layers_.back().out)),
          x(std::size_t(block_rows * in_stride)),
          h(mlp.hidden() > 0 ? std::size_t(block_rows * stride) : 0),
          v(std::size_t(block_rows * out_stride)) {
      if (!is_backward) z.resize(h.size());
      if (!is_backward) return;
      for (std::vector<float>* room : {&slope, &d, &next}) room->resize(h.size());
    }
  };

  // Gradients of all layers, in rows of whole tiles.
  struct Sums {
    std::vector<std::vector<float>> weight, bias;
    std::vector<float> gate;

    Sums() = default;
    Sums(const std::vector<MlpLayer>& layers, std::int64_t gate_size)
        : gate(std::size_t(gate_size)) {
      for (const MlpLayer& layer : layers) {
        weight.emplace_back(std::size_t(layer.out * block_stride(layer.in)));
        bias.emplace_back(std::size_t(whole_columns(layer.out)));
      }
    }
    void add(const Sums& other) {
      const auto add_to = [](std::vector<float>& sum, const std::vector<float>& part) {
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
      };
      for (std::size_t l = 0; l < weight.size(); ++l) {
        add_to(weight[l], other.weight[l]);
        add_to(bias[l], other.bias[l]);
      }
      add_to(gate, other.gate);
    }
    void write(const std::vector<MlpLayer>& layers, const MlpBackward& pass) const {
      for (std::size_t l = 0; l < weight.size(); ++l) {
        const std::int64_t in = layers[l].in, out = layers[l].out, stride = block_stride(in);
        const MlpLayerGradient& target = pass.layers[l];
        for (std::int64_t i = 0; i < out; ++i) {
          std::copy_n(weight[l].data() + i * stride, in, target.weight + i * in);
        }
        if (target.bias != nullptr) std::copy_n(bias[l].data(), out, target.bias);
      }
      if (pass.dgate != nullptr) std::copy(gate.begin(), gate.end(), pass.dgate);
    }
  };

  std::int64_t hidden() const { return std::int64_t(layers_.size()) - 1; }
  std::int64_t saved_stride() const { return whole_columns(widest_); }

  // How many parts there are depends on the rows alone, and so do the bits of sums over them.
  std::int64_t parts_of(std::int64_t rows) const {
    const std::int64_t blocks = std::max<std::int64_t>((rows + block_rows - 1) / block_rows, 1);
    const std::int64_t most = std::min<std::int64_t>(blocks, most_parts);
    return std::clamp<std::int64_t>(rows * operations_ / part_operations, 1, most);
  }
  template <class Loop, class Body>
  void each_part(std::int64_t rows, const Loop& loop, const Body& body) const {
    const std::int64_t parts = parts_of(rows), blocks = (rows + block_rows - 1) / block_rows;
    if (parts == 1) return body(0, 0, rows);
    const auto bound = [&](std::int64_t part) {
      return std::min(rows, blocks * part / parts * block_rows);
    };
    loop(parts, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) body(part, bound(part), bound(part + 1));
    });
  }

  std::vector<Panels> panels_of(bool is_transposed) const {
    std::vector<Panels> panels;
    for (const MlpLayer& layer : layers_) {
      panels.emplace_back(layer.weight, is_transposed ? layer.in : layer.out,
                          is_transposed ? layer.out : layer.in, is_transposed);
    }
    return panels;
  }
  std::vector<std::vector<float>> padded_biases() const {
    std::vector<std::vector<float>> biases;
    for (const MlpLayer& layer : layers_) {
      biases.emplace_back(std::size_t(whole_columns(layer.out)));
      if (layer.bias != nullptr) std::copy_n(layer.bias, layer.out, biases.back().data());
    }
    return biases;
  }

  // Rows of an array in a block; those that are missing to a whole tile become zero.
  static Matrix gathered(const float* source, Rows rows, std::int64_t columns, Matrix block) {
    for (std::int64_t i = 0; i < rows.count; ++i) {
      std::copy_n(source + (rows.first + i) * columns, columns, block.data + i * block.stride);
    }
    std::fill(block.data + rows.count * block.stride, block.data + rows.whole() * block.stride,
              0.0f);
    return block;
  }
  static void scatter(Matrix block, Rows rows, std::int64_t columns, float* target) {
    for (std::int64_t i = 0; i < rows.count; ++i) {
      std::copy_n(block.data + i * block.stride, columns, target + (rows.first + i) * columns);
    }
  }
  // The product of a block into an array, by way of a block where whole packs would not fit.
  static void multiply_into(float* target, Rows rows, std::int64_t columns, const Panels& panels,
                            const float* a, std::int64_t lda, const float* bias, Matrix block) {
    if (rows.are_whole() && columns % lanes == 0) {
      return panels.multiply(rows.count, a, lda, target + rows.first * columns, columns, bias);
    }
    panels.multiply(rows.whole(), a, lda, block.data, block.stride, bias);
    scatter(block, rows, columns, target);
  }

  void forward_block(const std::vector<Panels>& panels,
                     const std::vector<std::vector<float>>& biases, Block& block, Rows rows,
                     const MlpForward& pass) const {
    const std::int64_t in = layers_.front().in, count = rows.whole();
    const float* h = pass.x + rows.first * in;
    std::int64_t stride = in;
    if (!rows.are_whole()) {
      h = gathered(pass.x, rows, in, {block.x.data(), block.in_stride}).data;
      stride = block.in_stride;
    }
    for (std::size_t l = 0; l + 1 < layers_.size(); ++l) {
      const Matrix z = pass.saved == nullptr ? Matrix{block.z.data(), block.stride}
                                             : saved_of(pass.saved, rows, l);
      panels[l].multiply(count, h, stride, z.data, z.stride, biases[l].data());
      if (l == 0 && pass.added != nullptr) add_rows(pass.added, rows, layers_[0].out, z);
      activate(count, layers_[l].out, z, block);
      h = block.h.data();
      stride = block.stride;
    }
    multiply_into(pass.v, rows, layers_.back().out, panels.back(), h, stride, biases.back().data(),
                  {block.v.data(), block.out_stride});
    if (hidden() == 0 && pass.added != nullptr) {
      const std::int64_t out = layers_[0].out;
      add_rows(pass.added, rows, out, {pass.v + rows.first * out, out});
    }
    if (gate_.weight != nullptr) open_gate(rows, pass);
  }

  void backward_block(const std::vector<Panels>& panels, Block& block, Sums& sums, Rows rows,
                      const MlpBackward& pass) const {
    const std::int64_t count = rows.whole();
    Matrix d = gathered(pass.dv, rows, layers_.back().out, {block.v.data(), block.out_stride});
    for (std::size_t l = layers_.size() - 1; l > 0; --l) {
      const Matrix z = saved_of(const_cast<float*>(pass.saved), rows, l - 1);
      activate_with_slope(count, layers_[l].in, z, block);
      if (!pass.layers.empty()) add_layer(sums, l, rows.count, d, {block.h.data(), block.stride});
      panels[l].multiply(count, d.data, d.stride, block.next.data(), block.stride, nullptr);
      multiply_by_slope(count, layers_[l].in, block);
      std::swap(block.d, block.next);
      d = {block.d.data(), block.stride};
    }
    const std::int64_t in = layers_.front().in;
    const Matrix x{block.x.data(), block.in_stride};
    if (!pass.layers.empty()) add_layer(sums, 0, rows.count, d, gathered(pass.x, rows, in, x));
    if (pass.dadded != nullptr) scatter(d, rows, layers_.front().out, pass.dadded);
    if (pass.dx != nullptr) {
      multiply_into(pass.dx, rows, in, panels.front(), d.data, d.stride, nullptr, x);
    }
    if (gate_.weight != nullptr) gate_backward(sums, rows, pass);
  }

  void open_gate(Rows rows, const MlpForward& pass) const {
    const std::int64_t in = layers_.front().in, out = layers_.back().out;
    for (std::int64_t row = rows.first; row < rows.first + rows.count; ++row) {
      const float* x = pass.x + row * in;
      const float opening = gate_of(x + in - gate_.size);
      for (std::int64_t j = 0; j < out; ++j) pass.v[row * out + j] += opening * x[j];
    }
  }
  float gate_of(const float* e) const {
    float sum = 0;
    for (std::int64_t k = 0; k < gate_.size; ++k) sum += gate_.weight[k] * e[k];
    return sum;
  }
  void gate_backward(Sums& sums, Rows rows, const MlpBackward& pass) const {
    const std::int64_t in = layers_.front().in, out = layers_.back().out, last = in - gate_.size;
    for (std::int64_t row = rows.first; row < rows.first + rows.count; ++row) {
      const float *x = pass.x + row * in, *dv = pass.dv + row * out;
      float slope = 0;
      for (std::int64_t j = 0; j < out; ++j) slope += dv[j] * x[j];
      for (std::int64_t k = 0; k < gate_.size; ++k)
        sums.gate[std::size_t(k)] += slope * x[last + k];
      if (pass.dx == nullptr) continue;
      float* dx = pass.dx + row * in;
      const float opening = gate_of(x + last);
      for (std::int64_t j = 0; j < out; ++j) dx[j] += opening * dv[j];
      for (std::int64_t k = 0; k < gate_.size; ++k) dx[last + k] += slope * gate_.weight[k];
    }
  }

  // What the activation behind a layer was given by a block of rows.
  Matrix saved_of(float* saved, Rows rows, std::size_t layer) const {
    const std::int64_t before = rows.first * hidden() + std::int64_t(layer) * rows.whole();
    return {saved + before * saved_stride(), saved_stride()};
  }

  void add_layer(Sums& sums, std::size_t l, std::int64_t count, Matrix d, Matrix h) const {
    const MlpLayer& layer = layers_[l];
    add_transposed_product(count, layer.out, layer.in, d.data, d.stride, h.data, h.stride,
                           sums.weight[l].data(), block_stride(layer.in));
    float* bias = sums.bias[l].data();
    for (std::int64_t j = 0; j < layer.out; j += lanes) {
      Floats sum = detail::load<float>(bias + j);
      for (std::int64_t i = 0; i < count; ++i) {
        sum += detail::load<float>(d.data + i * d.stride + j);
      }
      detail::store<float>(bias + j, sum);
    }
  }

  static void add_rows(const float* added, Rows rows, std::int64_t columns, Matrix z) {
    for (std::int64_t i = 0; i < rows.count; ++i) {
      const float* own = added + (rows.first + i) * columns;
      for (std::int64_t j = 0; j < columns; ++j) z.data[i * z.stride + j] += own[j];
    }
  }

  static void activate(std::int64_t rows, std::int64_t columns, Matrix z, Block& block) {
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; j += lanes) {
        const Floats value = Activation::value(detail::load<float>(z.data + i * z.stride + j));
        detail::store<float>(block.h.data() + i * block.stride + j, value);
      }
    }
  }

  static void activate_with_slope(std::int64_t rows, std::int64_t columns, Matrix z, Block& block) {
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; j += lanes) {
        Floats slope;
        const Floats h =
            Activation::value_and_slope(detail::load<float>(z.data + i * z.stride + j), slope);
        detail::store<float>(block.h.data() + i * block.stride + j, h);
        detail::store<float>(block.slope.data() + i * block.stride + j, slope);
      }
    }
  }

  static void multiply_by_slope(std::int64_t rows, std::int64_t columns, Block& block) {
    float* d = block.next.data();
    const float* slope = block.slope.data();
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = i * block.stride; j < i * block.stride + columns; j += lanes) {
        detail::store<float>(d + j, detail::load<float>(d + j) * detail::load<float>(slope + j));
      }
    }
  }

  std::vector<MlpLayer> layers_;
  MlpGate gate_;
  std::int64_t operations_ = 0, widest_ = 0;
};

}  // namespace contraflow::kernels
