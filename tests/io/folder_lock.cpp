// A folder belongs to one process at a time.

#include <optional>

#include <catch2/catch_test_macros.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include <contraflow/io/folder_lock.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using laws::check_error;

namespace {

// Whether another process gets the folder.
bool is_free(const std::filesystem::path& folder) {
  const pid_t child = fork();
  if (child == 0) {
    try {
      const cf::FolderLock lock(folder);
      _exit(0);
    } catch (const cf::Error&) {
      _exit(1);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

TEST_CASE("a folder is one process's until it lets go or ends") {
  const TemporaryDirectory directory;
  CHECK(is_free(directory.path()));
  CHECK(is_free(directory.path()));  // the first has ended
  std::optional<cf::FolderLock> lock(directory.path());
  CHECK_FALSE(is_free(directory.path()));
  check_error([&] { cf::FolderLock second(directory.path()); }, directory.path().string(),
              "a run under way");
  const cf::FolderLock moved = std::move(*lock);
  lock.reset();
  CHECK_FALSE(is_free(directory.path()));
}

TEST_CASE("a folder that is not there cannot be one's own") {
  const TemporaryDirectory directory;
  check_error([&] { cf::FolderLock lock(directory / "none"); }, (directory / "none/.lock").string(),
              "a file that can be written");
}
