#pragma once

/// @file
/// Normalisation, modulation and gated residuals of transformers in float32 on the host.

#include <cmath>
#include <vector>

#include <contraflow/kernels/packed_loop.hpp>

namespace contraflow::kernels {

/// Shape of tokens: arrays of them are [batch, tokens, size], without gaps.
struct TokenShape {
  std::int64_t batch = 0;   ///< samples
  std::int64_t tokens = 0;  ///< of a sample
  std::int64_t size = 0;    ///< numbers of a token
};

/// A row of `size` numbers a sample, such as a chunk of a wider array.
template <class T>
struct SampleRows {
  T* first = nullptr;       ///< the first sample's; null where there are none
  std::int64_t stride = 0;  ///< from one sample's to the next one's

  /// The row of a sample; null where there are none.
  T* row(std::int64_t sample) const { return first == nullptr ? nullptr : first + sample * stride; }
};

namespace detail {

// Tokens whose sum is kept by itself before it joins a sample's: rounding then grows with the
// number of blocks and the length of one, not with the number of tokens.
inline constexpr std::int64_t token_block = 64;

// Calls body(begin, end) for the blocks of a sample's tokens. It adds to `partial`, rows of `size`
// numbers that begin as zero in every block; behind it they join the totals, which are set.
template <std::size_t count, class Body>
void with_block_sums(std::int64_t tokens, std::int64_t size,
                     const std::array<float*, count>& totals, std::vector<float>& partial,
                     const Body& body) {
  for (float* total : totals) std::fill_n(total, size, 0.0f);
  for (std::int64_t begin = 0; begin < tokens; begin += token_block) {
    partial.assign(count * static_cast<std::size_t>(size), 0.0f);
    body(begin, std::min(tokens, begin + token_block));
    const float* part = partial.data();
    for (float* total : totals) {
      each_pack(0, size, [&](std::int64_t i, auto width) {
        store(total + i, load(total + i, width) + load(part + i, width), width);
      });
      part += size;
    }
  }
}

struct RowMoments {
  float mean, rstd;
};

inline RowMoments moments_of(const float* x, std::int64_t size, float eps) {
  const float share = 1.0f / static_cast<float>(size);
  Floats sum{};
  each_pack(0, size, [&](std::int64_t i, auto width) { sum += load(x + i, width); });
  const float mean = sum_of(sum) * share;
  Floats square{};
  each_pack(0, size, [&](std::int64_t i, auto width) {
    const Floats apart = without_rest(load(x + i, width) - mean, width);
    square += apart * apart;
  });
  return {mean, 1.0f / std::sqrt(sum_of(square) * share + eps)};
}

inline void modulate_row(const float* x, const float* shift, const float* scale, float* out,
                         RowMoments moments, std::int64_t size) {
  each_pack(0, size, [&](std::int64_t i, auto width) {
    const Floats normalised = (load(x + i, width) - moments.mean) * moments.rstd;
    store(out + i, normalised * (load(scale + i, width) + 1.0f) + load(shift + i, width), width);
  });
}

// With h the normalised row and g = (1 + scale) dout: dx = rstd (g - mean(g) - h mean(g h)). Where
// there are sums, dout joins the first and h dout the second.
template <bool with_sums>
void modulated_norm_backward_row(const float* x, const float* scale, const float* dout,
                                 RowMoments moments, float* dx, float* sums, std::int64_t size) {
  const auto normalised = [&](std::int64_t i, auto width) {
    return (load(x + i, width) - moments.mean) * moments.rstd;
  };
  const auto scaled = [&](std::int64_t i, auto width) {
    return load(dout + i, width) * (load(scale + i, width) + 1.0f);
  };
  Floats sum{}, product{};
  each_pack(0, size, [&](std::int64_t i, auto width) {
    const Floats h = normalised(i, width), g = scaled(i, width);
    sum += g;
    product += g * h;
    if constexpr (with_sums) {
      float* dscale = sums + size;
      const Floats d = load(dout + i, width);
      store(sums + i, load(sums + i, width) + d, width);
      store(dscale + i, load(dscale + i, width) + d * h, width);
    }
  });
  const float share = 1.0f / static_cast<float>(size);
  const float mean = sum_of(sum) * share, slope = sum_of(product) * share;
  each_pack(0, size, [&](std::int64_t i, auto width) {
    const Floats centred = scaled(i, width) - mean - normalised(i, width) * slope;
    store(dx + i, centred * moments.rstd, width);
  });
}

template <bool with_sum>
void gate_backward_row(const float* gate, const float* y, const float* dout, float* dy, float* sum,
                       std::int64_t size) {
  each_pack(0, size, [&](std::int64_t i, auto width) {
    const Floats d = load(dout + i, width);
    store(dy + i, d * load(gate + i, width), width);
    if constexpr (with_sum) {
      store(sum + i, load(sum + i, width) + d * load(y + i, width), width);
    }
  });
}

}  // namespace detail

/// What modulated_norm() reads and writes.
struct ModulatedNormArrays {
  TokenShape shape;               ///< of x and out
  const float* x = nullptr;       ///< tokens
  SampleRows<const float> shift;  ///< added behind the normalisation
  SampleRows<const float> scale;  ///< one less than the factor behind the normalisation
  float* out = nullptr;           ///< tokens; may be x
  float* moments = nullptr;       ///< [batch, tokens, 2] for the backward pass; null: not kept
};

/// `out = LN(x) (1 + scale) + shift`, in one pass over memory.
///
/// LN is the layer normalisation without weights, `(x - mean) / sqrt(variance + eps)`, over each
/// token; shift and scale are a sample's (Peebles and Xie 2023, section 3.2).
/// @param arrays what is read and written
/// @param eps above 0
/// @param loop parallel loop over samples, see SerialLoop; bits do not depend on its threads
template <class Loop = SerialLoop>
void modulated_norm(const ModulatedNormArrays& arrays, float eps, const Loop& loop = {}) {
  const std::int64_t tokens = arrays.shape.tokens, size = arrays.shape.size;
  loop(arrays.shape.batch * tokens, [&, tokens, size](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* x = arrays.x + i * size;
      const detail::RowMoments moments = detail::moments_of(x, size, eps);
      const std::int64_t sample = i / tokens;
      detail::modulate_row(x, arrays.shift.row(sample), arrays.scale.row(sample),
                           arrays.out + i * size, moments, size);
      if (arrays.moments == nullptr) continue;
      arrays.moments[2 * i] = moments.mean;
      arrays.moments[2 * i + 1] = moments.rstd;
    }
  });
}

