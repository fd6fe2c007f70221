#pragma once

/// @file
/// Low-rank adapters of a network.

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/modules/linear.h>

#include <contraflow/core/random.hpp>
#include <contraflow/network/layers.hpp>
#include <contraflow/network/weights.hpp>

namespace contraflow {

/// Shape of an adapter; the defaults are those published for Stable Diffusion 3.5 Medium; the
/// layers are those of 3 Medium and 3.5 Large, too.
struct LoraOptions {
  std::int64_t rank = 32;  ///< r, at least 1
  double alpha = 64;       ///< the change of a weight is alpha / r times B A
  /// Which layers: those whose dotted name is one of these or ends with "." and one of these.
  std::vector<std::string> targets = {"attn.to_q",       "attn.to_k",       "attn.to_v",
                                      "attn.to_out.0",   "attn.add_q_proj", "attn.add_k_proj",
                                      "attn.add_v_proj", "attn.to_add_out"};
};

/// The values of an adapter outside a network.
struct LoraWeights {
  static constexpr const char* down_suffix = ".lora_A.weight";  ///< of a name, behind the module
  static constexpr const char* up_suffix = ".lora_B.weight";    ///< of a name, behind the module

  /// "<module>.lora_A.weight" [r, in] and "<module>.lora_B.weight" [out, r], for each module.
  std::map<std::string, Tensor> tensors;
  double alpha = 0;                           ///< the change of a weight is alpha / r times B A
  std::map<std::string, double> alphas = {};  ///< of modules that have another alpha

  /// alpha of a module.
  double alpha_of(const std::string& module) const {
    const auto own = alphas.find(module);
    return own == alphas.end() ? alpha : own->second;
  }
};

/// The adapters of a network: added, selected, scaled, listed, without a copy of the network.
///
/// Any module tree whose layers are LoraLinear can have adapters; one of them is in use at a time,
/// and changing it costs nothing. The base is not changed, and is best frozen with
/// set_trainable().
class Lora {
 public:
  /// @param network whose layers take the adapters
  explicit Lora(std::shared_ptr<torch::nn::Module> network)
      : network_(std::move(network)), selection_(std::make_shared<AdapterSelection>()) {}

  /// Adds an adapter that changes nothing yet: A is normal with standard deviation 1 / r, B zero,
  /// in float32 on the device of the base.
  /// @param name not used yet
  /// @param options shape
  /// @param generator of A
  /// @throws Error if the name is used, an option is out of range, no layer has a name in the
  ///   targets, or one that takes no adapters has
  void add(const std::string& name, const LoraOptions& options, Generator& generator) {
    expects(options.rank >= 1, "rank", "at least 1", options.rank);
    Adapter adapter{layers_named(options.targets), options.alpha, {}};
    expects_new(name);
    for (auto& [module, layer] : adapter.layers) {
      const Tensor& weight = layer->weight();
      const auto like = weight.options().dtype(at::kFloat);
      const Tensor down = normal({options.rank, weight.size(1)}, generator, like);
      install(*layer, {down / double(options.rank), at::zeros({weight.size(0), options.rank}, like),
                       options.alpha / double(options.rank)});
    }
    adopt(name, std::move(adapter));
  }

  /// Adds an adapter with values.
  /// @param name not used yet
  /// @param weights of every adapted layer, taken over as a copy in float32
  /// @param source named in errors, such as the file
  /// @throws Error that lists what does not fit the network
  void add(const std::string& name, const LoraWeights& weights, const std::string& source) {
    expects_new(name);
    Adapter adapter{layers_of(weights, source), weights.alpha, weights.alphas};
    for (auto& [module, layer] : adapter.layers) {
      const auto like = layer->weight().options().dtype(at::kFloat);
      const auto value = [&, &key = module](const char* part) {
        return weights.tensors.at(key + part).to(like, false, /*copy=*/true);
      };
      const Tensor down = value(down_suffix);
      install(*layer, {down, value(up_suffix), weights.alpha_of(module) / double(down.size(0))});
    }
    adopt(name, std::move(adapter));
  }

  /// Adds an adapter with the values of another.
  void copy(const std::string& from, const std::string& to) { add(to, weights(from), from); }

  /// Whether there is an adapter of this name.
  bool has(const std::string& name) const { return index_of(name).has_value(); }
  /// The adapters, in the order of their addition.
  const std::vector<std::string>& names() const { return names_; }

  /// Makes the network use an adapter, or the base alone.
  /// @throws Error if there is no adapter of this name
  void use(const std::optional<std::string>& name) { selection_->active = selected(name); }
  /// Calls @p f while an adapter, or the base alone, is in use; then what was used before is again.
  template <class F>
  auto with(const std::optional<std::string>& name, F&& f) {
    return with_selected(*selection_, selected(name), f);
  }

  /// Multiplies alpha / r of an adapter in all its layers; 0 switches it off.
  void set_scale(const std::string& name, double factor) {
    const std::size_t index = expected_index(name);
    for (auto& [module, layer] : adapters_[index].layers) scale(index, module, *layer, factor);
  }
  /// Multiplies alpha / r of an adapter in one layer.
  /// @throws Error if the adapter does not change this layer
  void set_scale(const std::string& name, const std::string& module, double factor) {
    const std::size_t index = expected_index(name);
    const auto found = adapters_[index].layers.find(module);
    if (found == adapters_[index].layers.end()) {
      throw Error("module", "a layer that the adapter " + name + " changes", module);
    }
    scale(index, module, *found->second, factor);
  }

