#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/toy/scenes.hpp>

#include "laws/errors.hpp"

namespace cf = contraflow;
namespace scenes = contraflow::toy::scenes;
using scenes::Category;
using scenes::Relation;

namespace {

/// Number of the prompt with a text.
std::int64_t number_of(const std::vector<scenes::Prompt>& prompts, const std::string& text) {
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].text() == text) return std::int64_t(i);
  }
  FAIL("no prompt " << text);
  return -1;
}

cf::Tensor empty_latent() {
  cf::Tensor latent = at::zeros({8, 4, 4});
  latent[0].fill_(-1);
  return latent;
}

void put(cf::Tensor& latent, std::int64_t cell, std::int64_t shape, std::int64_t colour) {
  scenes::detail::put(latent.mutable_data_ptr<float>(), cell, shape, colour);
}

scenes::Judgement judged(const scenes::Prompt& prompt, const cf::Tensor& latent) {
  return scenes::judged(prompt, scenes::seen(cf::data_of<const float>(latent)));
}

/// Numbers of the prompts of a category, and of those among them that are kept out.
std::pair<int, int> counted(const std::vector<scenes::Prompt>& prompts, Category category) {
  int number = 0, kept_out = 0;
  for (const scenes::Prompt& prompt : prompts) {
    if (prompt.category == category) kept_out += scenes::is_kept_out(category, number++);
  }
  return {number, kept_out};
}

}  // namespace

TEST_CASE("Every category has its prompts, all of them different") {
  const auto prompts = scenes::all_prompts();
  CHECK(counted(prompts, Category::single) == std::pair(4, 0));
  CHECK(counted(prompts, Category::two) == std::pair(12, 0));
  CHECK(counted(prompts, Category::counting) == std::pair(16, 0));
  CHECK(counted(prompts, Category::colours) == std::pair(24, 0));
  CHECK(counted(prompts, Category::position) == std::pair(48, 12));
  CHECK(counted(prompts, Category::attribute) == std::pair(360, 72));
  std::set<std::string> texts;
  for (const scenes::Prompt& prompt : prompts) texts.insert(prompt.text());
  CHECK(texts.size() == prompts.size());
  CHECK(texts.contains("a circle left and a cross right"));
  CHECK(texts.contains("a red square and a cyan triangle"));
  CHECK(texts.contains("three cross"));
  const cf::Tensor tokens = scenes::tokens_of(prompts);
  CHECK(tokens.sizes() == at::IntArrayRef({464, 8}));
  CHECK((tokens != scenes::pad_token).sum(1).max().item<int>() == 7);
}

TEST_CASE("Whatever is kept out is made of parts that are trained on") {
  std::map<Category, int> number;
  std::set<std::pair<int, int>> shapes_of_relation, colours_of_shape;
  for (const scenes::Prompt& prompt : scenes::all_prompts()) {
    if (scenes::is_kept_out(prompt.category, number[prompt.category]++)) continue;
    if (prompt.category == Category::position) {
      for (const auto& object : prompt.objects) {
        shapes_of_relation.emplace(int(prompt.relation), int(object.shape));
      }
    }
    if (prompt.category == Category::attribute) {
      for (const auto& object : prompt.objects) {
        colours_of_shape.emplace(int(object.colour), int(object.shape));
      }
    }
  }
  CHECK(shapes_of_relation.size() == 4 * 4);
  CHECK(colours_of_shape.size() == 6 * 4);
}

TEST_CASE("True scenes are right, also under noise of 0.1") {
  const auto prompts = scenes::all_prompts();
  const cf::Tensor ids = at::arange(464).repeat(20);
  cf::Generator generator = cf::seeded(3);
  const cf::Tensor latents = scenes::draw(prompts, ids, generator);
  const cf::Tensor noise = cf::normal(latents.sizes(), generator);
  for (const double level : {0.0, 0.1}) {
    const auto result = scenes::judge(prompts, ids, latents + level * noise);
    CHECK(result.strict.mean().item<double>() == 1);
    CHECK(result.partial.mean().item<double>() == 1);
  }
  const auto noisy = scenes::judge(prompts, ids, latents + 0.5 * noise);
  CHECK(noisy.strict.mean().item<double>() < 0.2);
}

TEST_CASE("There are scenes and judgements of prompts that exist") {
  const auto prompts = scenes::all_prompts();
  cf::Generator generator = cf::seeded(3);
  for (const std::int64_t bad : {std::int64_t{-1}, std::int64_t(prompts.size())}) {
    const cf::Tensor ids = at::tensor({std::int64_t{0}, bad});
    laws::check_error([&] { scenes::draw(prompts, ids, generator); }, "ids", std::to_string(bad));
    laws::check_error(
        [&] {
          scenes::judge(prompts, ids, at::zeros({2, 8, 4, 4}));
        },
        "ids", "[0, 464)");
  }
}

