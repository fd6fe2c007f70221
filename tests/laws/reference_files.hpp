// What programs that compare the library with files of reference numbers have in common: lines,
// files, parts of networks.

#pragma once

#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include <contraflow/io/safetensors.hpp>
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

// A line on whether a network has the names and shapes that are listed, and no others.
inline void check_shapes(Report& report, const std::string& name, const torch::nn::Module& network,
                         const nlohmann::json& listed) {
  const auto own = cf::named_weights(network);
  std::string fault;
  for (const auto& weight : listed.items()) {
    const auto found = own.find(weight.key());
    const bool same = found != own.end() && found->second.sizes().vec() ==
                                                weight.value().get<std::vector<std::int64_t>>();
    if (!same) fault = weight.key();
  }
  if (own.size() != listed.size()) fault = std::to_string(own.size()) + " weights";
  report.state("real_shapes " + name, fault.empty(),
               std::to_string(listed.size()) + " weights, " +
                   std::to_string(cf::weight_count(network)) + " elements" +
                   (fault.empty() ? "" : ", differs: " + fault));
}

// One file of reference numbers. Every tensor of it has to be asked for.
class Case {
 public:
  // @param folder gives a path by `/`
  template <class Folder>
  Case(const Folder& folder, const std::string& path)
      : path_(path), tensors_(cf::read_safetensors(folder / path).tensors) {}

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

}  // namespace parity
