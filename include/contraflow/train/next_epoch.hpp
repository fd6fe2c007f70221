#pragma once

/// @file
/// The samples of an epoch to come: who makes them, and how they are saved.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include <contraflow/policy/average.hpp>
#include <contraflow/policy/concept.hpp>
#include <contraflow/train/evaluation_count.hpp>
#include <contraflow/train/rollout.hpp>
#include <contraflow/train/scoring_thread.hpp>
#include <contraflow/train/training.hpp>

namespace contraflow {

namespace detail {

/// An epoch's samples, while they are scored.
template <class Record>
struct Collected {
  Rollout<Record> rollout;
  PendingScores scores;
  EvaluationCount evaluations;  ///< that it took to make them
};

/// An epoch to come: who makes its samples, and the samples where they are made.
template <class Record>
struct NextEpoch {
  std::map<std::string, Tensor> collector;     ///< a copy of the weights of who collects
  std::int64_t gradient_steps = 0;             ///< made before these weights
  std::optional<Collected<Record>> samples{};  ///< nothing: to be made with these weights
};

/// Copies of tensors by their names.
inline std::map<std::string, Tensor> copies_of(const std::map<std::string, Tensor>& tensors) {
  std::map<std::string, Tensor> copies;
  for (const auto& [name, tensor] : tensors) copies.emplace(name, tensor.detach().clone());
  return copies;
}

/// Gives tensors the values of others, while it lives.
class WithValues {
 public:
  WithValues(std::map<std::string, Tensor> own, const std::map<std::string, Tensor>& values)
      : own_(std::move(own)), before_(copies_of(own_)) {
    restore(own_, values);
  }
  WithValues(const WithValues&) = delete;
  ~WithValues() {
    try {
      const at::NoGradGuard no_gradient;
      for (const auto& [name, tensor] : own_) tensor.copy_(before_.at(name));
    } catch (...) {  // a device that fails has thrown before, which is to be told
    }
  }

 private:
  std::map<std::string, Tensor> own_, before_;
};

inline const std::string ahead_prefix = "ahead.";      ///< of tensors in a state
inline const std::string ahead_count = "ahead_steps";  ///< in a state

/// Adds an epoch to come to a state, without its samples.
template <class Record>
void add_next_epoch(TrainerState& state, const NextEpoch<Record>& next) {
  for (const auto& [name, tensor] : next.collector) {
    state.tensors.emplace(ahead_prefix + name, tensor);
  }
  state.counts.emplace(ahead_count, next.gradient_steps);
}
/// Whether a state has an epoch to come.
inline bool has_next_epoch(const TrainerState& state) { return state.counts.contains(ahead_count); }
/// The epoch to come of a state that has one.
/// @param own tensors of the collecting role
/// @throws Error if one is missing or has another shape
template <class Record>
NextEpoch<Record> next_epoch_in(const TrainerState& state,
                                const std::map<std::string, Tensor>& own) {
  NextEpoch<Record> next{{}, state.counts.at(ahead_count), {}};
  expects_count(next.gradient_steps, ahead_count.c_str());
  for (const auto& [name, tensor] : own) {
    const std::string stored = ahead_prefix + name;
    const auto found = state.tensors.find(stored);
    if (found == state.tensors.end()) throw Error("state", "a tensor named " + stored, "none");
    expects_like(found->second, tensor, stored.c_str());
    next.collector.emplace(name, found->second.to(tensor.options()).clone());
  }
  return next;
}

}  // namespace detail
}  // namespace contraflow
