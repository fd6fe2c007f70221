#pragma once

/// @file
/// Rewards of scenes and their diversity, by what the detector sees.

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>
#include <contraflow/toy/scene_detector.hpp>
#include <contraflow/toy/scene_task.hpp>

namespace contraflow::toy::scenes {

namespace detail {
/// What the detector says of latents by the numbers of their prompts.
inline Judgements judged_by_number(const Tensor& x0, const Tensor& numbers) {
  if (!numbers.defined() || numbers.dim() != 1 || numbers.size(0) != x0.size(0)) {
    throw Error("reference",
                "the number of each sample's prompt, shape [" + shown(x0.size(0)) +
                    "], as scenes::prompts_of() gives them",
                shape_text(numbers));
  }
  return judge(catalogue().prompts(), numbers, x0);
}
}  // namespace detail

/// The detector's strict score: 1 where everything that is asked for is there, else 0.
/// @par Shape
/// x0 [B, 8, 4, 4], numbers int64 [B], of the prompts in the catalogue; result float64 [B]
struct Strict {
  /// The scores.
  Tensor operator()(const Tensor& x0, const Tensor& numbers) const {
    return detail::judged_by_number(x0, numbers).strict;
  }
};

/// The detector's partial score, in [0, 1].
/// @par Shape
/// x0 [B, 8, 4, 4], numbers int64 [B], of the prompts in the catalogue; result float64 [B]
struct Partial {
  /// The scores.
  Tensor operator()(const Tensor& x0, const Tensor& numbers) const {
    return detail::judged_by_number(x0, numbers).partial;
  }
};

namespace detail {

/// Latents as the detector reads them.
inline Tensor readable(const Tensor& x0) {
  if (x0.dim() != 4 || x0.sizes().slice(1) != at::IntArrayRef({channels, side, side})) {
    throw Error("x0", "shape [B, 8, 4, 4]", shape_text(x0));
  }
  return x0.detach().to(at::kCPU, at::kFloat).contiguous();
}

/// A score a latent from what the detector sees in it.
template <class F>
Tensor scored_by_sight(const Tensor& x0, F&& score) {
  const Tensor values = readable(x0);
  Tensor result = at::empty({x0.size(0)}, at::kDouble);
  for (std::int64_t i = 0; i < x0.size(0); ++i) {
    const float* latent = data_of<const float>(values) + i * channels * cells;
    result.mutable_data_ptr<double>()[i] = score(seen(latent), latent);
  }
  return result;
}

}  // namespace detail

/// Share of the objects that lie in the four cells off the border; 0 where there are none.
/// @par Shape
/// x0 [B, 8, 4, 4]; result float64 [B]
/// @throws Error if the shape does not fit
struct OffBorder {
  /// The scores.
  Tensor operator()(const Tensor& x0) const {
    return detail::scored_by_sight(x0, [](const Sight& sight, const float*) {
      double inside = 0;
      for (const Seen& object : sight.objects) {
        const std::int64_t row = object.cell / side, column = object.cell % side;
        const bool is_inside = std::min(row, column) > 0 && std::max(row, column) < side - 1;
        inside += is_inside ? 1 : 0;
      }
      return sight.objects.empty() ? 0.0 : inside / double(sight.objects.size());
    });
  }
};

/// Mean brightness of the objects' colours, from 0 (black) to 1 (white); 0 where there are none.
/// @par Shape
/// x0 [B, 8, 4, 4]; result float64 [B]
struct ColourBrightness {
  /// The scores.
  Tensor operator()(const Tensor& x0) const {
    return detail::scored_by_sight(x0, [](const Sight& sight, const float* latent) {
      double sum = 0;
      for (const Seen& object : sight.objects) {
        for (std::int64_t c = 0; c < 3; ++c) {
          sum += (std::clamp(latent[(5 + c) * cells + object.cell], -1.0F, 1.0F) + 1) / 6;
        }
      }
      return sight.objects.empty() ? 0.0 : sum / double(sight.objects.size());
    });
  }
};

/// Diversity: distinct scenes of a group, as a share of its samples; mean over groups.
///
/// Two scenes are one if the detector sees the same shapes in the same colours in the same cells.
/// @param x0 [N, 8, 4, 4]
/// @param group int64 [N], which samples answer one prompt
/// @return in (0, 1]
/// @throws Error if a shape does not fit
inline double distinct_share(const Tensor& x0, const Tensor& group) {
  const Tensor values = detail::readable(x0);
  expects_per_sample(group, x0, "group");
  const Tensor ids = group.to(at::kCPU, at::kLong).contiguous();
  using Scene = std::vector<std::array<std::int64_t, 3>>;
  std::map<std::int64_t, std::pair<std::set<Scene>, double>> groups;
  for (std::int64_t i = 0; i < x0.size(0); ++i) {
    Scene scene;
    for (const Seen& object : seen(data_of<const float>(values) + i * channels * cells).objects) {
      scene.push_back({object.cell, object.shape, object.colour});
    }
    auto& [scenes, samples] = groups[data_of<const std::int64_t>(ids)[i]];
    scenes.insert(std::move(scene));
    samples += 1;
  }
  double sum = 0;
  for (const auto& [id, of_group] : groups) sum += double(of_group.first.size()) / of_group.second;
  return sum / double(groups.size());
}

}  // namespace contraflow::toy::scenes
