#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <sys/stat.h>
#include <torch/types.h>

#include <contraflow/io/safetensors.hpp>

#include "observe/temporary_directory.hpp"

namespace cf = contraflow;

namespace {

std::string with_length(const std::string& header, std::uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header;
}

std::string file_of(const std::string& header, const std::string& data = "") {
  return with_length(header, header.size()) + data;
}

// What reading these bytes complains of; empty if nothing.
std::string complaint(const std::string& bytes) {
  const TemporaryDirectory directory;
  const auto path = directory / "hostile.safetensors";
  write_all(path, bytes);
  try {
    cf::read_safetensors(path);
  } catch (const cf::Error& error) {
    CHECK(error.argument() == path.string());
    return error.what();
  }
  return "";
}

bool same_values(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         a.contiguous().view(at::kByte).equal(b.contiguous().view(at::kByte));
}

std::map<std::string, at::Tensor> tensors_of_every_dtype() {
  const auto numbers = at::arange(-3, 9).reshape({3, 4});
  std::map<std::string, at::Tensor> tensors;
  for (const auto type :
       {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
        at::kChar, at::kByte, at::kBool, at::kFloat8_e4m3fn, at::kFloat8_e5m2}) {
    tensors.emplace(c10::toString(type), numbers.to(type));
  }
  return tensors;
}

}  // namespace

TEST_CASE("every dtype comes back as it was written") {
  const TemporaryDirectory directory;
  const auto path = directory / "all.safetensors";
  const auto tensors = tensors_of_every_dtype();
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"quoted \"é\"\n", "値\t\\"}};
  cf::write_safetensors(path, tensors, metadata);
  const auto file = cf::read_safetensors(path);
  CHECK(file.metadata == metadata);
  REQUIRE(file.tensors.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    INFO(name);
    CHECK(same_values(file.tensors.at(name), tensor));
  }
}

TEST_CASE("scalars, empty tensors and any strides come back") {
  const TemporaryDirectory directory;
  const auto path = directory / "shapes.safetensors";
  const auto numbers = at::arange(24, at::kFloat).reshape({2, 3, 4});
  const std::map<std::string, at::Tensor> tensors{
      {"scalar", at::scalar_tensor(2.5, at::kDouble)},
      {"empty", at::empty({0}, at::kHalf)},
      {"hollow", at::empty({3, 0, 5}, at::kInt)},
      {"transposed", numbers.permute({2, 0, 1})},
      {"strided", numbers.select(2, 1)},
      {"expanded", at::ones({1, 4}).expand({3, 4})},
      {"tracked", at::ones({2}).requires_grad_()},
      {"a name with spaces / and / slashes \"", at::ones({1}, at::kByte)},
  };
  cf::write_safetensors(path, tensors);
  const auto file = cf::read_safetensors(path);
  CHECK(file.metadata.empty());
  REQUIRE(file.tensors.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    INFO(name);
    CHECK(file.tensors.at(name).sizes() == tensor.sizes());
    CHECK(file.tensors.at(name).equal(tensor));
    CHECK(file.tensors.at(name).is_contiguous());
    CHECK_FALSE(file.tensors.at(name).requires_grad());
  }
}

TEST_CASE("nothing at all is a file, too") {
  const TemporaryDirectory directory;
  cf::write_safetensors(directory / "nothing", {});
  CHECK(cf::read_safetensors(directory / "nothing").tensors.empty());
  CHECK(complaint(file_of("{}")).empty());
  CHECK(complaint(file_of("{}     ")).empty());
}

TEST_CASE("written bytes are the format's") {
  const TemporaryDirectory directory;
  const auto path = directory / "bytes";
  cf::write_safetensors(path,
                        {{"a", at::tensor({7}, at::kByte)}, {"b", at::tensor({1, 2}, at::kShort)}},
                        {{"k", "v"}});
  std::string header =
      R"({"__metadata__":{"k":"v"},"b":{"dtype":"I16","shape":[2],"data_offsets":[0,4]},)"
      R"("a":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  CHECK(read_all(path) == file_of(header, std::string("\1\0\2\0\7", 5)));
}

