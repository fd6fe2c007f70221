// Patterns of layers in an adapter's configuration are not trusted.

#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/pipeline/lora_files.hpp>

#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::detail::LayerPattern;
using laws::check_error;

namespace {

bool matches(const std::string& pattern, const std::string& module) {
  return LayerPattern(pattern, "config").matches(module);
}

}  // namespace

TEST_CASE("a pattern of layers is a name, its end, or a regular expression of them") {
  const std::string module = "transformer_blocks.0.attn.to_q";
  for (const char* pattern :
       {"transformer_blocks.0.attn.to_q", "attn.to_q", "to_q", "attn.to.q", "to_[qk]", ".*to_q",
        "(x|attn).to_q", "transformer_blocks\\.\\d+\\..*"}) {
    INFO(pattern);
    CHECK(matches(pattern, module));
  }
  for (const char* pattern : {"o_q", "to_k", "attn", "transformer_blocks.0", "x.attn.to_q", "to_",
                              "[k-p]", "to_q.", "too_long_for_it.transformer_blocks.0.attn.to_q"}) {
    INFO(pattern);
    CHECK_FALSE(matches(pattern, module));
  }
}

TEST_CASE("patterns that would take all time or all of the stack are refused, or take little") {
  // A search by depth would try each of the ways to divide a name: more than there are atoms.
  CHECK_FALSE(matches("(a+)+b", std::string(300, 'a')));
  CHECK_FALSE(matches("(.*)*(.*)*x", std::string(300, 'a')));
  const std::string deep(200'000, '(');
  const std::vector<std::string> refused{deep,     "(a{0,99}){0,99}", "(?=.*(?=.*a))a",
                                         "(?!a)b", "(a)\\1",          "("};
  for (const std::string& pattern : refused) {
    check_error([&] { LayerPattern(pattern, "config"); }, "config",
                "regular expressions in alpha_pattern");
  }
}
