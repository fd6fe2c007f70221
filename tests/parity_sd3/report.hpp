// What the cases of parity_sd3 have in common: lines, tolerances, files.

#pragma once

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>

#include <torch/torch.h>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/network/weights.hpp>

namespace parity {

namespace cf = contraflow;
using cf::Tensor;

inline double largest(const Tensor& x) {
  return x.numel() == 0 ? 0 : x.abs().max().to(at::kDouble).item<double>();
}

// Prints a line a case and counts them.
class Report {
 public:
  void state(const std::string& name, bool holds, const std::string& what) {
    std::printf("%s  %-72s %s\n", holds ? "ok  " : "FAIL", name.c_str(), what.c_str());
    ++(holds ? passed_ : failed_);
  }
  void compare(const std::string& name, const Tensor& got, const Tensor& wanted, double tolerance) {
    if (got.sizes() != wanted.sizes()) {
      return state(name, false,
                   "shape " + cf::shape_text(got) + " instead of " + cf::shape_text(wanted));
    }
    const Tensor difference = got.detach().to(at::kDouble) - wanted.to(at::kDouble);
    const bool finite = difference.isfinite().all().item<bool>();
    const double error = finite ? largest(difference) : std::numeric_limits<double>::infinity();
    char text[96];
    std::snprintf(text, sizeof(text), "error %.1e, allowed %.1e, largest entry %.1e", error,
                  tolerance, largest(wanted));
    state(name, error <= tolerance, text);
  }
  // A part of the fixtures; what is thrown in it is a failed case.
  template <class F>
  void section(const std::string& name, F&& f) {
    try {
      f();
    } catch (const std::exception& failure) {
      std::string what = failure.what();
      state(name, false, what.substr(0, what.find('\n')));
    }
  }
  int passed() const { return passed_; }
  int failed() const { return failed_; }

 private:
  int passed_ = 0, failed_ = 0;
};

// The folder of reference numbers.
class Fixtures {
 public:
  Fixtures(std::filesystem::path root, std::filesystem::path tokenizers)
      : root_(std::move(root)),
        tokenizers_(std::move(tokenizers)),
        noise_(cf::Settings(root_ / "manifest.json").section("max_abs_error_float32_vs_float64")) {}

  std::filesystem::path operator/(const std::string& name) const { return root_ / name; }
  const std::filesystem::path& tokenizers() const { return tokenizers_; }

  // How far the published code in float32 (or in bfloat16) is from itself in float64.
  double noise(const std::string& label) const { return noise_.number(label, 0); }

  // What float32 may differ by. The figures of the manifest are one processor's rounding noise;
  // another order of summation, or another vectorised exponential, gives as much again, and on some
  // processors the published code itself is several of them off. Where there is no figure, a
  // hundred and some units in the last place of the largest entry.
  double allowed(const Tensor& wanted, const std::string& label = "") const {
    return std::max(10 * noise(label), 1e-5 * largest(wanted));
  }

  // What a gradient may differ by: it is summed over more terms, which cancel, and comes through
  // every layer twice.
  static double allowed_gradient(const Tensor& wanted) { return 1e-4 * largest(wanted); }

  std::map<std::string, Tensor> weights(const std::string& folder) const {
    return cf::read_safetensors(root_ / folder / "model.safetensors").tensors;
  }
  cf::Settings config(const std::string& folder) const {
    return cf::Settings(root_ / folder / "config.json");
  }

 private:
  std::filesystem::path root_, tokenizers_;
  cf::Settings noise_;
};

// One file of reference numbers. Every tensor of it has to be asked for.
class Case {
 public:
  Case(const Fixtures& fixtures, const std::string& path)
      : path_(path), tensors_(cf::read_safetensors(fixtures / path).tensors) {}

  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  bool has(const std::string& name) const { return tensors_.contains(name); }
  const Tensor& operator[](const std::string& name) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw cf::Error(path_, "a tensor " + name, "none");
    asked_.insert(name);
    return found->second;
  }
  // Throws unless every tensor was asked for.
  void expect_complete() const {
    for (const auto& [name, tensor] : tensors_) {
      if (!asked_.contains(name)) throw cf::Error(path_, "known tensors", name);
    }
  }

 private:
  std::string path_;
  std::map<std::string, Tensor> tensors_;
  std::set<std::string> asked_;
};

// The part of a network that has this dotted name.
template <class M>
M& part(const torch::nn::Module& network, const std::string& name) {
  const auto modules = network.named_modules("", /*include_self=*/false);
  const auto* found = modules.find(name);
  auto* module = found == nullptr ? nullptr : dynamic_cast<M*>(found->get());
  if (module == nullptr) throw cf::Error(name, "a module of the network", "none of this kind");
  return *module;
}

void check_mmdit(const Fixtures& fixtures, Report& report);
void check_norms(const Fixtures& fixtures, Report& report);
void check_scheduler(const Fixtures& fixtures, Report& report);
void check_sampling(const Fixtures& fixtures, Report& report);
void check_vae(const Fixtures& fixtures, Report& report);
void check_text(const Fixtures& fixtures, Report& report);
void check_lora(const Fixtures& fixtures, Report& report);
void check_real_shapes(const Fixtures& fixtures, Report& report);
void check_tokenizers(const Fixtures& fixtures, Report& report);

}  // namespace parity