TEST_CASE("tensors keep the file mapped and writing into them leaves it alone") {
  const TemporaryDirectory directory;
  const auto path = directory / "kept";
  cf::write_safetensors(path, {{"a", at::arange(4, at::kFloat)}, {"b", at::ones({2})}});
  const std::string before = read_all(path);
  at::Tensor a = cf::read_safetensors(path).tensors.at("a");
  std::filesystem::remove(path);
  write_all(path, before);
  CHECK(a.equal(at::arange(4, at::kFloat)));
  a.add_(1);
  CHECK(a.equal(at::arange(1, 5, at::kFloat)));
  CHECK(read_all(path) == before);
}

TEST_CASE("a tensor that the file does not align is copied") {
  const TemporaryDirectory directory;
  const auto path = directory / "unaligned";
  const float value = 1.5f;
  std::string data(5, '\3');
  std::memcpy(data.data() + 1, &value, 4);
  write_all(path, file_of(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                          R"("f":{"dtype":"F32","shape":[],"data_offsets":[1,5]}})",
                          data));
  const auto file = cf::read_safetensors(path);
  CHECK(file.tensors.at("f").item<float>() == value);
  CHECK(reinterpret_cast<std::uintptr_t>(file.tensors.at("f").const_data_ptr()) % 4 == 0);
}

