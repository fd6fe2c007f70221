#pragma once

#include <map>
#include <string>

#include <ATen/Context.h>

#ifdef CONTRAFLOW_TEST_CUDA
#include <c10/cuda/CUDAFunctions.h>
#endif

#include "device/counting_device.hpp"

/// What tests are run on beside the host.
namespace devices {

/// A GPU where there is one, else the device that counts.
inline at::Device other() {
  static const at::Device device = [] {
    if (at::hasCUDA()) {
      at::globalContext().setAllowTF32CuDNN(false);  // convolutions as wide as those of the host
      return at::Device(at::kCUDA, 0);
    }
    counting::register_device();
    return counting::device;
  }();
  return device;
}

using Counts = std::map<std::string, int>;

inline int sum_of(const Counts& counts) {
  int sum = 0;
  for (const auto& [name, count] : counts) sum += count;
  return sum;
}
inline std::string text_of(const Counts& counts) {
  std::string text;
  for (const auto& [name, count] : counts) text += name + ' ' + std::to_string(count) + "; ";
  return text;
}

#ifdef CONTRAFLOW_TEST_CUDA
/// Counts what CUDA's own debug mode says of operations for which the host waits.
class CudaWaits : public c10::WarningHandler {
 public:
  CudaWaits() : before_(c10::WarningUtils::get_warning_handler()) {
    c10::WarningUtils::set_warning_handler(this);
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_WARN);
  }
  CudaWaits(const CudaWaits&) = delete;
  CudaWaits& operator=(const CudaWaits&) = delete;
  ~CudaWaits() override {
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
    c10::WarningUtils::set_warning_handler(before_);
  }
  void process(const c10::Warning& warning) override {
    if (warning.msg().find("synchronizing CUDA operation") == std::string::npos) {
      return before_->process(warning);
    }
    ++count_;
  }
  int count() const { return count_; }

 private:
  c10::WarningHandler* before_;
  int count_ = 0;
};
#endif

/// For what the host waits on other() while @p work is done.
template <class F>
Counts waits_of(F&& work) {
#ifdef CONTRAFLOW_TEST_CUDA
  if (other().is_cuda()) {
    const CudaWaits waits;
    work();
    return {{"synchronisation", waits.count()}};
  }
#endif
  counting::forget();
  work();
  return counting::waits();
}

}  // namespace devices
