// The fused NFT loss against the reference numbers.

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>
#include <torch/types.h>

#include <contraflow/core/tensor.hpp>
#include <contraflow/io/safetensors.hpp>

#include "nft_problem.hpp"

namespace cf = contraflow;
namespace kernels = contraflow::kernels;

namespace {

constexpr double tolerance = 1e-5;

std::vector<std::filesystem::path> cases(const std::string& kind) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(CONTRAFLOW_TEST_DATA "/rl")) {
    if (entry.path().filename().string().starts_with(kind)) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::vector<double> doubles(const at::Tensor& tensor) {
  const at::Tensor values = tensor.to(at::kDouble).contiguous();
  return {cf::data_of<const double>(values), cf::data_of<const double>(values) + values.numel()};
}

// One case's inputs as the operation takes them, and its results.
struct Case {
  cf::SafetensorsFile file;
  nlohmann::json config;
  std::vector<double> t, r, weight, positive, negative, kl;
  at::Tensor gradient;

  explicit Case(const std::filesystem::path& path, const char* r_name)
      : file(cf::read_safetensors(path)),
        config(nlohmann::json::parse(file.metadata.at("config"))),
        t(doubles(tensor("in.t"))),
        r(doubles(tensor(r_name))),
        positive(t.size()),
        negative(t.size()),
        kl(t.size()),
        gradient(at::empty_like(tensor("in.v"))) {}

  const at::Tensor& tensor(const std::string& name) const { return file.tensors.at(name); }
  const float* floats(const std::string& name) const {
    return file.tensors.contains(name) ? cf::data_of<const float>(tensor(name)) : nullptr;
  }

  template <class Weighting>
  kernels::NftLossValue run(const kernels::NftLossSettings& settings, const Weighting& weighting) {
    const auto batch = static_cast<std::int64_t>(t.size());
    return kernels::nft_loss(
        kernels::NftLossArrays<float, float>{.v_theta = floats("in.v"),
                                             .v_old = floats("in.v_old"),
                                             .v_ref = floats("in.v_ref"),
                                             .x0 = floats("in.x0"),
                                             .eps = floats("in.noise"),
                                             .t = t.data(),
                                             .r = r.data(),
                                             .gradient = gradient.mutable_data_ptr<float>(),
                                             .batch = batch,
                                             .elements = gradient.numel() / batch},
        settings, weighting, {positive.data(), negative.data(), kl.data()});
  }

  void check(const std::string& name, const std::vector<double>& got) const {
    INFO(name);
    CHECK(nft_test::relative_distance(got, doubles(tensor(name))) <= tolerance);
  }
};

}  // namespace

TEST_CASE("the adaptive weighting agrees with the published form") {
  const auto paths = cases("nft_code_");
  REQUIRE(paths.size() == 7);
  for (const auto& path : paths) {
    INFO(path.filename().string());
    Case one(path, "out.r");
    const auto value =
        one.run({.beta = one.config.at("beta"), .kl_weight = one.config.at("kl_weight")},
                kernels::AdaptiveWeighting{.scale = one.config.at("advantage_clip"),
                                           .weight_floor = one.config.at("weight_floor")});
    one.check("out.positive", one.positive);
    one.check("out.negative", one.negative);
    one.check("out.policy_loss", {value.policy});
    one.check("out.kl", {value.kl});
    one.check("out.loss", {value.total});
    one.check("grad.v", doubles(one.gradient));
  }
}

TEST_CASE("the fixed weighting agrees with the paper's form") {
  const auto paths = cases("nft_paper_");
  REQUIRE(paths.size() == 4);
  for (const auto& path : paths) {
    INFO(path.filename().string());
    Case one(path, "in.r");
    const std::string form = one.config.at("weight");
    for (const double t : one.t) {
      one.weight.push_back(form == "one" ? 1.0 : form == "t" ? t : 1.0 - t);
    }
    const auto value = one.run({.beta = one.config.at("beta")},
                               kernels::FixedWeighting{.weight = one.weight.data()});
    one.check("out.positive", one.positive);
    one.check("out.negative", one.negative);
    one.check("out.loss", {value.total});
    one.check("grad.v", doubles(one.gradient));
  }
}
