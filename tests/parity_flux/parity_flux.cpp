// Runs every reference case of the networks of FLUX.1 through the library.
//
// The folder is CONTRAFLOW_FLUX_FIXTURES of the environment, else the copy among the tests. All
// sizes come from the config.json files, the manifest and the tensors, so that folders of other
// seeds and sizes work as well.

#include <cstdlib>
#include <optional>

#include "parity_flux/report.hpp"

namespace {

std::filesystem::path folder() {
  const char* chosen = std::getenv("CONTRAFLOW_FLUX_FIXTURES");
  return chosen != nullptr && *chosen != '\0' ? chosen : CONTRAFLOW_TEST_DATA "/flux";
}

}  // namespace

int main() {
  parity::Report report;
  std::optional<parity::Fixtures> fixtures;
  report.section("fixtures", [&] { fixtures.emplace(folder()); });
  if (fixtures) {
    for (const auto check :
         {parity::check_transformer, parity::check_norms, parity::check_positions,
          parity::check_packing, parity::check_scheduler, parity::check_sampling, parity::check_vae,
          parity::check_text, parity::check_lora, parity::check_real_shapes}) {
      check(*fixtures, report);
    }
    report.section("files", [&] { fixtures->check_files(report); });
  }
  std::printf("%d passed, %d failed\n", report.passed(), report.failed());
  return report.passed() > 0 && report.failed() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
