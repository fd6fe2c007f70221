// Any text of a chat model has a score in range or is refused, by the usual pattern and by one of
// the user's; the first byte decides. It takes most of its time in the library's regular
// expressions.

#include <optional>
#include <regex>
#include <string>
#include <string_view>

#include <contraflow/reward/chat_judge.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(judge_score, input) {
  static const std::optional<std::regex> usual, own("answer: *([0-9.]+)");
  const bool is_own = input.starts_with('\x1f');
  const float score =
      contraflow::detail::score_of("judge", std::string(input), is_own ? own : usual, 0, 10);
  fuzz::expects_law(score >= 0 && score <= 1);
}
