// A file of prompts of any bytes is read or refused, and what is read is text for tokenizers and
// judges.

#include <string>
#include <string_view>

#include <contraflow/reward/records.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(prompts, input) {
  const auto records = contraflow::records_in(input, "prompts");
  fuzz::expects_law(!records.empty());
  const auto captions = contraflow::captions_of(records);
  fuzz::expects_law(captions.size() == records.size());
  for (const auto& record : records) static_cast<void>(record.dump());  // throws unless UTF-8
}
