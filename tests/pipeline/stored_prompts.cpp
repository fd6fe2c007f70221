// Prompts on disk: encoded once, when they are asked for, in bounded memory, also across a kill.

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <contraflow/pipeline/stored_prompts.hpp>
#include <contraflow/train/prompts.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "laws/prompt_source.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using cf::Tensor;
using cf::pipeline::PromptStore;
using cf::pipeline::StoredPrompts;
using laws::check_error;
using laws::same_bits;

namespace {

std::vector<std::string> captions(int count) {
  std::vector<std::string> all;
  for (int i = 0; i < count; ++i) all.push_back("prompt " + std::to_string(i));
  return all;
}

// Stands for text encoders, and remembers what it was asked for.
struct Encoder {
  std::shared_ptr<std::vector<std::vector<std::string>>> calls =
      std::make_shared<std::vector<std::vector<std::string>>>();

  cf::TextCondition operator()(const std::vector<std::string>& some) const {
    calls->push_back(some);
    cf::TextCondition rows;
    for (const std::string& caption : some) {
      const auto seed = std::hash<std::string>{}(caption);
      const cf::TextCondition row{laws::floats({1, 3, 4}, seed).to(at::kBFloat16),
                                  laws::floats({1, 5}, seed + 1)};
      rows = rows.pooled.defined() ? concatenate(rows, row) : row;
    }
    return rows;
  }
  std::size_t encoded() const {
    std::size_t count = 0;
    for (const auto& call : *calls) count += call.size();
    return count;
  }
};

bool equal(const cf::TextCondition& a, const cf::TextCondition& b) {
  return same_bits(a.sequence, b.sequence) && same_bits(a.pooled, b.pooled);
}

Tensor ids(const std::vector<std::int64_t>& numbers) { return at::tensor(numbers, at::kLong); }

}  // namespace

TEST_CASE("a prompt is encoded when it is first asked for, once, and read from then on") {
  const TemporaryDirectory directory;
  const auto path = directory / "prompts.safetensors";
  const auto all = captions(9);
  const cf::TextCondition expected = Encoder{}(all);
  const Encoder encoder;
  const PromptStore store(path, all, "s", encoder);
  CHECK(store.size() == 9);
  CHECK_FALSE(std::filesystem::exists(path));
  const Tensor some = ids({5, 2, 5, 8});
  CHECK(equal(store.condition(some), select(expected, some)));
  const std::vector<std::vector<std::string>> called{{all[2], all[5], all[8]}};
  CHECK(*encoder.calls == called);
  CHECK(equal(store.condition(some), select(expected, some)));
  store.prepare(at::empty({0}, at::kLong));  // nothing to do
  store.prepare(ids({2, 3}));
  CHECK(encoder.encoded() == 4);
  CHECK(encoder.calls->back() == std::vector<std::string>{all[3]});
  CHECK(equal(store.condition(at::arange(9, at::kLong)), expected));
  CHECK(encoder.encoded() == 9);

  // By another run, too.
  const Encoder unused;
  const PromptStore again(path, all, "s", unused);
  CHECK(equal(again.condition(some), select(expected, some)));
  CHECK(unused.encoded() == 0);
}

TEST_CASE("rows of other captions or another source are stale") {
  const TemporaryDirectory directory;
  const auto path = directory / "prompts.safetensors";
  PromptStore(path, captions(4), "s", Encoder{}).prepare(ids({0, 1, 2, 3}));
  const auto encodes = [&](const std::vector<std::string>& all, const char* source) {
    const Encoder encoder;
    const PromptStore store(path, all, source, encoder);
    CHECK(equal(store.condition(ids({1})), Encoder{}({all[1]})));
    return encoder.encoded();
  };
  CHECK(encodes(captions(4), "s") == 0);
  CHECK(encodes(captions(4), "other encoders") == 1);
  CHECK(encodes(captions(4), "s") == 1);
  CHECK(encodes(captions(3), "s") == 1);
  // Quotes and line ends are no way to make two lists look like one.
  CHECK(encodes({"a\",\"b", "line\nend"}, "s") == 1);
  CHECK(encodes({"a", "b", "line\nend"}, "s") == 1);
  write_all(path, "damaged");
  CHECK(encodes(captions(4), "s") == 1);
}