/// What modulated_norm_backward() reads and writes.
struct ModulatedNormGradients {
  TokenShape shape;                ///< of x, dout and dx
  const float* x = nullptr;        ///< what went in
  const float* moments = nullptr;  ///< as modulated_norm() left them
  SampleRows<const float> scale;   ///< what went in
  const float* dout = nullptr;     ///< gradient of what came out
  float* dx = nullptr;             ///< gradient of x; may be dout
  SampleRows<float> dshift;        ///< gradient of the shift; with dscale, or neither
  SampleRows<float> dscale;        ///< gradient of the scale
};

/// The gradients of modulated_norm(), in one pass over memory.
/// @param arrays what is read and written
/// @param loop parallel loop over samples, see SerialLoop; bits do not depend on its threads
template <class Loop = SerialLoop>
void modulated_norm_backward(const ModulatedNormGradients& arrays, const Loop& loop = {}) {
  const std::int64_t tokens = arrays.shape.tokens, size = arrays.shape.size;
  const auto row = [&, size](std::int64_t i, const float* scale, float* sums) {
    const detail::RowMoments moments{arrays.moments[2 * i], arrays.moments[2 * i + 1]};
    const auto backward = sums == nullptr ? detail::modulated_norm_backward_row<false>
                                          : detail::modulated_norm_backward_row<true>;
    backward(arrays.x + i * size, scale, arrays.dout + i * size, moments, arrays.dx + i * size,
             sums, size);
  };
  loop(arrays.shape.batch, [&, tokens, size](std::int64_t first, std::int64_t last) {
    std::vector<float> sums;
    for (std::int64_t b = first; b < last; ++b) {
      const float* scale = arrays.scale.row(b);
      const auto rows = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          row(b * tokens + i, scale, sums.empty() ? nullptr : sums.data());
        }
      };
      if (arrays.dshift.first == nullptr) {
        rows(0, tokens);
      } else {
        const std::array totals{arrays.dshift.row(b), arrays.dscale.row(b)};
        detail::with_block_sums(tokens, size, totals, sums, rows);
      }
    }
  });
}

