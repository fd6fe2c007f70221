// Scenes as a task: lists of prompts, captions, rewards, diversity.

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <contraflow/reward/combination.hpp>
#include <contraflow/toy/scene_captions.hpp>
#include <contraflow/toy/scene_rewards.hpp>

#include "laws/errors.hpp"
#include "laws/prompt_source.hpp"
#include "laws/reward.hpp"

namespace cf = contraflow;
namespace scenes = contraflow::toy::scenes;
using namespace cf::literals;
using Catch::Matchers::WithinAbs;
using cf::Tensor;
using laws::check_error;
using scenes::Category;

namespace {

// How often each prompt is in a list, by category and by number within it.
using Counts = std::map<Category, std::map<std::int64_t, int>>;

Counts counted(const Tensor& list) {
  // The place of each prompt within its category, counted from the list of all.
  std::vector<std::int64_t> place;
  std::map<Category, std::int64_t> next;
  for (const auto& prompt : scenes::all_prompts()) place.push_back(next[prompt.category]++);
  Counts counts;
  for (const Tensor& id : list.unbind()) {
    const auto number = std::size_t(id.item<std::int64_t>());
    ++counts[scenes::catalogue().prompts().at(number).category][place.at(number)];
  }
  return counts;
}

int total(const std::map<std::int64_t, int>& counts) {
  int sum = 0;
  for (const auto& [number, times] : counts) sum += times;
  return sum;
}

// Least and most often that a prompt is in a list.
std::pair<int, int> extremes(const std::map<std::int64_t, int>& counts) {
  const auto [least, most] = std::minmax_element(
      counts.begin(), counts.end(), [](auto& a, auto& b) { return a.second < b.second; });
  return {least->second, most->second};
}

// The kind of a word, from its text alone.
std::string kind(std::int64_t token) {
  const std::map<std::string, std::set<std::string>> kinds{
      {"shape", {"circle", "square", "triangle", "cross"}},
      {"colour", {"red", "green", "blue", "yellow", "magenta", "cyan"}},
      {"number", {"one", "two", "three", "four"}},
      {"relation", {"left", "right", "top", "bottom"}}};
  const std::string word = scenes::vocabulary.at(std::size_t(token));
  for (const auto& [name, words] : kinds) {
    if (words.contains(word)) return name;
  }
  return word;
}

// All prompts, @p times times.
Tensor captions(std::int64_t times) { return scenes::catalogue().all_tokens().repeat({times, 1}); }

Tensor is_content(const Tensor& tokens) { return tokens >= scenes::shape_token; }

Tensor spoilt(const Tensor& tokens, const scenes::Spoiling& spoiling, std::uint64_t seed = 1) {
  cf::Generator generator = cf::seeded(seed);
  return scenes::spoilt(tokens, spoiling, generator);
}

Tensor is_null(const Tensor& tokens) { return (tokens == scenes::null_prompt()).all(1); }

double fraction(const Tensor& x) { return x.to(at::kDouble).mean().item<double>(); }

struct Placed {
  std::int64_t cell, shape, colour;
};

// A scene made by hand, [1, 8, 4, 4].
Tensor scene(const std::vector<Placed>& objects) {
  Tensor latent = at::zeros({1, 8, 4, 4});
  latent.select(1, 0).fill_(-1);
  for (const Placed& object : objects) {
    scenes::detail::put(latent.mutable_data_ptr<float>(), object.cell, object.shape, object.colour);
  }
  return latent;
}

// The numbers of prompts from their tokens, by comparison with each.
Tensor numbers_of(const Tensor& captions) {
  const Tensor same = (captions.unsqueeze(1) == scenes::catalogue().all_tokens()).all(2);
  CHECK(same.sum(1).eq(1).all().item<bool>());
  return same.to(at::kLong).argmax(1);
}

// Scenes right and wrong, and their captions.
scenes::Captioned noisy_scenes() {
  cf::Generator generator = cf::seeded(5);
  scenes::Captioned set =
      scenes::draw_captioned({scenes::categories.begin(), scenes::categories.end()}, 40, generator);
  set.latents = set.latents + 0.25 * cf::normal(set.latents.sizes(), generator);
  return set;
}

}  // namespace

TEST_CASE("the catalogue holds every prompt once, with its tokens") {
  const auto& all = scenes::catalogue();
  CHECK(all.size() == 464);
  CHECK(at::equal(all.all_tokens(), scenes::tokens_of(scenes::all_prompts())));
  CHECK(std::get<0>(at::unique_dim(all.all_tokens(), 0)).size(0) == 464);
  std::set<std::int64_t> seen;
  for (const Category category : scenes::categories) {
    for (const std::int64_t number : all.of(category)) {
      CHECK(all.prompts()[std::size_t(number)].category == category);
      seen.insert(number);
    }
  }
  CHECK(seen.size() == 464);
}

