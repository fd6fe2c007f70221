#pragma once

/// @file
/// Handwritten digits: small real images of ten classes.

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/train/pretrain.hpp>

namespace contraflow::toy {

inline constexpr std::int64_t digit_classes = 10;  ///< 0 to 9
inline constexpr std::int64_t digit_side = 8;      ///< pixels along a side of an image

/// Images of handwritten digits with their labels: data for pretrain().
struct Digits {
  Tensor images;  ///< float32 [N, 1, 8, 8] in [-1, 1], from no ink to full ink
  Tensor labels;  ///< int64 [N] in [0, 9]

  /// @p count images with their labels, each drawn from all of them.
  ConditionedData<Tensor> operator()(std::int64_t count, Generator& generator) const {
    const Tensor rows = integers(images.size(0), count, generator);
    return {images.index_select(0, rows), labels.index_select(0, rows)};
  }
};

/// Digits to learn from, and digits that are kept apart to measure on.
struct SplitDigits {
  Digits train;     ///< to learn from
  Digits held_out;  ///< every fifth, tenth, ... image of each class
};

namespace detail {

inline Tensor tensor_named(const SafetensorsFile& file, const std::string& name,
                           const std::string& path) {
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end()) throw Error(path, "a tensor \"" + name + "\"", "none");
  return found->second;
}

inline void expects_bytes(const Tensor& x, const std::string& what, std::int64_t most,
                          const std::string& path) {
  if (x.scalar_type() != at::kByte) {
    throw Error(path, what + " of dtype uint8", shown(x.scalar_type()));
  }
  const auto greatest = x.max().item<std::int64_t>();
  if (greatest > most) throw Error(path, what + " from 0 to " + shown(most), shown(greatest));
}

inline Tensor images_of_digits(const SafetensorsFile& file, const std::string& path) {
  const Tensor images = tensor_named(file, "images", path);
  const bool is_batch = images.dim() == 3 && images.size(0) > 0 && images.size(1) == digit_side &&
                        images.size(2) == digit_side;
  if (!is_batch) throw Error(path, "images [N, 8, 8]", shape_text(images));
  constexpr std::int64_t full_ink = 16;
  expects_bytes(images, "images", full_ink, path);
  return images.unsqueeze(1).to(at::kFloat) * (2.0 / full_ink) - 1;
}

inline Tensor labels_of_digits(const SafetensorsFile& file, std::int64_t count,
                               const std::string& path) {
  const Tensor labels = tensor_named(file, "labels", path);
  if (labels.dim() != 1 || labels.size(0) != count) {
    throw Error(path, "labels [" + shown(count) + "], one an image", shape_text(labels));
  }
  expects_bytes(labels, "labels", digit_classes - 1, path);
  return labels.to(at::kLong);
}

/// Position of each label among those that are equal to it, counted from 1: [N].
inline Tensor place_in_class(const Tensor& labels) {
  const Tensor counts = at::one_hot(labels, digit_classes).cumsum(0);
  return counts.gather(1, labels.unsqueeze(1)).squeeze(1);
}

}  // namespace detail

/// Reads a file of digits, and keeps every fifth image of each class apart.
///
/// `scripts/prepare_digits` makes such a file from the 1,797 digits that come with scikit-learn.
/// Writers are not told apart: the same hands are in both parts.
/// @param path a safetensors file with `images` uint8 [N, 8, 8], ink from 0 to 16, and `labels`
///   uint8 [N] from 0 to 9
/// @return both parts, each in the order of the file
/// @throws Error naming the file, for one that cannot be read or holds anything else
/// @par Random numbers
/// none
inline SplitDigits read_digits(const std::filesystem::path& path) {
  const SafetensorsFile file = read_safetensors(path);
  const Tensor images = detail::images_of_digits(file, path.string());
  const Tensor labels = detail::labels_of_digits(file, images.size(0), path.string());
  const Tensor is_held_out = detail::place_in_class(labels).remainder(5) == 0;
  const auto part = [&](const Tensor& wanted) {
    const Tensor rows = wanted.nonzero().flatten();
    return Digits{images.index_select(0, rows), labels.index_select(0, rows)};
  };
  return {part(is_held_out.logical_not()), part(is_held_out)};
}

}  // namespace contraflow::toy
