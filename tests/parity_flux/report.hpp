// What the cases of parity_flux have in common: the folder and what is allowed.

#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/flux/flux_config.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/network/flux.hpp>

#include "laws/reference_files.hpp"

namespace parity {

// The folder of reference numbers. Every file of it has to be asked for.
class Fixtures {
 public:
  explicit Fixtures(std::filesystem::path root)
      : root_(std::move(root)), manifest_(*this / "manifest.json") {}

  // The path of a file or folder, which counts as asked for.
  std::filesystem::path operator/(const std::string& name) const {
    asked_.insert(name);
    return root_ / name;
  }
  // How far the published code is from itself in float64.
  double noise(const std::string& label) const {
    return manifest_.section("max_abs_error_against_float64").number(label);
  }
  cf::Settings config(const std::string& folder) const {
    return cf::Settings(*this / (folder + "/config.json"));
  }
  // One file, or parts and their index.
  std::map<std::string, Tensor> weights(const std::string& folder) const {
    const std::string index = folder + "/diffusion_pytorch_model.safetensors.index.json";
    if (!std::filesystem::exists(root_ / index)) {
      return cf::read_safetensors(*this / (folder + "/model.safetensors")).tensors;
    }
    const cf::Settings map = cf::Settings(*this / index).section("weight_map");
    for (const auto& entry : map.json().items()) {
      asked_.insert(folder + "/" + entry.value().get<std::string>());
    }
    return cf::read_weights(root_ / folder, "diffusion_pytorch_model").tensors;
  }
  std::shared_ptr<cf::FluxNetwork> network(const std::string& folder,
                                           const cf::Placement& placement = {}) const {
    auto net = std::make_shared<cf::FluxNetwork>(cf::flux::network_options(config(folder)));
    cf::load_weights(*net, weights(folder), folder, placement);
    return net;
  }
  // The names of a folder's files that begin and end so, without both; at least one.
  std::vector<std::string> names(const std::string& folder, const std::string& begin,
                                 const std::string& end = ".safetensors") const {
    std::set<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(root_ / folder)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(begin) || !name.ends_with(end)) continue;
      found.insert(name.substr(begin.size(), name.size() - begin.size() - end.size()));
    }
    if (found.empty()) throw cf::Error(folder, "files " + begin + "*" + end, "none");
    return {found.begin(), found.end()};
  }
  // A line for each file that nothing asked for, and for each that the manifest has and is not
  // there.
  void check_files(Report& report) const {
    std::set<std::string> there;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root_)) {
      if (entry.is_directory()) continue;
      there.insert(std::filesystem::relative(entry.path(), root_).generic_string());
    }
    for (const std::string& name : there) {
      if (!asked_.contains(name)) report.state("files " + name, false, "unknown");
    }
    const cf::Settings listed = manifest_.section("files");
    for (const auto& entry : listed.json().items()) {
      if (!there.contains(entry.key())) report.state("files " + entry.key(), false, "missing");
    }
    report.state("files", !there.empty(), std::to_string(there.size()) + " files");
  }

 private:
  std::filesystem::path root_;
  mutable std::set<std::string> asked_;
  cf::Settings manifest_;
};

// What float32 may differ by: activations are of the order of one.
inline double allowed(const Tensor& wanted, double relative = 1e-5) {
  return relative * std::max(1.0, largest(wanted));
}

void check_transformer(const Fixtures& fixtures, Report& report);
void check_norms(const Fixtures& fixtures, Report& report);
void check_positions(const Fixtures& fixtures, Report& report);
void check_packing(const Fixtures& fixtures, Report& report);
void check_scheduler(const Fixtures& fixtures, Report& report);
void check_sampling(const Fixtures& fixtures, Report& report);
void check_vae(const Fixtures& fixtures, Report& report);
void check_text(const Fixtures& fixtures, Report& report);
void check_lora(const Fixtures& fixtures, Report& report);
void check_real_shapes(const Fixtures& fixtures, Report& report);

}  // namespace parity