TEST_CASE("prompts give tokens to models and numbers to rewards") {
  const Tensor numbers = at::tensor({7, 463, 0, 7}, at::kLong);
  const auto prompts = scenes::prompts_of(numbers);
  static_assert(cf::HasPromptReference<decltype(prompts)>);
  CHECK(prompts.size() == 4);
  const Tensor ids = at::tensor({3, 1, 1}, at::kLong);
  CHECK(laws::same_bits(prompts.reference(ids), at::tensor({7, 463, 463}, at::kLong)));
  CHECK(laws::same_bits(prompts.condition(ids), scenes::catalogue().all_tokens().index_select(
                                                    0, at::tensor({7, 463, 463}, at::kLong))));
  laws::prompt_source(prompts);
  laws::prompt_source(scenes::prompts_of(scenes::training_prompts()));
  check_error([] { scenes::prompts_of(at::tensor({0, 464}, at::kLong)); }, "ids", "got 464");
  check_error([] { scenes::prompts_of(at::empty({0}, at::kLong)); }, "rows", "at least one");
}

TEST_CASE("training prompts are those that are not kept out, categories in equal number") {
  const Tensor list = scenes::training_prompts();
  CHECK(list.sizes() == at::IntArrayRef({6 * 288}));
  const Counts counts = counted(list);
  CHECK(counts.size() == 6);
  for (const auto& [category, of_prompt] : counts) {
    INFO(scenes::name_of(category));
    CHECK(total(of_prompt) == 288);
    const auto [least, most] = extremes(of_prompt);
    CHECK(most - least <= 1);
    for (const auto& [number, times] : of_prompt)
      CHECK_FALSE(scenes::is_kept_out(category, number));
  }
  // All that is not kept out: 4, 12, 16, 24, 48 - 12 and 360 - 72.
  CHECK(counts.at(Category::single).size() == 4);
  CHECK(counts.at(Category::two).size() == 12);
  CHECK(counts.at(Category::counting).size() == 16);
  CHECK(counts.at(Category::colours).size() == 24);
  CHECK(counts.at(Category::position).size() == 36);
  CHECK(counts.at(Category::attribute).size() == 288);
}

TEST_CASE("prompts of evaluation are those kept out where there are any") {
  for (const std::int64_t per_category : {1, 72, 100}) {
    const Counts counts = counted(scenes::evaluation_prompts(per_category));
    CHECK(counts.size() == 6);
    for (const auto& [category, of_prompt] : counts) {
      INFO(scenes::name_of(category));
      CHECK(total(of_prompt) == per_category);
      const auto [least, most] = extremes(of_prompt);
      CHECK(most - least <= 1);
      const bool kept_out = category == Category::position || category == Category::attribute;
      for (const auto& [number, times] : of_prompt) {
        CHECK(scenes::is_kept_out(category, number) == kept_out);
      }
    }
  }
  const Counts counts = counted(scenes::evaluation_prompts());
  CHECK(counts.at(Category::position).size() == 12);
  CHECK(counts.at(Category::attribute).size() == 72);
  CHECK(counts.at(Category::colours).size() == 24);
  check_error([] { scenes::evaluation_prompts(0); }, "per_category", "at least 1, got 0");
}

TEST_CASE("captioned scenes are right, of the categories asked for, and a seed's") {
  const std::vector<Category> list{Category::position, Category::counting};
  const auto drawn = [&](std::uint64_t seed) {
    cf::Generator generator = cf::seeded(seed);
    return scenes::draw_captioned(list, 500, generator);
  };
  const scenes::Captioned set = drawn(1);
  CHECK(set.latents.sizes() == at::IntArrayRef({1000, 8, 4, 4}));
  CHECK(set.captions.sizes() == at::IntArrayRef({1000, 8}));
  CHECK(scenes::Strict{}(set.latents, set.numbers).min().item<double>() == 1);
  CHECK(at::equal(scenes::catalogue().all_tokens().index_select(0, set.numbers), set.captions));
  const Counts counts = counted(set.numbers);
  CHECK(counts.size() == 2);
  for (const auto& [category, prompts] :
       std::map{std::pair{Category::position, 48}, std::pair{Category::counting, 16}}) {
    CHECK(total(counts.at(category)) == 500);
    CHECK(counts.at(category).size() == std::size_t(prompts));
    // Evenly drawn: five standard deviations of a binomial.
    const double expected = 500.0 / prompts, most = expected + 5 * std::sqrt(expected);
    CHECK(extremes(counts.at(category)).second < most);
  }
  CHECK(laws::same_bits(drawn(1).latents, set.latents));
  CHECK(laws::same_bits(drawn(1).captions, set.captions));
  CHECK_FALSE(at::equal(drawn(2).captions, set.captions));
}

