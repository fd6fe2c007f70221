// What the cases of parity_sd3 have in common: the folder and what is allowed.

#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>

#include <contraflow/io/settings.hpp>

#include "laws/reference_files.hpp"

namespace parity {

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

void check_mmdit(const Fixtures& fixtures, Report& report);
// Of Stable Diffusion 3 Medium and 3.5 Large: the folders beside that of the fixtures.
void check_other_kinds(Report& report);
void check_norms(const Fixtures& fixtures, Report& report);
void check_scheduler(const Fixtures& fixtures, Report& report);
void check_sampling(const Fixtures& fixtures, Report& report);
void check_vae(const Fixtures& fixtures, Report& report);
void check_text(const Fixtures& fixtures, Report& report);
void check_lora(const Fixtures& fixtures, Report& report);
void check_real_shapes(const Fixtures& fixtures, Report& report);
void check_tokenizers(const Fixtures& fixtures, Report& report);

}  // namespace parity
