#pragma once

/// @file
/// Ranks with a GPU each, by NCCL.

#include <array>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/DeviceGuard.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>
#include <unistd.h>

#include <contraflow/distributed/shards.hpp>
#include <contraflow/distributed/text.hpp>

namespace contraflow {

namespace detail {

inline void expects_nccl(ncclResult_t code, const char* operation) {
  if (code != ncclSuccess) throw Error(operation, "NCCL to succeed", ncclGetErrorString(code));
}

/// A communicator of NCCL from its start to its end.
class NcclSession {
 public:
  NcclSession(const ncclUniqueId& id, int rank, int size, at::Device device) : device_(device) {
    const at::DeviceGuard on_device(device_);
    expects_nccl(ncclCommInitRank(&communicator_, size, id, rank), "nccl");
  }
  NcclSession(const NcclSession&) = delete;
  NcclSession& operator=(const NcclSession&) = delete;
  ~NcclSession() {
    // Behind a failure the others may never come to what this rank would wait for.
    const bool is_failure = has_failed_ || std::uncaught_exceptions() > exceptions_;
    static_cast<void>(is_failure ? ncclCommAbort(communicator_) : ncclCommDestroy(communicator_));
  }

  at::Device device() const { return device_; }

  /// Calls @p start(communicator, stream) for each tensor, as one operation of NCCL's on the
  /// current stream.
  template <class Start>
  void together(const char* operation, const std::vector<Tensor>& tensors, Start&& start) {
    ncclResult_t earlier = ncclSuccess;
    check(ncclCommGetAsyncError(communicator_, &earlier), operation);
    check(earlier, operation);
    const at::DeviceGuard on_device(device_);
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream(device_.index()).stream();
    check(ncclGroupStart(), operation);
    ncclResult_t first = ncclSuccess;
    for (const Tensor& tensor : tensors) {
      const ncclResult_t code = start(tensor, communicator_, stream);
      if (first == ncclSuccess) first = code;
    }
    const ncclResult_t end = ncclGroupEnd();
    check(first, operation);
    check(end, operation);
  }

 private:
  void check(ncclResult_t code, const char* operation) {
    has_failed_ = has_failed_ || code != ncclSuccess;
    expects_nccl(code, operation);
  }

  ncclComm_t communicator_ = nullptr;
  at::Device device_;
  bool has_failed_ = false;
  int exceptions_ = std::uncaught_exceptions();
};

/// What NCCL adds up as it is; another dtype is added up as float32, as Mpi does.
inline bool is_summed_by_nccl(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kLong;
}

inline ncclDataType_t nccl_type(at::ScalarType dtype) {
  return dtype == at::kLong ? ncclInt64 : dtype == at::kDouble ? ncclFloat64 : ncclFloat32;
}

/// How many ranks before this one are of its machine: collective.
template <Communicator Starter>
int rank_on_machine(const Starter& ranks) {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  const std::vector<std::string> machines = gathered_texts(ranks, name.data());
  int before = 0;
  for (int rank = 0; rank < ranks.rank(); ++rank) {
    before += machines[std::size_t(rank)] == name.data() ? 1 : 0;
  }
  return before;
}

/// The GPU of a rank's number among those of its machine.
template <Communicator Starter>
at::Device device_of(const Starter& ranks) {
  const int own = rank_on_machine(ranks), devices = c10::cuda::device_count();
  expects(own < devices, "nccl", "a GPU for each rank of a machine",
          shown(devices) + " for rank " + shown(own) + " of it");
  return {at::kCUDA, static_cast<c10::DeviceIndex>(own)};
}

/// A name of a new communicator, the same on all ranks: collective.
template <Communicator Starter>
ncclUniqueId shared_id(const Starter& ranks) {
  ncclUniqueId id{};
  if (ranks.rank() == 0) expects_nccl(ncclGetUniqueId(&id), "nccl");
  const Tensor bytes = at::empty({std::int64_t(sizeof id)}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), &id, sizeof id);
  ranks.broadcast({bytes});
  std::memcpy(&id, bytes.const_data_ptr(), sizeof id);
  return id;
}

}  // namespace detail

/// Ranks with a GPU each, whose tensors go from GPU to GPU: a Communicator, started by another one.
///
///     const cf::Mpi mpi(argc, argv);
///     const cf::Nccl nccl(mpi);
///     model->to(nccl.device());
///     cf::Trainer trainer(policy, solver, reward, objective, nccl);
///
/// Sums and broadcasts of tensors on the rank's GPU are NCCL's, on the current stream and all of a
/// call in one group. What is on the host goes by way of the starter, as do gathered rows and what
/// ranks agree on. Sums have the same bits on all ranks; they are the same each time for one number
/// of ranks as long as NCCL chooses the same way between the same GPUs.
///
/// Nothing of it was ever run on a GPU: it was compiled and linked.
/// @tparam Starter a Communicator between the same ranks, such as Mpi
template <Communicator Starter>
class Nccl {
 public:
  /// Takes the GPU of the rank's number on its machine: collective.
  /// @throws Error if the machine has fewer GPUs than ranks, or NCCL fails
  explicit Nccl(Starter starter) : Nccl(starter, detail::device_of(starter)) {}
  /// Takes a GPU, such as 0 where each process sees one alone: collective.
  /// @throws Error if @p device is no GPU or NCCL fails
  Nccl(Starter starter, at::Device device) : starter_(std::move(starter)) {
    expects(device.is_cuda() && device.has_index(), "device", "a GPU with its number", device);
    session_ = std::make_shared<detail::NcclSession>(detail::shared_id(starter_), starter_.rank(),
                                                     starter_.size(), device);
  }

