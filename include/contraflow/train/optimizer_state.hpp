#pragma once

/// @file
/// What an optimiser keeps between its steps, as tensors and JSON.

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <typeinfo>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>
#include <nlohmann/json.hpp>
#include <torch/serialize.h>

#include <contraflow/distributed/shards.hpp>
#include <contraflow/distributed/text.hpp>
#include <contraflow/train/optimizer.hpp>

namespace contraflow {

/// What an optimiser keeps between its steps: nothing that could run code when it is read.
struct OptimizerState {
  std::map<std::string, Tensor> tensors = {};  ///< by name
  nlohmann::json values = {};                  ///< all else: counts, numbers, texts
};

namespace detail {

/// The parameters of all groups, in their order.
inline std::vector<Tensor> parameters_of(torch::optim::Optimizer& optimizer) {
  std::vector<Tensor> all;
  for (auto& group : optimizer.param_groups()) {
    all.insert(all.end(), group.params().begin(), group.params().end());
  }
  return all;
}

/// AdamW, whose state is read and replaced as it is: large, and in every run.
struct AdamWStates {
  using Own = torch::optim::AdamWParamState;
  static constexpr const char* kind = "AdamW";

  static bool fits(torch::optim::Optimizer& optimizer) {
    const auto& type = typeid(optimizer);
    return type == typeid(torch::optim::AdamW) || type == typeid(FusedAdamW);
  }

  static OptimizerState state_of(torch::optim::Optimizer& optimizer) {
    OptimizerState state{{}, {{"optimizer", kind}, {"steps", nlohmann::json::object()}}};
    const std::vector<Tensor> parameters = parameters_of(optimizer);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto found = optimizer.state().find(parameters[i].unsafeGetTensorImpl());
      if (found == optimizer.state().end()) continue;
      const auto& own = static_cast<const Own&>(*found->second);
      const std::string index = std::to_string(i);
      state.values["steps"][index] = own.step();
      state.tensors["exp_avg." + index] = own.exp_avg();
      state.tensors["exp_avg_sq." + index] = own.exp_avg_sq();
      if (own.max_exp_avg_sq().defined()) {
        state.tensors["max_exp_avg_sq." + index] = own.max_exp_avg_sq();
      }
    }
    return state;
  }

  static void load(torch::optim::Optimizer& optimizer, const OptimizerState& state) {
    const std::vector<Tensor> parameters = parameters_of(optimizer);
    std::vector<std::unique_ptr<Own>> fresh(parameters.size());
    for (const auto& [index, steps] : state.values.at("steps").items()) {
      const std::size_t i = number_of(index);
      if (i >= parameters.size()) {
        throw Error("optimizer", "a state of " + shown(parameters.size()) + " parameters",
                    "one of parameter " + index);
      }
      const bool is_count = steps.is_number_integer() && steps.get<std::int64_t>() >= 0;
      if (!is_count) throw Error("optimizer", "a count of steps", steps.dump());
      fresh[i] = std::make_unique<Own>();
      fresh[i]->step(steps.get<std::int64_t>());
      fresh[i]->exp_avg(tensor_of(state, "exp_avg." + index, parameters[i]));
      fresh[i]->exp_avg_sq(tensor_of(state, "exp_avg_sq." + index, parameters[i]));
      if (const std::string name = "max_exp_avg_sq." + index; state.tensors.contains(name)) {
        fresh[i]->max_exp_avg_sq(tensor_of(state, name, parameters[i]));
      }
    }
    optimizer.state().clear();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      if (fresh[i]) optimizer.state()[parameters[i].unsafeGetTensorImpl()] = std::move(fresh[i]);
    }
  }

  /// A parameter's number; one that no parameter has for a text that is none.
  static std::size_t number_of(const std::string& index) {
    std::size_t number = 0;
    const char* end = index.data() + index.size();
    const auto [read, fault] = std::from_chars(index.data(), end, number);
    const bool is_number = fault == std::errc() && read == end && index == shown(number);
    return is_number ? number : std::numeric_limits<std::size_t>::max();
  }

