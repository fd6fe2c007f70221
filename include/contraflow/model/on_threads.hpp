#pragma once

/// @file
/// A batch divided between threads, forward and backward.

#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <latch>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/ThreadLocalState.h>
#include <c10/core/thread_pool.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/custom_class.h>

#include <contraflow/core/autograd.hpp>
#include <contraflow/model/conversions.hpp>
#include <contraflow/network/recompute.hpp>

namespace contraflow {

namespace detail {

/// Consecutive rows of a batch.
struct RowRange {
  std::int64_t first, count;
};

/// @p batch rows in at most @p parts ranges, none of them empty.
inline std::vector<RowRange> divided(std::int64_t batch, std::int64_t parts) {
  parts = std::min(parts, batch);
  std::vector<RowRange> ranges;
  for (std::int64_t i = 0; i < parts; ++i) {
    const std::int64_t first = batch * i / parts;
    ranges.push_back({first, batch * (i + 1) / parts - first});
  }
  return ranges;
}

/// Threads beside the calling one.
///
/// Not those of at::parallel_for: within its regions oneDNN's convolutions wait for threads that
/// never come.
class Team {
 public:
  explicit Team(int threads) : size_(threads), others_(threads - 1) {}

  /// Threads, the calling one included.
  std::int64_t size() const { return size_; }

  /// Calls @p body(i) for each of @p count parts, the first on the calling thread, each under the
  /// guards of the caller. The first exception is thrown again when all are done.
  template <class Body>
  void each(std::size_t count, Body&& body) {
    const at::ThreadLocalState state;
    const bool composed_only = ComposedOnly::in_force();
    std::vector<std::exception_ptr> failures(count);
    const auto attempt = [&](std::size_t i) {
      try {
        body(i);
      } catch (...) {
        failures[i] = std::current_exception();
      }
    };
    std::latch others(std::ptrdiff_t(count) - 1);
    for (std::size_t i = 1; i < count; ++i) {
      others_.run([&, i] {
        {
          const at::ThreadLocalStateGuard guard(state);
          const ComposedOnly layers(composed_only);
          attempt(i);
        }
        others.count_down();
      });
    }
    attempt(0);
    others.wait();
    for (const std::exception_ptr& failure : failures) {
      if (failure) std::rethrow_exception(failure);
    }
  }

 private:
  std::int64_t size_;
  c10::ThreadPool others_;
};

/// The parts of a batch on their way through a model, kept for the backward pass.
struct DividedBatch : torch::CustomClassHolder {
  std::shared_ptr<Team> team;
  std::function<Tensor(const Tensor& x, const RowRange& rows)> velocity;
  std::vector<RowRange> ranges;
  std::vector<Tensor> inputs = {}, outputs = {};  ///< of the parts, with their graphs
};

class Divided : public torch::autograd::Function<Divided> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context,
                        const c10::intrusive_ptr<DividedBatch>& work, const Tensor& x_t,
                        at::TensorList weights) {
    const std::size_t parts = work->ranges.size();
    work->inputs.resize(parts);
    work->outputs.resize(parts);
    const at::AutoGradMode with_gradient(true);
    work->team->each(parts, [&](std::size_t i) {
      const RowRange& rows = work->ranges[i];
      work->inputs[i] =
          x_t.detach().narrow(0, rows.first, rows.count).set_requires_grad(x_t.requires_grad());
      work->outputs[i] = work->velocity(work->inputs[i], rows);
    });
    context->save_for_backward(weights.vec());
    context->saved_data["work"] = c10::IValue::make_capsule(work);
    const at::NoGradGuard no_gradient;
    return at::cat(work->outputs);
  }

  static std::vector<Tensor> backward(torch::autograd::AutogradContext* context,
                                      std::vector<Tensor> gradients) {
    expects_first_derivative();
    // Whether the caller wants to come again; unknown to the threads of the parts.
    const bool keeps_graph = torch::autograd::get_current_graph_task_keep_graph();
    const auto capsule = context->saved_data["work"].toCapsule();
    auto* work = static_cast<DividedBatch*>(capsule.get());
    const std::vector<Tensor> weights = context->get_saved_variables();
    const bool needs_x = work->inputs.front().requires_grad();
    std::vector<std::vector<Tensor>> found(work->ranges.size());
    work->team->each(found.size(), [&](std::size_t i) {
      std::vector<Tensor> sources = weights;
      if (needs_x) sources.push_back(work->inputs[i]);
      const RowRange& rows = work->ranges[i];
      found[i] = torch::autograd::grad({work->outputs[i]}, sources,
                                       {gradients[0].narrow(0, rows.first, rows.count)},
                                       keeps_graph, /*create_graph=*/false,
                                       /*allow_unused=*/true);
      if (!keeps_graph) work->outputs[i].reset();
    });
    // The first argument of forward is no tensor, and has no gradient.
    std::vector<Tensor> result(2);
    if (needs_x) result[1] = at::cat(column(found, weights.size()));
    for (std::size_t k = 0; k < weights.size(); ++k) result.push_back(sum(column(found, k)));
    return result;
  }