TEST_CASE("Scenes are spread over cells and colours, and equal for equal seeds") {
  const auto prompts = scenes::all_prompts();
  const cf::Tensor ids = at::full({16000}, number_of(prompts, "a circle"), at::kLong);
  cf::Generator generator = cf::seeded(1), again = cf::seeded(1), other = cf::seeded(2);
  const cf::Tensor latents = scenes::draw(prompts, ids, generator);
  CHECK(latents.equal(scenes::draw(prompts, ids, again)));
  CHECK(!latents.equal(scenes::draw(prompts, ids, other)));
  const cf::Tensor share = (latents.select(1, 0) > 0).to(at::kFloat).mean(0);
  CHECK((share - 1.0 / 16).abs().max().item<double>() < 0.01);
  const cf::Tensor red = latents.select(1, 5).sum({1, 2});
  CHECK(std::abs(red.mean().item<double>()) < 0.05);  // half of the palette has red
}

TEST_CASE("A scene is wrong for what it does not show") {
  const auto prompts = scenes::all_prompts();
  const auto prompt = [&](const char* text) {
    return prompts[std::size_t(number_of(prompts, text))];
  };
  cf::Tensor scene = empty_latent();
  put(scene, 4, 0, 0);  // a red circle in the second row, at the left
  put(scene, 7, 1, 2);  // a blue square in it, at the right
  CHECK(judged(prompt("a circle and a square"), scene).strict == 1);
  CHECK(judged(prompt("a square and a circle"), scene).strict == 1);
  CHECK(judged(prompt("a circle left and a square right"), scene).strict == 1);
  CHECK(judged(prompt("a red circle and a blue square"), scene).strict == 1);

  const auto reversed = judged(prompt("a circle right and a square left"), scene);
  CHECK(reversed.strict == 0);
  CHECK(reversed.partial == 2.0 / 3);
  // In one row nothing is above anything.
  CHECK(judged(prompt("a circle top and a square bottom"), scene).strict == 0);
  const auto swapped = judged(prompt("a blue circle and a red square"), scene);
  CHECK(swapped.strict == 0);
  CHECK(swapped.partial == 2.0 / 3);
  const auto one_too_many = judged(prompt("a circle"), scene);
  CHECK(one_too_many.strict == 0);
  CHECK(one_too_many.partial == 0.5);
  const auto half = judged(prompt("two circle"), scene);
  CHECK(half.strict == 0);
  CHECK(half.partial == 0.75);
}

TEST_CASE("The detector's limits") {
  const auto prompts = scenes::all_prompts();
  const auto& circle = prompts[std::size_t(number_of(prompts, "a circle"))];
  const auto& red_circle = prompts[std::size_t(number_of(prompts, "a red circle"))];
  cf::Tensor scene = empty_latent();
  put(scene, 5, 0, 0);

  SECTION("an occupancy near 0 is ambiguous and halves the partial score") {
    scene[0][3][3] = -0.49;
    CHECK(judged(circle, scene).strict == 0);
    CHECK(judged(circle, scene).partial == 0.5);
    scene[0][3][3] = -0.51;
    CHECK(judged(circle, scene).strict == 1);
  }
  SECTION("a shape has to lead by more than 0.6") {
    scene[2][1][1] = 0.41;  // the circle's channel holds 1
    CHECK(judged(circle, scene).strict == 0);
    scene[2][1][1] = 0.39;
    CHECK(judged(circle, scene).strict == 1);
  }
  SECTION("a colour has to be nearer than 0.9") {
    scene[6][1][1] = -0.11;  // red's channels hold 1, -1, -1
    CHECK(judged(red_circle, scene).strict == 1);
    scene[6][1][1] = -0.09;
    CHECK(judged(red_circle, scene).strict == 0);
    CHECK(judged(circle, scene).strict == 1);
  }
  SECTION("what is not a number is not an object") {
    scene.fill_(std::numeric_limits<float>::quiet_NaN());
    CHECK(judged(circle, scene).strict == 0);
    CHECK(judged(circle, scene).partial == 0);
  }
}

TEST_CASE("Judging refuses latents of another shape") {
  const auto prompts = scenes::all_prompts();
  CHECK_THROWS_AS(scenes::judge(prompts, at::zeros({2}, at::kLong), at::zeros({3, 8, 4, 4})),
                  cf::Error);
}

TEST_CASE("A picture shows objects in their cells and colours") {
  cf::Tensor scene = empty_latent();
  put(scene, 6, 1, 2);  // a blue square
  const cf::Tensor image = scenes::picture(scene, 10);
  CHECK(image.sizes() == at::IntArrayRef({3, 40, 40}));
  const cf::Tensor middle = image.select(1, 15).select(1, 25);
  CHECK(middle[2].item<float>() > 0.9F);
  CHECK(middle[0].item<float>() < 0.1F);
  CHECK(image.select(1, 5).select(1, 5).max().item<float>() < 0.1F);
}