 private:
  static Tensor tensor_of(const OptimizerState& state, const std::string& name,
                          const Tensor& parameter) {
    const auto found = state.tensors.find(name);
    const std::string argument = "optimizer " + name;
    if (found == state.tensors.end()) {
      throw Error(argument, "a tensor " + shape_text(parameter), "none");
    }
    if (found->second.sizes() != parameter.sizes()) {
      throw Error(argument, "shape " + shape_text(parameter), shape_text(found->second));
    }
    return found->second.to(parameter.options()).clone();
  }
};

/// Any other optimiser: the archive that it saves itself into, taken apart in memory. Each value is
/// a list of its kind and itself; a tensor is its name.
struct ArchivedStates {
  static constexpr const char* kind = "archive";

  static OptimizerState state_of(torch::optim::Optimizer& optimizer) {
    torch::serialize::OutputArchive out;
    optimizer.save(out);
    OptimizerState state;
    const nlohmann::json tree = tree_of(read_back(out), state);
    state.values = {{"optimizer", kind}, {"archive", tree}};
    return state;
  }

  static void load(torch::optim::Optimizer& optimizer, const OptimizerState& state) {
    const auto parameters = parameters_of(optimizer);  // none where other ranks have all
    const at::Device device = parameters.empty() ? at::kCPU : parameters.front().device();
    OptimizerState moved = state;
    for (auto& [name, tensor] : moved.tensors) {
      if (tensor.dim() > 0) tensor = tensor.to(device);  // counts stay on the host
    }
    torch::serialize::OutputArchive out;
    write(out, moved.values.at("archive"), moved);
    auto in = read_back(out);
    // What is in it is set, and nothing else is removed.
    auto before = std::move(optimizer.state());
    optimizer.state().clear();
    try {
      optimizer.load(in);
    } catch (...) {
      optimizer.state() = std::move(before);
      throw;
    }
  }

 private:
  static torch::serialize::InputArchive read_back(torch::serialize::OutputArchive& out) {
    std::stringstream bytes;
    out.save_to(bytes);
    torch::serialize::InputArchive in;
    in.load_from(bytes);
    return in;
  }

  static nlohmann::json tree_of(torch::serialize::InputArchive in, OptimizerState& state) {
    auto tree = nlohmann::json::object();
    for (const std::string& key : in.keys()) {
      c10::IValue value;
      in.read(key, value);
      if (value.isModule()) {
        torch::serialize::InputArchive nested;
        in.read(key, nested);
        tree[key] = {"archive", tree_of(std::move(nested), state)};
      } else {
        tree[key] = leaf_of(value, state);
      }
    }
    return tree;
  }

  static nlohmann::json leaf_of(const c10::IValue& value, OptimizerState& state) {
    if (value.isTensor()) {
      const std::string name = "tensor." + std::to_string(state.tensors.size());
      state.tensors[name] = value.toTensor();
      return {"tensor", name};
    }
    if (value.isInt()) return {"int", value.toInt()};
    if (value.isBool()) return {"bool", value.toBool()};
    if (value.isDouble()) return {"double", value.toDouble()};
    if (value.isString()) return {"string", value.toStringRef()};
    if (value.isNone()) return {"none", nullptr};
    if (value.isTuple()) {
      auto elements = nlohmann::json::array();
      for (const auto& element : value.toTupleRef().elements()) {
        elements.push_back(leaf_of(element, state));
      }
      return {"tuple", elements};
    }
    throw Error("optimizer", "a state of tensors, numbers, texts and tuples of them",
                value.tagKind());
  }

