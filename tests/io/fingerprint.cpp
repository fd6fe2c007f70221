// Whether files are those of before: contents of small ones, samples and times of large ones.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/io/file.hpp>
#include <contraflow/io/fingerprint.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
namespace fs = std::filesystem;

namespace {

void touch(const fs::path& path) {
  fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(5));
}

// Changes a byte and leaves the time as it was.
void change_byte(const fs::path& path, std::uint64_t position) {
  const auto time = fs::last_write_time(path);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(std::streamoff(position));
  file.put('x');
  file.close();
  fs::last_write_time(path, time);
}

}  // namespace

TEST_CASE("a small file is known by its contents alone") {
  const TemporaryDirectory directory;
  const auto file = directory / "a";
  write_all(file, "some bytes");
  const std::string before = cf::fingerprint(file);
  touch(file);
  CHECK(cf::fingerprint(file) == before);
  fs::copy_file(file, directory / "b");
  CHECK(cf::fingerprint(directory / "b") == before);
  change_byte(file, 3);
  CHECK(cf::fingerprint(file) != before);
  write_all(file, "");
  CHECK(cf::fingerprint(file) != before);
  laws::check_error([&] { cf::fingerprint(directory / "none"); }, (directory / "none").string(),
                    "a readable file");
}

TEST_CASE("a large file is known by its size, its time and samples of it") {
  const TemporaryDirectory directory;
  const auto file = directory / "a";
  const std::uint64_t size = (std::uint64_t{64} << 20) + 4097;
  write_all(file, "");
  fs::resize_file(file, size);
  const std::string before = cf::fingerprint(file);
  CHECK(cf::fingerprint(file) == before);
  // The same size and time, and another first, middle or last byte.
  const std::uint64_t middle = (size - (64 << 10)) * 100 / 255;
  for (const std::uint64_t position : {std::uint64_t{0}, middle, size - 1}) {
    const auto other = directory / "b";
    fs::copy_file(file, other, fs::copy_options::overwrite_existing);
    fs::last_write_time(other, fs::last_write_time(file));
    CHECK(cf::fingerprint(other) == before);
    change_byte(other, position);
    CHECK(cf::fingerprint(other) != before);
  }
  touch(file);
  CHECK(cf::fingerprint(file) != before);
}

TEST_CASE("a folder is known by the names and contents of its files") {
  const TemporaryDirectory directory;
  write_all(directory / "a", "1");
  write_all(directory / "b", "2");
  const std::string before = cf::fingerprint(directory.path());
  touch(directory / "a");
  fs::create_directory(directory / "c");
  write_all(directory / ".hidden", "any");
  CHECK(cf::fingerprint(directory.path()) == before);
  fs::rename(directory / "a", directory / "A");
  CHECK(cf::fingerprint(directory.path()) != before);
  fs::rename(directory / "A", directory / "a");
  CHECK(cf::fingerprint(directory.path()) == before);
  change_byte(directory / "b", 0);
  CHECK(cf::fingerprint(directory.path()) != before);
  write_all(directory / "b", "2");
  write_all(directory / "d", "");
  CHECK(cf::fingerprint(directory.path()) != before);
}

TEST_CASE("a folder is the same while one of its files is written, and after a kill") {
  const TemporaryDirectory directory;
  write_all(directory / "a", "1");
  const std::string before = cf::fingerprint(directory.path());
  cf::PendingFile pending(directory / "a");
  pending.write("22", 2);
  // What a killed process leaves is what stands here now.
  CHECK(std::distance(fs::directory_iterator(directory.path()), {}) == 2);
  CHECK(cf::fingerprint(directory.path()) == before);
  pending.publish();
  CHECK(std::distance(fs::directory_iterator(directory.path()), {}) == 1);
  CHECK(cf::fingerprint(directory.path()) != before);
}
