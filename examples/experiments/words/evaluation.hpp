#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>

#include <contraflow/contraflow.hpp>
#include <contraflow/core/stopwatch.hpp>
#include <contraflow/io/safetensors.hpp>
#include <contraflow/model/on_threads.hpp>
#include <contraflow/reward/ocr.hpp>
#include <contraflow/toy/word_flow.hpp>
#include <contraflow/toy/word_template.hpp>

/// The programs on words: NFT and FlowGRPO on the paper's task of text rendering, in miniature.
namespace words_example {

namespace cf = contraflow;
namespace words = cf::toy::words;
using cf::Tensor;
using cf::toy::WordFlow;

inline constexpr double guidance_scale = 4.5;
inline constexpr int sampling_steps = 10;

/// The base model of a file.
/// @throws cf::Error if the file is missing or holds another network
inline WordFlow load_base(const std::filesystem::path& path) {
  WordFlow flow;
  cf::load_weights(*flow.module(), cf::read_safetensors(path).tensors, path.string(),
                   {.dtype = at::kFloat});
  // The tensors of a file are views of it, which must not be written to.
  return flow.clone();
}

/// Keeps a model at half of its size.
inline void write_half(const std::filesystem::path& path, const WordFlow& flow) {
  auto weights = cf::named_weights(*flow.module());
  for (auto& [name, weight] : weights) weight = weight.detach().to(at::kHalf);
  cf::write_safetensors(path, weights);
}

/// Guidance as for Stable Diffusion 3.5, away from the prompt that asks for nothing.
template <class M>
auto guided(M model, double scale = guidance_scale) {
  return cf::Guided<M, Tensor>(std::move(model), words::null_prompt(), scale);
}

/// Prompts as a text-to-image model is given them.
inline cf::Captions captions_of(const Tensor& numbers) {
  cf::Captions captions;
  for (const std::string& text : words::texts_of(numbers)) {
    captions.push_back("a card that says \"" + text + "\"");
  }
  return captions;
}

//! [reader]
/// Tesseract as a reward: how much of the word it reads. Also says how long that took.
class Reader {
 public:
  /// @param threads that read at a time, two at least: alone Tesseract starts threads of its own,
  /// by which it is several times slower
  explicit Reader(int threads) : threads_(std::max(threads, 2)) {}

  /// Scores of images in [-1, 1].
  Tensor operator()(const Tensor& x0, const cf::Captions& captions) const {
    const cf::Stopwatch watch;
    const int others = at::get_num_threads();
    at::set_num_threads(threads_);
    Tensor scores = ocr_(words::shown_images(x0), captions);
    at::set_num_threads(others);
    *seconds_ += watch.seconds();
    return scores;
  }
  /// Since the first image.
  double seconds() const { return *seconds_; }

 private:
  int threads_;
  cf::Ocr ocr_{{.page_segmentation = tesseract::PSM_SINGLE_WORD, .scale = 2}};
  std::shared_ptr<double> seconds_ = std::make_shared<double>(0);
};
//! [reader]

/// What images are worth; means over them.
struct Score {
  double read = 0;      ///< the reward: how much of the word Tesseract reads
  double whole = 0;     ///< share whose word it reads in full
  double matched = 0;   ///< how much of it a template reader reads, that is never rewarded
  double residual = 0;  ///< what of the images is no letter of the data, see TemplateReader
};

/// What scores are made with.
struct Judge {
  Reader reader;
  words::TemplateReader templates;
};

/// The score of images.
/// @param numbers int64 [N], of their words
inline Score score_of(const Judge& judge, const Tensor& x0, const Tensor& numbers) {
  const Tensor read = judge.reader(x0, captions_of(numbers)).to(at::kDouble);
  const words::TemplateReading seen = judge.templates.read(x0);
  const std::vector<std::string> texts = words::texts_of(numbers);
  double matched = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) matched += cf::text_match(seen.texts[i], texts[i]);
  return {read.mean().item<double>(), read.eq(1).to(at::kDouble).mean().item<double>(),
          matched / double(texts.size()), seen.residual.mean().item<double>()};
}

/// Images by the second-order solver, from fixed noise; each rank makes its share.
/// @param numbers int64 [N], of words
template <class M, class Ranks = cf::Alone>
Tensor drawn(M model, const Tensor& numbers, std::uint64_t seed, const Ranks& ranks = {}) {
  const at::NoGradGuard no_gradient;
  const cf::Share own = cf::share_of(numbers.numel(), ranks.rank(), ranks.size());
  cf::Generator generator = cf::seeded(seed).rows(at::arange(own.first, own.last, at::kLong));
  const Tensor tokens = words::tokens_of(words::texts_of(numbers.slice(0, own.first, own.last)));
  const Tensor noise = cf::normal({own.size(), 1, words::height, words::width}, generator);
  auto velocity = [&](const Tensor& x, double sigma) {
    return cf::velocity_of(model, x, at::full({x.size(0)}, sigma, at::kFloat), tokens);
  };
  return ranks.gather(cf::sampled(cf::DpmSolver<2>{}, velocity, noise,
                                  cf::uniform_grid(sampling_steps), generator));
}

/// Words in turn, spread over the list.
/// @param numbers int64 [N], of words
/// @return int64 [count]
inline Tensor spread(const Tensor& numbers, std::int64_t count) {
  const Tensor places = at::arange(count, at::kLong) * numbers.numel();
  const std::int64_t least = std::min(count, numbers.numel());
  return numbers.index_select(0, places.div(least, "floor").remainder(numbers.numel()));
}

/// Scores of a model on words of training and on those kept out of it.
struct Scores {
  Score known, kept_out;
};

/// The scores of a model on fixed words and noise.
/// @param count of either
template <class M, class Ranks = cf::Alone>
Scores evaluated(M model, const Judge& judge, std::int64_t count, const Ranks& ranks = {}) {
  const auto scored = [&](const Tensor& all) {
    const Tensor numbers = spread(all, count);
    return score_of(judge, drawn(model, numbers, 1, ranks), numbers);
  };
  return {scored(words::training_words()), scored(words::kept_out_words())};
}

}  // namespace words_example
