#pragma once

/// @file
/// What models are conditioned on.

#include <concepts>
#include <cstdint>
#include <vector>

#include <contraflow/core/tensor.hpp>

namespace contraflow {

/// The condition of a model that has none.
struct Unconditional {};

/// Any number of rows fits: -1.
inline std::int64_t batch_size(const Unconditional&) { return -1; }
/// Nothing.
inline Unconditional select(const Unconditional&, const Tensor&) { return {}; }
/// Nothing.
inline Unconditional concatenate(const Unconditional&, const Unconditional&) { return {}; }
/// Nothing.
inline Unconditional repeat(const Unconditional&, std::int64_t) { return {}; }

/// Number of rows of a tensor [B, ...].
inline std::int64_t batch_size(const Tensor& condition) { return condition.size(0); }
/// The rows @p ids, int64 [K], of a tensor [B, ...]: [K, ...].
inline Tensor select(const Tensor& condition, const Tensor& ids) {
  return condition.index_select(0, on_device(ids, condition.device()));
}
/// The rows of both tensors.
inline Tensor concatenate(const Tensor& first, const Tensor& second) {
  return at::cat({first, second});
}
/// Each row of a tensor @p times times in a row.
inline Tensor repeat(const Tensor& condition, std::int64_t times) {
  return condition.repeat_interleave(times, 0);
}

/// Number of entries of a list, such as of captions.
template <class T>
std::int64_t batch_size(const std::vector<T>& list) {
  return static_cast<std::int64_t>(list.size());
}
/// The entries @p ids, int64 [K], of a list.
/// @throws Error if there is no such entry
template <class T>
std::vector<T> select(const std::vector<T>& list, const Tensor& ids) {
  const Tensor numbers = ids.to(at::kCPU, at::kLong).contiguous();
  const auto* number = data_of<const std::int64_t>(numbers);
  std::vector<T> chosen;
  chosen.reserve(static_cast<std::size_t>(numbers.numel()));
  for (std::int64_t i = 0; i < numbers.numel(); ++i) {
    const bool known = number[i] >= 0 && number[i] < batch_size(list);
    if (!known) {
      throw Error("ids", "numbers in [0, " + shown(batch_size(list)) + ")", shown(number[i]));
    }
    chosen.push_back(list[static_cast<std::size_t>(number[i])]);
  }
  return chosen;
}
/// The entries of both lists.
template <class T>
std::vector<T> concatenate(std::vector<T> first, const std::vector<T>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}
/// Each entry of a list @p times times in a row.
template <class T>
std::vector<T> repeat(const std::vector<T>& list, std::int64_t times) {
  return select(list, at::arange(batch_size(list), at::kLong).repeat_interleave(times));
}

/// What a model is conditioned on, or a reward is told: a tensor [B, ...], a list of B entries, or
/// any type for which the four functions below are overloaded beside the type.
///
/// Valid expressions, with `c`, `d` conditions and `ids` int64 [K]:
/// - `batch_size(c)`: number of samples, or -1 where any number fits
/// - `select(c, ids)`: the rows `ids`
/// - `concatenate(c, d)`: the rows of both
/// - `repeat(c, n)`: each row n times in a row
///
/// Laws: `batch_size(select(c, ids)) == ids.numel()`;
/// `select(concatenate(c, d), 0 ... batch_size(c) - 1)` equals `c`.
template <class C>
concept Condition = requires(const C& c, const Tensor& ids) {
  { batch_size(c) } -> std::convertible_to<std::int64_t>;
  { select(c, ids) } -> std::same_as<C>;
  { concatenate(c, c) } -> std::same_as<C>;
  { repeat(c, std::int64_t{2}) } -> std::same_as<C>;
};

/// Throws Error unless @p condition belongs to the samples @p x [B, ...].
template <class C>
void expects_condition_of(const C& condition, const Tensor& x) {
  const std::int64_t batch = batch_size(condition);
  if (batch >= 0 && batch != x.size(0)) {
    throw Error("condition", "one row a sample, " + shown(x.size(0)), shown(batch));
  }
}

}  // namespace contraflow
