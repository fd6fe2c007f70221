#pragma once

/// @file
/// Scenes: compositional prompts, latents, and a detector, for text-to-image on a laptop.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/random.hpp>
#include <contraflow/core/tensor.hpp>

namespace contraflow::toy {

/// Objects in a grid of 4 x 4 cells, asked for by a prompt of GenEval's categories (Ghosh and
/// others 2023) and judged by rule: GenEval in miniature.
///
/// A latent [8, 4, 4] holds occupancy (+1, -1), four channels of shape (+1 for the shape, -1 for
/// the others, 0 in an empty cell) and three of colour (+-1 a channel, 0 in an empty cell).
namespace scenes {

inline constexpr std::int64_t side = 4;          ///< cells along a side
inline constexpr std::int64_t cells = 16;        ///< of a scene
inline constexpr std::int64_t channels = 8;      ///< of a latent
inline constexpr std::int64_t shape_count = 4;   ///< circle, square, triangle, cross
inline constexpr std::int64_t colour_count = 6;  ///< red, green, blue, yellow, magenta, cyan
inline constexpr std::int64_t most_objects = 4;  ///< of a prompt
inline constexpr std::int64_t tokens = 8;        ///< of a prompt, padded

/// What a prompt asks for, from easy to hard.
enum class Category { single, two, counting, colours, position, attribute };
/// All categories.
inline constexpr std::array<Category, 6> categories{Category::single,   Category::two,
                                                    Category::counting, Category::colours,
                                                    Category::position, Category::attribute};
/// Name of a category.
constexpr const char* name_of(Category category) {
  constexpr std::array<const char*, 6> names{"single",  "two",      "counting",
                                             "colours", "position", "attribute"};
  return names[std::size_t(category)];
}

/// Where the first object lies as seen from the second.
enum class Relation { none, left, right, top, bottom };

/// Words of all prompts; a token is a number in this list.
inline constexpr std::array<const char*, 22> vocabulary{
    "pad",   "null",  "a",    "and",    "circle",  "square", "triangle", "cross",
    "red",   "green", "blue", "yellow", "magenta", "cyan",   "one",      "two",
    "three", "four",  "left", "right",  "top",     "bottom"};
inline constexpr std::int64_t pad_token = 0;     ///< fills a prompt
inline constexpr std::int64_t null_token = 1;    ///< the prompt that asks for nothing is this alone
inline constexpr std::int64_t shape_token = 4;   ///< of the first shape
inline constexpr std::int64_t colour_token = 8;  ///< of the first colour
inline constexpr std::int64_t number_token = 14;    ///< of "one"
inline constexpr std::int64_t relation_token = 18;  ///< of "left"

/// Red, green and blue of a colour, +-1 each.
inline constexpr std::array<std::array<float, 3>, 6> palette{
    {{1, -1, -1}, {-1, 1, -1}, {-1, -1, 1}, {1, 1, -1}, {1, -1, 1}, {-1, 1, 1}}};

/// An object that is asked for.
struct Object {
  std::int64_t shape = 0;    ///< number of a shape
  std::int64_t colour = -1;  ///< number of a colour; -1: any
};

/// A prompt and what it means.
struct Prompt {
  Category category = Category::single;  ///< what kind it is of
  std::vector<Object> objects = {};      ///< one to four
  Relation relation = Relation::none;    ///< of the first object to the second
  std::vector<std::int64_t> words = {};  ///< tokens, without padding

