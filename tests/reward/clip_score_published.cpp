// Rewards against the Python packages, by what scripts/check_clip_rewards.py wrote: a small folder
// of it is among the data of the tests, others are named in CONTRAFLOW_CLIP_FIXTURES.

#include <cstdlib>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/reward/clip_score.hpp>
#include <contraflow/reward/exported.hpp>
#include <contraflow/reward/image_measures.hpp>
#include <contraflow/reward/jpeg_size.hpp>

#include "laws/compare.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using cf::Captions;
using cf::ClipPreprocessing;
using cf::Tensor;
using laws::relative_distance;

namespace {

std::filesystem::path folder() {
  const char* named = std::getenv("CONTRAFLOW_CLIP_FIXTURES");
  return named != nullptr ? named : CONTRAFLOW_TEST_DATA "/clip";
}

// What the Python packages gave.
class Expected {
 public:
  Expected() : tensors_(cf::read_safetensors(folder() / "expected.safetensors").tensors) {}
  bool has(const std::string& name) const { return tensors_.contains(name); }
  const Tensor& operator[](const std::string& name) const { return tensors_.at(name); }
  std::vector<Tensor> images() const {
    std::vector<Tensor> all;
    for (int i = 0; has("image." + std::to_string(i)); ++i) {
      all.push_back(tensors_.at("image." + std::to_string(i)).unsqueeze(0));
    }
    return all;
  }

 private:
  std::map<std::string, Tensor> tensors_;
};

// A line of the table; errors are relative to the largest value.
void check(const std::string& name, const Tensor& got, const Tensor& expected, double tolerance) {
  const double error = relative_distance(got, expected);
  std::cout << std::left << std::setw(32) << name << std::right << std::scientific
            << std::setprecision(1) << std::setw(10) << error << "  within " << tolerance << '\n';
  INFO(name);
  CHECK(error <= tolerance);
}

// Scores of images of different sizes, one by one.
template <class Score>
Tensor scores(const std::vector<Tensor>& images, std::int64_t count, Score&& score) {
  std::vector<Tensor> all;
  for (std::int64_t i = 0; i < count; ++i) all.push_back(score(images[std::size_t(i)], i));
  return at::cat(all);
}

}  // namespace

TEST_CASE("rewards on CLIP score as with the Python packages", "[published]") {
  const Expected expected;
  const std::vector<Tensor> images = expected.images();
  const Captions captions = nlohmann::json::parse(read_all(folder() / "captions.json"));
  const auto count = std::int64_t(captions.size());
  REQUIRE(std::int64_t(images.size()) >= count);
  const auto check_captioned = [&](const std::string& name, const auto& reward) {
    const Tensor got = scores(images, count, [&](const Tensor& image, std::int64_t i) {
      return reward(image, Captions{captions[std::size_t(i)]});
    });
    check(name, got, expected["score." + name], 1e-5);
  };
  check_captioned("clip_score", cf::ClipScore(folder() / "clip"));
  check_captioned("pick_score", cf::PickScore(folder() / "clip"));
  const cf::ClipOptions shape = cf::clip_options(cf::Settings(folder() / "hps" / "config.json"));
  check_captioned("hps_v21", cf::HpsV21(folder() / "hps" / "hps.safetensors",
                                        {.tokenizer = folder() / "clip"}, shape));
  const cf::Aesthetic aesthetic(folder() / "clip", folder() / "head.safetensors");
  check("aesthetic",
        scores(images, count, [&](const Tensor& image, auto) { return aesthetic(image); }),
        expected["score.aesthetic"], 1e-5);
}

TEST_CASE("images are prepared as by the Python packages", "[published]") {
  const Expected expected;
  const std::vector<Tensor> images = expected.images();
  for (std::size_t i = 0; i < images.size(); ++i) {
    const auto check_pixels = [&](const std::string& name, ClipPreprocessing preprocessing,
                                  double tolerance) {
      const std::string key = "pixels." + name + "." + std::to_string(i);
      const Tensor& pixels = expected[key];
      check(key, cf::clip_pixels(images[i], pixels.size(1), preprocessing)[0], pixels, tolerance);
    };
    // Bytes are equal, so that nothing but the rounding of the normalisation is left.
    check_pixels("transformers", ClipPreprocessing::transformers, 3e-7);
    check_pixels("torchvision", ClipPreprocessing::torchvision, 1e-6);
    check_pixels("padded", ClipPreprocessing::padded, 1e-6);
  }
}

TEST_CASE("rewards without weights score as in Python", "[published]") {
  const Expected expected;
  const std::vector<Tensor> images = expected.images();
  const Tensor& colourful = expected["score.colourfulness"];
  check("colourfulness",
        scores(images, colourful.numel(),
               [](const Tensor& image, auto) { return cf::Colourfulness{}(image); }),
        colourful, 1e-6);
  if (!expected.has("jpeg")) return;
  // Other versions of libjpeg write a few bytes more or less.
  const Tensor& sizes = expected["jpeg"];
  check("jpeg",
        scores(images, sizes.numel(),
               [](const Tensor& image, auto) { return cf::JpegIncompressibility{}(image); }),
        sizes, 1e-3);
}

TEST_CASE("modules exported from Python score as there", "[published]") {
  const Expected expected;
  if (!expected.has("exported")) SKIP("there are none in this folder");
  for (const char* name : {"exported.pt", "exported.pt2"}) {
    const cf::Exported reward(folder() / name);
    check(name, reward(expected["exported.images"]), expected["exported"], 1e-6);
  }
}
