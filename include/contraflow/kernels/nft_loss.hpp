#pragma once

/// @file
/// Host form of the fused NFT loss.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <contraflow/core/error.hpp>
#include <contraflow/kernels/nft_element.hpp>
#include <contraflow/kernels/packed_loop.hpp>

namespace contraflow::kernels {

namespace detail {

// Elements whose sums are kept in the compute type before they join a double, and elements that
// are the unit of work where there are fewer samples than threads. The partition depends on
// nothing else, so bits do not depend on the number of threads.
inline constexpr std::int64_t block_size = 1024;
inline constexpr std::int64_t chunk_size = 16 * block_size;

template <class T>
void add(NftSums<double>& total, const NftSums<T>& part) {
  total.plus_absolute += part.plus_absolute;
  total.plus_square += part.plus_square;
  total.minus_absolute += part.minus_absolute;
  total.minus_square += part.minus_square;
  total.kl_square += part.kl_square;
}

template <class T>
double sum_of_lanes(const Pack<T>& pack) {
  double sum = 0;
  for (const T value : lanes_of<T>(pack)) sum += static_cast<double>(value);
  return sum;
}

template <class T>
NftSums<double> sum_of_lanes(const NftSums<Pack<T>>& sums) {
  return {sum_of_lanes<T>(sums.plus_absolute), sum_of_lanes<T>(sums.plus_square),
          sum_of_lanes<T>(sums.minus_absolute), sum_of_lanes<T>(sums.minus_square),
          sum_of_lanes<T>(sums.kl_square)};
}

// The two passes over a stretch of a sample.
template <bool with_absolute, bool with_kl, class V, class X>
struct NftPass {
  using T = ComputeType<V>;

  NftLossArrays<V, X> arrays;
  T beta;

  // One element or, at lanes<T> elements from i on, a pack of them.
  template <class P>
  struct Element {
    NftDifferences<P> differences;
    P deviation;
  };

  Element<T> element(std::int64_t i) const {
    const auto v_theta = static_cast<T>(arrays.v_theta[i]);
    return {nft_differences(v_theta, static_cast<T>(arrays.v_old[i]), static_cast<T>(arrays.x0[i]),
                            static_cast<T>(arrays.eps[i])),
            with_kl ? v_theta - static_cast<T>(arrays.v_ref[i]) : T{}};
  }

  Element<Pack<T>> pack(std::int64_t i) const {
    const auto v_theta = load<T>(arrays.v_theta + i);
    Element<Pack<T>> result{nft_differences(v_theta, load<T>(arrays.v_old + i),
                                            load<T>(arrays.x0 + i), load<T>(arrays.eps + i)),
                            Pack<T>{}};
    if constexpr (with_kl) result.deviation = v_theta - load<T>(arrays.v_ref + i);
    return result;
  }

  template <class P>
  void accumulate(NftSums<P>& sums, const Element<P>& e) const {
    nft_accumulate<with_absolute>(sums, e.differences, beta);
    if constexpr (with_kl) sums.kl_square += e.deviation * e.deviation;
  }

  template <class P>
  P slope(const Element<P>& e, const NftSlopes<T>& slopes) const {
    const P policy = nft_slope(e.differences, slopes);
    if constexpr (with_kl) return policy + slopes.kl * e.deviation;
    return policy;
  }

  void add_block(NftSums<double>& total, std::int64_t begin, std::int64_t end) const {
    NftSums<Pack<T>> sums;
    std::int64_t i = begin;
    for (; i + lanes<T> <= end; i += lanes<T>) accumulate(sums, pack(i));
    add(total, sum_of_lanes<T>(sums));
    for (; i < end; ++i) {
      NftSums<T> rest;
      accumulate(rest, element(i));
      add(total, rest);
    }
  }

  NftSums<double> sums(std::int64_t begin, std::int64_t end) const {
    NftSums<double> total;
    for (std::int64_t i = begin; i < end; i += block_size) {
      add_block(total, i, std::min(end, i + block_size));
    }
    return total;
  }

  void write_gradient(const NftSlopes<double>& exact, std::int64_t begin, std::int64_t end) const {
    const NftSlopes<T> slopes{static_cast<T>(exact.w), static_cast<T>(exact.d),
                              static_cast<T>(exact.kl)};
    std::int64_t i = begin;
    for (; i + lanes<T> <= end; i += lanes<T>) {
      store<T>(arrays.gradient + i, slope(pack(i), slopes));
    }
    for (; i < end; ++i) arrays.gradient[i] = static_cast<V>(slope(element(i), slopes));
  }
};

template <class V, class X>
void check_nft_loss(const NftLossArrays<V, X>& arrays, const NftLossSettings& settings,
                    const NftLossOutputs& outputs) {
  const auto present = [](const void* array, const char* name) {
    if (array == nullptr) throw Error(name, "an array", "a null pointer");
  };
  expects(arrays.batch >= 1, "batch", "at least one sample", arrays.batch);
  expects(arrays.elements >= 1, "elements", "at least one element a sample", arrays.elements);
  expects(settings.beta > 0 && std::isfinite(settings.beta), "beta", "a finite number above 0",
          settings.beta);
  present(arrays.v_theta, "v_theta");
  present(arrays.v_old, "v_old");
  present(arrays.x0, "x0");
  present(arrays.eps, "eps");
  present(arrays.t, "t");
  present(arrays.r, "r");
  present(outputs.positive, "positive");
  present(outputs.negative, "negative");
  if (arrays.v_ref != nullptr) present(outputs.kl, "kl");
}

// The work over samples, each divided into chunks of a fixed size: bits do not depend on who does
// which.
template <bool with_kl, class V, class X, class Weighting, class Loop>
struct NftLossRun {
  using Pass = NftPass<Weighting::uses_absolute, with_kl, V, X>;