 private:
  static std::vector<Tensor> column(const std::vector<std::vector<Tensor>>& rows, std::size_t k) {
    std::vector<Tensor> values;
    for (const auto& row : rows) values.push_back(row[k]);
    return values;
  }
  // In the order of the parts, not of their ends: equal input gives equal bits.
  static Tensor sum(const std::vector<Tensor>& parts) {
    Tensor total;
    for (const Tensor& part : parts) {
      if (!part.defined()) continue;
      total = total.defined() ? total + part : part;
    }
    return total;
  }
};

}  // namespace detail

/// A model whose batches are divided between threads, forward and backward.
///
/// For networks whose operations are too short to be divided themselves: each thread takes its
/// share of the samples through the whole network, on one core, instead of meeting the others at
/// every operation. Operations should then be left undivided: `at::set_num_threads(1)`. The
/// gradients of the shares are added in the order of the shares, so that bits depend on the number
/// of threads and on nothing else. On another device than the CPU the model is called as it is.
/// Autocasting belongs inside: `OnThreads(Autocasting(...), 2)`. Copies and clones share the
/// threads, which serve one call at a time.
///
/// Gradients, first derivatives only, are those of x_t, of the parameters of the model's module()
/// and of its adapters in use. Times, conditions, and weights of a model without a module are given
/// none.
/// @par Shape
/// as the model's
template <class M>
class OnThreads : public detail::Wrapper<OnThreads<M>, M> {
 public:
  /// @param model a FlowModel, whose calls may overlap
  /// @param threads at least 1; 1 calls the model as it is
  /// @throws Error if there are fewer threads
  OnThreads(M model, int threads)
      : detail::Wrapper<OnThreads<M>, M>(std::move(model)),
        team_(std::make_shared<detail::Team>(checked(threads))) {}

  /// Between how many threads batches are divided.
  int threads() const { return int(team_->size()); }

  /// The velocity.
  /// @par Shape
  /// @p x_t [B, ...], @p t [B]; result as x_t
  /// @throws Error if times or condition are of another batch
  template <class... C>
  Tensor operator()(const Tensor& x_t, const Tensor& t, const C&... condition) {
    const auto velocity = [this](const Tensor& x, const Tensor& times, const C&... of_x) {
      return velocity_of(this->model_, x, times, detail::condition_of(of_x...));
    };
    const std::int64_t parts = x_t.device().is_cpu() ? team_->size() : 1;
    const std::vector<detail::RowRange> ranges = detail::divided(x_t.size(0), parts);
    if (ranges.size() < 2) return velocity(x_t, t, condition...);
    expects_per_sample(t, x_t, "t");
    expects_condition_of(detail::condition_of(condition...), x_t);
    const auto part = [velocity, t, condition...](const Tensor& x, const detail::RowRange& rows) {
      const Tensor ids = at::arange(rows.first, rows.first + rows.count, at::kLong);
      return velocity(x, t.narrow(0, rows.first, rows.count), select(condition, ids)...);
    };
    const std::vector<Tensor> weights = trained();
    if (!at::GradMode::is_enabled() || (weights.empty() && !x_t.requires_grad())) {
      std::vector<Tensor> found(ranges.size());
      team_->each(found.size(), [&](std::size_t i) {
        found[i] = part(x_t.narrow(0, ranges[i].first, ranges[i].count), ranges[i]);
      });
      return at::cat(found);
    }
    auto work = c10::make_intrusive<detail::DividedBatch>();
    work->team = team_;
    work->velocity = part;
    work->ranges = ranges;
    return detail::Divided::apply(work, x_t, at::TensorList(weights));
  }

 private:
  static int checked(int threads) {
    expects(threads >= 1, "threads", "at least 1", threads);
    return threads;
  }

  /// What a gradient may be asked for: parameters, and adapters in use.
  std::vector<Tensor> trained() const {
    if constexpr (HasModule<M>) {
      const auto module = module_of(this->model_);
      std::vector<Tensor> weights;
      const auto add = [&](const std::vector<Tensor>& tensors) {
        for (const Tensor& tensor : tensors) {
          if (tensor.requires_grad()) weights.push_back(tensor);
        }
      };
      add(module->parameters());
      add(AdaptersInUse(*module).tensors());
      return weights;
    } else {
      return {};
    }
  }

  std::shared_ptr<detail::Team> team_;
};

}  // namespace contraflow
