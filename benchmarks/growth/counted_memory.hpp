#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

/// LibTorch's allocator for tensors on the CPU, which counts the bytes that are held. What is not a
/// tensor is not counted.
class CountedMemory : public c10::Allocator {
 public:
  /// The one that is in use, from the first call on.
  static CountedMemory& installed() {
    static CountedMemory& memory = [&]() -> CountedMemory& {
      static CountedMemory one;
      c10::SetCPUAllocator(&one, 100);
      return one;
    }();
    return memory;
  }

  std::int64_t held() const { return held_; }
  /// The most that was held since forget_peak().
  std::int64_t peak() const { return peak_; }
  void forget_peak() { peak_ = held_.load(); }

  c10::DataPtr allocate(std::size_t bytes) override {
    // The size of a block stands before it, as far away as keeps its place on a cache line.
    auto* block = static_cast<char*>(c10::alloc_cpu(bytes + before));
    std::memcpy(block, &bytes, sizeof bytes);
    const std::int64_t now = held_ += std::int64_t(bytes);
    std::int64_t most = peak_;
    while (now > most && !peak_.compare_exchange_weak(most, now)) {
    }
    return {block + before, block, &release, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static constexpr std::size_t before = 64;

  static void release(void* block) {
    std::size_t bytes = 0;
    std::memcpy(&bytes, block, sizeof bytes);
    installed().held_ -= std::int64_t(bytes);
    c10::free_cpu(block);
  }

  std::atomic<std::int64_t> held_ = 0, peak_ = 0;
};