  /// The words, with spaces.
  std::string text() const {
    std::string result;
    for (const std::int64_t word : words) {
      result += (result.empty() ? "" : " ") + std::string(vocabulary[std::size_t(word)]);
    }
    return result;
  }
};

namespace detail {

constexpr std::int64_t word_a = 2, word_and = 3;

inline std::vector<std::int64_t> words_of(const Object& object) {
  std::vector<std::int64_t> words{word_a};
  if (object.colour >= 0) words.push_back(colour_token + object.colour);
  words.push_back(shape_token + object.shape);
  return words;
}

/// "OBJECT and OBJECT", with the words of a relation behind each where there is one.
inline Prompt pair(Category category, const Object& first, const Object& second,
                   Relation relation) {
  Prompt prompt{category, {first, second}, relation, words_of(first)};
  const auto word = [](Relation r) { return relation_token + std::int64_t(r) - 1; };
  constexpr std::array<Relation, 5> opposite{Relation::none, Relation::right, Relation::left,
                                             Relation::bottom, Relation::top};
  if (relation != Relation::none) prompt.words.push_back(word(relation));
  prompt.words.push_back(word_and);
  for (const std::int64_t word_of_second : words_of(second)) prompt.words.push_back(word_of_second);
  if (relation != Relation::none) prompt.words.push_back(word(opposite[std::size_t(relation)]));
  return prompt;
}

template <class F>
void for_each_pair_of_shapes(F&& f) {
  for (std::int64_t a = 0; a < shape_count; ++a) {
    for (std::int64_t b = 0; b < shape_count; ++b) {
      if (a != b) f(a, b);
    }
  }
}

}  // namespace detail

/// All 464 prompts, category by category: 4, 12, 16, 24, 48 and 360.
inline std::vector<Prompt> all_prompts() {
  std::vector<Prompt> prompts;
  for (std::int64_t shape = 0; shape < shape_count; ++shape) {
    const Object object{shape};
    prompts.push_back({Category::single, {object}, Relation::none, detail::words_of(object)});
  }
  detail::for_each_pair_of_shapes([&](std::int64_t a, std::int64_t b) {
    prompts.push_back(detail::pair(Category::two, {a}, {b}, Relation::none));
  });
  for (std::int64_t number = 1; number <= most_objects; ++number) {
    for (std::int64_t shape = 0; shape < shape_count; ++shape) {
      prompts.push_back({Category::counting,
                         std::vector<Object>(std::size_t(number), Object{shape}),
                         Relation::none,
                         {number_token + number - 1, shape_token + shape}});
    }
  }
  for (std::int64_t colour = 0; colour < colour_count; ++colour) {
    for (std::int64_t shape = 0; shape < shape_count; ++shape) {
      const Object object{shape, colour};
      prompts.push_back({Category::colours, {object}, Relation::none, detail::words_of(object)});
    }
  }
  detail::for_each_pair_of_shapes([&](std::int64_t a, std::int64_t b) {
    for (const Relation relation :
         {Relation::left, Relation::right, Relation::top, Relation::bottom}) {
      prompts.push_back(detail::pair(Category::position, {a}, {b}, relation));
    }
  });
  detail::for_each_pair_of_shapes([&](std::int64_t a, std::int64_t b) {
    for (std::int64_t first = 0; first < colour_count; ++first) {
      for (std::int64_t second = 0; second < colour_count; ++second) {
        if (first == second) continue;
        prompts.push_back(
            detail::pair(Category::attribute, {a, first}, {b, second}, Relation::none));
      }
    }
  });
  return prompts;
}

/// Whether a prompt is kept out of reinforcement learning, for evaluation: 12 of position and 72 of
/// attribute. A base has seen scenes of all prompts.
///
/// Every relation, ordered pair of shapes and ordered pair of colours is also among those that are
/// trained on.
/// @param category of the prompt
/// @param number of the prompt within its category, from 0
inline bool is_kept_out(Category category, std::int64_t number) {
  // Coprime to the lengths of the inner loops, so that no relation or colour is left out whole.
  if (category == Category::position) return (number + number / 4) % 4 == 0;
  if (category == Category::attribute) return (number + number / 30) % 5 == 0;
  return false;
}

/// Tokens of prompts, padded.
/// @return int64 [P, 8]
inline Tensor tokens_of(const std::vector<Prompt>& prompts) {
  Tensor result = at::full({std::int64_t(prompts.size()), tokens}, pad_token, at::kLong);
  auto* next = result.mutable_data_ptr<std::int64_t>();
  for (const Prompt& prompt : prompts) {
    std::copy(prompt.words.begin(), prompt.words.end(), next);
    next += tokens;
  }
  return result;
}

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

/// Whether the first cell lies as the relation says, strictly along its axis.
inline bool holds(Relation relation, std::int64_t first, std::int64_t second) {
  switch (relation) {
    case Relation::none:
      return true;
    case Relation::left:
      return first % side < second % side;
    case Relation::right:
      return first % side > second % side;
    case Relation::top:
      return first / side < second / side;
    case Relation::bottom:
      return first / side > second / side;
  }
  return false;
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

/// Numbers of prompts, to be read one after another.
inline Tensor readable_ids(const Tensor& ids, std::int64_t count) {
  expects_dtype(ids, at::kLong, "ids");
  const Tensor readable = ids.to(at::kCPU).contiguous();
  const auto* id = data_of<const std::int64_t>(readable);
  const auto* wrong = std::find_if(id, id + readable.numel(),
                                   [&](std::int64_t one) { return one < 0 || one >= count; });
  if (wrong == id + readable.numel()) return readable;
  throw Error("ids", "numbers of prompts in [0, " + shown(count) + ")", shown(*wrong));
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

/// A latent as a picture for people: each object in its cell and its colour, on a dark ground.
/// @param latent [8, 4, 4]
/// @param pixels side of a cell, at least 8
/// @return float32 [3, 4 pixels, 4 pixels] in [0, 1]
inline Tensor picture(const Tensor& latent, std::int64_t pixels = 24) {
  expects(pixels >= 8, "pixels", "at least 8", pixels);
  const std::int64_t size = side * pixels;
  Tensor image = at::full({3, size, size}, 0.09F);
  const Tensor values = latent.detach().to(at::kCPU, at::kFloat).contiguous();
  auto* pixel = image.mutable_data_ptr<float>();
  const auto is_inside = [](std::int64_t shape, float x, float y) {
    switch (shape) {
      case 0:
        return x * x + y * y < 1;
      case 1:
        return std::max(std::abs(x), std::abs(y)) < 0.9F;
      case 2:
        return y < 0.85F && y > 2 * std::abs(x) - 0.95F;
      case 3:
        return std::min(std::abs(x), std::abs(y)) < 0.32F &&
               std::max(std::abs(x), std::abs(y)) < 0.95F;
      default:  // not known: a ring
        return x * x + y * y < 1 && x * x + y * y > 0.6F;
    }
  };
  const Sight sight = seen(data_of<const float>(values));
  for (const Seen& object : sight.objects) {
    const std::int64_t row = object.cell / side, column = object.cell % side;
    for (std::int64_t i = 0; i < pixels * pixels; ++i) {
      const auto place = [&](std::int64_t at) {
        return 2.5F * ((float(at) + 0.5F) / float(pixels) - 0.5F);
      };
      if (!is_inside(object.shape, place(i % pixels), place(i / pixels))) continue;
      for (std::int64_t c = 0; c < 3; ++c) {
        const float value = data_of<const float>(values)[(5 + c) * cells + object.cell];
        pixel[(c * size + row * pixels + i / pixels) * size + column * pixels + i % pixels] =
            std::clamp(0.5F + 0.45F * value, 0.0F, 1.0F);
      }
    }
  }
  return image;
}

}  // namespace scenes

}  // namespace contraflow::toy
