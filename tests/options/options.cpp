// Options that cannot corrupt memory.
//
// g++ 12 to 14 destroy the members of an aggregate twice when it was given by braces without its
// name inside another aggregate, or is so by default, and a later initialiser throws. Two things
// keep that from users:
// - no aggregate of the library has a member, other than its last, that is itself an aggregate with
//   something to destroy: checked here while compiling, for all that aggregates.py finds;
// - options of every kind are built here with a part that throws, each part in turn, and as users
//   write them. The program is built under the address sanitizer, by each compiler there is.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <contraflow/contraflow.hpp>

#include "aggregate_headers.hpp"  // made by aggregates.py

namespace cf = contraflow;
namespace reach = contraflow::toy::reach;
namespace scenes = contraflow::toy::scenes;
using cf::Tensor;

// What members they have -------------------------------------------------------------------------

template <class... Members>
struct MemberTypes {
  static constexpr std::size_t size = sizeof...(Members);
  template <std::size_t I>
  using at = std::tuple_element_t<I, std::tuple<Members...>>;
};

/// The members of an aggregate. A wrong number of names does not compile: then aggregates.py has
/// miscounted.
template <int Count, class T>
auto members_of(const T& t) {
  // clang-format off
#define CONTRAFLOW_MEMBERS(count, ...) \
  if constexpr (Count == count) { \
    const auto& [__VA_ARGS__] = t; \
    return [](const auto&... m) { \
      return MemberTypes<std::remove_cvref_t<decltype(m)>...>{}; \
    }(__VA_ARGS__); \
  }
  CONTRAFLOW_MEMBERS(1, a)
  CONTRAFLOW_MEMBERS(2, a, b)
  CONTRAFLOW_MEMBERS(3, a, b, c)
  CONTRAFLOW_MEMBERS(4, a, b, c, d)
  CONTRAFLOW_MEMBERS(5, a, b, c, d, e)
  CONTRAFLOW_MEMBERS(6, a, b, c, d, e, f)
  CONTRAFLOW_MEMBERS(7, a, b, c, d, e, f, g)
  CONTRAFLOW_MEMBERS(8, a, b, c, d, e, f, g, h)
  CONTRAFLOW_MEMBERS(9, a, b, c, d, e, f, g, h, i)
  CONTRAFLOW_MEMBERS(10, a, b, c, d, e, f, g, h, i, j)
  CONTRAFLOW_MEMBERS(11, a, b, c, d, e, f, g, h, i, j, k)
  CONTRAFLOW_MEMBERS(12, a, b, c, d, e, f, g, h, i, j, k, l)
  CONTRAFLOW_MEMBERS(13, a, b, c, d, e, f, g, h, i, j, k, l, m)
  CONTRAFLOW_MEMBERS(14, a, b, c, d, e, f, g, h, i, j, k, l, m, n)
#undef CONTRAFLOW_MEMBERS
  // clang-format on
}

template <class T, int Count>
using Members = decltype(members_of<Count>(std::declval<const T&>()));

/// Whether a type as the member of an aggregate may be destroyed twice.
template <class M>
inline constexpr bool is_dangerous = std::is_aggregate_v<M> && !std::is_trivially_destructible_v<M>;

template <class T, int Count>
consteval bool is_safe() {
  if constexpr (!std::is_aggregate_v<T>) {
    return true;
  } else {
    return []<std::size_t... I>(std::index_sequence<I...>) {
      return (!is_dangerous<typename Members<T, Count>::template at<I>> && ...);
    }
    (std::make_index_sequence<std::size_t{Count} - 1>{});  // nothing can throw behind the last
  }
}
#define CONTRAFLOW_AGGREGATE(count, ...)                                           \
  static_assert(is_safe<__VA_ARGS__, count>(), #__VA_ARGS__                        \
                " has a member, not its last, that is an aggregate with something" \
                " to destroy, which g++ may do twice: make one of the two a class");
#include "aggregate_list.hpp"  // made by aggregates.py
#undef CONTRAFLOW_AGGREGATE

// The check sees what it is for.
struct Nested {
  std::vector<double> values;
  long number = 0;
};
struct Dangerous {
  long number = 0;
  Nested nested = {};
  std::vector<long> shape = {};
};
struct NestedLast {
  std::vector<long> shape = {};
  Nested nested = {};
};
static_assert(!is_safe<Dangerous, 3>() && is_safe<NestedLast, 2>());

// Options of which a part throws -----------------------------------------------------------------

