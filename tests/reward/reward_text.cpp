// Rewards in a text: name, argument and weight.

#include <string>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/reward_text.hpp>

#include "laws/errors.hpp"

namespace cf = contraflow;
using laws::check_error;

namespace {

void check(const std::string& text, const std::string& name, const std::string& argument,
           double weight) {
  INFO(text);
  const cf::RewardText read = cf::reward_text(text);
  CHECK(read.name == name);
  CHECK(read.argument == argument);
  CHECK(read.weight == weight);
}

}  // namespace

TEST_CASE("a reward's text has a name, a weight and an argument, the last two if they are there") {
  check("sharpness", "sharpness", "", 1);
  check("sharpness=0.25", "sharpness", "", 0.25);
  check("clip:models/clip", "clip", "models/clip", 1);
  check("clip=-2e-1:models/clip", "clip", "models/clip", -0.2);
  check("hps=2:weights.safetensors,tokenizer", "hps", "weights.safetensors,tokenizer", 2);
}

TEST_CASE("addresses and paths are taken as they stand") {
  check("remote:http://host:8000/score", "remote", "http://host:8000/score", 1);
  check("remote:http://host/score?model=2", "remote", "http://host/score?model=2", 1);
  check("chat=0.5:http://host:8000", "chat", "http://host:8000", 0.5);
  check("remote=0.5:http://host/score?model=2", "remote", "http://host/score?model=2", 0.5);
  check("remote:http://host/a=1:2=3", "remote", "http://host/a=1:2=3", 1);
  check("exported:a=b/reward.pt", "exported", "a=b/reward.pt", 1);
  check("exported:reward.pt=0.5", "exported", "reward.pt=0.5", 1);
}

TEST_CASE("a reward's text without a name or with a weight that is no number is refused") {
  for (const char* text : {"", ":models/clip", "=1", "=1:models/clip"}) {
    check_error([&] { cf::reward_text(text); }, "reward", "a name");
  }
  for (const char* text : {"sharpness=inf", "sharpness=nan", "sharpness=", "clip=half:models/clip",
                           "clip=1x:models/clip", "clip=1=2:models/clip"}) {
    check_error([&] { cf::reward_text(text); }, "reward", "a finite weight");
  }
}
