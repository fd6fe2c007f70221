#pragma once

/// @file
/// Ranks that are processes, by MPI.

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mpi.h>

#include <contraflow/distributed/communicator.hpp>

namespace contraflow {

namespace detail {

/// MPI from its start to its end, and the communicator of this library.
class MpiSession {
 public:
  MpiSession(int* argc, char*** argv) {
    int is_there = 0;
    MPI_Initialized(&is_there);
    owns_ = is_there == 0;
    if (owns_) {
      int given = MPI_THREAD_SINGLE;
      MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &given);
      std::atexit(end_all_if_not_finalised);
    }
    MPI_Comm_dup(MPI_COMM_WORLD, &world_);
    MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(world_, &rank_);
    MPI_Comm_size(world_, &size_);
  }
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  ~MpiSession() {
    // The others may wait for this rank for ever: with MPI not finalised they are ended with it.
    if (std::uncaught_exceptions() > exceptions_) return;
    MPI_Comm_free(&world_);
    if (owns_) MPI_Finalize();
  }

  MPI_Comm world() const { return world_; }
  int rank() const { return rank_; }
  int size() const { return size_; }

 private:
  /// A process that ends in the middle of a run, after it said why, takes the others with it.
  static void end_all_if_not_finalised() {
    int is_finalised = 0;
    MPI_Finalized(&is_finalised);
    if (is_finalised != 0) return;
    int size = 1;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    // One by itself has nobody to end, and MPI's notice would hide its own sentence.
    if (size == 1) {
      MPI_Finalize();
    } else {
      MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
  }

  MPI_Comm world_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  bool owns_ = false;
  int exceptions_ = std::uncaught_exceptions();
};

/// Elements that one call of MPI is given: its counts are of 32 bits.
inline constexpr std::int64_t mpi_elements = std::int64_t{1} << 30;

inline void expects_mpi(int code, const char* operation) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(operation, "MPI to succeed", std::string(text, static_cast<std::size_t>(length)));
}

}  // namespace detail

/// The processes that `mpirun` or `srun` started, one rank each; one rank where the program was
/// started by itself: a Communicator.
///
/// To be made at the beginning of `main` and to outlive what is trained:
///
///     int main(int argc, char** argv) {
///       const cf::Mpi mpi(argc, argv);
///       cf::Trainer trainer(policy, solver, reward, objective, mpi);
///
/// Sums are MPI's, whose order for a number of ranks is fixed with the usual MPIs. Tensors on a
/// device are sent by way of the host. One rank by itself calls nothing of MPI's, and bears several
/// threads. A process that ends while an exception is on its way, or
/// without leaving `main`, ends all others within seconds.
class Mpi {
 public:
  /// Starts MPI, unless the program has.
  Mpi(int& argc, char**& argv) : session_(std::make_shared<detail::MpiSession>(&argc, &argv)) {}
  /// The same, for programs without the arguments at hand.
  Mpi() : session_(std::make_shared<detail::MpiSession>(nullptr, nullptr)) {}

  /// Which of the processes.
  int rank() const { return session_->rank(); }
  /// Number of processes.
  int size() const { return session_->size(); }

