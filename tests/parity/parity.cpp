// Runs every reference case of a folder through the library's public functions.
//
// The folder is CONTRAFLOW_FIXTURES of the environment, else those of the copies among the tests. A
// case is a safetensors file: `kind` and `config` in its metadata, inputs `in.*`, expected results
// `out.*` and expected gradients `grad.*`. Settings come from the config and shapes from the
// tensors, so that folders with other settings and shapes work as well. A case passes when every
// expected tensor was compared and all agree.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "parity/case.hpp"

namespace cf = contraflow;
using parity::Case;

namespace {

const parity::Kinds& kinds() {
  static const parity::Kinds all = [] {
    parity::Kinds joined = parity::kinds_of_sampling();
    joined.merge(parity::kinds_of_losses());
    joined.merge(parity::kinds_of_transitions());
    joined.merge(parity::kinds_of_forward_process());
    joined.merge(parity::kinds_of_rewards());
    return joined;
  }();
  return all;
}

// Runs one file and prints its line.
bool passes(const std::filesystem::path& path) {
  const std::string name = path.stem().string();
  try {
    parity::Case c(path);
    const auto found = kinds().find(c.kind());
    if (found == kinds().end()) throw cf::Error("kind", "a known kind of case", c.kind());
    found->second(c);
    c.expect_complete();
    std::printf("%s  %-32s %-18s largest relative error %.1e (%s)\n", c.passed() ? "ok  " : "FAIL",
                name.c_str(), c.kind().c_str(), c.worst(), c.worst_name().c_str());
    return c.passed();
  } catch (const std::exception& failure) {
    std::printf("FAIL  %-32s %s\n", name.c_str(), failure.what());
    return false;
  }
}

std::vector<std::filesystem::path> files_of(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

int main() {
  const char* chosen = std::getenv("CONTRAFLOW_FIXTURES");
  std::vector<std::filesystem::path> folders{CONTRAFLOW_TEST_DATA "/rl",
                                             CONTRAFLOW_TEST_DATA "/rl_more"};
  if (chosen != nullptr && *chosen != '\0') folders = {chosen};
  std::ptrdiff_t passed = 0, failed = 0;
  for (const auto& folder : folders) {
    std::vector<std::filesystem::path> files;
    try {
      files = files_of(folder);
    } catch (const std::filesystem::filesystem_error& failure) {
      std::printf("%s\n", failure.what());
    }
    if (files.empty()) std::printf("FAIL  no reference cases in %s\n", folder.c_str());
    const auto good = std::count_if(files.begin(), files.end(), passes);
    passed += good;
    failed += files.empty() ? 1 : static_cast<std::ptrdiff_t>(files.size()) - good;
  }
  std::printf("%td passed, %td failed\n", passed, failed);
  return passed > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
