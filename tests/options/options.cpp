// Options that cannot corrupt memory.
//
// g++ 12 to 14 destroy the members of an aggregate twice when it was given by braces without its
// name inside another aggregate, or is so by default, and a later initialiser throws. Two things
// keep that from users:
// - no aggregate of the library has a member, other than its last, that is itself an aggregate with
//   something to destroy; checked here for all of them while compiling, and aggregates.py checks
//   that all of them are here;
// - options of every kind are built here with a part that throws, each part in turn, and in the
// ways
//   users write them. The program is built under the address sanitizer, by each compiler there is.

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
#include <contraflow/model/dit.hpp>
#include <contraflow/model/mmdit.hpp>
#include <contraflow/model/unet.hpp>
#include <contraflow/network/clip.hpp>
#include <contraflow/network/t5.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/observe/collapse_guard.hpp>
#include <contraflow/observe/csv.hpp>
#include <contraflow/observe/early_stop.hpp>
#include <contraflow/observe/json_lines.hpp>
#include <contraflow/observe/picture_files.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/reward/reward_text.hpp>
#include <contraflow/toy/digits.hpp>
#include <contraflow/toy/reach.hpp>
#include <contraflow/toy/scene_flow.hpp>
#include <contraflow/toy/scene_task.hpp>
#include <contraflow/toy/tasks.hpp>
#include <contraflow/train/checkpoint.hpp>
#ifdef CONTRAFLOW_ALL_COMPONENTS
#include <contraflow/pipeline/image_generation.hpp>
#include <contraflow/reward/clip_score.hpp>
#include <contraflow/reward/exported.hpp>
#include <contraflow/reward/image_measures.hpp>
#include <contraflow/reward/jpeg_size.hpp>
#include <contraflow/reward/remote.hpp>
#include <contraflow/sd3/encode_prompts.hpp>
#include <contraflow/sd3/random_folder.hpp>
#include <contraflow/text/clip_tokenizer.hpp>
#endif

namespace cf = contraflow;
namespace reach = contraflow::toy::reach;
namespace scenes = contraflow::toy::scenes;
using cf::Tensor;

// Which aggregates there are ---------------------------------------------------------------------

/// An aggregate and the number of its members, by which they are found.
template <class T, int Count>
struct Of {};

template <class... Ofs>
struct List {};

using Aggregates = List<
    // advantages, time, solvers
    Of<cf::GroupAdvantage, 2>, Of<cf::RankAdvantage, 1>, Of<cf::Sd3GridOptions, 2>,
    Of<cf::Constant, 1>, Of<cf::Ramp, 3>, Of<cf::WarmingUp, 1>, Of<cf::InverseRoot, 1>,
    Of<cf::Cosine, 3>, Of<cf::GridTimes, 3>, Of<cf::UniformTimes, 1>, Of<cf::LogitNormalTimes, 3>,
    Of<cf::StratifiedTimes, 1>, Of<cf::AdaptiveRungeKutta<cf::DormandPrince>, 3>,
    Of<cf::FlowSde, 1>, Of<cf::DanceSde, 1>, Of<cf::Cps, 1>, Of<cf::Ddim, 1>,
    Of<cf::WindowPlace, 5>, Of<cf::Window<cf::FlowSde, cf::Euler>, 3>,
    // networks, models, policies
    Of<cf::MlpOptions, 6>, Of<cf::ConditioningOptions, 3>, Of<cf::DitOptions, 8>,
    Of<cf::UnetOptions, 9>, Of<cf::MmditOptions, 14>, Of<cf::MmditRunOptions, 1>,
    Of<cf::ClipTextOptions, 10>, Of<cf::ClipVisionOptions, 10>, Of<cf::ClipOptions, 2>,
    Of<cf::T5Options, 9>, Of<cf::VaeOptions, 11>, Of<cf::Placement, 2>, Of<cf::LoraOptions, 2>,
    Of<cf::LoraWeights, 2>, Of<cf::LowRank, 3>, Of<cf::AdapterSelection, 1>,
    Of<cf::LoraPolicyOptions, 5>, Of<cf::SnapshotOptions, 3>,
    // rewards and objectives
    Of<cf::NegativeDistance, 1>, Of<cf::WithinRadius, 2>, Of<cf::LinearReward, 2>,
    Of<cf::Optimality, 2>, Of<cf::Nft, 5>, Of<cf::PaperNft, 5>, Of<cf::NftSettings, 3>,
    Of<cf::BasicGrpo<cf::RatioForm::plain>, 2>, Of<cf::Awm, 2>, Of<cf::Dpo, 1>,
    Of<cf::RewardWeighted, 1>, Of<cf::VelocityKl, 1>, Of<cf::ForwardProcess, 2>,
    Of<cf::RecordedTransitions, 2>,
    // trainers and observers
    Of<cf::Collection, 6>, Of<cf::Learning, 2>, Of<cf::Optimization, 5>,
    Of<cf::LossScaleOptions, 4>, Of<cf::AdamWSettings, 5>, Of<cf::EvaluationOptions, 5>,
    Of<cf::Seed, 1>, Of<cf::Pretraining, 3>, Of<cf::StoredSamples, 3>,
    Of<cf::ConditionedData<cf::TextCondition>, 2>, Of<cf::Checkpoint, 4>, Of<cf::CollapseGuard, 4>,
    Of<cf::CollapseGuardState, 4>, Of<cf::EarlyStop, 6>, Of<cf::EarlyStopState, 3>,
    Of<cf::CsvOptions, 1>, Of<cf::JsonLinesOptions, 1>, Of<cf::ProgressBarOptions, 4>,
    Of<cf::PictureFiles, 1>,
    // what is passed around
    Of<cf::Metric, 2>, Of<cf::Picture, 4>, Of<cf::RunInfo, 2>, Of<cf::EpochReport, 8>,
    Of<cf::Warning, 3>, Of<cf::Verdict, 3>, Of<cf::RunReport, 4>, Of<cf::Evaluation, 5>,
    Of<cf::LearnReport, 6>, Of<cf::StepOutcome, 3>, Of<cf::EvaluationCount, 2>,
    Of<cf::TrainerState, 2>, Of<cf::Scores, 3>, Of<cf::TermShare, 3>, Of<cf::RewardText, 3>,
    Of<cf::TokenIds, 2>, Of<cf::TorchLoop, 1>, Of<cf::philox::Draw, 3>,
    // toy tasks
    Of<cf::toy::Task, 7>, Of<cf::toy::Digits, 2>, Of<reach::Point, 2>, Of<reach::Disc, 2>,
    Of<reach::World, 6>, Of<reach::Scene, 3>, Of<reach::Outcome, 4>, Of<reach::Success, 1>,
    Of<reach::Demonstrator, 3>, Of<scenes::SceneFlowOptions, 4>, Of<scenes::Captioned, 2>,
    Of<scenes::Spoiling, 2>, Of<scenes::Object, 2>, Of<scenes::Prompt, 4>, Of<scenes::Seen, 3>,
    Of<scenes::Sight, 2>, Of<scenes::Judgement, 2>>;

