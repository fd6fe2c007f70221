// Words: the list, its tokens, letters of a file, images of words, captions that are spoilt, and
// the reader that knows the letters.

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/toy/word_captions.hpp>
#include <contraflow/toy/word_template.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
namespace words = contraflow::toy::words;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

const words::Glyphs& glyphs() {
  static const words::Glyphs all = words::read_glyphs(CONTRAFLOW_WORDS_GLYPHS);
  return all;
}

Tensor tokens(const std::vector<std::string>& texts) { return words::tokens_of(texts); }

Tensor whole(std::int64_t value) { return at::full({1}, value, at::kLong); }

Tensor drawn_at(const std::string& text, std::int64_t font, std::int64_t left, std::int64_t top) {
  return words::drawn(glyphs(), tokens({text}), {whole(font), whole(left), whole(top)});
}

std::set<std::string> set_of(const Tensor& numbers) {
  const auto texts = words::texts_of(numbers);
  return {texts.begin(), texts.end()};
}

}  // namespace

TEST_CASE("the list has 499 different words of three to five capitals, an eighth kept out") {
  const auto& all = words::all();
  CHECK(all.size() == 499);
  CHECK(std::set<std::string>(all.begin(), all.end()).size() == 499);
  std::map<std::size_t, int> lengths;
  for (const std::string& word : all) ++lengths[word.size()];
  CHECK(lengths == std::map<std::size_t, int>{{3, 143}, {4, 163}, {5, 193}});
  const auto known = set_of(words::training_words()), kept_out = set_of(words::kept_out_words());
  CHECK(known.size() == 437);
  CHECK(kept_out.size() == 62);
  for (const std::string& word : kept_out) CHECK_FALSE(known.contains(word));
}

TEST_CASE("tokens are letters in their order, and say which word they are of") {
  const Tensor two = tokens({"CAB", "ZEBRA"});
  CHECK(at::equal(two, at::tensor({3, 1, 2, 0, 0, 26, 5, 2, 18, 1}, at::kLong).view({2, 5})));
  CHECK(words::text_of(two[0]) == "CAB");
  CHECK(words::text_of(words::null_prompt()[0]).empty());
  for (const std::string& word : words::all()) CHECK(words::text_of(tokens({word})[0]) == word);
  check_error([] { tokens({"AB", "BANANA"}); }, "texts", "five capital letters, got BANANA");
  check_error([] { tokens({"cat"}); }, "texts", "got cat");
  check_error([] { words::texts_of(whole(499)); }, "numbers", "in [0, 499), got 499");
}

TEST_CASE("a word is drawn letter by letter where its layout says") {
  const Tensor image = drawn_at("AB", 1, 7, 2);
  CHECK(image.sizes() == at::IntArrayRef({1, 1, 16, 48}));
  const Tensor cells = image[0][0].narrow(0, 2, 12);
  CHECK(at::equal(cells.narrow(1, 7, 9), 1 - 2 * glyphs().ink[1][0]));
  CHECK(at::equal(cells.narrow(1, 16, 9), 1 - 2 * glyphs().ink[1][1]));
  CHECK(image.min().item<double>() == -1);
  // All ink lies in the two cells.
  const double ink = (1 - image).sum().item<double>();
  CHECK(std::abs(ink - 2 * glyphs().ink[1].narrow(0, 0, 2).sum().item<double>()) < 1e-3);
}

TEST_CASE("layouts are drawn from all that fits, or from the middle") {
  cf::Generator generator = cf::seeded(1);
  const Tensor many = tokens({"CAT"}).repeat({2000, 1});
  const auto layout = words::random_layout(many, {}, generator);
  const auto range = [](const Tensor& x) {
    return std::pair(x.min().item<std::int64_t>(), x.max().item<std::int64_t>());
  };
  CHECK(range(layout.font) == std::pair<std::int64_t, std::int64_t>(0, 3));
  CHECK(range(layout.left) == std::pair<std::int64_t, std::int64_t>(0, 48 - 27));
  CHECK(range(layout.top) == std::pair<std::int64_t, std::int64_t>(1, 3));
  CHECK(std::abs(layout.left.to(at::kDouble).mean().item<double>() - 10.5) < 0.5);
  const auto middle =
      words::random_layout(tokens({"CAT", "APPLE"}), {.fonts = 1, .anywhere = false}, generator);
  CHECK(at::equal(middle.font, at::tensor({0, 0}, at::kLong)));
  CHECK(at::equal(middle.left, at::tensor({11, 2}, at::kLong)));
  CHECK(at::equal(middle.top, at::tensor({2, 2}, at::kLong)));
}

