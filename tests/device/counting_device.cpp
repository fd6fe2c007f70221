#include "device/counting_device.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <torch/library.h>

namespace counting {

namespace {

using at::Tensor;

std::mutex mutex;
std::map<std::string, int> count;

/// How many operations of the device are computed by the host just now, one within another.
thread_local int depth = 0;

struct OnHost {
  OnHost() { ++depth; }
  OnHost(const OnHost&) = delete;
  OnHost& operator=(const OnHost&) = delete;
  ~OnHost() { --depth; }
};

void note(const std::string& name) {
  if (depth > 0) return;
  const std::scoped_lock lock(mutex);
  ++count[name];
}

/// Memory of the device: addresses that nobody may read, and what stands for their bytes.
class Memory : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    if (size == 0) return {nullptr, device};
    const std::scoped_lock lock(mutex_);
    char* address = next_;
    next_ += (size + 63) / 64 * 64;
    TORCH_CHECK(next_ <= end_, "no addresses are left");
    blocks_[address].resize(size);
    return {address, address, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t size) const override {
    default_copy_data(bytes(to), bytes(from), size);
  }

  /// The bytes that an address stands for.
  char* bytes(const void* address) const {
    if (address == nullptr) return nullptr;
    const std::scoped_lock lock(mutex_);
    const auto block = std::prev(blocks_.upper_bound(static_cast<const char*>(address)));
    return const_cast<char*>(block->second.data()) +
           (static_cast<const char*>(address) - block->first);
  }

 private:
  static void release(void* address);

  static constexpr std::size_t room = std::size_t{1} << 38;  // no address is given twice
  mutable std::mutex mutex_;
  char* next_ = static_cast<char*>(
      mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  const char* end_ = next_ + room;
  std::map<const char*, std::vector<char>> blocks_;
};

Memory& memory() {
  static auto* const one = new Memory;  // tensors may outlive whatever is static
  return *one;
}

void Memory::release(void* address) {
  Memory& all = memory();
  const std::scoped_lock lock(all.mutex_);
  all.blocks_.erase(static_cast<const char*>(address));
}

/// Memory of the host from which the device copies by itself.
class PinnedMemory : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    void* address = c10::GetCPUAllocator()->raw_allocate(std::max<std::size_t>(size, 1));
    const std::scoped_lock lock(mutex_);
    addresses_.insert(address);
    return {address, address, &release, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t size) const override {
    default_copy_data(to, from, size);
  }

  bool holds(const void* address) const {
    const std::scoped_lock lock(mutex_);
    return addresses_.contains(address);
  }

 private:
  static void release(void* address);

  mutable std::mutex mutex_;
  std::set<const void*> addresses_;
};

PinnedMemory& pinned_memory() {
  static auto* const one = new PinnedMemory;
  return *one;
}

void PinnedMemory::release(void* address) {
  {
    PinnedMemory& all = pinned_memory();
    const std::scoped_lock lock(all.mutex_);
    all.addresses_.erase(address);
  }
  c10::GetCPUAllocator()->raw_deallocate(address);
}

struct Hooks : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex /*index*/) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex /*index*/) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex /*index*/) const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex /*index*/) const override {}
  bool isPinnedPtr(const void* address) const override { return pinned_memory().holds(address); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory(); }
};