TEST_CASE("the null prompt is one word and its padding") {
  const Tensor row = scenes::null_prompt();
  CHECK(row.sizes() == at::IntArrayRef({1, 8}));
  CHECK(scenes::vocabulary.at(std::size_t(row[0][0].item<std::int64_t>())) == std::string("null"));
  CHECK(row.narrow(1, 1, 7).eq(scenes::pad_token).all().item<bool>());
}

TEST_CASE("captions of probability 0 are not spoilt, and given ones never written to") {
  const Tensor given = captions(3), before = given.clone();
  CHECK(at::equal(spoilt(given, {.word = 0, .prompt = 0}), given));
  spoilt(given, {.word = 1, .prompt = 0.5});
  CHECK(at::equal(given, before));
}

TEST_CASE("captions are spoilt alike in any layout") {
  const Tensor given = captions(1), transposed = given.t().contiguous().t();
  const scenes::Spoiling spoiling{.word = 0.5, .prompt = 0.1};
  CHECK(at::equal(spoilt(transposed, spoiling), spoilt(given, spoiling)));
}

TEST_CASE("spoilt words keep their kind and place, and every word of it is as likely") {
  const Tensor given = captions(20);
  const Tensor result = spoilt(given, {.word = 1, .prompt = 0});
  const auto* from = cf::data_of<const std::int64_t>(given);
  const auto* to = cf::data_of<const std::int64_t>(result);
  std::map<std::string, std::map<std::int64_t, int>> words;
  bool same_kind = true;
  for (std::int64_t i = 0; i < given.numel(); ++i) {
    same_kind = same_kind && kind(from[i]) == kind(to[i]);
    ++words[kind(from[i])][to[i]];
  }
  CHECK(same_kind);
  for (const auto& [name, size] :
       std::map<std::string, int>{{"shape", 4}, {"colour", 6}, {"number", 4}, {"relation", 4}}) {
    INFO(name);
    const auto& of_kind = words.at(name);
    CHECK(of_kind.size() == std::size_t(size));
    int sum = 0;
    for (const auto& [word, times] : of_kind) sum += times;
    for (const auto& [word, times] : of_kind) {
      const double expected = double(sum) / size;
      CHECK(std::abs(times - expected) < 5 * std::sqrt(expected));
    }
  }
}

TEST_CASE("at probability 1 nothing is asked for any more") {
  CHECK(is_null(spoilt(captions(1), {.word = 0, .prompt = 1})).all().item<bool>());
  CHECK(is_null(spoilt(captions(1), {.word = 1, .prompt = 1})).all().item<bool>());
}

TEST_CASE("captions are spoilt as often as they should be") {
  const Tensor given = captions(40), content = is_content(given);
  const scenes::Spoiling spoiling{.word = 0.3, .prompt = 0.2};
  const Tensor result = spoilt(given, spoiling), null = is_null(result);
  // 18,560 captions: five standard deviations are 0.015.
  CHECK_THAT(fraction(null), WithinAbs(0.2, 0.015));
  const Tensor kept = null.logical_not();
  const Tensor changed = (result != given).logical_and(kept.unsqueeze(1));
  CHECK_FALSE(changed.logical_and(content.logical_not()).any().item<bool>());
  // A random word of a kind is the same by chance: of four words a quarter, of six a sixth.
  const Tensor colour = (given >= scenes::colour_token).logical_and(given < scenes::number_token);
  for (const auto& [which, size] :
       {std::pair{colour, 6.0}, {content.logical_and(colour.logical_not()), 4.0}}) {
    const Tensor open = which.logical_and(kept.unsqueeze(1));
    CHECK_THAT(fraction(changed.masked_select(open)), WithinAbs(0.3 * (1 - 1 / size), 0.015));
  }
  CHECK(at::equal(spoilt(given, spoiling), result));
  CHECK_FALSE(at::equal(spoilt(given, spoiling, 2), result));
}

