// Words that are read by Tesseract. How the pictures were made is said beside them.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <fcntl.h>
#include <unistd.h>

#include <contraflow/core/random.hpp>
#include <contraflow/io/image.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/ocr.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "laws/reward.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using Catch::Approx;
using cf::Captions;
using cf::Ocr;
using cf::Records;
using cf::Tensor;
using laws::check_error;
using nlohmann::json;

static_assert(cf::Reward<Ocr, Captions>);
static_assert(cf::Reward<Ocr, Records>);
static_assert(!cf::Reward<Ocr>);

namespace {

/// A picture as a batch of one.
Tensor picture(const std::string& name) {
  const std::filesystem::path folder = CONTRAFLOW_TEST_DATA;
  return cf::read_image(folder / "ocr" / (name + ".png")).unsqueeze(0);
}

/// Five pictures of one size.
Tensor pictures() {
  return at::cat(
      {picture("cat"), picture("cats"), picture("hello"), picture("cafe"), picture("sign")});
}

Captions saying(const std::vector<std::string>& words) {
  Captions captions;
  for (const std::string& word : words) captions.push_back("a card with \"" + word + "\" on it");
  return captions;
}

double score(const Ocr& reward, const Tensor& image, const std::string& word) {
  return reward(image, saying({word})).item<double>();
}
double score(const Tensor& image, const std::string& word) {
  static const Ocr reward;
  return score(reward, image, word);
}
double score(const Tensor& image, const std::string& word, const cf::OcrOptions& options) {
  return score(Ocr(options), image, word);
}

/// Runs with a number of torch's threads.
template <class F>
auto with_threads(int threads, F&& f) {
  const int before = at::get_num_threads();
  at::set_num_threads(threads);
  auto result = f();
  at::set_num_threads(before);
  return result;
}

/// What is written to the standard error while @p f runs.
template <class F>
std::string written_by(F&& f) {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "stderr";
  const int before = dup(STDERR_FILENO);
  const int file = open(path.c_str(), O_CREAT | O_WRONLY, 0600);
  dup2(file, STDERR_FILENO);
  f();
  dup2(before, STDERR_FILENO);
  close(file);
  close(before);
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("the word that an image shows is worth 1, another less") {
  CHECK(score(picture("cat"), "cat") == 1);
  CHECK(score(picture("cats"), "cats") == 1);
  CHECK(score(picture("hello"), "Hello World") == 1);
  CHECK(score(picture("hello"), "HELLO  world") == 1);
  CHECK(score(picture("new_york"), "New York") == 1);
  CHECK(score(picture("cafe"), "Café") == 1);
  CHECK(score(picture("sign"), "Open") == 1);
  CHECK(score(picture("sign"), "Stop") < 0.6);
  CHECK(score(picture("hello"), "contraflow") < 0.6);
}

TEST_CASE("a near miss is worth what it has of the word") {
  CHECK(score(picture("cat"), "cats") == Approx(0.75));
  CHECK(score(picture("cats"), "bats") == Approx(0.75));
  CHECK(score(picture("cafe"), "cafe") == Approx(0.75));
  CHECK(score(picture("hello"), "Hello Wld") == Approx(1 - 2.0 / 8));
  INFO("and what is read beside the word costs nothing");
  CHECK(score(picture("cats"), "cat") == 1);
}

TEST_CASE("the reward for text keeps the laws of rewards") {
  laws::reward(Ocr(), pictures(), saying({"cat", "cat s", "Hello", "tea", "shop"}));
  laws::reward(Ocr(), pictures(),
               Records{json{{"text", "cat"}}, json{{"text", "bats"}}, json{{"text", "yellow"}},
                       json{{"prompt", R"(a "Café")"}}, json{{"text", "shop"}}});
}

TEST_CASE("an image is read the same whatever was read before, by whatever reader") {
  const Ocr reward;
  const std::vector<std::string> before = reward.read(pictures());
  reward.read(pictures().flip(0));
  CHECK(reward.read(pictures()) == before);
  CHECK(Ocr().read(pictures()) == before);
  CHECK(before[0] == "cat\n");
}

TEST_CASE("any number of threads gives the same scores") {
  const Ocr reward;
  const Tensor images = pictures().repeat({2, 1, 1, 1});
  const Captions captions =
      saying({"cat", "bat", "hello", "tea", "shop", "a", "cat", "worlds", "cafe", "stop"});
  const auto scores = [&] { return reward(images, captions); };
  const Tensor one = with_threads(1, scores);
  CHECK(at::equal(with_threads(2, scores), one));
  CHECK(at::equal(with_threads(5, scores), one));
  INFO("and so do callers at the same time");
  std::vector<std::future<Tensor>> others;
  for (int i = 0; i < 3; ++i) others.push_back(std::async(std::launch::async, scores));
  for (auto& other : others) CHECK(at::equal(other.get(), one));
}

TEST_CASE("scores are float32 and tensors of every kind are read") {
  const Tensor image = picture("cat");
  const Ocr reward;
  const auto is_read = [&](const Tensor& tensor) {
    const Tensor scores = reward(tensor, saying({"cat"}));
    return scores.scalar_type() == at::kFloat && scores.sizes() == at::IntArrayRef({1}) &&
           scores.item<float>() == 1;
  };
  CHECK(is_read(image));
  CHECK(is_read(image.to(at::kDouble)));
  CHECK(is_read(image.to(at::kHalf)));
  CHECK(is_read(image.narrow(1, 0, 1)));
  CHECK(is_read(image.transpose(2, 3).contiguous().transpose(2, 3)));
  CHECK(is_read(3 * image - 1));
  CHECK(is_read(image.clone().requires_grad_()));
}

TEST_CASE("a blank image is worth 0, a broken one nothing") {
  Tensor images = at::cat(
      {picture("cat"), at::ones({1, 3, 80, 192}), at::zeros({1, 3, 80, 192}), picture("cat")});
  images[3][1][40][90] = std::numeric_limits<float>::quiet_NaN();
  const Tensor scores = Ocr()(images, saying({"cat", "cat", "cat", "cat"}));
  CHECK(scores[0].item<double>() == 1);
  CHECK(scores[1].item<double>() == 0);
  CHECK(scores[2].item<double>() == 0);
  CHECK(std::isnan(scores[3].item<double>()));
}

TEST_CASE("records say what is wanted under a key of one's own") {
  const Ocr reward({.text_key = "sign"});
  const Records records{json{{"sign", "cat"}, {"text", "dog"}, {"prompt", R"(a "cow")"}}};
  CHECK(reward(picture("cat"), records).item<double>() == 1);
  CHECK(Ocr()(picture("cat"), records).item<double>() < 1);
}

TEST_CASE("small letters are read at a larger scale") {
  const Tensor image = picture("small");
  CHECK(score(image, "contraflow") < 1);
  CHECK(score(image, "contraflow", {.scale = 3}) == 1);
  CHECK(score(image.narrow(1, 0, 1).to(at::kHalf), "contraflow", {.scale = 2.5}) == 1);
}

TEST_CASE("what is taken for text is an option") {
  // A line: the two lines of the picture are not.
  CHECK(score(picture("new_york"), "New York", {.page_segmentation = tesseract::PSM_SINGLE_LINE}) <
        1);
  CHECK(score(picture("cat"), "cat", {.page_segmentation = tesseract::PSM_SINGLE_LINE}) == 1);
  CHECK(score(picture("cat"), "cat", {.page_segmentation = tesseract::PSM_SPARSE_TEXT}) == 1);
  for (const int mode : {-1, 0, 1, 2, 12, 14}) {
    check_error([&] { Ocr({.page_segmentation = tesseract::PageSegMode(mode)}); },
                "page_segmentation", "a mode that reads");
  }
}

TEST_CASE("the reward for text refuses what it cannot read") {
  const Ocr reward;
  const auto refuse = [&](const Tensor& images, const std::string& part) {
    check_error([&] { reward(images, saying({"a", "b"})); }, "images", part);
  };
  refuse(Tensor(), "got nothing");
  refuse(at::zeros({3, 8, 8}), "got [3, 8, 8]");
  refuse(at::zeros({2, 2, 8, 8}), "got [2, 2, 8, 8]");
  refuse(at::zeros({0, 3, 8, 8}), "non-empty");
  refuse(at::zeros({0, 1, 8, 8}), "non-empty");
  refuse(at::zeros({2, 3, 8, 8}, at::kByte), "floating-point");
  refuse(at::zeros({1, 1, 1, 32768}), "at most 32767 pixels a side");
  check_error(
      [] {
        Ocr({.scale = 16})(at::zeros({1, 3, 2048, 1}), Captions{R"("a")"});
      },
      "images", "at most 32767 pixels a side");
  check_error([&] { reward(picture("cat"), saying({"a", "b"})); }, "captions", "one an image, 1");
  check_error(
      [&] {
        reward(picture("cat"), Records(2, json{{"text", "a"}}));
      },
      "records", "one an image, 1");
  check_error([&] { reward(picture("cat"), Captions{"a photo of a cat"}); }, "captions",
              "double quotes, that is not blank, got a photo of a cat");
  check_error([&] { reward(picture("cat"), saying({" "})); }, "captions", "not blank");
  check_error(
      [&] {
        reward(picture("cat"), Records{json{{"prompt", "a cat"}}});
      },
      "records", R"(got {"prompt":"a cat"})");
  for (const double scale : {0.0, 0.99, 16.1, std::nan("")}) {
    check_error([&] { Ocr({.scale = scale}); }, "scale", "from 1 to 16");
  }
}

TEST_CASE("a language that there is no data of is named, with the folder") {
  const TemporaryDirectory empty;
  const std::string folder = empty.path().string();
  check_error([] { Ocr({.language = "xyz"}); }, "language", "got xyz");
  check_error([&] { Ocr({.tessdata = folder}); }, "language", "in " + folder);
  check_error([] { Ocr({.language = "eng+xyz"}); }, "language", "got eng+xyz");
  check_error([] { Ocr({.language = ""}); }, "language", "a language such as eng, got none");
  CHECK(score(picture("cat"), "cat", {.language = "eng+eng"}) == 1);
}

TEST_CASE("nothing is printed") {
  cf::Generator generator = cf::seeded(3);
  const Tensor noise = cf::normal({1, 3, 64, 64}, generator).sigmoid();
  CHECK(written_by([] { std::fputs("said", stderr); }) == "said");
  const std::string said = written_by([&] {
    for (const auto mode :
         {tesseract::PSM_AUTO, tesseract::PSM_SINGLE_WORD, tesseract::PSM_SPARSE_TEXT}) {
      const Ocr reward({.page_segmentation = mode});
      for (const Tensor& images :
           {picture("cat"), noise, at::ones({1, 3, 80, 192}), at::zeros({1, 3, 1, 1}),
            at::ones({1, 3, 2, 3}), at::zeros({1, 3, 1, 300}), at::rand({1, 1, 300, 1})}) {
        reward.read(images);
      }
    }
    CHECK_THROWS_AS(Ocr({.language = "xyz"}), cf::Error);
  });
  CHECK(said == "");
}

TEST_CASE("the reward for text stands in a bag, and copies share its readers") {
  const Ocr reward, copy = reward;
  const auto bag = cf::rewards("text"_r = copy, "same"_r = cf::weighted(reward, 2.0));
  const cf::ScoreSheet sheet = bag.score(picture("cat"), saying({"cats"}));
  CHECK(sheet.failures.empty());
  CHECK(at::allclose(sheet.scores, at::full({2, 1}, 0.75, at::kDouble)));
}
