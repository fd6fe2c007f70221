// Runs every reference case of Stable Diffusion 3.5's networks through the library.
//
// The folder is CONTRAFLOW_SD3_FIXTURES of the environment, else the copy among the tests; that of
// the tokenizers is CONTRAFLOW_TOKENIZER_FIXTURES, else the copy likewise. All sizes come from the
// config.json files, the manifest and the tensors, so that folders of other seeds and sizes work as
// well.

#include <cstdlib>
#include <optional>

#include "parity_sd3/report.hpp"

namespace {

std::filesystem::path folder(const char* variable, const char* otherwise) {
  const char* chosen = std::getenv(variable);
  return chosen != nullptr && *chosen != '\0' ? chosen : otherwise;
}

}  // namespace

int main() {
  parity::Report report;
  std::optional<parity::Fixtures> fixtures;
  report.section("fixtures", [&] {
    fixtures.emplace(
        folder("CONTRAFLOW_SD3_FIXTURES", CONTRAFLOW_TEST_DATA "/sd3"),
        folder("CONTRAFLOW_TOKENIZER_FIXTURES", CONTRAFLOW_TEST_DATA "/sd3/tokenizer"));
  });
  if (fixtures) {
    for (const auto check :
         {parity::check_mmdit, parity::check_norms, parity::check_scheduler, parity::check_sampling,
          parity::check_vae, parity::check_text, parity::check_lora, parity::check_real_shapes,
          parity::check_tokenizers}) {
      check(*fixtures, report);
    }
  }
  parity::check_other_kinds(report);
  std::printf("%d passed, %d failed\n", report.passed(), report.failed());
  return report.passed() > 0 && report.failed() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
