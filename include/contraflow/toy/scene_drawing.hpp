#pragma once

/// @file
/// Scenes in which prompts come true.

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/core/random.hpp>
#include <contraflow/core/tensor.hpp>
#include <contraflow/toy/scene_prompts.hpp>

namespace contraflow::toy::scenes {

namespace detail {

/// Writes an object into a latent.
inline void put(float* latent, std::int64_t cell, std::int64_t shape, std::int64_t colour) {
  latent[cell] = 1;
  for (std::int64_t k = 0; k < shape_count; ++k) {
    latent[(1 + k) * cells + cell] = k == shape ? 1.0F : -1.0F;
  }
  for (std::int64_t k = 0; k < 3; ++k) {
    latent[(5 + k) * cells + cell] = palette[std::size_t(colour)][std::size_t(k)];
  }
}

inline std::int64_t drawn(double uniform, std::int64_t count) {
  return std::min(std::int64_t(uniform * double(count)), count - 1);
}

/// All pairs of cells in a relation.
inline std::vector<std::pair<std::int64_t, std::int64_t>> pairs_in(Relation relation) {
  std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
  for (std::int64_t a = 0; a < cells; ++a) {
    for (std::int64_t b = 0; b < cells; ++b) {
      if (a != b && holds(relation, a, b)) pairs.emplace_back(a, b);
    }
  }
  return pairs;
}

/// Distinct cells for a prompt's objects, from as many uniform numbers.
inline std::array<std::int64_t, most_objects> places(const Prompt& prompt, const float* uniform) {
  static const std::array<std::vector<std::pair<std::int64_t, std::int64_t>>, 5> related{
      pairs_in(Relation::none), pairs_in(Relation::left), pairs_in(Relation::right),
      pairs_in(Relation::top), pairs_in(Relation::bottom)};
  std::array<std::int64_t, most_objects> result{};
  if (prompt.relation != Relation::none) {
    const auto& pairs = related[std::size_t(prompt.relation)];
    const auto& [first, second] = pairs[std::size_t(drawn(uniform[0], std::int64_t(pairs.size())))];
    result[0] = first;
    result[1] = second;
    return result;
  }
  std::array<std::int64_t, cells> free{};
  for (std::int64_t i = 0; i < cells; ++i) free[std::size_t(i)] = i;
  for (std::size_t i = 0; i < prompt.objects.size(); ++i) {
    const auto chosen = i + std::size_t(drawn(uniform[i], cells - std::int64_t(i)));
    std::swap(free[i], free[chosen]);
    result[i] = free[i];
  }
  return result;
}

}  // namespace detail

/// Scenes in which prompts come true: objects in distinct random cells, in a random colour where
/// none is asked for.
/// @param prompts all prompts
/// @param ids int64 [N], which of them
/// @param generator one draw is made; a row a scene
/// @return float32 [N, 8, 4, 4]
/// @throws Error if there is no such prompt
inline Tensor draw(const std::vector<Prompt>& prompts, const Tensor& ids, Generator& generator) {
  const std::int64_t count = ids.numel();
  const Tensor numbers = uniform({count, 2 * most_objects}, generator);
  const Tensor which = detail::readable_ids(ids, std::int64_t(prompts.size()));
  Tensor latents = at::zeros({count, channels, side, side});
  latents.select(1, 0).fill_(-1);
  auto* latent = latents.mutable_data_ptr<float>();
  const auto* number = data_of<const float>(numbers);
  for (std::int64_t i = 0; i < count; ++i) {
    const Prompt& prompt = prompts[std::size_t(data_of<const std::int64_t>(which)[i])];
    const auto cell = detail::places(prompt, number);
    for (std::size_t k = 0; k < prompt.objects.size(); ++k) {
      const Object& object = prompt.objects[k];
      const std::int64_t any = detail::drawn(number[most_objects + std::int64_t(k)], colour_count);
      detail::put(latent, cell[k], object.shape, object.colour >= 0 ? object.colour : any);
    }
    latent += channels * cells;
    number += 2 * most_objects;
  }
  return latents;
}

}  // namespace contraflow::toy::scenes