#ifdef CONTRAFLOW_ALL_COMPONENTS
using ImageAggregates = List<Of<cf::ClipRewardOptions, 4>, Of<cf::ExportedOptions, 2>,
                             Of<cf::JpegIncompressibility, 1>, Of<cf::JpegCompressibility, 1>,
                             Of<cf::Palette, 2>, Of<cf::Remote, 6>, Of<cf::pipeline::LatentGrid, 4>,
                             Of<cf::sd3::PromptOptions, 5>, Of<cf::ClipTokenizerOptions, 2>>;
#else
using ImageAggregates = List<>;
#endif

// What members they have -------------------------------------------------------------------------

template <class... Members>
struct MemberTypes {
  static constexpr std::size_t size = sizeof...(Members);
  template <std::size_t I>
  using at = std::tuple_element_t<I, std::tuple<Members...>>;
};

/// The members of an aggregate; too many or too few names do not compile: then correct its number
/// in the list above.
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
consteval bool is_safe(Of<T, Count>) {
  static_assert(std::is_aggregate_v<T>);
  return []<std::size_t... I>(std::index_sequence<I...>) {
    return (!is_dangerous<typename Members<T, Count>::template at<I>> && ...);
  }
  (std::make_index_sequence<std::size_t{Count} - 1>{});  // nothing can throw behind the last
}

template <class T>
consteval void expect_safe() {
  static_assert(is_safe(T{}),
                "an aggregate has a member, not its last, that is an aggregate with something to "
                "destroy: g++ may destroy it twice; make one of the two a class, or split it");
}
template <class... Ofs>
consteval bool all_safe(List<Ofs...>) {
  (expect_safe<Ofs>(), ...);
  return true;
}
static_assert(all_safe(Aggregates{}) && all_safe(ImageAggregates{}));

// The check sees what it is for.
struct Nested {
  std::vector<double> values;
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
static_assert(!is_safe(Of<Dangerous, 3>{}) && is_safe(Of<NestedLast, 2>{}));

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
void each_part_throws(Of<T, Count>) {
  [&]<std::size_t... Last>(std::index_sequence<Last...>) {
    (expect_sentence(
         __PRETTY_FUNCTION__,
         [] { build<T, Members<T, Count>, Last>(std::make_index_sequence<Last + 1>{}); }),
     ...);
  }
  (std::make_index_sequence<Count>{});
}
template <class... Ofs>
void each_part_of_all_throws(List<Ofs...>) {
  (each_part_throws(Ofs{}), ...);
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
  each_part_of_all_throws(Aggregates{});
  each_part_of_all_throws(ImageAggregates{});
  trainers();
  models_and_policies();
  observers();
  toys();
  images();
  std::printf("%d options with a part that throws, %d faults\n", cases, failures);
  return failures == 0 ? 0 : 1;
}
