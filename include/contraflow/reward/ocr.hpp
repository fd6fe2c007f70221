#pragma once

/// @file
/// A reward on the text in images, read by Tesseract.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/upsample_bicubic2d.h>
#include <allheaders.h>
#include <tesseract/baseapi.h>

#include <contraflow/core/parallel.hpp>
#include <contraflow/reward/image_batch.hpp>
#include <contraflow/reward/ocr_text.hpp>
#include <contraflow/reward/records.hpp>

namespace contraflow {

/// How text in images is read, and where prompts say it.
struct OcrOptions {
  std::string language = "eng";  ///< of Tesseract's data; several are joined: "eng+deu"
  /// Folder of the data, such as `eng.traineddata`; empty: where Tesseract looks, which is
  /// `TESSDATA_PREFIX` or where it was installed.
  std::filesystem::path tessdata = {};
  /// What is taken for text, a mode that reads: by default blocks of lines, wherever they are.
  /// `PSM_SINGLE_LINE` takes the whole image for a line; `PSM_SPARSE_TEXT` finds more, and finds
  /// letters in noise. The modes that detect orientation are not taken.
  tesseract::PageSegMode page_segmentation = tesseract::PSM_AUTO;
  /// Images are read at this multiple of their size, from 1 to 16. Tesseract wants letters of about
  /// 20 pixels and more.
  double scale = 1;
  /// Under which a record has the text that is wanted, where it does not stand in its caption.
  std::string text_key = "text";
};

namespace detail {

/// Tesseract with a language, for a thread at a time.
class OcrReader {
 public:
  /// @throws Error if there is no such language
  explicit OcrReader(const OcrOptions& options) {
    const std::lock_guard alone(process_state());
    // Among it where its messages and Leptonica's go, which are for whoever runs it by hand.
    static std::once_flag is_quiet;
    std::call_once(is_quiet, [&] {
      api_.SetVariable("debug_file", "/dev/null");
      setMsgSeverity(L_SEVERITY_NONE);
    });
    const std::string folder = options.tessdata.string();
    const int failed = api_.Init(folder.empty() ? nullptr : folder.c_str(),
                                 options.language.c_str(), tesseract::OEM_LSTM_ONLY);
    if (failed != 0 || !has_all(options.language)) {
      throw Error("language", "languages that Tesseract has data of in " + data_folder(),
                  options.language);
    }
    // Where the data are of its older engine alone, Tesseract takes that in silence.
    int engine = 0;
    api_.GetIntVariable("tessedit_ocr_engine_mode", &engine);
    if (engine != tesseract::OEM_LSTM_ONLY) {
      throw Error("language", "data of Tesseract's LSTM engine in " + data_folder(),
                  options.language + " without them");
    }
    api_.SetPageSegMode(options.page_segmentation);
  }

  /// The text of an image, in UTF-8; empty where there is none.
  /// @param pixels uint8 [H, W, 3], contiguous
  std::string read(const Tensor& pixels) {
    const std::shared_lock beside_others(process_state());
    constexpr int channels = 3, credible_resolution = 70;
    const int height = static_cast<int>(pixels.size(0)), width = static_cast<int>(pixels.size(1));
    // What was read before would be in its dictionary.
    api_.ClearAdaptiveClassifier();
    api_.SetImage(data_of<const std::uint8_t>(pixels), width, height, channels, channels * width);
    api_.SetSourceResolution(credible_resolution);
    const std::unique_ptr<char[]> text(api_.GetUTF8Text());
    api_.Clear();
    return text == nullptr ? std::string() : std::string(text.get());
  }

 private:
  // What Tesseract sets while it loads a language is in part of the whole process, and looked at by
  // whoever reads.
  static std::shared_mutex& process_state() {
    static std::shared_mutex mutex;
    return mutex;
  }

  // Where some of several languages are missing, Tesseract goes on with the others.
  bool has_all(const std::string& languages) const {
    std::vector<std::string> loaded;
    api_.GetLoadedLanguagesAsVector(&loaded);
    std::istringstream names(languages);
    for (std::string name; std::getline(names, name, '+');) {
      const bool is_kept_out = name.starts_with('~');
      if (!is_kept_out && std::find(loaded.begin(), loaded.end(), name) == loaded.end()) {
        return false;
      }
    }
    return true;
  }

  std::string data_folder() {
    const char* folder = api_.GetDatapath();
    return folder == nullptr ? "its folder of data" : folder;
  }

  tesseract::TessBaseAPI api_;
};

/// Readers that are made when one more is needed at the same time, and kept.
class OcrReaders {
 public:
  explicit OcrReaders(OcrOptions options) : options_(std::move(options)) {
    idle_.push_back(std::make_unique<OcrReader>(options_));
  }

  const OcrOptions& options() const { return options_; }

  template <class Body>
  void with_one(Body&& body) {
    std::unique_ptr<OcrReader> reader = taken();
    body(*reader);
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(reader));
  }

 private:
  std::unique_ptr<OcrReader> taken() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<OcrReader> reader = std::move(idle_.back());
        idle_.pop_back();
        return reader;
      }
    }
    return std::make_unique<OcrReader>(options_);
  }

  OcrOptions options_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<OcrReader>> idle_;
};

