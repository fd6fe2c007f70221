// Rewards from TorchScript files. scripts/check_clip_rewards also tries an AOTInductor package.

#include <cmath>
#include <filesystem>
#include <fstream>
#include <future>
#include <limits>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/exported.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "laws/reward.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Captions;
using cf::Exported;
using cf::Tensor;
using laws::check_error;

namespace {

// A TorchScript file of a module with this source.
class Script {
 public:
  explicit Script(const std::string& source) : path_(directory_.path() / "reward.pt") {
    torch::jit::Module module("Reward");
    module.register_buffer("scale", at::full({}, 2.0));
    module.define(source);
    module.save(path_.string());
  }
  operator std::filesystem::path() const { return path_; }  // NOLINT
  std::string name() const { return path_.string(); }

 private:
  TemporaryDirectory directory_;
  std::filesystem::path path_;
};

const char* const mean_source = R"(
def forward(self, images):
    return self.scale * images.flatten(1).mean(1)
)";

const char* const length_source = R"(
def forward(self, images, ids):
    return (images.flatten(1).mean(1) + ids.sum(1)).unsqueeze(1)
)";

Tensor images(std::int64_t count = 5) { return laws::floats({count, 3, 6, 4}).sigmoid(); }

// What an error says that there was.
template <class F>
std::string reason(F&& f) {
  try {
    f();
  } catch (const cf::Error& error) {
    return error.got();
  }
  return "";
}

// As ids the length of a caption.
Tensor lengths(const Captions& captions) {
  std::vector<std::int64_t> ids;
  for (const std::string& caption : captions) ids.push_back(std::int64_t(caption.size()));
  return at::tensor(ids, at::kLong).unsqueeze(1);
}

}  // namespace

TEST_CASE("an exported module scores images") {
  const Script script(mean_source);
  const Exported reward{script};
  static_assert(cf::Reward<Exported, Captions>);
  laws::reward(reward, images());
  const Tensor x = images();
  CHECK(laws::relative_distance(reward(x), 2 * x.flatten(1).mean(1)) < 1e-6);
  INFO("in float32, and as shown");
  CHECK(reward(x.to(at::kDouble)).scalar_type() == at::kFloat);
  CHECK(at::equal(reward(3 * x - 1), reward((3 * x - 1).clamp(0, 1))));
  INFO("captions are left out where none are asked for");
  CHECK(at::equal(reward(x, {"a", "b", "c", "d", "e"}), reward(x)));
}

TEST_CASE("an exported module gets captions as ids, and may give a column") {
  const Script script(length_source);
  const Exported reward(script, {.encode = lengths});
  const Tensor x = images(2), means = x.flatten(1).mean(1);
  CHECK(laws::relative_distance(reward(x, {"a", "four"}), means + at::tensor({1.0, 4.0})) < 1e-6);
  check_error([&] { reward(x); }, "captions", "as encode is set");
  check_error([&] { reward(x, {"one"}); }, "captions", "one an image, 2, got 1");
  laws::reward(reward, images(), Captions{"a", "four", "", "two", "seven"});
  const auto bag = cf::rewards("length"_r = reward);
  CHECK(bag.score(x, Captions{"a", "four"}).failures.empty());
}

TEST_CASE("an image that is not finite has no exported score") {
  const Script script(mean_source);
  Tensor x = images(3).clone();
  x[1][0][0][0] = std::numeric_limits<float>::infinity();
  const Tensor scores = Exported{script}(x);
  CHECK(std::isnan(scores[1].item<float>()));
  CHECK(scores.isfinite().sum().item<int>() == 2);
}

TEST_CASE("threads take turns with one module, and copies share it") {
  const Script script(R"(
def forward(self, images):
    before = self.scale.clone()
    for i in range(200):
        images = images + 1
    self.scale.copy_(before + 1)
    return before + 1 + images.flatten(1).sum(1) * 0
)");
  const Exported reward{script};
  const auto many = [reward] {
    for (int i = 0; i < 50; ++i) reward(images(1));
  };
  auto first = std::async(std::launch::async, many), second = std::async(std::launch::async, many);
  first.get();
  second.get();
  CHECK(reward(images(1)).item<float>() == 103);
}

TEST_CASE("modules that give no scores are named") {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"return images", "scores [2] or [2, 1], got [2, 3, 6, 4]"},
      {"return images.sum()", "got []"},
      {"return images.flatten(1).sum(1)[:1]", "got [1]"},
      {"return images.flatten(1).sum(1).unsqueeze(0)", "got [1, 2]"},
      {"return images.flatten(1)[:, :2]", "got [2, 2]"},
      {"return (images, images)", "got nothing"},
      {"return 3", "got nothing"},
      {"return images.view(7)", "invalid for input of size"},
      {"return images.flatten(1).mean(1) + torch.ones(3)", "must match"},
      {"assert images.size(0) == 7, \"not this many\"\n    return images", "not this many"},
  };
  for (const auto& [body, part] : cases) {
    INFO(body);
    const Script script("\ndef forward(self, images):\n    " + body + "\n");
    const Exported reward{script};
    check_error([&] { reward(images(2)); }, script.name(), part);
  }
}

TEST_CASE("files that hold no module are named") {
  const TemporaryDirectory directory;
  for (const char* name : {"absent.pt", "absent.pt2", "text.pt", "text.pt2"}) {
    const std::filesystem::path path = directory.path() / name;
    if (std::string(name).starts_with("text")) std::ofstream(path) << "not a module";
    check_error([&] { Exported{path}; }, path.string(), "a TorchScript file, or an AOTInductor");
    CHECK(reason([&] { Exported{path}; }).find("frame #") == std::string::npos);
  }
}

TEST_CASE("an exported module is not asked about what is no image") {
  const Script script(mean_source);
  const Exported reward{script};
  check_error([&] { reward(at::zeros({2, 1, 4, 4})); }, "images", "[B, 3, H, W]");
  check_error([&] { reward(Tensor()); }, "images", "nothing");
}