  const NftLossArrays<V, X>& arrays;
  const NftLossSettings& settings;
  const Weighting& weighting;
  const NftLossOutputs& outputs;
  const Loop& loop;
  Pass pass = {arrays, static_cast<typename Pass::T>(settings.beta)};
  std::int64_t chunks = (arrays.elements + chunk_size - 1) / chunk_size;

  NftLossValue operator()() const {
    if (chunks == 1 || arrays.batch >= 2 * loop.threads()) {
      by_sample();
    } else {
      by_chunk();
    }
    return nft_total(outputs, arrays.r, arrays.batch, weighting, settings, with_kl);
  }

  std::int64_t chunk_begin(std::int64_t sample, std::int64_t chunk) const {
    return sample * arrays.elements + std::min(arrays.elements, chunk * chunk_size);
  }
  NftSums<double> chunk_sums(std::int64_t sample, std::int64_t chunk) const {
    return pass.sums(chunk_begin(sample, chunk), chunk_begin(sample, chunk + 1));
  }

  NftSlopes<double> finish(std::int64_t i, const NftSums<double>& sums) const {
    const NftSample sample = nft_sample(sums, weighting, settings, i, arrays.batch, arrays.elements,
                                        arrays.t[i], arrays.r[i]);
    outputs.positive[i] = sample.positive;
    outputs.negative[i] = sample.negative;
    if (outputs.kl != nullptr) outputs.kl[i] = sample.kl;
    return sample.slopes;
  }

  // A sample's gradient is written while its arrays are still in the cache.
  void by_sample() const {
    loop(arrays.batch, [this](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        NftSums<double> sums;
        for (std::int64_t c = 0; c < chunks; ++c) add(sums, chunk_sums(i, c));
        const auto slopes = finish(i, sums);
        if (arrays.gradient == nullptr) continue;
        pass.write_gradient(slopes, chunk_begin(i, 0), chunk_begin(i, chunks));
      }
    });
  }

  void by_chunk() const {
    std::vector<NftSums<double>> parts(static_cast<std::size_t>(arrays.batch * chunks));
    each_chunk([&](std::int64_t i, std::int64_t c) {
      parts[static_cast<std::size_t>(i * chunks + c)] = chunk_sums(i, c);
    });
    std::vector<NftSlopes<double>> slopes(static_cast<std::size_t>(arrays.batch));
    for (std::int64_t i = 0; i < arrays.batch; ++i) {
      NftSums<double> sums;
      for (std::int64_t c = 0; c < chunks; ++c) {
        add(sums, parts[static_cast<std::size_t>(i * chunks + c)]);
      }
      slopes[static_cast<std::size_t>(i)] = finish(i, sums);
    }
    if (arrays.gradient == nullptr) return;
    each_chunk([&](std::int64_t i, std::int64_t c) {
      pass.write_gradient(slopes[static_cast<std::size_t>(i)], chunk_begin(i, c),
                          chunk_begin(i, c + 1));
    });
  }

  template <class Body>
  void each_chunk(const Body& body) const {
    loop(arrays.batch * chunks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) body(k / chunks, k % chunks);
    });
  }
};

template <bool with_kl, class V, class X, class Weighting, class Loop>
NftLossValue nft_loss(const NftLossArrays<V, X>& arrays, const NftLossSettings& settings,
                      const Weighting& weighting, const NftLossOutputs& outputs, const Loop& loop) {
  return NftLossRun<with_kl, V, X, Weighting, Loop>{arrays, settings, weighting, outputs, loop}();
}

}  // namespace detail

/// NFT loss, its terms per sample and its gradient in one operation.
///
/// Composed of tensor operations the loss runs about twenty times through memory; this runs once:
/// the sums of a sample, then its gradient while the sample is in the cache.
///
/// \f[ L = \frac{1}{B} \sum_b f_b \, (r_b \ell_{b,+} + (1 - r_b) \ell_{b,-}) + \lambda \, K \f]
/// \f[ K = \overline{(v_\theta - v_{ref})^2} \f]
/// with the factor f and the branch terms of the weighting: AdaptiveWeighting is the published
/// code of arXiv 2509.16117, FixedWeighting the paper's equation. A weighting of the user's has
/// the same three members.
///
/// @param arrays inputs and, unless null, the gradient of upstream * L by v_theta. Computed in
///   double for double, else in float; sums over a sample in double. The gradient must not overlap
///   an input.
/// @param settings beta, weight of the KL term, upstream factor
/// @param weighting AdaptiveWeighting, FixedWeighting or one like them
/// @param outputs arrays for the terms of each sample
/// @param loop parallel loop, see SerialLoop; bits do not depend on its number of threads
/// @return policy loss, mean squared distance from the reference, and total
/// @throws Error for an empty batch, empty samples, beta not above 0, or a missing array
/// @par Random numbers
/// none
template <class V, class X, class Weighting, class Loop = SerialLoop>
NftLossValue nft_loss(const NftLossArrays<V, X>& arrays, const NftLossSettings& settings,
                      const Weighting& weighting, const NftLossOutputs& outputs,
                      const Loop& loop = {}) {
  detail::check_nft_loss(arrays, settings, outputs);
  return arrays.v_ref != nullptr
             ? detail::nft_loss<true>(arrays, settings, weighting, outputs, loop)
             : detail::nft_loss<false>(arrays, settings, weighting, outputs, loop);
}

}  // namespace contraflow::kernels