  /// Which of the ranks.
  int rank() const { return starter_.rank(); }
  /// Number of ranks.
  int size() const { return starter_.size(); }
  /// The rank's GPU.
  at::Device device() const { return session_->device(); }

  /// Adds up over the ranks, in place; numbers of 16 bits in 32.
  /// @throws Error if a tensor is on another GPU, or NCCL or the starter fails
  void sum(const std::vector<Tensor>& tensors) const {
    if (size() == 1) return;
    const auto [on_host, on_device] = parted(tensors);
    if (!on_host.empty()) starter_.sum(on_host);
    const std::vector<Tensor> sums = as_summed(on_device);
    sent_.add(sums);
    session_->together("sum", sums, [](const Tensor& sum, ncclComm_t ranks, cudaStream_t stream) {
      void* data = sum.mutable_data_ptr();
      return ncclAllReduce(data, data, std::size_t(sum.numel()),
                           detail::nccl_type(sum.scalar_type()), ncclSum, ranks, stream);
    });
    put_back(sums, on_device);
  }
  /// The same, with the sums on one rank alone.
  /// @throws Error if a tensor is on another GPU, or NCCL or the starter fails
  void sum_to(const std::vector<Tensor>& tensors, int on_rank) const {
    if (size() == 1) return;
    const auto [on_host, on_device] = parted(tensors);
    if (!on_host.empty()) contraflow::sum_to(starter_, on_host, on_rank);
    const std::vector<Tensor> sums = as_summed(on_device);
    if (rank() != on_rank) sent_.add(sums);
    session_->together("sum", sums, [&](const Tensor& sum, ncclComm_t ranks, cudaStream_t stream) {
      void* data = sum.mutable_data_ptr();
      return ncclReduce(data, data, std::size_t(sum.numel()), detail::nccl_type(sum.scalar_type()),
                        ncclSum, on_rank, ranks, stream);
    });
    if (rank() == on_rank) put_back(sums, on_device);
  }
  /// The rows of all ranks, in their order, by way of the starter.
  /// @throws Error if the starter fails
  Tensor gather(const Tensor& rows) const { return starter_.gather(rows); }
  /// The values of rank 0, in place.
  /// @throws Error if a tensor is on another GPU, or NCCL or the starter fails
  void broadcast(const std::vector<Tensor>& tensors) const { broadcast_from(tensors, 0); }
  /// The values of one rank, in place.
  /// @throws Error if a tensor is on another GPU, or NCCL or the starter fails
  void broadcast_from(const std::vector<Tensor>& tensors, int rank_of_values) const {
    if (size() == 1) return;
    const at::NoGradGuard no_gradient;
    const auto [on_host, on_device] = parted(tensors);
    if (!on_host.empty()) contraflow::broadcast_from(starter_, on_host, rank_of_values);
    std::vector<Tensor> values;
    for (const Tensor& tensor : on_device) values.push_back(tensor.detach().contiguous());
    if (rank() == rank_of_values) sent_.add(values);
    session_->together("broadcast", values,
                       [&](const Tensor& value, ncclComm_t ranks, cudaStream_t stream) {
                         void* data = value.mutable_data_ptr();
                         return ncclBroadcast(data, data, value.nbytes(), ncclUint8, rank_of_values,
                                              ranks, stream);
                       });
    put_back(values, on_device);
  }
  /// Whether any rank says so, by way of the starter.
  /// @throws Error if the starter fails
  bool agree(bool flag) const { return starter_.agree(flag); }
  /// Bytes of tensors that this rank has given to NCCL so far, and to the starter where it counts.
  std::int64_t bytes_sent() const {
    if constexpr (HasBytesSent<Starter>) return sent_.count() + starter_.bytes_sent();
    return sent_.count();
  }

 private:
  /// Tensors of the host and of the GPU.
  std::pair<std::vector<Tensor>, std::vector<Tensor>> parted(
      const std::vector<Tensor>& tensors) const {
    std::pair<std::vector<Tensor>, std::vector<Tensor>> parts;
    for (const Tensor& tensor : tensors) {
      expects(tensor.is_cpu() || tensor.device() == device(), "tensors",
              "tensors of the host or of the rank's GPU", tensor.device());
      (tensor.is_cpu() ? parts.first : parts.second).push_back(tensor);
    }
    return parts;
  }
  /// Tensors, or copies of them, that NCCL can add up in place.
  static std::vector<Tensor> as_summed(const std::vector<Tensor>& tensors) {
    const at::NoGradGuard no_gradient;
    std::vector<Tensor> sums;
    for (const Tensor& tensor : tensors) {
      const auto dtype = tensor.scalar_type();
      sums.push_back(
          tensor.detach().contiguous().to(detail::is_summed_by_nccl(dtype) ? dtype : at::kFloat));
    }
    return sums;
  }
  /// Where a tensor could not be worked on in place.
  static void put_back(const std::vector<Tensor>& values, const std::vector<Tensor>& tensors) {
    const at::NoGradGuard no_gradient;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (!values[i].is_alias_of(tensors[i])) tensors[i].detach().copy_(values[i]);
    }
  }

  Starter starter_;
  std::shared_ptr<detail::NcclSession> session_;
  detail::SentBytes sent_;
};

}  // namespace contraflow