TEST_CASE("a hostile file is refused with a sentence") {
  const auto tensor = [](const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  const auto alone = [&](const std::string& dtype, const std::string& shape,
                         const std::string& offsets, std::size_t bytes) {
    return file_of("{\"a\":" + tensor(dtype, shape, offsets) + "}", std::string(bytes, '\0'));
  };
  const auto pair = [&](const std::string& first, const std::string& second, std::size_t bytes) {
    return file_of(
        "{\"a\":" + tensor("U8", "[2]", first) + ",\"b\":" + tensor("U8", "[2]", second) + "}",
        std::string(bytes, '\0'));
  };
  const std::vector<std::pair<std::string, std::string>> table{
      {"", "expected at least 8 bytes, got 0"},
      {"1234567", "expected at least 8 bytes, got 7"},
      {with_length("{}", 0), "begins with {"},
      {with_length("{}", 3), "expected a header inside the file, got one of 3 bytes"},
      {with_length("{}", 100'000'001), "at most 100000000 bytes, got 100000001"},
      {with_length("{}", ~std::uint64_t{0}), "at most 100000000 bytes, got 18446744073709551615"},
      {file_of(" {}"), "begins with {"},
      {file_of("[]"), "begins with {"},
      {file_of("\xEF\xBB\xBF{}"), "begins with {"},
      {file_of("{"), "invalid JSON"},
      {file_of("{} {}"), "invalid JSON"},
      {file_of("{}/**/"), "invalid JSON"},
      {file_of(std::string("{}\0{\"", 5)), "a zero byte"},
      {file_of("{\"\xff\":" + tensor("U8", "[]", "[0,1]") + "}", "x"), "invalid JSON or UTF-8"},
      {file_of("{\"__metadata__\":{\"a\":\"\xc0\xaf\"}}"), "invalid JSON or UTF-8"},
      {file_of("{\"__metadata__\":{\"a\":\"\\ud800\"}}"), "invalid JSON or UTF-8"},
      {file_of("{\"a\":" + tensor("U8", "[1]", "[0,1]") +
                   ",\"\\u0061\":" + tensor("U8", "[1]", "[1,2]") + "}",
               "xx"),
       "tensor \"a\" twice"},
      {file_of(R"({"a":{"dtype":"U8","dtype":"I8","shape":[],"data_offsets":[0,1]}})", "x"),
       "\"dtype\" twice in tensor \"a\""},
      {file_of(R"({"__metadata__":{},"__metadata__":{}})"), "__metadata__ twice"},
      {file_of(R"({"__metadata__":{"k":"1","k":"2"}})"), "metadata \"k\" twice"},
      {file_of(R"({"__metadata__":{"k":1}})"), "a number in \"k\""},
      {file_of(R"({"__metadata__":{"k":null}})"), "null in \"k\""},
      {file_of(R"({"__metadata__":{"k":{}}})"), "an object in \"k\""},
      {file_of(R"({"__metadata__":{"k":["v"]}})"), "an array in \"k\""},
      {file_of(R"({"__metadata__":"text"})"), "a string in \"__metadata__\""},
      {file_of(R"({"a":7})"), "a number in \"a\""},
      {file_of(R"({"a":[]})"), "an array in \"a\""},
      {file_of(R"({"a":{}})"), "tensor \"a\" without dtype, shape or data_offsets"},
      {file_of(R"({"a":{"dtype":"U8","shape":[]}})"), "without dtype, shape or data_offsets"},
      {file_of(R"({"a":{"dtype":8,"shape":[],"data_offsets":[0,0]}})"), "a number in \"dtype\""},
      {file_of(R"({"a":{"dtype":["U8"],"shape":[],"data_offsets":[0,0]}})"),
       "an array in \"dtype\""},
      {file_of(R"({"a":{"dtype":"U8","shape":"[]","data_offsets":[0,0]}})"),
       "a string in \"shape\""},
      {file_of(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1],"colour":1}})", "x"),
       "unknown key \"colour\" in tensor \"a\""},
      {alone("U4", "[1]", "[0,1]", 1), "dtype \"U4\" in tensor \"a\""},
      {alone("f32", "[1]", "[0,4]", 4), "dtype \"f32\" in tensor \"a\""},
      {alone("U8", "[-1]", "[0,1]", 1), "a negative number in \"shape\""},
      {alone("U8", "[1.0]", "[0,1]", 1), "a number that is not a 64-bit integer in \"shape\""},
      {alone("U8", "[18446744073709551616]", "[0,1]", 1), "not a 64-bit integer in \"shape\""},
      {alone("U8", "[true]", "[0,1]", 1), "a boolean in \"shape\""},
      {alone("U8", "[[1]]", "[0,1]", 1), "an array in \"shape\""},
      {alone("U8", "[{}]", "[0,1]", 1), "an object in \"shape\""},
      {alone("F64", "[2305843009213693952]", "[0,0]", 0), "a larger one in tensor \"a\""},
      {alone("U8", "[4294967296,4294967296]", "[0,0]", 0), "a larger one in tensor \"a\""},
      {alone("U8", "[0,4294967296,4294967296]", "[0,0]", 0), "a larger one in tensor \"a\""},
      {alone("U8", "[9223372036854775808]", "[0,0]", 0), "a larger one in tensor \"a\""},
      {alone("U8", "[1]", "[0]", 1), "two numbers, got 1 in tensor \"a\""},
      {alone("U8", "[1]", "[0,1,1]", 1), "two numbers, got 3 in tensor \"a\""},
      {alone("U8", "[1]", "[1,0]", 1), "data_offsets inside the file, got 1 to 0 of 1 bytes"},
      {alone("U8", "[2]", "[0,2]", 1), "data_offsets inside the file, got 0 to 2 of 1 bytes"},
      {alone("U8", "[1]", "[18446744073709551615,0]", 1), "data_offsets inside the file"},
      {alone("F32", "[2]", "[0,4]", 4), "expected 8 bytes for the shape of tensor \"a\", got 4"},
      {alone("F32", "[0]", "[0,4]", 4), "expected 0 bytes for the shape of tensor \"a\", got 4"},
      {alone("U8", "[1]", "[0,1]", 2), "ends with the last tensor, got 1 bytes behind it"},
      {alone("U8", "[1]", "[1,2]", 2), "without holes or overlaps, got tensor \"a\" at byte 1"},
      {file_of("{}", "x"), "ends with the last tensor, got 1 bytes behind it"},
      {pair("[0,2]", "[3,5]", 5), "without holes or overlaps, got tensor \"b\" at byte 3"},
      {pair("[0,2]", "[1,3]", 3), "without holes or overlaps, got tensor \"b\" at byte 1"},
      {pair("[0,2]", "[0,2]", 2), "without holes or overlaps"},
      {file_of("{\"a\":" + tensor("BOOL", "[2]", "[0,2]") + "}", "\1\2"),
       "expected bytes 0 and 1 in BOOL tensors"},
      {file_of("{\"a\":" + std::string(100'000, '[')), "an array in \"a\""},
      {file_of("{\"" + std::string(500, 'x') + "\":1}"), "xxx...\""},
  };
  for (const auto& [bytes, sentence] : table) {
    INFO("expecting: " << sentence);
    const std::string said = complaint(bytes);
    INFO("said: " << said);
    CHECK(said.find(sentence) != std::string::npos);
    CHECK(said.size() < 500);
  }
}

TEST_CASE("what is not a file is refused by its path") {
  const TemporaryDirectory directory;
  const auto refused = [](const std::filesystem::path& path) {
    try {
      cf::read_safetensors(path);
    } catch (const cf::Error& error) {
      return error.argument() == path.string() ? error.got() : "another argument";
    }
    return std::string("accepted");
  };
  CHECK(refused(directory / "missing") == "No such file or directory");
  CHECK(refused(directory.path()) == "another kind of file");
  REQUIRE(mkfifo((directory / "pipe").c_str(), 0600) == 0);
  CHECK(refused(directory / "pipe") == "another kind of file");
}

TEST_CASE("what cannot be stored is refused by name, and leaves no file") {
  const TemporaryDirectory directory;
  const auto refused = [&](const std::map<std::string, at::Tensor>& tensors,
                           const std::map<std::string, std::string>& metadata = {}) {
    try {
      cf::write_safetensors(directory / "refused", tensors, metadata);
    } catch (const cf::Error& error) {
      CHECK(error.argument() == "tensors");
      return error.got();
    }
    return std::string("accepted");
  };
  CHECK(refused({{"a", at::Tensor()}}) == "\"a\" undefined");
  CHECK(refused({{"a", at::ones({2}, at::kComplexFloat)}}) == "ComplexFloat in \"a\"");
  CHECK(refused({{"a", at::ones({2, 2}).to_sparse()}}) == "\"a\" with another layout");
  CHECK(refused({{"a", at::empty({2}, at::kMeta)}}) == "\"a\" on meta");
  CHECK(refused({{"__metadata__", at::ones({2})}}) == "__metadata__");
  CHECK(refused({{"\xff", at::ones({2})}}) == "\"?\"");
  CHECK(refused({}, {{"k", "\xff"}}) == "\"?\"");
  CHECK(std::filesystem::is_empty(directory.path()));
}

TEST_CASE("a failed write leaves the old file and nothing beside it") {
  const TemporaryDirectory directory;
  CHECK_THROWS_AS(cf::write_safetensors(directory / "missing" / "file", {{"a", at::ones({2})}}),
                  cf::Error);
  std::filesystem::create_directory(directory / "taken");
  CHECK_THROWS_AS(cf::write_safetensors(directory / "taken", {{"a", at::ones({2})}}), cf::Error);
  const std::filesystem::directory_iterator entries(directory.path());
  CHECK(std::distance(begin(entries), end(entries)) == 1);

  cf::write_safetensors(directory / "file", {{"a", at::ones({2})}});
  const auto old = cf::read_safetensors(directory / "file");
  cf::write_safetensors(directory / "file", {{"a", at::zeros({2})}});
  CHECK(old.tensors.at("a").equal(at::ones({2})));
  CHECK(cf::read_safetensors(directory / "file").tensors.at("a").equal(at::zeros({2})));
}

TEST_CASE("a changed file is read or refused, and what is read can be used") {
  const TemporaryDirectory directory;
  cf::write_safetensors(directory / "valid", tensors_of_every_dtype(), {{"kind", "test"}});
  const std::string valid = read_all(directory / "valid");
  std::uint64_t length = 0;
  std::memcpy(&length, valid.data(), 8);

  std::mt19937 generator(3);
  const auto below = [&](std::uint64_t bound) {
    return std::uniform_int_distribution<std::uint64_t>(0, bound - 1)(generator);
  };
  // Bytes that mean something in a header are drawn more often than others.
  const std::string telling = "{}[]\",:0123456789-.eE\\u \x80\xff";
  int read = 0, refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bytes = valid;
    for (std::uint64_t changes = 1 + below(3); changes > 0; --changes) {
      const std::uint64_t place = below(8 + length);
      const char byte =
          below(4) == 0 ? static_cast<char>(below(256)) : telling[below(telling.size())];
      if (place < 8 || below(3) != 0) {
        bytes[place] = byte;
      } else if (below(2) == 0) {
        bytes.insert(place, 1, byte);
        bytes[0] = static_cast<char>(bytes[0] + 1);
      } else {
        bytes.erase(place, 1);
        bytes[0] = static_cast<char>(bytes[0] - 1);
      }
    }
    if (below(10) == 0) bytes.resize(below(bytes.size() + 1));
    // A name of its own: rewriting a file makes some file systems wait for the disk.
    const auto path = directory / std::to_string(round);
    write_all(path, bytes);
    try {
      for (const auto& [name, tensor] : cf::read_safetensors(path).tensors) {
        static_cast<void>(tensor.to(at::kFloat).sum().item<float>());
      }
      ++read;
    } catch (const cf::Error&) {
      ++refused;
    }
    std::filesystem::remove(path);
  }
  // Changes to names, spaces and metadata are legal; most others are not.
  CHECK(read > 100);
  CHECK(refused > 1000);
}