TEST_CASE("two stores of one file share what either encodes") {
  const TemporaryDirectory directory;
  const auto path = directory / "prompts.safetensors";
  const Encoder first, second;
  const PromptStore a(path, captions(4), "s", first), b(path, captions(4), "s", second);
  a.prepare(ids({0, 1}));
  b.prepare(ids({0, 1, 2}));
  a.prepare(ids({2}));
  CHECK(first.encoded() == 2);
  CHECK(second.encoded() == 1);
}

TEST_CASE("what was encoded before a kill is not encoded again") {
  const TemporaryDirectory directory;
  const auto path = directory / "prompts.safetensors";
  const auto all = captions(20);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const Encoder encoder;
    const auto until_killed = [&](const std::vector<std::string>& some) {
      if (encoder.encoded() == 12) ::raise(SIGKILL);
      return encoder(some);
    };
    PromptStore(path, all, "s", until_killed, 4).prepare(at::arange(20, at::kLong));
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  const Encoder encoder;
  const PromptStore store(path, all, "s", encoder);
  CHECK(equal(store.condition(at::arange(20, at::kLong)), Encoder{}(all)));
  CHECK(encoder.encoded() == 8);
}

TEST_CASE("memory does not grow with the number of prompts") {
  const TemporaryDirectory directory;
  std::int64_t most = 0;
  const auto encode = [&](const std::vector<std::string>& some) {
    const auto count = std::int64_t(some.size());
    most = std::max(most, count);
    return cf::TextCondition{at::ones({count, 1 << 20}, at::kByte), at::ones({count, 1})};
  };
  const PromptStore store(directory / "prompts.safetensors", captions(400), "s", encode, 8);
  const auto most_kibibytes = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  store.prepare(ids({0}));
  const auto before = most_kibibytes();
  store.prepare(at::arange(400, at::kLong));
  for (int i = 0; i < 400; i += 7) store.condition(ids({i, i}));
  CHECK(most_kibibytes() - before < 150 * 1024);
  CHECK(most == 8);
}

TEST_CASE("stored prompts are a source, with references for rewards") {
  const TemporaryDirectory directory;
  const auto all = captions(6);
  const Encoder encoder;
  const auto store =
      std::make_shared<const PromptStore>(directory / "prompts.safetensors", all, "s", encoder);
  const StoredPrompts prompts(store, 2, std::vector<std::string>{all[2], all[3], all[4]});
  static_assert(cf::HasPromptPreparation<decltype(prompts)>);
  laws::prompt_source(prompts, equal);
  CHECK(equal(prompts.condition(ids({1})), Encoder{}({all[3]})));
  const std::vector<std::string> referred{all[4], all[2]};
  CHECK(prompts.reference(ids({2, 0})) == referred);
  cf::prepare_prompts(prompts, ids({0, 1, 2}));
  CHECK(encoder.encoded() == 3);  // none of them beyond the source's own
  check_error([&] { StoredPrompts(store, 4, captions(3)); }, "references", "as many as rows");
  check_error([&] { StoredPrompts(store, 0, captions(0)); }, "references", "at least one");
}

TEST_CASE("what cannot be is refused") {
  const TemporaryDirectory directory;
  const auto path = directory / "prompts.safetensors";
  check_error([&] { PromptStore(path, {}, "s", Encoder{}); }, "captions", "at least one");
  check_error([&] { PromptStore(path, captions(1), "s", Encoder{}, 0); }, "together", "got 0");
  const PromptStore store(path, captions(2), "s", Encoder{});
  check_error([&] { store.condition(ids({2})); }, "ids", "numbers in [0, 2)");
  check_error([&] { store.prepare(ids({-1})); }, "ids", "numbers in [0, 2)");
  const auto one_row = [](const std::vector<std::string>&) { return Encoder{}({"a"}); };
  const PromptStore wrong(path, captions(2), "s", one_row);
  check_error([&] { wrong.condition(ids({0, 1})); }, "encode", "a row a caption");
}