  /// The tensors of an adapter, by name; they are the adapter's own.
  std::map<std::string, Tensor> tensors(const std::string& name) const {
    const std::size_t index = expected_index(name);
    std::map<std::string, Tensor> all;
    for (const auto& [module, layer] : adapters_[index].layers) {
      const LowRank& low_rank = layer->adapters()[index];
      all.emplace(module + down_suffix, low_rank.down);
      all.emplace(module + up_suffix, low_rank.up);
    }
    return all;
  }
  /// The tensors of an adapter in the order of their names, for an optimiser.
  std::vector<Tensor> parameters(const std::string& name) const {
    std::vector<Tensor> all;
    for (auto& [key, tensor] : tensors(name)) all.push_back(tensor);
    return all;
  }
  /// The values of an adapter; its scale by set_scale() is not part of them.
  LoraWeights weights(const std::string& name) const {
    const Adapter& adapter = adapters_[expected_index(name)];
    return {tensors(name), adapter.alpha, adapter.alphas};
  }
  /// Lets an adapter be trained, or freezes it.
  void set_trainable(const std::string& name, bool trainable) {
    for (Tensor& tensor : parameters(name)) tensor.set_requires_grad(trainable);
  }

 private:
  using Layers = std::map<std::string, std::shared_ptr<LoraLinear>>;
  struct Adapter {
    Layers layers;
    double alpha;
    std::map<std::string, double> alphas;
  };
  static constexpr const char* down_suffix = LoraWeights::down_suffix;
  static constexpr const char* up_suffix = LoraWeights::up_suffix;

  static bool is_target(const std::string& name, const std::vector<std::string>& targets) {
    return std::any_of(targets.begin(), targets.end(), [&](const std::string& target) {
      return name == target || name.ends_with("." + target);
    });
  }

  Layers layers_named(const std::vector<std::string>& targets) const {
    Layers layers;
    for (const auto& item : network_->named_modules()) {
      if (!is_target(item.key(), targets)) continue;
      if (auto layer = std::dynamic_pointer_cast<LoraLinear>(item.value())) {
        layers.emplace(item.key(), std::move(layer));
      } else if (std::dynamic_pointer_cast<torch::nn::LinearImpl>(item.value())) {
        throw Error(item.key(), "a contraflow::LoraLinear, which has room for an adapter",
                    "a torch::nn::Linear");
      }
    }
    if (!layers.empty()) return layers;
    std::string names;
    for (const std::string& target : targets) names += (names.empty() ? "" : ", ") + target;
    throw Error("targets", "names of linear layers of the network", names.empty() ? "none" : names);
  }

  /// The layers that an adapter's tensors belong to; each has to have both, in the right shapes.
  Layers layers_of(const LoraWeights& weights, const std::string& source) const {
    const auto modules = network_->named_modules();
    Layers layers;
    detail::Faults faults;
    for (const auto& [name, tensor] : weights.tensors) {
      const bool is_down = name.ends_with(down_suffix);
      const std::string module = name.substr(0, name.size() - std::string(down_suffix).size());
      const auto* found = is_down || name.ends_with(up_suffix) ? modules.find(module) : nullptr;
      const auto layer = found ? std::dynamic_pointer_cast<LoraLinear>(*found) : nullptr;
      if (!layer) {
        faults.add("unexpected", name);
        continue;
      }
      const auto other = weights.tensors.find(module + (is_down ? up_suffix : down_suffix));
      if (other == weights.tensors.end()) {
        faults.add("missing", module + (is_down ? up_suffix : down_suffix));
        continue;
      }
      const std::int64_t side = layer->weight().size(is_down ? 1 : 0);
      const bool fits = tensor.dim() == 2 && other->second.dim() == 2 &&
                        tensor.size(is_down ? 1 : 0) == side &&
                        tensor.size(is_down ? 0 : 1) == other->second.size(is_down ? 1 : 0);
      if (!fits) faults.add("misshapen", name + " " + shape_text(tensor));
      layers.emplace(module, layer);
    }
    if (faults.empty() && layers.empty()) faults.add("missing", "every tensor");
    if (!faults.empty()) throw Error(source, "an adapter of this network", faults.text());
    return layers;
  }

  void install(LoraLinear& layer, LowRank low_rank) {
    layer.adapters().resize(names_.size() + 1);
    layer.adapters()[names_.size()] = std::move(low_rank);
    layer.follow(selection_);
  }
  void adopt(const std::string& name, Adapter adapter) {
    names_.push_back(name);
    adapters_.push_back(std::move(adapter));
  }
  void scale(std::size_t index, const std::string& module, LoraLinear& layer, double factor) {
    const Adapter& adapter = adapters_[index];
    const auto own = adapter.alphas.find(module);
    const double alpha = own == adapter.alphas.end() ? adapter.alpha : own->second;
    LowRank& low_rank = layer.adapters()[index];
    low_rank.scale = factor * alpha / double(low_rank.down.size(0));
  }

  void expects_new(const std::string& name) const {
    expects(!has(name), "name", "an adapter that is not there yet", name);
  }
  std::optional<std::size_t> index_of(const std::string& name) const {
    const auto found = std::find(names_.begin(), names_.end(), name);
    if (found == names_.end()) return std::nullopt;
    return std::size_t(found - names_.begin());
  }
  std::optional<std::size_t> selected(const std::optional<std::string>& name) const {
    return name ? std::optional(expected_index(*name)) : std::nullopt;
  }
  std::size_t expected_index(const std::string& name) const {
    const auto index = index_of(name);
    if (!index) throw Error("name", "an adapter that was added", name);
    return *index;
  }

  std::shared_ptr<torch::nn::Module> network_;
  std::shared_ptr<AdapterSelection> selection_;
  std::vector<std::string> names_;
  std::vector<Adapter> adapters_;
};

}  // namespace contraflow