TEST_CASE("the noise of a caption does not depend on how others are spoilt") {
  // Seventeen numbers a caption, whatever happens to it.
  const Tensor given = captions(1);
  cf::Generator one = cf::seeded(1), two = cf::seeded(1), three = cf::seeded(1);
  scenes::spoilt(given, {.word = 0, .prompt = 0}, one);
  scenes::spoilt(given, {.word = 1, .prompt = 0.5}, two);
  cf::uniform({464, 17}, three);
  const Tensor next = cf::uniform({4}, one);
  CHECK(laws::same_bits(cf::uniform({4}, two), next));
  CHECK(laws::same_bits(cf::uniform({4}, three), next));
}

TEST_CASE("batches for pre-training are scenes of the set under their captions") {
  cf::Generator generator = cf::seeded(3);
  const scenes::Captioned set = scenes::draw_captioned({Category::colours}, 50, generator);
  const scenes::CaptionedData data{set, {.word = 0, .prompt = 0}};
  const auto batch = data(200, generator);
  CHECK(batch.x0.sizes() == at::IntArrayRef({200, 8, 4, 4}));
  CHECK(scenes::Strict{}(batch.x0, numbers_of(batch.condition)).min().item<double>() == 1);
  // By default a tenth asks for nothing, and all others for what is there.
  const auto spoilt_batch = scenes::CaptionedData{set}(2000, generator);
  const Tensor null = is_null(spoilt_batch.condition);
  CHECK_THAT(fraction(null), WithinAbs(0.1, 0.035));
  const Tensor rest = null.logical_not().nonzero().flatten();
  const Tensor scores = scenes::Strict{}(spoilt_batch.x0.index_select(0, rest),
                                         numbers_of(spoilt_batch.condition.index_select(0, rest)));
  CHECK(scores.min().item<double>() == 1);
}

TEST_CASE("the rewards of scenes are the detector's judgements") {
  const scenes::Captioned set = noisy_scenes();
  const auto judged = scenes::judge(scenes::all_prompts(), set.numbers, set.latents);
  const Tensor strict = scenes::Strict{}(set.latents, set.numbers);
  const Tensor partial = scenes::Partial{}(set.latents, set.numbers);
  CHECK(laws::same_bits(strict, judged.strict));
  CHECK(laws::same_bits(partial, judged.partial));
  // Otherwise this says nothing.
  CHECK(strict.min().item<double>() == 0);
  CHECK(strict.max().item<double>() == 1);
  CHECK_FALSE(at::equal(strict, partial));
}

TEST_CASE("a bag of the rewards of scenes is told the numbers of prompts") {
  const scenes::Captioned set = noisy_scenes();
  const auto prompts = scenes::prompts_of(set.numbers);
  const Tensor ids = laws::shuffled(prompts.size()), x0 = set.latents.index_select(0, ids);
  const auto bag = cf::rewards("strict"_r = scenes::Strict{}, "inside"_r = scenes::OffBorder{});
  const cf::ScoreSheet sheet = bag.score(x0, cf::reference_of(prompts, ids));
  CHECK(sheet.failures.empty());
  const Tensor strict = scenes::Strict{}(set.latents, set.numbers);
  CHECK(laws::same_bits(sheet.scores[0], strict.index_select(0, ids)));
  CHECK(laws::same_bits(sheet.scores[1], scenes::OffBorder{}(x0)));
}

TEST_CASE("the rewards of scenes say what they are to be told instead of tokens") {
  const scenes::Captioned set = noisy_scenes();
  for (const Tensor& wrong : {set.captions, set.numbers.narrow(0, 1, 7), Tensor()}) {
    check_error([&] { scenes::Strict{}(set.latents, wrong); }, "reference", "prompts_of()");
    check_error([&] { scenes::Partial{}(set.latents, wrong); }, "reference", "prompts_of()");
  }
  check_error([&] { scenes::Strict{}(set.latents, set.numbers + 464); }, "ids", "in [0, 464)");
  check_error([&] { scenes::Strict{}(set.latents, set.numbers.to(at::kInt)); }, "ids", "Int");
}

TEST_CASE("the rewards of scenes keep the laws of rewards") {
  const scenes::Captioned set = noisy_scenes();
  laws::reward(scenes::Strict{}, set.latents, set.numbers);
  laws::reward(scenes::Partial{}, set.latents, set.numbers);
  laws::reward(scenes::OffBorder{}, set.latents);
  laws::reward(scenes::ColourBrightness{}, set.latents);
}

