#pragma once

/// @file
/// A policy whose roles are adapters on one base.

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/network/lora.hpp>
#include <contraflow/policy/average.hpp>
#include <contraflow/policy/concept.hpp>
#include <contraflow/time/schedule.hpp>

namespace contraflow {

/// How the adapters of a LoraPolicy begin and follow the trained one.
struct LoraPolicyOptions {
  /// An adapter to start from, which is then the reference too; unset: a fresh one, and the
  /// reference is the base.
  std::optional<LoraWeights> start = {};
  /// d in `old = d old + (1 - d) current`, after each epoch; the published ramp.
  Schedule old_decay = Ramp{.rate = 0.001, .max = 0.5};
  /// d in `average = d average + (1 - d) current`; the published one.
  Schedule average_decay = WarmingUp{.max = 0.9};
  std::int64_t average_every = 1;  ///< gradient steps between updates of the average, at least 1
  std::uint64_t seed = 0;          ///< of the fresh adapter
  /// d in `sampler = d sampler + (1 - d) current`, after each epoch; that of CRD.
  Schedule sampler_decay = Linear{.start = 75, .slope = 0.0075, .end = 0.999};
  /// The old role follows after each gradient step instead of each epoch, as in DGPO.
  bool old_every_step = false;
};

/// A policy whose roles are low-rank adapters on one frozen base: for models too large to be kept
/// several times.
///
/// All roles run through the same weights; a role costs the memory of its adapter, the reference
/// none, unless training starts from an adapter.
template <class M>
class LoraPolicy {
 public:
  /// The roles it answers for.
  using Available = Roles<Role::current, Role::old, Role::reference, Role::average, Role::sampler>;

  /// @param model whose module tree takes the adapters; is frozen
  /// @param lora shape of fresh adapters
  /// @param options how they begin and follow
  /// @throws Error if no layer takes an adapter or an option is out of range
  explicit LoraPolicy(M model, const LoraOptions& lora = {}, LoraPolicyOptions options = {})
      : model_(std::move(model)), options_(std::move(options)), lora_(module_of(model_)) {
    static_assert(HasModule<M>,
                  "contraflow: a model whose adapters are trained needs its torch module: give the "
                  "model `module()`");
    expects(options_.average_every >= 1, "average_every", "at least 1", options_.average_every);
    set_trainable(*module_of(model_), false);
    const std::string current = name_of(Role::current);
    if (options_.start) {
      lora_.add(current, *options_.start, "start");
    } else {
      Generator generator = seeded(options_.seed);
      lora_.add(current, lora, generator);
    }
    lora_.set_trainable(current, true);
    add_copy(Role::average);
  }

  /// Adds adapters for the roles of a set that have none yet, from the trained one as it is now.
  template <Role... R>
  void keep(Roles<R...>) {
    if (Roles<R...>::template contains<Role::old>) add_copy(Role::old);
    if (Roles<R...>::template contains<Role::sampler>) add_copy(Role::sampler);
    if (Roles<R...>::template contains<Role::reference> && options_.start)
      add_copy(Role::reference);
  }

  /// The velocity of a role; only that of `current` carries gradients.
  /// @throws Error for a role that is not kept
  template <class C>
  Tensor velocity(Role role, const Tensor& x_t, const Tensor& t, const C& condition) {
    const bool is_base = role == Role::reference && !options_.start;
    const auto adapter = is_base ? std::nullopt : std::optional<std::string>(name_of(role));
    return lora_.with(adapter, [&] {
      const at::AutoGradMode gradient(at::GradMode::is_enabled() && role == Role::current);
      return velocity_of(model_, x_t, t, condition);
    });
  }

  /// Every tensor of a role's adapter, by name.
  /// @throws Error for a role that has none
  std::map<std::string, Tensor> tensors_of(Role role) const { return lora_.tensors(name_of(role)); }

  /// What is trained: the adapter of the current role.
  std::vector<Tensor> parameters() { return lora_.parameters(name_of(Role::current)); }