/// A value with something to destroy, where the type has any.
template <class M>
struct Sample {
  static M make() { return M{}; }
};
template <>
struct Sample<std::string> {
  static std::string make() { return std::string(100, 'x'); }
};
template <>
struct Sample<std::filesystem::path> {
  static std::filesystem::path make() { return std::string(100, 'x'); }
};
template <class E>
struct Sample<std::vector<E>> {
  static std::vector<E> make() { return std::vector<E>(3, Sample<E>::make()); }
};
template <class M>
struct Sample<std::optional<M>> {
  static std::optional<M> make() { return Sample<M>::make(); }
};
template <>
struct Sample<Tensor> {
  static Tensor make() { return at::zeros({100}); }
};
template <>
struct Sample<at::Device> {
  static at::Device make() { return at::kCPU; }
};
template <>
struct Sample<cf::TimeGrid> {
  static cf::TimeGrid make() { return cf::uniform_grid(50); }
};
template <>
struct Sample<cf::Schedule> {
  static cf::Schedule make() { return cf::Ramp{.rate = 1, .max = 2, .flat = 3}; }
};
template <>
struct Sample<cf::AnyTrainingTimes> {
  static cf::AnyTrainingTimes make() { return cf::GridTimes{.grid = cf::uniform_grid(50)}; }
};
template <>
struct Sample<cf::LoraWeights> {
  static cf::LoraWeights make() { return {{{std::string(100, 'x'), at::zeros({3})}}, 64}; }
};

/// What a user calls within options, and bad input makes throw.
template <class M>
M thrown(int size = 50) {
  if (size % 16 != 0) throw cf::Error("size", "a multiple of 16", std::to_string(size));
  return Sample<M>::make();
}

int failures = 0, cases = 0;

/// Says where what is thrown does not arrive as it is. What is destroyed twice ends the program.
template <class Build>
void expect_sentence(const char* name, Build&& build) {
  ++cases;
  std::string came = "nothing";
  try {
    build();
  } catch (const std::exception& error) {
    came = error.what();
  }
  if (came == "size: expected a multiple of 16, got 50") return;
  ++failures;
  std::printf("%s: %s\n", name, came.c_str());
}

template <class T>
void take(const T&) {}

template <class M, bool Throws>
M part() {
  if constexpr (Throws) return thrown<M>();
  return Sample<M>::make();
}

/// Builds an aggregate whose member @p Last throws, from all members up to that.
template <class T, class Members, std::size_t Last, std::size_t... I>
void build(std::index_sequence<I...>) {
  take(T{part<typename Members::template at<I>, I == Last>()...});
}

template <class T, int Count>
void each_part_throws(const char* name) {
  if constexpr (std::is_aggregate_v<T>) {
    [&]<std::size_t... Last>(std::index_sequence<Last...>) {
      (expect_sentence(
           name, [] { build<T, Members<T, Count>, Last>(std::make_index_sequence<Last + 1>{}); }),
       ...);
    }
    (std::make_index_sequence<Count>{});
  }
}

void each_part_of_all_throws() {
#define CONTRAFLOW_AGGREGATE(count, ...) each_part_throws<__VA_ARGS__, count>(#__VA_ARGS__);
#include "aggregate_list.hpp"
#undef CONTRAFLOW_AGGREGATE
}

// As users write them, with and without names ----------------------------------------------------

const std::string long_text(100, 'x');

void trainers() {
  using Shape = std::vector<std::int64_t>;
  expect_sentence("Collection", [] {
    take(cf::Collection{
        .prompts_per_epoch = 4, .grid = cf::sd3_grid(10), .sample_shape = thrown<Shape>()});
  });
  expect_sentence("components", [] {
    const auto trainer = [](const auto&...) {};
    trainer(cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3}),
                             .learning_rate_factor = cf::InverseRoot{}},
            cf::EvaluationOptions{.every = 1, .grid = cf::sd3_grid(40)},
            cf::Collection{.grid = cf::sd3_grid(10), .sample_shape = thrown<Shape>()});
  });
  expect_sentence("Optimization", [] {
    take(cf::Optimization{.optimizer = cf::adamw(),
                          .learning_rate_factor = cf::Ramp{},
                          .loss_scale = cf::LossScaleOptions{.initial = thrown<double>()}});
  });
  expect_sentence("Optimization without a name", [] {
    take<cf::Optimization>(
        {.optimizer = cf::adamw(), .loss_scale = {{.initial = 3, .growth = thrown<double>()}}});
  });
  expect_sentence("ForwardProcess", [] {
    take(cf::ForwardProcess{.times = cf::GridTimes{.grid = cf::sd3_grid(10)},
                            .shared_noise = thrown<bool>()});
  });
  expect_sentence("ForwardProcess without a name", [] {
    take(cf::ForwardProcess{.times = {cf::GridTimes{.grid = cf::sd3_grid(10)}},
                            .shared_noise = thrown<bool>()});
  });
  expect_sentence("ConditionedData", [] {
    take(
        cf::ConditionedData<cf::TextCondition>{at::zeros({3}), {at::zeros({3}), thrown<Tensor>()}});
  });
  expect_sentence("StoredSamples", [] {
    take<cf::StoredSamples>({at::zeros({3}), at::zeros({3}), thrown<Tensor>()});
  });
  expect_sentence("PaperNft", [] {
    take(cf::PaperNft{.weight = [text = long_text](const Tensor& t) { return t; },
                      .optimality = {.clip = 1},
                      .negative_branch = thrown<bool>()});
  });
}