TEST_CASE("off the border lie the four cells in the middle") {
  const auto score = [](const std::vector<Placed>& objects) {
    return scenes::OffBorder{}(scene(objects)).item<double>();
  };
  for (std::int64_t cell = 0; cell < 16; ++cell) {
    const bool is_inside = cell == 5 || cell == 6 || cell == 9 || cell == 10;
    INFO(cell);
    CHECK(score({{cell, 0, 0}}) == (is_inside ? 1 : 0));
  }
  CHECK(score({}) == 0);
  CHECK(score({{5, 0, 0}, {0, 1, 1}}) == 0.5);
  CHECK(score({{5, 0, 0}, {0, 1, 1}, {15, 2, 2}, {12, 3, 3}}) == 0.25);
  CHECK(score({{5, 0, 0}, {6, 1, 1}, {9, 2, 2}, {12, 3, 3}}) == 0.75);
}

TEST_CASE("brightness is the mean of the objects' channels") {
  const auto score = [](const Tensor& latent) {
    return scenes::ColourBrightness{}(latent).item<double>();
  };
  CHECK(score(scene({})) == 0);
  // Red, green and blue have one channel of three, yellow, magenta and cyan two.
  for (std::int64_t colour = 0; colour < 6; ++colour) {
    CHECK_THAT(score(scene({{3, 1, colour}})), WithinAbs(colour < 3 ? 1.0 / 3 : 2.0 / 3, 1e-7));
  }
  CHECK_THAT(score(scene({{3, 1, 0}, {4, 2, 5}})), WithinAbs(0.5, 1e-7));
  // Beyond black and white there is nothing, and empty cells have no colour.
  Tensor latent = scene({{0, 1, 0}});
  for (const auto& [value, expected] :
       {std::pair{1.0, 1.0}, {7.0, 1.0}, {-1.0, 0.0}, {-7.0, 0.0}, {0.0, 0.5}}) {
    latent.narrow(1, 5, 3).fill_(5);
    latent.narrow(1, 5, 3).select(2, 0).select(2, 0).fill_(value);
    CHECK_THAT(score(latent), WithinAbs(expected, 1e-7));
  }
}

TEST_CASE("scores of scenes that are not numbers are numbers") {
  const Tensor latent = at::full({2, 8, 4, 4}, std::numeric_limits<float>::quiet_NaN());
  CHECK(scenes::OffBorder{}(latent).eq(0).all().item<bool>());
  CHECK(scenes::ColourBrightness{}(latent).eq(0).all().item<bool>());
}

TEST_CASE("the rewards of scenes refuse latents of another shape") {
  const Tensor rows = at::arange(2, at::kLong);
  for (const Tensor& latents :
       {at::zeros({2, 8, 4}), at::zeros({2, 7, 4, 4}), at::zeros({2, 8, 4, 5})}) {
    CHECK_THROWS_AS(scenes::Strict{}(latents, rows), cf::Error);
    CHECK_THROWS_AS(scenes::Partial{}(latents, rows), cf::Error);
    CHECK_THROWS_AS(scenes::OffBorder{}(latents), cf::Error);
    CHECK_THROWS_AS(scenes::ColourBrightness{}(latents), cf::Error);
    CHECK_THROWS_AS(scenes::distinct_share(latents, at::zeros({2}, at::kLong)), cf::Error);
  }
  CHECK_THROWS_AS(scenes::Strict{}(at::zeros({3, 8, 4, 4}), rows), cf::Error);
  CHECK_THROWS_AS(scenes::distinct_share(at::zeros({2, 8, 4, 4}), at::zeros({3}, at::kLong)),
                  cf::Error);
}

TEST_CASE("scenes that the detector sees alike are one") {
  const Tensor one = scene({{5, 0, 0}, {7, 1, 2}}), moved = scene({{5, 0, 0}, {6, 1, 2}}),
               recoloured = scene({{5, 0, 0}, {7, 1, 3}}), reshaped = scene({{5, 0, 0}, {7, 2, 2}}),
               fewer = scene({{5, 0, 0}});
  const auto share = [](const std::vector<Tensor>& list, const std::vector<std::int64_t>& group) {
    return scenes::distinct_share(at::cat(list), at::tensor(group, at::kLong));
  };
  CHECK(share({one}, {7}) == 1);
  CHECK(share({one, one + 0.05, one}, {0, 0, 0}) == 1.0 / 3);
  CHECK(share({one, moved, recoloured, reshaped, fewer}, {3, 3, 3, 3, 3}) == 1);
  CHECK(share({one, moved, one, moved}, {0, 0, 0, 0}) == 0.5);
  // Groups count alike, whatever their size and order: (1/2 + 1 + 2/5) / 3.
  CHECK_THAT(share({one, moved, one, fewer, one, moved, one, one}, {9, 2, 9, 4, 2, 2, 2, 2}),
             WithinAbs((0.5 + 1 + 2.0 / 5) / 3, 1e-15));
  CHECK(share({scene({}), scene({})}, {0, 0}) == 0.5);
}