/// What gated_residual() reads and writes.
struct GatedResidualArrays {
  TokenShape shape;              ///< of x, y and out
  const float* x = nullptr;      ///< tokens
  SampleRows<const float> gate;  ///< factors of y
  const float* y = nullptr;      ///< tokens
  float* out = nullptr;          ///< tokens; may be x or y
};

/// `out = x + gate y`, with a gate a sample.
/// @param arrays what is read and written
/// @param loop parallel loop over tokens, see SerialLoop; bits do not depend on its threads
template <class Loop = SerialLoop>
void gated_residual(const GatedResidualArrays& arrays, const Loop& loop = {}) {
  const std::int64_t tokens = arrays.shape.tokens, size = arrays.shape.size;
  loop(arrays.shape.batch * tokens, [&, tokens, size](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const float *x = arrays.x + t * size, *y = arrays.y + t * size;
      const float* gate = arrays.gate.row(t / tokens);
      float* out = arrays.out + t * size;
      detail::each_pack(0, size, [&](std::int64_t i, auto width) {
        using detail::load;
        detail::store(out + i, load(x + i, width) + load(gate + i, width) * load(y + i, width),
                      width);
      });
    }
  });
}

/// What gated_residual_backward() reads and writes.
struct GatedResidualGradients {
  TokenShape shape;              ///< of y, dout and dy
  SampleRows<const float> gate;  ///< what went in
  const float* y = nullptr;      ///< what went in
  const float* dout = nullptr;   ///< gradient of what came out, which is that of x, too
  float* dy = nullptr;           ///< gradient of y
  SampleRows<float> dgate;       ///< gradient of the gate; null where not wanted
};

/// The gradients of gated_residual() by y and the gate, in one pass over memory.
/// @param arrays what is read and written
/// @param loop parallel loop over samples, see SerialLoop; bits do not depend on its threads
template <class Loop = SerialLoop>
void gated_residual_backward(const GatedResidualGradients& arrays, const Loop& loop = {}) {
  const std::int64_t tokens = arrays.shape.tokens, size = arrays.shape.size;
  loop(arrays.shape.batch, [&, tokens, size](std::int64_t first, std::int64_t last) {
    std::vector<float> sum;
    for (std::int64_t b = first; b < last; ++b) {
      const float* gate = arrays.gate.row(b);
      const auto rows = [&](std::int64_t begin, std::int64_t end) {
        const auto backward =
            sum.empty() ? detail::gate_backward_row<false> : detail::gate_backward_row<true>;
        for (std::int64_t t = b * tokens + begin; t < b * tokens + end; ++t) {
          backward(gate, arrays.y + t * size, arrays.dout + t * size, arrays.dy + t * size,
                   sum.data(), size);
        }
      };
      if (arrays.dgate.first == nullptr) {
        rows(0, tokens);
      } else {
        detail::with_block_sums(tokens, size, std::array{arrays.dgate.row(b)}, sum, rows);
      }
    }
  });
}

}  // namespace contraflow::kernels
