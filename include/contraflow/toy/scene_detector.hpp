#pragma once

/// @file
/// The detector of scenes, and how well a scene answers its prompt.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/toy/scene_prompts.hpp>

namespace contraflow::toy::scenes {

/// An object as the detector sees it.
struct Seen {
  std::int64_t cell = 0;     ///< row by row
  std::int64_t shape = -1;   ///< -1: unknown
  std::int64_t colour = -1;  ///< -1: unknown
};

/// What the detector sees in a latent.
struct Sight {
  std::vector<Seen> objects = {};  ///< cell by cell
  bool is_ambiguous = false;  ///< whether any cell is neither clearly occupied nor clearly empty
};

/// Sees the objects of a latent.
///
/// A cell is occupied where its occupancy is above 0; the scene is ambiguous if any occupancy is
/// within 0.5 of 0. A shape is known if it leads the second by more than 0.6, a colour if it is
/// nearer than 0.9 to its place in the palette.
/// @param latent 8 x 4 x 4 numbers
inline Sight seen(const float* latent) {
  Sight sight;
  for (std::int64_t cell = 0; cell < cells; ++cell) {
    const auto at = [&](std::int64_t channel) { return latent[channel * cells + cell]; };
    if (!(std::abs(at(0)) > 0.5F)) sight.is_ambiguous = true;
    if (!(at(0) > 0)) continue;
    Seen object{cell};
    std::int64_t best = 0;
    for (std::int64_t k = 1; k < shape_count; ++k) {
      if (at(1 + k) > at(1 + best)) best = k;
    }
    bool leads = true;
    for (std::int64_t k = 0; k < shape_count; ++k) {
      leads = leads && (k == best || at(1 + best) - at(1 + k) > 0.6F);
    }
    if (leads) object.shape = best;
    float nearest = 0.9F * 0.9F;
    for (std::int64_t k = 0; k < colour_count; ++k) {
      float distance = 0;
      for (std::int64_t c = 0; c < 3; ++c) {
        const float d = at(5 + c) - palette[std::size_t(k)][std::size_t(c)];
        distance += d * d;
      }
      if (!(distance < nearest)) continue;
      nearest = distance;
      object.colour = k;
    }
    sight.objects.push_back(object);
  }
  return sight;
}

/// How well a scene answers a prompt.
struct Judgement {
  double strict = 0;   ///< 1 if everything is right, else 0
  double partial = 0;  ///< share of what is right, in [0, 1]
};

namespace detail {

/// Size of the largest matching of asked objects with seen ones, where @p fits(asked, seen).
/// Equal objects are interchangeable, so a greedy matching is the largest.
template <class F>
std::int64_t matched(const std::vector<Object>& asked, const std::vector<Seen>& seen, F&& fits) {
  std::vector<bool> used(seen.size());
  std::int64_t count = 0;
  for (const Object& object : asked) {
    for (std::size_t i = 0; i < seen.size(); ++i) {
      if (used[i] || !fits(object, seen[i])) continue;
      used[i] = true;
      ++count;
      break;
    }
  }
  return count;
}

/// Whether some object of the first shape lies as asked to some of the second.
inline bool relation_holds(const Prompt& prompt, const std::vector<Seen>& seen) {
  for (const Seen& a : seen) {
    for (const Seen& b : seen) {
      if (a.shape == prompt.objects[0].shape && b.shape == prompt.objects[1].shape &&
          holds(prompt.relation, a.cell, b.cell)) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace detail

/// Judges what was seen.
///
/// Strict: not ambiguous, the shapes are exactly those asked for, pairs of colour and shape match
/// where colours are asked for, the relation holds where one is. Partial: the mean of (the number
/// of objects is right), (share of shapes matched) and, where asked, (share of pairs matched) and
/// (the relation holds); halved for an ambiguous scene.
inline Judgement judged(const Prompt& prompt, const Sight& sight) {
  const auto asked = double(prompt.objects.size());
  const bool number_right = sight.objects.size() == prompt.objects.size();
  const auto by_shape = [](const Object& a, const Seen& b) { return a.shape == b.shape; };
  const auto by_pair = [](const Object& a, const Seen& b) {
    return a.shape == b.shape && a.colour == b.colour;
  };
  const double shapes_matched =
      double(detail::matched(prompt.objects, sight.objects, by_shape)) / asked;
  double sum = (number_right ? 1 : 0) + shapes_matched, parts = 2;
  bool all_right = !sight.is_ambiguous && number_right && shapes_matched == 1;
  if (prompt.objects[0].colour >= 0) {
    const double pairs = double(detail::matched(prompt.objects, sight.objects, by_pair)) / asked;
    sum += pairs;
    parts += 1;
    all_right = all_right && pairs == 1;
  }
  if (prompt.relation != Relation::none) {
    const bool holds = detail::relation_holds(prompt, sight.objects);
    sum += holds ? 1 : 0;
    parts += 1;
    all_right = all_right && holds;
  }
  return {all_right ? 1.0 : 0.0, sum / parts * (sight.is_ambiguous ? 0.5 : 1)};
}

/// Judgements of many latents.
/// @par Shape
/// strict and partial float64 [N]
struct Judgements {
  Tensor strict;   ///< 0 or 1 each
  Tensor partial;  ///< in [0, 1]
};

/// Judges latents.
/// @param prompts all prompts
/// @param ids int64 [N], which prompt each latent answers
/// @param latents [N, 8, 4, 4]
/// @throws Error if a shape does not fit or there is no such prompt
inline Judgements judge(const std::vector<Prompt>& prompts, const Tensor& ids,
                        const Tensor& latents) {
  const std::int64_t count = ids.numel();
  if (latents.sizes() != at::IntArrayRef({count, channels, side, side})) {
    throw Error("latents", "shape [" + shown(count) + ", 8, 4, 4]", shape_text(latents));
  }
  const Tensor values = latents.detach().to(at::kCPU, at::kFloat).contiguous();
  const Tensor which = detail::readable_ids(ids, std::int64_t(prompts.size()));
  Judgements result{at::empty({count}, at::kDouble), at::empty({count}, at::kDouble)};
  for (std::int64_t i = 0; i < count; ++i) {
    const Prompt& prompt = prompts[std::size_t(data_of<const std::int64_t>(which)[i])];
    const Judgement one = judged(prompt, seen(data_of<const float>(values) + i * channels * cells));
    result.strict.mutable_data_ptr<double>()[i] = one.strict;
    result.partial.mutable_data_ptr<double>()[i] = one.partial;
  }
  return result;
}

}  // namespace contraflow::toy::scenes
