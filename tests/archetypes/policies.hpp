#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/policy/concept.hpp>

#include "archetypes/models.hpp"

namespace archetypes {

using contraflow::Role;

/// A Policy that knows the role `current` only.
class PlainPolicy {
 public:
  using Available = contraflow::Roles<Role::current>;

  explicit PlainPolicy(PlainModel model) : model_(std::move(model)) {}

  template <class C>
  Tensor velocity(Role, const Tensor& x_t, const Tensor& t, const C&) {
    return model_(x_t, t);
  }
  std::vector<Tensor> parameters() { return model_.module()->parameters(); }
  template <class Roles>
  void keep(Roles) {}
  void after_gradient_step(std::int64_t) {}
  void after_epoch(std::int64_t) {}
  std::map<std::string, Tensor> state() {
    std::map<std::string, Tensor> tensors;
    for (const auto& item : model_.module()->named_parameters()) {
      tensors.emplace(item.key(), item.value());
    }
    return tensors;
  }
  void load(const std::map<std::string, Tensor>& tensors) {
    const at::NoGradGuard no_gradient;
    for (auto& [name, own] : state()) Tensor(own).copy_(tensors.at(name));
  }

 private:
  PlainModel model_;
};

static_assert(contraflow::Policy<PlainPolicy>);

}  // namespace archetypes
