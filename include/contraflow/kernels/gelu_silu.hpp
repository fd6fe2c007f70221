#pragma once

/// @file
/// GELU and SiLU in float32 on the host.

#include <contraflow/kernels/packed_loop.hpp>

namespace contraflow::kernels {

/// Elements of the unit of work that a loop over an activation divides; bits are the same however
/// it does.
inline constexpr std::int64_t activation_block = 4096;

namespace detail {

// e^x to about one unit in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, then a polynomial
// in r (Cephes). Zero below -87 and infinite above 88, a little before float32 ends; NaN stays NaN.
inline Floats exponential(const Floats& x) {
  // Added to a float, this leaves its nearest integer in the lowest bits.
  constexpr float to_integer = 0x1.8p23f;
  const Floats shifted = x * 0x1.715476p0f + to_integer;
  const Floats n = shifted - to_integer;
  // ln 2 in two parts, so that n times the first is exact.
  const Floats r = (x - n * 0x1.63p-1f) - n * -0x1.bd0106p-13f;
  Floats p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  const FloatBits exponent = (with_bits_of<FloatBits>(shifted) << 23) + 0x3f800000u;
  const Floats value = p * with_bits_of<Floats>(exponent);
  const Floats bounded = x < -87.0f ? Floats{} : value;
  return x > 88.0f ? broadcast(__builtin_inff()) : bounded;
}

inline Floats sigmoid(const Floats& x) { return 1.0f / (1.0f + exponential(-x)); }

// The sigmoid of z, and the derivative of x sigmoid(z), given z and x dz/dx. The sigmoid of -z is
// not computed as a difference from one, which would leave nothing of it where z is large.
struct SigmoidAndSlope {
  Floats sigmoid, slope;

  SigmoidAndSlope(const Floats& z, const Floats& x_dz) {
    const Floats e = exponential(-z);
    sigmoid = 1.0f / (1.0f + e);
    slope = z < -80.0f ? Floats{} : sigmoid + x_dz * (sigmoid * (e * sigmoid));
  }
};

// Calls body(first, width) for the packs of [0, count), in parallel.
template <class Loop, class Body>
void each_pack_in_parallel(std::int64_t count, const Loop& loop, const Body& body) {
  const std::int64_t blocks = (count + activation_block - 1) / activation_block;
  loop(blocks, [&](std::int64_t begin, std::int64_t end) {
    each_pack(begin * activation_block, std::min(count, end * activation_block), body);
  });
}

}  // namespace detail

/// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016), in the form
/// `x sigmoid(...)` whose relative error does not grow for negative x.
struct GeluTanh {
  /// The activation.
  template <class P>
  static P value(const P& x) {
    return x * detail::sigmoid(argument(x));
  }
  /// Its derivative.
  template <class P>
  static P slope(const P& x) {
    return parts(x).slope;
  }
  /// Both, by one exponential.
  template <class P>
  static P value_and_slope(const P& x, P& slope) {
    const detail::SigmoidAndSlope found = parts(x);
    slope = found.slope;
    return x * found.sigmoid;
  }

 private:
  static constexpr float linear = 1.5957691216f;  // 2 sqrt(2 / pi)
  static constexpr float cubic = 0.044715f * linear;
  template <class P>
  static detail::SigmoidAndSlope parts(const P& x) {
    return {argument(x), x * (linear + 3 * cubic * (x * x))};
  }
  template <class P>
  static P argument(const P& x) {
    return x * (linear + cubic * (x * x));
  }
};

/// `x sigmoid(x)`.
struct Silu {
  /// The activation.
  template <class P>
  static P value(const P& x) {
    return x * detail::sigmoid(x);
  }
  /// Its derivative.
  template <class P>
  static P slope(const P& x) {
    return detail::SigmoidAndSlope(x, x).slope;
  }
  /// Both, by one exponential.
  template <class P>
  static P value_and_slope(const P& x, P& slope) {
    const detail::SigmoidAndSlope found(x, x);
    slope = found.slope;
    return x * found.sigmoid;
  }
};

/// `out = f(x)`, element by element, without a branch: to about 2e-6 of the result, however small,
/// down to 1e-36; below that it may be zero.
/// @tparam Activation GeluTanh or Silu
/// @param x @p count numbers
/// @param out @p count numbers; may be @p x itself
/// @param count of elements
/// @param loop parallel loop, see SerialLoop; bits do not depend on its number of threads
template <class Activation, class Loop = SerialLoop>
void activate(const float* x, float* out, std::int64_t count, const Loop& loop = {}) {
  detail::each_pack_in_parallel(count, loop, [=](std::int64_t i, auto width) {
    detail::store(out + i, Activation::value(detail::load(x + i, width)), width);
  });
}

/// `dx = f'(x) dout`, element by element.
/// @tparam Activation GeluTanh or Silu
/// @param x what went in, @p count numbers
/// @param dout gradient of what came out
/// @param dx gradient of x; may be @p dout itself
/// @param count of elements
/// @param loop parallel loop, see SerialLoop; bits do not depend on its number of threads
template <class Activation, class Loop = SerialLoop>
void activate_backward(const float* x, const float* dout, float* dx, std::int64_t count,
                       const Loop& loop = {}) {
  detail::each_pack_in_parallel(count, loop, [=](std::int64_t i, auto width) {
    const detail::Floats slope = Activation::slope(detail::load(x + i, width));
    detail::store(dx + i, slope * detail::load(dout + i, width), width);
  });
}

}  // namespace contraflow::kernels
