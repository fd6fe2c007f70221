// The digits: what the file of real images holds, how it is divided, and what is no such file.

#include <map>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/toy/digits.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using cf::Tensor;

namespace {

cf::toy::SplitDigits real_digits() { return cf::toy::read_digits(CONTRAFLOW_DIGITS); }

std::vector<std::int64_t> counts_of(const Tensor& labels) {
  const Tensor counts = at::bincount(labels, {}, cf::toy::digit_classes);
  return {counts.data_ptr<std::int64_t>(), counts.data_ptr<std::int64_t>() + counts.numel()};
}

/// A label and its pixels, as text that can be looked up.
std::multiset<std::string> contents(const Tensor& images, const Tensor& labels) {
  std::multiset<std::string> all;
  for (std::int64_t i = 0; i < labels.size(0); ++i) {
    const Tensor pixels = images[i].contiguous();
    all.insert(cf::shown(labels[i].item<std::int64_t>()) +
               std::string(static_cast<const char*>(pixels.const_data_ptr()), pixels.nbytes()));
  }
  return all;
}

/// Images that say in their first pixel which they are, beginning with 0.
Tensor numbered(std::int64_t count) {
  Tensor images = at::zeros({count, 8, 8}, at::kByte);
  images.select(1, 0).select(1, 0).copy_(at::arange(count));
  return images;
}

std::vector<std::int64_t> numbers_of(const cf::toy::Digits& digits) {
  const Tensor numbers = ((digits.images.flatten(1).select(1, 0) + 1) * 8).to(at::kLong);
  return {numbers.data_ptr<std::int64_t>(), numbers.data_ptr<std::int64_t>() + numbers.numel()};
}

cf::toy::SplitDigits read_back(const std::map<std::string, Tensor>& tensors) {
  const TemporaryDirectory directory;
  cf::write_safetensors(directory / "digits.safetensors", tensors);
  return cf::toy::read_digits(directory / "digits.safetensors");
}

/// Checks that a file of these tensors is refused with a sentence about that file.
void check_refused(const std::map<std::string, Tensor>& tensors, const std::string& part) {
  const TemporaryDirectory directory;
  const auto path = directory / "digits.safetensors";
  cf::write_safetensors(path, tensors);
  laws::check_error([&] { cf::toy::read_digits(path); }, path.string(), part);
}

}  // namespace

TEST_CASE("the file of digits holds the published 1,797 images") {
  const auto [train, held_out] = real_digits();
  const Tensor labels = at::cat({train.labels, held_out.labels});
  // The test set of the UCI repository, by class.
  CHECK(counts_of(labels) ==
        std::vector<std::int64_t>{178, 182, 177, 183, 181, 182, 181, 179, 174, 180});
  const Tensor images = at::cat({train.images, held_out.images});
  CHECK(images.sizes() == at::IntArrayRef({1797, 1, 8, 8}));
  CHECK(images.scalar_type() == at::kFloat);
  CHECK(labels.scalar_type() == at::kLong);
  // Ink is counted from 0 to 16.
  CHECK(images.min().item<float>() == -1);
  CHECK(images.max().item<float>() == 1);
  CHECK(at::equal(images * 8, (images * 8).round()));
  const Tensor first_row = at::tensor({0, 0, 5, 13, 9, 1, 0, 0}, at::kFloat) / 8 - 1;
  CHECK(train.labels[0].item<std::int64_t>() == 0);
  CHECK(at::equal(train.images[0][0][0], first_row));
}

TEST_CASE("every image of the digits is in one part, and a fifth of each class is held out") {
  const auto [train, held_out] = real_digits();
  const auto in_train = contents(train.images, train.labels);
  for (const std::string& image : contents(held_out.images, held_out.labels)) {
    CHECK_FALSE(in_train.contains(image));
  }
  const auto learnt = counts_of(train.labels), kept = counts_of(held_out.labels);
  for (std::size_t digit = 0; digit < kept.size(); ++digit) {
    CHECK(kept[digit] == (learnt[digit] + kept[digit]) / 5);
  }
}

TEST_CASE("the fifth, tenth, ... image of a class is held out, in the order of the file") {
  const Tensor labels = at::tensor({3, 3, 7, 3, 3, 7, 3, 7, 7, 7, 3, 7}, at::kByte);
  const auto [train, held_out] = read_back({{"images", numbered(12)}, {"labels", labels}});
  CHECK(numbers_of(held_out) == std::vector<std::int64_t>{6, 9});
  CHECK(numbers_of(train) == std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 7, 8, 10, 11});
  CHECK(at::equal(held_out.labels, at::tensor({3, 7}, at::kLong)));
}

TEST_CASE("digits are drawn with their labels, by the generator alone") {
  const cf::toy::Digits digits = real_digits().train;
  const auto drawn = [&](std::uint64_t seed) {
    cf::Generator generator = cf::seeded(seed);
    return digits(200, generator);
  };
  const auto batch = drawn(1), again = drawn(1);
  CHECK(laws::same_bits(batch.x0, again.x0));
  CHECK(laws::same_bits(batch.condition, again.condition));
  CHECK_FALSE(at::equal(batch.x0, drawn(2).x0));
  const auto known = contents(digits.images, digits.labels);
  for (const std::string& image : contents(batch.x0, batch.condition)) {
    CHECK(known.contains(image));
  }
}

TEST_CASE("a file that holds no digits is refused by name") {
  const Tensor images = numbered(3), labels = at::tensor({1, 2, 3}, at::kByte);
  check_refused({{"labels", labels}}, "a tensor \"images\"");
  check_refused({{"images", images}}, "a tensor \"labels\"");
  check_refused({{"images", images.flatten(1)}, {"labels", labels}}, "images [N, 8, 8]");
  check_refused({{"images", images.narrow(2, 0, 7)}, {"labels", labels}}, "got [3, 8, 7]");
  check_refused({{"images", images.narrow(0, 0, 0)}, {"labels", labels}}, "got [0, 8, 8]");
  check_refused({{"images", images.to(at::kFloat)}, {"labels", labels}}, "images of dtype uint8");
  check_refused({{"images", images + 15}, {"labels", labels}}, "images from 0 to 16, got 17");
  check_refused({{"images", images}, {"labels", labels.narrow(0, 0, 2)}}, "labels [3]");
  check_refused({{"images", images}, {"labels", labels.to(at::kLong)}}, "labels of dtype uint8");
  check_refused({{"images", images}, {"labels", labels + 7}}, "labels from 0 to 9, got 10");
  laws::check_error([] { cf::toy::read_digits("no/such/file"); }, "no/such/file", "readable file");
}
