// Random numbers of the device against those of the host, to the bit. Exits with 77 where there is
// no device.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>

#include <contraflow/core/philox.cuh>

namespace {

namespace philox = contraflow::philox;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::printf("%s\n", cudaGetErrorString(error));
  std::exit(1);
}

struct SerialLoop {
  template <class Body>
  void operator()(std::int64_t count, Body&& body) const {
    if (count > 0) body(std::int64_t{0}, count);
  }
};

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& host) : size_(host.size()) {
    check(cudaMalloc(&data_, size_ * sizeof(T)));
    check(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* get() const { return data_; }
  std::vector<T> host() const {
    std::vector<T> values(size_);
    check(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<std::int64_t> names_of(std::int64_t rows) {
  std::vector<std::int64_t> names;
  for (std::int64_t i = 0; i < rows; ++i) names.push_back(i * 7919 * 1000003 - 5);
  return names;
}

template <class Distribution>
bool fills_alike(std::int64_t rows, std::int64_t columns, bool named) {
  const std::vector<std::int64_t> names = names_of(rows);
  const DeviceArray<std::int64_t> device_names(names);
  std::vector<float> host(static_cast<std::size_t>(rows * columns), -7);
  const DeviceArray<float> out(host);
  philox::Draw draw{0x123456789abcdef0U, 3, named ? names.data() : nullptr};
  philox::fill_rows<Distribution>(draw, rows, columns, philox::Written{host.data()}, SerialLoop{});
  if (named) draw.names = device_names.get();
  check(philox::fill_rows_cuda<Distribution>(draw, rows, columns, philox::Written{out.get()}));
  return same_bits(host, out.host());
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device\n");
    return 77;
  }
  int faults = 0;
  for (const std::int64_t rows : {1, 3, 300}) {
    for (const std::int64_t columns : {1, 2, 4, 7, 64, 1001}) {
      const bool same = fills_alike<philox::NormalNumbers>(rows, columns, true) &&
                        fills_alike<philox::NormalNumbers>(rows, columns, false) &&
                        fills_alike<philox::UniformNumbers>(rows, columns, true);
      if (same) continue;
      std::printf("[%lld, %lld] differs\n", static_cast<long long>(rows),
                  static_cast<long long>(columns));
      ++faults;
    }
  }
  // Enough to meet every branch and the far tails.
  if (!fills_alike<philox::NormalNumbers>(64, 1 << 20, false)) ++faults;
  std::printf("%d faults\n", faults);
  return faults == 0 ? 0 : 1;
}
