#pragma once

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/core/tensor.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/time/grid.hpp>

/// Cases of reference numbers, and what computes them.
namespace parity {

namespace cf = contraflow;
using cf::Tensor;

constexpr double tolerance = 1e-5;
constexpr double tolerance_of_doubles = 1e-6;

// One file of reference numbers, and how far the library's are from them.
class Case {
 public:
  explicit Case(const std::filesystem::path& path)
      : file_(cf::read_safetensors(path)), config_(nlohmann::json::parse(metadata("config"))) {
    for (const auto& [name, tensor] : file_.tensors) {
      if (name.starts_with("in.") && tensor.is_floating_point()) {
        is_double_ = is_double_ && tensor.scalar_type() == at::kDouble;
      }
    }
  }

  std::string kind() const { return metadata("kind"); }

  template <class T>
  T setting(const char* name) const {
    if (!config_.contains(name))
      throw cf::Error("config", std::string("a setting ") + name, "none");
    return config_.at(name).get<T>();
  }

  /// Nothing where the setting is null.
  template <class T>
  std::optional<T> optional_setting(const char* name) const {
    if (!config_.contains(name) || config_.at(name).is_null()) return std::nullopt;
    return config_.at(name).get<T>();
  }
  const nlohmann::json& config() const { return config_; }

  bool has(const std::string& name) const { return file_.tensors.contains(name); }
  const Tensor& in(const std::string& name) const { return tensor("in." + name); }
  const Tensor& expected(const std::string& name) const { return tensor(name); }

  // Compares a result with the tensor of the file called @p name.
  void compare(const std::string& name, const Tensor& result) {
    const Tensor& wanted = tensor(name);
    compared_.insert(name);
    const bool is_number = result.numel() == 1 && wanted.numel() == 1;
    const Tensor got = is_number ? result.view(wanted.sizes()) : result;
    if (got.sizes() != wanted.sizes()) {
      throw cf::Error(name, "shape " + cf::shape_text(wanted), cf::shape_text(got));
    }
    const double error = relative_error(got, wanted);
    const bool is_double = is_double_ && wanted.scalar_type() == at::kDouble;
    const double allowed = is_double ? tolerance_of_doubles : tolerance;
    if (!(error <= worst_)) {
      worst_ = error;
      worst_name_ = name;
    }
    passed_ = passed_ && error <= allowed;
  }
  void compare(const std::string& name, double got) {
    compare(name, at::scalar_tensor(got, at::kDouble));
  }

  // Throws unless every expected tensor of the file was compared.
  void expect_complete() const {
    for (const auto& [name, tensor] : file_.tensors) {
      if (name.starts_with("in.") || compared_.contains(name)) continue;
      throw cf::Error(name, "a result that this kind of case has", "an unknown one");
    }
    if (compared_.empty()) throw cf::Error("out.*", "at least one expected result", "none");
  }

  bool passed() const { return passed_; }
  double worst() const { return std::max(worst_, 0.0); }
  const std::string& worst_name() const { return worst_name_; }

 private:
  // Largest difference over the largest expected entry; infinite for what is not a number.
  static double relative_error(const Tensor& got, const Tensor& wanted) {
    const Tensor reference = wanted.to(at::kDouble);
    const Tensor difference = got.detach().to(at::kDouble) - reference;
    if (!difference.isfinite().all().item<bool>()) return std::numeric_limits<double>::infinity();
    if (difference.numel() == 0) return 0;
    const auto size = reference.abs().max().item<double>();
    return difference.abs().max().item<double>() / (size > 0 ? size : 1);
  }

  const std::string& metadata(const char* name) const {
    const auto found = file_.metadata.find(name);
    if (found == file_.metadata.end()) throw cf::Error("metadata", name, "none");
    return found->second;
  }

  const Tensor& tensor(const std::string& name) const {
    const auto found = file_.tensors.find(name);
    if (found == file_.tensors.end()) throw cf::Error("tensors", name, "none");
    return found->second;
  }

  cf::SafetensorsFile file_;
  nlohmann::json config_;
  std::set<std::string> compared_;
  bool is_double_ = true;
  bool passed_ = true;
  double worst_ = -1;
  std::string worst_name_;
};

/// What computes each kind of case.
using Kinds = std::map<std::string, void (*)(Case&)>;
Kinds kinds_of_sampling();
Kinds kinds_of_losses();
Kinds kinds_of_transitions();
Kinds kinds_of_forward_process();
Kinds kinds_of_rewards();

inline std::vector<double> doubles(const Tensor& values) {
  const Tensor plain = values.to(at::kDouble).contiguous();
  return {cf::data_of<const double>(plain), cf::data_of<const double>(plain) + plain.numel()};
}

inline cf::TimeGrid grid_of(const Case& c) { return cf::TimeGrid(doubles(c.in("sigmas"))); }

/// A tensor by which gradients are taken.
inline Tensor trained(const Tensor& x) { return x.detach().clone().requires_grad_(); }

}  // namespace parity
