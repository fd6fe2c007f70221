// Rows in a file: whole or not there, whoever was killed when.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>
#include <torch/types.h>

#include <contraflow/io/row_file.hpp>
#include <contraflow/io/safetensors.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
namespace fs = std::filesystem;
using laws::check_error;

namespace {

const std::map<std::string, std::string> metadata{{"of", "test"}};

cf::RowFile begun(const fs::path& path, std::int64_t rows = 5) {
  return cf::RowFile::create(path, rows, {{"a", at::kHalf, {2, 3}}, {"b", at::kFloat, {}}},
                             metadata);
}
std::map<std::string, at::Tensor> row(double value) {
  return {{"a", at::full({2, 3}, value, at::kHalf)}, {"b", at::scalar_tensor(float(value))}};
}
void check_row(const cf::RowFile& file, std::int64_t number, double value) {
  const auto read = file.read(number);
  REQUIRE(read.has_value());
  CHECK(read->size() == 2);
  CHECK(read->at("a").equal(row(value).at("a")));
  CHECK(read->at("b").equal(row(value).at("b")));
}

}  // namespace

TEST_CASE("rows are there when they are written, in any order, also for who opens the file later") {
  const TemporaryDirectory directory;
  const auto path = directory / "rows.safetensors";
  const cf::RowFile file = begun(path);
  CHECK(file.size() == 5);
  for (int i = 0; i < 5; ++i) CHECK_FALSE(file.read(i).has_value());
  file.write(4, row(4));
  file.write(0, row(0));  // zeros, too, are values
  const auto other = cf::RowFile::open(path, metadata);
  REQUIRE(other.has_value());
  check_row(*other, 4, 4);
  check_row(*other, 0, 0);
  CHECK_FALSE(other->read(1).has_value());
  other->write(1, row(1));
  check_row(file, 1, 1);
  file.write(4, row(7));
  check_row(*other, 4, 7);
  // Any reader of safetensors reads it.
  const auto whole = cf::read_safetensors(path);
  CHECK(whole.tensors.at("a").sizes() == at::IntArrayRef{5, 2, 3});
  CHECK(whole.tensors.at("a")[4].equal(row(7).at("a")));
  CHECK(whole.metadata == metadata);
}

TEST_CASE("a row that is not whole is not there") {
  const TemporaryDirectory directory;
  const auto path = directory / "rows.safetensors";
  begun(path).write(2, row(2));
  const auto offset = [&](const char* name) {
    const std::string bytes = read_all(path);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    const auto header =
        nlohmann::json::parse(bytes.substr(8, length)).at(name).at("data_offsets").at(0);
    return 8 + length + header.get<std::uint64_t>();
  };
  // One bit of a value, or of another row's place: rows that changed places are none.
  const auto changed = [&](std::uint64_t position) {
    std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(std::streamoff(position));
    stream.put('\x41');
  };
  changed(offset("a") + 2 * 12 + 5);
  auto file = cf::RowFile::open(path, metadata);
  REQUIRE(file.has_value());
  CHECK_FALSE(file->read(2).has_value());
  file->write(2, row(2));
  check_row(*file, 2, 2);
  file->write(3, row(2));
  std::string bytes = read_all(path);
  const auto sums = offset("checksum");
  bytes.replace(sums + 8, 8, bytes.substr(sums + 16, 8));
  bytes.replace(offset("a") + 12, 12, bytes.substr(offset("a") + 24, 12));
  bytes.replace(offset("b") + 4, 4, bytes.substr(offset("b") + 8, 4));
  write_all(path, bytes);
  CHECK_FALSE(cf::RowFile::open(path, metadata)->read(1).has_value());
  check_row(*cf::RowFile::open(path, metadata), 2, 2);
}

TEST_CASE("a file that is none, is damaged or is another one is not opened") {
  const TemporaryDirectory directory;
  const auto path = directory / "rows.safetensors";
  CHECK_FALSE(cf::RowFile::open(path, metadata).has_value());
  begun(path).write(2, row(2));
  CHECK_FALSE(cf::RowFile::open(path, {{"of", "other"}}).has_value());
  CHECK_FALSE(cf::RowFile::open(path, {}).has_value());
  const std::string bytes = read_all(path);
  for (const std::size_t kept :
       {bytes.size() - 1, bytes.size() / 2, std::size_t{9}, std::size_t{0}}) {
    write_all(path, bytes.substr(0, kept));
    CHECK_FALSE(cf::RowFile::open(path, metadata).has_value());
  }
  cf::write_safetensors(path, {{"a", at::ones({2})}}, metadata);
  CHECK_FALSE(cf::RowFile::open(path, metadata).has_value());
  // Checksums are numbers of eight bytes, of one row at least.
  for (const at::Tensor& sums : {at::zeros({0}, at::kLong), at::zeros({3}, at::kByte)}) {
    cf::write_safetensors(path, {{"checksum", sums}}, metadata);
    CHECK_FALSE(cf::RowFile::open(path, metadata).has_value());
  }
  CHECK_FALSE(begun(path).read(2).has_value());  // replaced
}

TEST_CASE("a row that does not fit is refused") {
  const TemporaryDirectory directory;
  const cf::RowFile file = begun(directory / "rows.safetensors");
  const auto refuses = [&](const char* name, const at::Tensor& value, const std::string& part) {
    auto values = row(1);
    values[name] = value;
    check_error([&] { file.write(0, values); }, name, part);
  };
  refuses("a", at::ones({3, 2}, at::kHalf), "expected [2, 3] of Half, got [3, 2] of Half");
  refuses("b", at::ones({}, at::kHalf), "of Half");
  check_error([&] { file.write(0, {{"a", row(1).at("a")}}); }, "tensors", "expected b");
  check_error([&] { begun(directory / "rows", 0); }, "rows", "at least 1");
  const auto nowhere = directory / "none/rows";
  check_error([&] { begun(nowhere); }, nowhere.string(), "");
  CHECK_FALSE(file.read(0).has_value());
}