  static void write(torch::serialize::OutputArchive& out, const nlohmann::json& tree,
                    const OptimizerState& state) {
    for (const auto& [key, leaf] : tree.items()) {
      if (leaf.at(0) == "archive") {
        torch::serialize::OutputArchive nested(out.compilation_unit());
        write(nested, leaf.at(1), state);
        out.write(key, nested);
      } else if (leaf.at(0) == "tensor") {
        out.write(key, state.tensors.at(leaf.at(1).get<std::string>()), /*is_buffer=*/true);
      } else {
        out.write(key, value_of(leaf, state));
      }
    }
  }

  static std::int64_t whole(const nlohmann::json& value) {
    if (!value.is_number_integer()) throw Error("optimizer", "a whole number", value.dump());
    return value.get<std::int64_t>();
  }

  static c10::IValue value_of(const nlohmann::json& leaf, const OptimizerState& state) {
    const auto type = leaf.at(0).get<std::string>();
    const nlohmann::json& value = leaf.at(1);
    if (type == "tensor") return state.tensors.at(value.get<std::string>());
    if (type == "int") return whole(value);
    if (type == "bool") return value.get<bool>();
    if (type == "double") return value.get<double>();
    if (type == "string") return value.get<std::string>();
    if (type == "none") return {};
    std::vector<c10::IValue> elements;
    for (const auto& element : value) elements.push_back(value_of(element, state));
    return c10::ivalue::Tuple::create(std::move(elements));
  }
};

}  // namespace detail

/// What an optimiser keeps between its steps. The tensors are its own: they change with its next
/// step.
/// @param optimizer AdamW, or any that saves itself into an archive of tensors, numbers, texts and
///   tuples
/// @throws Error if its state is of something else
inline OptimizerState state_of(torch::optim::Optimizer& optimizer) {
  if (detail::AdamWStates::fits(optimizer)) return detail::AdamWStates::state_of(optimizer);
  return detail::ArchivedStates::state_of(optimizer);
}

namespace detail {

/// Loads a state; whatever is wrong with one is an Error.
template <class Load>
void load_or_refuse(Load&& load) {
  try {
    load();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const c10::Error& failure) {
    throw Error("optimizer", "the state of this optimiser", failure.what_without_backtrace());
  } catch (const std::exception& failure) {  // no such tensor, a value of another kind
    throw Error("optimizer", "the state of this optimiser", failure.what());
  }
}

}  // namespace detail

/// Gives an optimiser what state_of() gave: all of it, or nothing where an error is thrown. Tensors
/// go to the devices of their parameters. Of AdamW's settings none is in it: they are what the
/// program says.
/// @param optimizer of the same kind and parameters
/// @param state is copied
/// @throws Error if it is of another optimiser, or does not fit
inline void load_state(torch::optim::Optimizer& optimizer, const OptimizerState& state) {
  const bool is_adamw = detail::AdamWStates::fits(optimizer);
  const std::string own = is_adamw ? detail::AdamWStates::kind : detail::ArchivedStates::kind;
  detail::load_or_refuse([&] {
    const auto found = state.values.at("optimizer").get<std::string>();
    if (found != own) throw Error("optimizer", "a state of " + own, found);
    is_adamw ? detail::AdamWStates::load(optimizer, state)
             : detail::ArchivedStates::load(optimizer, state);
  });
}

/// Which of a trainer's parameters an optimiser has, by their numbers: all, or a rank's.
using ParameterNumbers = std::vector<std::size_t>;

