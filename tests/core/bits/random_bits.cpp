// The bits of random numbers, which depend on no flag of the compiler: this program is built with
// several sets of them, and none of LibTorch.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include <contraflow/core/philox_rows.hpp>

namespace {

namespace philox = contraflow::philox;

struct Serial {
  template <class Body>
  void operator()(std::int64_t count, Body&& body) const {
    if (count > 0) body(std::int64_t{0}, count);
  }
};

std::uint32_t bits_of(float number) {
  std::uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return bits;
}

int faults = 0;

void expect(const char* what, std::uint64_t found, std::uint64_t wanted) {
  if (found == wanted) return;
  std::printf("%s: expected %llx, got %llx\n", what, static_cast<unsigned long long>(wanted),
              static_cast<unsigned long long>(found));
  ++faults;
}

template <class Distribution>
std::vector<float> drawn(std::int64_t rows, std::int64_t columns) {
  std::vector<std::int64_t> names;
  for (std::int64_t i = 0; i < rows; ++i) names.push_back(i * 7919000057 - 70000);
  std::vector<float> numbers(static_cast<std::size_t>(rows * columns));
  philox::fill_rows<Distribution>({0x0123456789abcdefU, 5, names.data()}, rows, columns,
                                  philox::Written{numbers.data()}, Serial{});
  return numbers;
}

// FNV-1a over the words.
std::uint64_t digest(const std::vector<float>& numbers) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const float number : numbers) hash = (hash ^ bits_of(number)) * 0x100000001b3U;
  return hash;
}

}  // namespace

int main() {
  const std::vector<float> normal = drawn<philox::NormalNumbers>(2, 6);
  const std::uint32_t golden[] = {0x3e9c63de, 0xbee22330, 0x4001738b, 0x3f6e356d,
                                  0xbf9750f8, 0xbfa061bc, 0x3fa91a45, 0x3f288202,
                                  0xbe9db8b1, 0xbf6d481d, 0x3e392bb6, 0x3f8c84fd};
  for (std::size_t i = 0; i < normal.size(); ++i) expect("normal", bits_of(normal[i]), golden[i]);
  const std::vector<float> uniform = drawn<philox::UniformNumbers>(1, 2);
  expect("uniform", bits_of(uniform[0]), 0x3f5da028);
  expect("uniform", bits_of(uniform[1]), 0x3f58a6dd);
  expect("rows", digest(drawn<philox::NormalNumbers>(30, 10007)), 0xf95c2b5659eb53dd);
  expect("points", digest(drawn<philox::NormalNumbers>(10007, 2)), 0xeab184db907709af);
  expect("uniform rows", digest(drawn<philox::UniformNumbers>(30, 1007)), 0x80ae6bffe649d83c);
  std::printf("%d faults\n", faults);
  return faults == 0 ? 0 : 1;
}