struct Guard : c10::impl::NoOpDeviceGuardImpl<at::kPrivateUse1> {
  c10::Device exchangeDevice(c10::Device /*to*/) const override { return device; }
  c10::Device getDevice() const override { return device; }
  c10::Stream getStream(c10::Device /*of*/) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream /*to*/) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
};

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
             std::optional<at::Layout> /*layout*/, std::optional<at::Device> /*device*/,
             std::optional<bool> /*pin*/, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory(),
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout> /*layout*/,
                     std::optional<at::Device> /*device*/, std::optional<bool> /*pin*/) {
  return at::detail::empty_strided_generic(size, stride, &memory(),
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

/// The same elements as a tensor of the host.
Tensor seen(const Tensor& x) {
  if (x.is_cpu()) return x;
  return at::from_blob(memory().bytes(x.const_data_ptr()), x.sizes(), x.strides(),
                       at::device(at::kCPU).dtype(x.scalar_type()));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  if (to.is_cpu()) note("copy to the host");
  if (from.is_cpu() && !(non_blocking && pinned_memory().holds(from.storage().data()))) {
    note("copy from the host");
  }
  const OnHost host;
  const at::NoGradGuard no_gradient;
  if (to.numel() > 0) seen(to).copy_(seen(from));
  return to;
}
Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, /*non_blocking=*/false);
}

at::Scalar number(const Tensor& x) {
  note("item");
  const OnHost host;
  return seen(x).item();
}

bool shape_depends_on_values(const std::string& name) {
  static const std::set<std::string> names{
      "aten::nonzero",  "aten::masked_select",     "aten::_unique",
      "aten::_unique2", "aten::unique_dim",        "aten::unique_consecutive",
      "aten::equal",    "aten::repeat_interleave", "aten::bincount"};
  return names.contains(name);
}

/// Looks at the tensors that an operation is given, as a GPU would.
void expects_one_device(const std::string& name, const std::vector<Tensor>& given) {
  const bool has_own = std::any_of(given.begin(), given.end(),
                                   [](const Tensor& x) { return x.defined() && !x.is_cpu(); });
  const bool indexes = name.starts_with("aten::index") || name.starts_with("aten::_index_put");
  for (const Tensor& x : given) {
    if (!x.defined()) continue;
    if (indexes && name.find("select") == std::string::npos &&
        (x.scalar_type() == at::kBool || x.is_cpu()) && has_own) {
      note(name + " by values");
      continue;
    }
    TORCH_CHECK(!has_own || !x.is_cpu() || x.dim() == 0, "Expected all tensors to be on the same ",
                "device, but ", name, " was given one of the host of shape ", x.sizes());
  }
}

void add_tensors(const c10::IValue& value, std::vector<Tensor>& tensors) {
  if (value.isTensor()) tensors.push_back(value.toTensor());
  if (value.isTensorList()) {
    for (const Tensor& x : value.toTensorVector()) tensors.push_back(x);
  }
  if (value.isOptionalTensorList()) {
    for (const std::optional<Tensor>& x : value.toOptionalTensorVector()) {
      if (x) tensors.push_back(*x);
    }
  }
}

/// Every operation without a form of its own: computed by the host.
void on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::string name = op.schema().name();
  std::vector<Tensor> given;
  for (const c10::IValue& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    add_tensors(value, given);
  }
  if (depth == 0) expects_one_device(name, given);
  if (shape_depends_on_values(name)) note(name.substr(6));
  const OnHost host;
  at::native::cpu_fallback(op, stack);
}

}  // namespace

void register_device() {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  c10::register_privateuse1_backend("counting");
}

std::map<std::string, int> waits() {
  const std::scoped_lock lock(mutex);
  return count;
}

void forget() {
  const std::scoped_lock lock(mutex);
  count.clear();
}

}  // namespace counting

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(PrivateUse1, counting::Guard);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&counting::on_host>());
}
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &counting::empty);
  m.impl("empty_strided", &counting::empty_strided);
  m.impl("_copy_from", &counting::copy_from);
  m.impl("_copy_from_and_resize", &counting::copy_from_and_resize);
  m.impl("_local_scalar_dense", &counting::number);
  // Whether a parameter of the host may become one of the device: Module::to asks.
  m.impl("_has_compatible_shallow_copy_type",
         [](const at::Tensor&, const at::Tensor&) { return true; });
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("resize_", &at::native::resize_);
  for (const char* layer : {"convolution", "convolution_backward"}) {
    m.impl(layer, torch::CppFunction::makeFromBoxedFunction<&counting::on_host>());
  }
}