namespace detail {

/// A name such as "exp_avg.7", taken apart.
inline std::pair<std::string, std::size_t> name_and_number(const std::string& name) {
  const std::size_t behind = name.rfind('.') + 1;
  return {name.substr(0, behind), AdamWStates::number_of(name.substr(behind))};
}

/// The state of AdamW with the numbers of its parameters changed.
/// @param number gives the new one; nothing for what is left out
template <class Number>
OptimizerState renumbered(const OptimizerState& state, Number&& number) {
  OptimizerState result{{}, state.values};
  result.values["steps"] = nlohmann::json::object();
  for (const auto& [index, steps] : state.values.at("steps").items()) {
    if (const auto own = number(AdamWStates::number_of(index))) {
      result.values["steps"][shown(*own)] = steps;
    }
  }
  for (const auto& [name, tensor] : state.tensors) {
    const auto [kind, index] = name_and_number(name);
    if (const auto own = number(index)) result.tensors.emplace(kind + shown(*own), tensor);
  }
  return result;
}

/// The number among a rank's own parameters of each of them.
class OwnNumber {
 public:
  OwnNumber(const ParameterNumbers& own, std::size_t all) : own_(own), all_(all) {}
  std::optional<std::size_t> operator()(std::size_t i) const {
    if (i >= all_) {
      throw Error("optimizer", "a state of " + shown(all_) + " parameters",
                  "one of parameter " + shown(i));
    }
    const auto found = std::find(own_.begin(), own_.end(), i);
    return found == own_.end() ? std::nullopt : std::optional(std::size_t(found - own_.begin()));
  }

 private:
  const ParameterNumbers& own_;
  std::size_t all_;
};

}  // namespace detail

/// What a rank's optimiser keeps, under the numbers that its parameters have among all.
/// @param optimizer of some parameters
/// @param own their numbers
/// @throws Error unless it is AdamW: the states of others have no parts that could be told apart
inline OptimizerState state_of_part(torch::optim::Optimizer& optimizer,
                                    const ParameterNumbers& own) {
  if (!detail::AdamWStates::fits(optimizer)) {
    throw Error("optimizer", "AdamW where it is divided between ranks and is to be saved",
                "another one");
  }
  return detail::renumbered(state_of(optimizer),
                            [&](std::size_t i) { return std::optional(own.at(i)); });
}

/// Gives a rank's optimiser its part of what an optimiser of all parameters keeps.
/// @param optimizer of some parameters
/// @param state of all of them
/// @param own numbers of the optimiser's parameters
/// @param count of all parameters
/// @throws Error as load_state()
inline void load_part(torch::optim::Optimizer& optimizer, const OptimizerState& state,
                      const ParameterNumbers& own, std::size_t count) {
  std::optional<OptimizerState> part;
  detail::load_or_refuse([&] {
    const auto kind = state.values.at("optimizer").get<std::string>();
    // That of another optimiser is refused whole.
    if (kind == detail::AdamWStates::kind) {
      part = detail::renumbered(state, detail::OwnNumber(own, count));
    }
  });
  load_state(optimizer, part ? *part : state);
}

/// The state of an optimiser that is divided between ranks, without the tensors of others.
struct OptimizerParts {
  std::vector<StatePart> parts = {};  ///< of all ranks
  nlohmann::json values = {};         ///< all else
};

/// What the optimisers of all ranks keep: collective.
/// @param communicator of the ranks
/// @param own see state_of_part()
/// @param parameters of all of them
template <Communicator Comm>
OptimizerParts parts_of(const Comm& communicator, const OptimizerState& own,
                        const std::vector<Tensor>& parameters) {
  nlohmann::json told{{"values", own.values}, {"names", nlohmann::json::array()}};
  for (const auto& entry : own.tensors) told["names"].push_back(entry.first);
  OptimizerParts all;
  int rank = 0;
  for (const std::string& text : gathered_texts(communicator, told.dump())) {
    const auto of_rank = nlohmann::json::parse(text);
    if (rank == 0) all.values = of_rank.at("values");
    all.values["steps"].update(of_rank.at("values").at("steps"));
    for (const auto& entry : of_rank.at("names")) {
      const auto name = entry.get<std::string>();
      const auto found = own.tensors.find(name);
      all.parts.push_back({name, rank, found == own.tensors.end() ? Tensor() : found->second,
                           parameters.at(detail::name_and_number(name).second)});
    }
    ++rank;
  }
  return all;
}

}  // namespace contraflow