void models_and_policies() {
  expect_sentence("DitOptions", [] {
    take<cf::DitOptions>({.conditioning = {.classes = 3}, .recompute = thrown<bool>()});
  });
  expect_sentence("UnetOptions", [] {
    take(cf::UnetOptions{.level_channels = {32, 64},
                         .attention_levels = {0, 1},
                         .conditioning = {.text_size = 3, .pooled_size = 4},
                         .recompute = thrown<bool>()});
  });
  expect_sentence("ClipOptions", [] {
    take(cf::ClipOptions{.text = {.vocab_size = 3},
                         .vision = {.num_channels = thrown<std::int64_t>()}});
  });
  expect_sentence("LoraPolicyOptions", [] {
    take(cf::LoraPolicyOptions{
        .start = cf::LoraWeights{.tensors = {{long_text, at::zeros({3})}}, .alpha = 64},
        .old_decay = cf::Constant{0},
        .average_every = thrown<std::int64_t>()});
  });
  expect_sentence("LoraPolicyOptions without a name", [] {
    take<cf::LoraPolicyOptions>({.start = {{.tensors = {{long_text, at::zeros({3})}}, .alpha = 64}},
                                 .average_every = thrown<std::int64_t>()});
  });
  expect_sentence("SnapshotOptions", [] {
    take<cf::SnapshotOptions>(
        {.old_decay = cf::Constant{0}, .average_every = thrown<std::int64_t>()});
  });
  expect_sentence("Window", [] {
    take(cf::Window<cf::FlowSde, cf::Euler>{.sde = {.noise_level = 1},
                                            .place = {.length = thrown<std::size_t>()}});
  });
}

void observers() {
  expect_sentence("ProgressBar", [] {
    cf::ProgressBar({.reward = long_text, .evaluation = thrown<std::string>()});
  });
  expect_sentence("Csv", [] { cf::Csv(long_text, {.append = thrown<bool>()}); });
  expect_sentence("EarlyStop",
                  [] { take(cf::EarlyStop{.metric = long_text, .target = thrown<double>()}); });
  expect_sentence("CollapseGuard", [] {
    take(
        cf::CollapseGuard{.zero_std_ratio = 1, .state = {.first_velocity_norm = thrown<double>()}});
  });
  expect_sentence("Checkpoint", [] {
    take(cf::Checkpoint{.directory = long_text, .every = thrown<std::int64_t>()});
  });
  expect_sentence("EpochReport", [] {
    take(cf::EpochReport{.metrics = {{long_text, 1}, {.name = long_text, .value = 2}},
                         .pictures = {{long_text, long_text, 3, 4}},
                         .later = {long_text, thrown<std::string>()}});
  });
  expect_sentence("Verdict", [] {
    take(cf::Verdict{.reason = long_text,
                     .warnings = {{.quantity = long_text, .message = long_text},
                                  {.quantity = long_text, .value = thrown<double>()}}});
  });
  expect_sentence("RunReport", [] {
    take(cf::RunReport{
        .reason = long_text,
        .last = {.metrics = {{long_text, 1}}, .pictures = {}, .later = {thrown<std::string>()}}});
  });
}

void toys() {
  expect_sentence("scenes", [] {
    take(scenes::CaptionedData({at::zeros({3}), at::zeros({3})}, {.word = thrown<double>()}));
  });
  expect_sentence("reach", [] {
    take(reach::Scene{.angles = {1, 2},
                      .goal = {.x = 1, .y = 2},
                      .obstacles = {{.centre = {.x = 1}, .radius = thrown<double>()}}});
  });
}

void images() {
#ifdef CONTRAFLOW_ALL_COMPONENTS
  expect_sentence("ClipRewardOptions", [] {
    take(cf::ClipRewardOptions{.tokenizer = long_text,
                               .placement = {.dtype = at::kHalf},
                               .batch = thrown<std::int64_t>()});
  });
  expect_sentence("PromptOptions", [] {
    take(cf::sd3::PromptOptions{.clip = {.dtype = at::kHalf},
                                .t5 = {.device = at::kCPU},
                                .at_once = thrown<std::int64_t>()});
  });
  expect_sentence("Remote", [] {
    take(cf::Remote{.url = long_text,
                    .on_failure = thrown<std::function<void(const cf::Error&)>>()});
  });
  expect_sentence("ChatJudge", [] {
    take(cf::ChatJudge{.url = long_text, .model = long_text, .least = thrown<double>()});
  });
  expect_sentence("weighted", [] {
    cf::weighted(cf::Palette{.colours = at::zeros({3, 3})}, thrown<double>());
  });
  expect_sentence("RandomFolderOptions", [] {
    cf::sd3::RandomFolderOptions options;
    options.transformer = {
        .num_layers = 3, .dual_attention_layers = {0, 1, 2}, .qk_norm = thrown<bool>()};
  });
#endif
}

/// What the compiler's fault does to a style that the library's types do not allow.
void control() {
  expect_sentence("control", [] {
    take(Dangerous{.nested = {std::vector<double>(50, 1.0)}, .shape = thrown<std::vector<long>>()});
  });
}

int main(int count, char**) {
  if (count > 1) control();
  each_part_of_all_throws();
  trainers();
  models_and_policies();
  observers();
  toys();
  images();
  std::printf("%d options with a part that throws, %d faults\n", cases, failures);
  return failures == 0 ? 0 : 1;
}
