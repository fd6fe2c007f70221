#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <contraflow/distributed/communicator.hpp>

namespace archetypes {

/// A Communicator and nothing more: any other one, whose type is forgotten.
class AnyRank {
 public:
  template <class C>
  requires(!std::same_as<C, AnyRank> &&
           contraflow::Communicator<C>) explicit AnyRank(C communicator)
      : rank_(communicator.rank()),
        size_(communicator.size()),
        sum_([communicator](const auto& tensors) { communicator.sum(tensors); }),
        gather_([communicator](const auto& rows) { return communicator.gather(rows); }),
        broadcast_([communicator](const auto& tensors) { communicator.broadcast(tensors); }),
        agree_([communicator](bool flag) { return communicator.agree(flag); }) {}

  int rank() const { return rank_; }
  int size() const { return size_; }
  void sum(const std::vector<contraflow::Tensor>& tensors) const { sum_(tensors); }
  contraflow::Tensor gather(const contraflow::Tensor& rows) const { return gather_(rows); }
  void broadcast(const std::vector<contraflow::Tensor>& tensors) const { broadcast_(tensors); }
  bool agree(bool flag) const { return agree_(flag); }

 private:
  int rank_, size_;
  std::function<void(const std::vector<contraflow::Tensor>&)> sum_;
  std::function<contraflow::Tensor(const contraflow::Tensor&)> gather_;
  std::function<void(const std::vector<contraflow::Tensor>&)> broadcast_;
  std::function<bool(bool)> agree_;
};
static_assert(contraflow::Communicator<AnyRank>);

}  // namespace archetypes