  /// Adds up over the ranks, in place: tensors of one dtype and device in one message.
  /// @throws Error if MPI fails
  void sum(const std::vector<Tensor>& tensors) const {
    if (size() == 1) return;
    for (const auto& alike : alike_of(tensors)) sum_alike(alike, all_ranks);
  }
  /// The same, with the sums on one rank alone.
  /// @throws Error if MPI fails
  void sum_to(const std::vector<Tensor>& tensors, int rank) const {
    if (size() == 1) return;
    for (const auto& alike : alike_of(tensors)) sum_alike(alike, rank);
  }
  /// The rows of all ranks, in their order.
  /// @throws Error if MPI fails
  Tensor gather(const Tensor& rows) const {
    if (size() == 1) return rows;
    const Tensor own = rows.detach().to(at::kCPU).contiguous();
    const auto own_bytes = static_cast<std::int64_t>(own.nbytes());
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(size()) * 2);
    sent_.add(own_bytes);
    const std::int64_t mine[2] = {own.size(0), own_bytes};
    detail::expects_mpi(
        MPI_Allgather(mine, 2, MPI_INT64_T, sizes.data(), 2, MPI_INT64_T, session_->world()),
        "gather");
    expects_alike(sizes, own);
    std::vector<int> counts, starts;
    std::int64_t count = 0, bytes = 0;
    for (std::size_t r = 0; r < sizes.size(); r += 2) {
      counts.push_back(static_cast<int>(sizes[r + 1]));
      starts.push_back(static_cast<int>(bytes));
      count += sizes[r];
      bytes += sizes[r + 1];
    }
    expects(bytes < std::int64_t{1} << 31, "gather", "less than 2 GiB of rows of all ranks", bytes);
    auto shape = own.sizes().vec();
    shape[0] = count;
    Tensor all = at::empty(shape, own.options());
    detail::expects_mpi(MPI_Allgatherv(own.const_data_ptr(), static_cast<int>(own_bytes), MPI_BYTE,
                                       all.mutable_data_ptr(), counts.data(), starts.data(),
                                       MPI_BYTE, session_->world()),
                        "gather");
    return all.to(rows.device());
  }
  /// The values of rank 0, in place.
  /// @throws Error if MPI fails
  void broadcast(const std::vector<Tensor>& tensors) const { broadcast_from(tensors, 0); }
  /// The values of one rank, in place.
  /// @throws Error if MPI fails
  void broadcast_from(const std::vector<Tensor>& tensors, int rank_of_values) const {
    if (size() == 1) return;
    const at::NoGradGuard no_gradient;
    for (const Tensor& tensor : tensors) {
      const Tensor host = tensor.detach().to(at::kCPU).contiguous();
      auto* bytes = static_cast<char*>(host.mutable_data_ptr());
      const auto size = static_cast<std::int64_t>(host.nbytes());
      if (rank() == rank_of_values) sent_.add(size);
      for (std::int64_t first = 0; first < size; first += detail::mpi_elements) {
        const auto part = static_cast<int>(std::min(detail::mpi_elements, size - first));
        detail::expects_mpi(
            MPI_Bcast(bytes + first, part, MPI_BYTE, rank_of_values, session_->world()),
            "broadcast");
      }
      const bool is_there = rank() == rank_of_values || host.is_alias_of(tensor);
      if (!is_there) tensor.detach().copy_(host);
    }
  }
  /// Whether any rank says so.
  /// @throws Error if MPI fails
  bool agree(bool flag) const {
    if (size() == 1) return flag;
    int any = flag ? 1 : 0;
    detail::expects_mpi(MPI_Allreduce(MPI_IN_PLACE, &any, 1, MPI_INT, MPI_LOR, session_->world()),
                        "agree");
    return any != 0;
  }
  /// Bytes of tensors that this rank has given to MPI so far; what ranks agree on is not counted.
  std::int64_t bytes_sent() const { return sent_.count(); }

 private:
  /// Rows of another size on some rank would be written past the end.
  static void expects_alike(const std::vector<std::int64_t>& sizes, const Tensor& own) {
    std::int64_t bytes_a_row = 1, rank = 0;
    for (const std::int64_t size : own.sizes().slice(1)) bytes_a_row *= size;
    bytes_a_row *= std::int64_t(own.element_size());
    for (std::size_t r = 0; r < sizes.size(); r += 2, ++rank) {
      if (sizes[r + 1] == sizes[r] * bytes_a_row) continue;
      throw Error("gather", "rows of " + shown(bytes_a_row) + " bytes on all ranks",
                  shown(sizes[r + 1]) + " bytes in " + shown(sizes[r]) + " on rank " + shown(rank));
    }
  }
  static constexpr int all_ranks = -1;

  /// Tensors of one dtype and device together.
  static std::vector<std::vector<Tensor>> alike_of(const std::vector<Tensor>& tensors) {
    std::vector<std::vector<Tensor>> all;
    for (const Tensor& tensor : tensors) {
      const auto found = std::find_if(all.begin(), all.end(), [&](const auto& alike) {
        return alike[0].scalar_type() == tensor.scalar_type() &&
               alike[0].device() == tensor.device();
      });
      found == all.end() ? all.push_back({tensor}) : found->push_back(tensor);
    }
    return all;
  }
  /// Adds up on @p rank, or on all of them.
  void sum_alike(const std::vector<Tensor>& tensors, int on_rank) const {
    const at::NoGradGuard no_gradient;
    std::vector<Tensor> flat;
    for (const Tensor& tensor : tensors) flat.push_back(tensor.detach().reshape({-1}));
    const auto dtype = tensors[0].scalar_type();
    const bool is_exact = dtype == at::kFloat || dtype == at::kDouble || dtype == at::kLong;
    // Numbers of 16 bits are added up in 32.
    const Tensor all = at::cat(flat).to(at::kCPU, is_exact ? dtype : at::kFloat);
    if (rank() != on_rank) sent_.add({all});
    for (const Tensor& part : all.split(detail::mpi_elements)) sum_part(part, on_rank);
    if (on_rank != all_ranks && rank() != on_rank) return;
    std::int64_t first = 0;
    for (const Tensor& tensor : tensors) {
      tensor.detach().copy_(all.narrow(0, first, tensor.numel()).view(tensor.sizes()));
      first += tensor.numel();
    }
  }
  void sum_part(const Tensor& part, int on_rank) const {
    const MPI_Datatype type = part.scalar_type() == at::kLong     ? MPI_INT64_T
                              : part.scalar_type() == at::kDouble ? MPI_DOUBLE
                                                                  : MPI_FLOAT;
    void* data = part.mutable_data_ptr();
    const auto count = static_cast<int>(part.numel());
    const MPI_Comm world = session_->world();
    detail::expects_mpi(
        on_rank == all_ranks ? MPI_Allreduce(MPI_IN_PLACE, data, count, type, MPI_SUM, world)
        : rank() == on_rank  ? MPI_Reduce(MPI_IN_PLACE, data, count, type, MPI_SUM, on_rank, world)
                             : MPI_Reduce(data, nullptr, count, type, MPI_SUM, on_rank, world),
        "sum");
  }

  std::shared_ptr<detail::MpiSession> session_;
  detail::SentBytes sent_;
};

}  // namespace contraflow
