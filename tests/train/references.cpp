// What prompts give: a condition to models, a reference to rewards.

#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/core/condition.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/list.hpp>
#include <contraflow/reward/records.hpp>

#include "archetypes/prompts.hpp"
#include "laws/condition.hpp"
#include "laws/errors.hpp"
#include "laws/prompt_source.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Captions;
using cf::Records;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

const Captions captions{"a cat", "", "two dogs"};
const Records records{
    {{"prompt", "a cat"}, {"count", 1}}, {{"prompt", ""}}, {{"prompt", "two dogs"}, {"count", 2}}};
Tensor rows() { return laws::floats({3, 4}); }
Tensor numbers(std::vector<std::int64_t> values) { return at::tensor(values, at::kLong); }

// The length of each caption.
Tensor length(const Tensor& x0, const Captions& texts) {
  std::vector<double> lengths;
  for (const std::string& text : texts) lengths.push_back(double(text.size()));
  CHECK(x0.size(0) == std::int64_t(texts.size()));
  return at::tensor(lengths, at::kDouble);
}
// What records say beside their captions.
std::vector<double> counts(const Tensor&, const Records& list) {
  std::vector<double> result;
  for (const auto& record : list) result.push_back(record.value("count", 0.0));
  return result;
}

}  // namespace

TEST_CASE("prompts with references keep the laws of prompts") {
  laws::prompt_source(cf::PromptRows(rows(), captions));
  laws::prompt_source(cf::PromptRows(rows(), records));
  laws::prompt_source(cf::PromptRows(rows(), laws::doubles({3, 2})));
  laws::prompt_source(cf::PromptRows(rows(), std::vector<bool>{true, false, true}));
  const archetypes::Caption weighed{{1, 2, 3}, at::arange(3, at::kLong)};
  const auto equal = [](const auto& a, const auto& b) { return a == b; };
  laws::prompt_source(cf::PromptRows(rows(), weighed), &same_bits, equal);
  laws::prompt_source(cf::PromptRows(weighed, captions), equal);
}

TEST_CASE("lists are conditions") {
  const auto equal = [](const auto& a, const auto& b) { return a == b; };
  static_assert(cf::Condition<Captions> && cf::Condition<Records>);
  laws::condition(captions, equal);
  laws::condition(records, equal);
  // A model that encodes for itself is given the captions.
  laws::prompt_source(cf::PromptRows(captions), equal);
  CHECK(cf::select(captions, numbers({2, 0, 2})) == Captions{"two dogs", "a cat", "two dogs"});
  CHECK(cf::select(captions, at::empty({0}, at::kLong)).empty());
  check_error([] { cf::select(captions, numbers({0, 3})); }, "ids", "[0, 3), got 3");
  check_error([] { cf::select(captions, numbers({-1})); }, "ids", "got -1");
}

TEST_CASE("the reference of prompts without one is their condition") {
  const Tensor ids = numbers({2, 0});
  const cf::PromptRows plain(rows());
  CHECK(same_bits(cf::reference_of(plain, ids), plain.condition(ids)));
  CHECK(same_bits(cf::reference_of(cf::class_prompts(5), ids), ids));
  static_assert(std::same_as<cf::ReferenceOf<cf::NoPrompts>, cf::Unconditional>);
  static_assert(!cf::HasPromptReference<decltype(plain)>);
}

TEST_CASE("prompts without as many references are refused") {
  check_error([] { cf::PromptRows(rows(), Captions{"one", "two"}); }, "references", "got 2");
  check_error([] { cf::PromptRows(rows(), at::zeros({4, 3})); }, "references", "got 4");
  check_error([] { cf::PromptRows(rows(), cf::Unconditional{}); }, "references", "as many as rows");
  check_error([] { cf::PromptRows(at::zeros({0, 4}), Captions{}); }, "rows", "at least one");
}

TEST_CASE("a source that does not give a reference an id is told so, and not its rewards") {
  struct Few : archetypes::CaptionPrompts {
    Captions reference(const Tensor&) const { return {"one"}; }
  };
  CHECK(cf::reference_of(Few{}, numbers({2})) == Captions{"one"});
  check_error(
      [] {
        cf::reference_of(Few{}, numbers({2, 0, 1}));
      },
      "reference(ids)", "one entry an id, 3, got 1");
}

TEST_CASE("rewards are told the references of prompts, and not their conditions") {
  const Tensor ids = numbers({2, 0, 2, 1}), x0 = laws::floats({4, 2});
  const auto captioned = cf::rewards("length"_r = length);
  const auto score = [&](const auto& bag, const auto& prompts) {
    const cf::ScoreSheet sheet = bag.score(x0, cf::reference_of(prompts, ids));
    CHECK(sheet.failures.empty());
    return sheet.scores;
  };
  const Tensor lengths = at::tensor({8.0, 5.0, 8.0, 0.0}, at::kDouble);
  CHECK(same_bits(score(captioned, cf::PromptRows(rows(), captions))[0], lengths));

  const auto recorded = cf::rewards("length"_r = cf::OnCaptions(length), "count"_r = counts);
  const Tensor both = score(recorded, cf::PromptRows(rows(), records));
  CHECK(same_bits(both[0], lengths));
  CHECK(same_bits(both[1], at::tensor({2.0, 1.0, 2.0, 0.0}, at::kDouble)));

  cf::RewardList<Records> list;
  list.add("length", cf::OnCaptions(length));
  list.add("count", counts);
  CHECK(same_bits(score(list, cf::PromptRows(rows(), records)), both));

  const auto granting = cf::as_rewards(archetypes::GrantsWishes{});
  const Tensor wished = score(granting, archetypes::WishfulPrompts{})[0];
  const Tensor first = x0.select(1, 0).to(at::kDouble);
  CHECK(laws::relative_distance(wished, -(first - 10 * ids.to(at::kDouble)).abs()) < 1e-6);
}
