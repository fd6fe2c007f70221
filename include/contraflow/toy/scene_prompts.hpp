#pragma once

/// @file
/// Prompts of scenes: what may be asked for, and in which words.

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/tensor.hpp>

namespace contraflow::toy::scenes {

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

}  // namespace contraflow::toy::scenes
