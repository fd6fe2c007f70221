// What a server answers, of any bytes, gives scores or is refused: the scores of Remote, and the
// text of a chat model. So do an address, and a reward as a command line names it.

#include <cmath>
#include <string>
#include <string_view>

#include <contraflow/reward/chat_judge.hpp>
#include <contraflow/reward/remote.hpp>
#include <contraflow/reward/reward_text.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(judge_answer, input) {
  const std::string body(input);
  fuzz::read_or_refuse([&] { contraflow::detail::chat_answer("judge", body); });
  for (const std::int64_t count : {1, 3}) {
    fuzz::read_or_refuse([&] {
      const auto part = contraflow::detail::scores_in("judge", body, count);
      fuzz::expects_law(part.scores.numel() == count && part.abstains.numel() == count);
    });
  }
  fuzz::read_or_refuse(
      [&] { fuzz::expects_law(std::isfinite(contraflow::reward_text(body).weight)); });
  fuzz::read_or_refuse([&] { contraflow::detail::address_of(body); });
}