  /// Lets the average follow; @p step counts gradient steps since the start.
  void after_gradient_step(std::int64_t step) {
    if (step % options_.average_every == 0) follow(Role::average, options_.average_decay(step));
  }
  /// Whether `old` follows gradient steps, and not epochs.
  bool old_follows_steps() const { return options_.old_every_step; }
  /// Lets `old` follow a gradient step; @p step counts them since the start.
  void after_step_of_collector(std::int64_t step) {
    if (has(Role::old)) follow(Role::old, options_.old_decay(step));
  }
  /// Lets the roles that collect follow; @p step counts gradient steps since the start.
  void after_epoch(std::int64_t step) {
    if (has(Role::old) && !options_.old_every_step) follow(Role::old, options_.old_decay(step));
    if (has(Role::sampler)) follow(Role::sampler, options_.sampler_decay(step));
  }
  /// `|current - old| / |old|` over the adapters; nothing where no old role is kept.
  std::optional<double> old_deviation() {
    if (!has(Role::old)) return std::nullopt;
    return relative_distance(parameters(), lora_.parameters(name_of(Role::old)));
  }

  /// The shape of a sample, where the model knows it.
  std::vector<std::int64_t> sample_shape() requires HasSampleShape<M> {
    return sample_shape_of(model_);
  }
  /// The model that all roles share.
  M& model() { return model_; }
  /// The adapters, under the names of the roles.
  Lora& lora() { return lora_; }
  /// The values of a role's adapter, to be written to a file.
  LoraWeights weights(Role role) const { return lora_.weights(name_of(role)); }

  /// Every tensor of every role's adapter, as "role.module.lora_A.weight", and what they mean
  /// depends on: "lora_alpha", and "lora_int8_layers", the number of the base's layers that are
  /// kept in 8 bits, where there are any. The base is not part.
  std::map<std::string, Tensor> state() {
    std::map<std::string, Tensor> all;
    for (const std::string& role : lora_.names()) {
      for (const auto& [name, tensor] : lora_.tensors(role)) all.emplace(role + "." + name, tensor);
    }
    all.emplace("lora_alpha", alphas());
    const std::int64_t rounded = int8_layer_count(*module_of(model_));
    if (rounded > 0) all.emplace(int8_layers, at::full({1}, rounded, at::kLong));
    return all;
  }

  /// Takes over what state() gave: all of it, or nothing where an error is thrown.
  /// @throws Error if a tensor is missing or has another shape, or the adapters had another alpha,
  ///   or another number of layers in 8 bits below them
  void load(const std::map<std::string, Tensor>& tensors) {
    const auto given = tensors.find("lora_alpha");
    if (given == tensors.end()) throw Error("state", "a tensor named lora_alpha", "none");
    const Tensor own = alphas();
    if (given->second.sizes() == own.sizes() && !given->second.to(at::kDouble).equal(own)) {
      throw Error("alpha", "that of the adapters in the state, " + range_text(given->second),
                  range_text(own));
    }
    expects_same_base(tensors);
    restore(state(), tensors);
  }

 private:
  static constexpr const char* int8_layers = "lora_int8_layers";

  void expects_same_base(const std::map<std::string, Tensor>& tensors) const {
    const auto given = tensors.find(int8_layers);
    const auto before = given == tensors.end() ? 0 : given->second.sum().item<std::int64_t>();
    const std::int64_t own = int8_layer_count(*module_of(model_));
    if (own == before) return;
    throw Error("base", shown(before) + " layers in 8 bits, as under the adapters in the state",
                shown(own));
  }

  /// alpha of each adapted layer, in the order of their names, float64.
  Tensor alphas() const {
    const LoraWeights current = weights(Role::current);
    std::vector<double> all;
    for (const auto& [name, tensor] : current.tensors) {
      const std::size_t end = name.find(LoraWeights::down_suffix);
      if (end != std::string::npos) all.push_back(current.alpha_of(name.substr(0, end)));
    }
    return at::tensor(all, at::kDouble);
  }
  static std::string range_text(const Tensor& alphas) {
    const auto least = alphas.min().item<double>(), most = alphas.max().item<double>();
    return least == most ? shown(least) : shown(least) + " to " + shown(most) + " by layer";
  }
  static std::string name_of(Role role) { return std::string(role.name()); }
  bool has(Role role) const { return lora_.has(name_of(role)); }

  void add_copy(Role role) {
    if (!has(role)) lora_.copy(name_of(Role::current), name_of(role));
  }
  void follow(Role role, double decay) {
    move_average(lora_.parameters(name_of(role)), parameters(), decay);
  }

  M model_;
  LoraPolicyOptions options_;
  Lora lora_;
};

}  // namespace contraflow