TEST_CASE("the pre-training set has no word that is kept out") {
  cf::Generator generator = cf::seeded(2);
  const Tensor set = words::pretraining_texts(20000, generator);
  CHECK(set.sizes() == at::IntArrayRef({40000, 5}));
  const auto kept_out = set_of(words::kept_out_words()), known = set_of(words::training_words());
  std::map<std::size_t, int> lengths;
  int known_among_random = 0;
  for (std::int64_t i = 0; i < set.size(0); ++i) {
    const std::string text = words::text_of(set[i]);
    if (kept_out.contains(text)) FAIL_CHECK(text);
    const bool is_known = known.contains(text);
    if (i < 20000) CHECK(is_known);
    if (i >= 20000) ++lengths[text.size()], known_among_random += is_known;
  }
  for (const std::size_t length : {3, 4, 5}) CHECK(std::abs(lengths[length] - 20000 / 3) < 400);
  CHECK(known_among_random < 200);
}

TEST_CASE("spoilt captions keep their length, and letters at the asked rate") {
  cf::Generator generator = cf::seeded(3);
  const Tensor captions = tokens({"CAT"}).repeat({8000, 1});
  const auto spoilt = [&](double letter, double prompt) {
    return words::spoilt(captions, {.letter = letter, .prompt = prompt}, generator);
  };
  CHECK(at::equal(spoilt(0, 0), captions));
  CHECK(at::equal(spoilt(1, 1), words::null_prompt().expand_as(captions)));
  const Tensor half = spoilt(0.5, 0);
  CHECK(half.narrow(1, 3, 2).eq(words::pad_token).all().item<bool>());
  const Tensor letters = half.narrow(1, 0, 3);
  CHECK(letters.min().item<std::int64_t>() == 1);
  CHECK(letters.max().item<std::int64_t>() == 26);
  const double kept = letters.eq(captions.narrow(1, 0, 3)).to(at::kDouble).mean().item<double>();
  CHECK(std::abs(kept - (0.5 + 0.5 / 26)) < 0.01);
  const double nothing = spoilt(0, 0.1).eq(words::null_token).to(at::kDouble).mean().item<double>();
  CHECK(std::abs(nothing - 0.1) < 0.015);
}

TEST_CASE("batches are images that say their clean captions") {
  cf::Generator generator = cf::seeded(4);
  const words::CaptionedWords data(glyphs(), tokens({"CAT", "HOUSE"}), {}, {.prompt = 0});
  const auto batch = data(6, generator);
  const auto read = words::TemplateReader(glyphs()).read(batch.x0);
  for (std::int64_t i = 0; i < 6; ++i) {
    CHECK(read.texts[std::size_t(i)] == words::text_of(batch.condition[i]));
  }
}

TEST_CASE("the template reader reads all drawn words, in noise too, and sees what is no letter") {
  cf::Generator generator = cf::seeded(5);
  const Tensor numbers = at::arange(0, 499, 9, at::kLong);
  const auto texts = words::texts_of(numbers);
  const Tensor all = tokens(texts);
  const Tensor x0 = words::drawn(glyphs(), all, words::random_layout(all, {}, generator));
  const words::TemplateReader reader(glyphs());
  const auto clean = reader.read(x0);
  CHECK(clean.texts == texts);
  CHECK(clean.residual.max().item<double>() < 1e-2);
  const Tensor noise = cf::normal_like(x0, generator);
  const auto noisy = reader.read(x0 + 0.2 * noise);
  CHECK(noisy.texts == texts);
  // Half of the paper's noise is cut off at 1.
  CHECK(noisy.residual.mean().item<double>() > 0.1);
  const auto nothing = reader.read(at::ones({1, 1, 16, 48}));
  CHECK(nothing.texts == std::vector<std::string>{""});
  CHECK(nothing.residual[0].item<double>() == 0);
  // A black bar is no letter, whatever is read there.
  CHECK(reader.read(-at::ones({1, 1, 16, 48})).residual[0].item<double>() > 1);
}

TEST_CASE("files that hold no letters are refused by name") {
  const TemporaryDirectory directory;
  const auto path = directory / "glyphs.safetensors";
  const auto refused = [&](const std::map<std::string, Tensor>& tensors, const std::string& part) {
    cf::write_safetensors(path, tensors);
    check_error([&] { words::read_glyphs(path); }, path.string(), part);
  };
  refused({{"letters", at::zeros({1, 26, 12, 9}, at::kByte)}}, "a tensor \"glyphs\"");
  refused({{"glyphs", at::zeros({1, 25, 12, 9}, at::kByte)}}, "[F, 26, 12, 9]");
  refused({{"glyphs", at::zeros({1, 26, 12, 9})}}, "uint8");
  CHECK(glyphs().fonts() == 4);
}