inline void check(const OcrOptions& options) {
  const int mode = options.page_segmentation;
  expects(!options.language.empty(), "language", "a language such as eng", "none");
  const bool reads = mode >= tesseract::PSM_AUTO && mode < tesseract::PSM_COUNT &&
                     mode != tesseract::PSM_SPARSE_TEXT_OSD;
  expects(reads, "page_segmentation", "a mode that reads, without detection of orientation", mode);
  constexpr double largest = 16;
  expects(options.scale >= 1 && options.scale <= largest, "scale", "from 1 to 16", options.scale);
}

/// Greys as colours.
inline Tensor with_three_channels(const Tensor& images) {
  const bool is_grey = images.defined() && images.dim() == 4 && images.size(1) == 1;
  return is_grey ? images.expand({-1, 3, -1, -1}) : images;
}

}  // namespace detail

/// How much of the wanted text an image shows, from 0 to 1: text_match() of what Tesseract reads in
/// it (as Flow-GRPO's reward, Liu and others 2025, whose reader is another).
///
/// The text is what a caption quotes, `a sign that says "Open"`, or stands in a record. Samples are
/// read in parallel, each thread with a reader of its own; all are kept, and copies share them.
/// Scores do not depend on the number of threads, nor on what was read before.
class Ocr {
 public:
  /// @param options language, how text is found, where prompts say it
  /// @throws Error for an option out of range, or naming the language that there is no data of
  explicit Ocr(OcrOptions options = {}) {
    detail::check(options);
    readers_ = std::make_shared<detail::OcrReaders>(std::move(options));
  }

  /// Scores of images with their captions.
  /// @par Shape
  /// @p images [B, 3, H, W], or [B, 1, H, W] for greys, with values in [0, 1]; result float32 [B]
  /// on the CPU
  /// @param images with at most 32767 pixels a side at the scale they are read at
  /// @param captions one an image, with a text in double quotes
  /// @throws Error for anything else
  Tensor operator()(const Tensor& images, const Captions& captions) const {
    const Tensor colours = prepared(images);
    detail::expects_captions(captions, colours);
    return scores(colours, wanted_texts(captions));
  }

  /// Scores of images with the records of their prompts.
  /// @par Shape
  /// @p images [B, 3, H, W], or [B, 1, H, W] for greys, with values in [0, 1]; result float32 [B]
  /// on the CPU
  /// @param images with at most 32767 pixels a side at the scale they are read at
  /// @param records one an image, with a text of its own or one in the double quotes of its caption
  /// @throws Error for anything else
  template <std::same_as<Records> List>  // so that {"a", "b"} are captions
  Tensor operator()(const Tensor& images, const List& records) const {
    const Tensor colours = prepared(images);
    detail::expects_records(records, colours);
    return scores(colours, wanted_texts(records, readers_->options().text_key));
  }

  /// What is read in each image, in UTF-8, with its line breaks.
  /// @par Shape
  /// @p images [B, 3, H, W], or [B, 1, H, W] for greys, with values in [0, 1]
  /// @throws Error for anything else
  std::vector<std::string> read(const Tensor& images) const { return texts(prepared(images)); }

 private:
  Tensor prepared(const Tensor& images) const {
    const Tensor colours = detail::with_three_channels(images);
    detail::expects_images(colours);
    constexpr double largest = 32767;
    const auto side = double(std::max(colours.size(2), colours.size(3)));
    expects(side * readers_->options().scale <= largest, "images",
            "at most 32767 pixels a side at the scale they are read at", images.sizes());
    return colours.detach().to(at::kCPU);
  }

  Tensor scores(const Tensor& images, const std::vector<std::string>& wanted) const {
    const std::vector<std::string> read = texts(images);
    Tensor result = at::empty({images.size(0)}, at::kFloat);
    for (std::size_t i = 0; i < read.size(); ++i) {
      result[static_cast<std::int64_t>(i)] = text_match(read[i], wanted[i]);
    }
    return detail::without_broken(result, images);
  }

  std::vector<std::string> texts(const Tensor& images) const {
    const std::int64_t count = images.size(0);
    std::vector<std::string> result(static_cast<std::size_t>(count));
    // One image, too, goes to a thread of a parallel loop: within one Tesseract starts no threads
    // of its own, by which it is several times slower.
    constexpr std::int64_t enough_for_a_loop = 2;
    parallel_for(std::max(count, enough_for_a_loop), [&](std::int64_t begin, std::int64_t end) {
      if (begin >= count) return;
      readers_->with_one([&](detail::OcrReader& reader) {
        for (std::int64_t i = begin; i < std::min(end, count); ++i) {
          const Tensor pixels = detail::pixel_rows(enlarged(images.narrow(0, i, 1)));
          result[static_cast<std::size_t>(i)] = reader.read(pixels[0].permute({1, 2, 0}));
        }
      });
    });
    return result;
  }

  Tensor enlarged(const Tensor& image) const {
    const double scale = readers_->options().scale;
    if (scale == 1) return image;
    const auto scaled = [&](std::int64_t side) { return std::llround(double(side) * scale); };
    return at::upsample_bicubic2d(image.to(at::kFloat),
                                  {scaled(image.size(2)), scaled(image.size(3))},
                                  /*align_corners=*/false);
  }

  std::shared_ptr<detail::OcrReaders> readers_;
};

}  // namespace contraflow
