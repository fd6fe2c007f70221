#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "classifier.hpp"
#include "support/format.hpp"
#include "support/table.hpp"

namespace digits {

/// How bright the ink is, whatever there is of it: the mean of the ink over the ink,
/// `sum v^2 / sum v`. 1 where every stroke is full, 0 for an empty image.
struct StrokeBrightness {
  /// @par Shape
  /// @p x0 [B, 1, 8, 8]; result [B] in [0, 1]
  Tensor operator()(const Tensor& x0) const {
    const Tensor ink = ink_of(x0).flatten(1);
    // Less than a pixel of ink is no stroke.
    return ink.square().sum(1) / ink.sum(1).clamp_min(1);
  }
};

/// What is measured of samples for known digits.
struct Measures {
  double accuracy = 0;    ///< share in which the judge sees the digit that was asked for
  double judged = 0;      ///< the judge's probability of that digit
  double confidence = 0;  ///< the same of the classifier that is the reward
  double brightness = 0;  ///< of strokes
  double diversity = 0;   ///< mean distance of two samples of a class
  double distance = 0;    ///< to the nearest image of the class that the flow has learnt
};

/// A measure with its names, for the summary and for a person.
struct Measure {
  const char* name;
  const char* label;
  double Measures::*of;
};
inline constexpr std::array<Measure, 6> all_measures{
    {{"judge_accuracy", "accuracy, judge", &Measures::accuracy},
     {"judge_confidence", "confidence, judge", &Measures::judged},
     {"confidence", "confidence, reward", &Measures::confidence},
     {"brightness", "brightness, reward", &Measures::brightness},
     {"diversity", "diversity in a class", &Measures::diversity},
     {"distance", "distance to the data", &Measures::distance}}};

/// Measures samples by two classifiers of which only one is a reward.
class Judge {
 public:
  /// @param judge a classifier that nothing is trained on
  /// @param rewarded the classifier that is the reward
  /// @param known what the flow has learnt
  Judge(std::shared_ptr<Classifier> judge, std::shared_ptr<Classifier> rewarded,
        cf::toy::Digits known)
      : judge_(std::move(judge)), rewarded_(std::move(rewarded)), known_(std::move(known)) {}

  /// @par Shape
  /// @p x0 [B, 1, 8, 8], @p labels int64 [B]
  Measures operator()(const Tensor& x0, const Tensor& labels) const {
    const auto mean = [](const Tensor& scores) { return scores.mean().item<double>(); };
    Measures result{.accuracy = accuracy(*judge_, x0, labels),
                    .judged = mean(Confidence{judge_}(x0, labels)),
                    .confidence = mean(Confidence{rewarded_}(x0, labels)),
                    .brightness = mean(StrokeBrightness{}(x0))};
    constexpr std::int64_t classes = cf::toy::digit_classes;
    for (std::int64_t digit = 0; digit < classes; ++digit) {
      const Tensor own = shapes_of(x0, labels, digit);
      result.diversity += mean(at::pdist(own)) / double(classes);
      const Tensor known = shapes_of(known_.images, known_.labels, digit);
      result.distance += mean(at::cdist(own, known).amin(1)) / double(classes);
    }
    return result;
  }

 private:
  /// Images of a class as vectors of length 1: brighter ones are not further apart.
  static Tensor shapes_of(const Tensor& x0, const Tensor& labels, std::int64_t digit) {
    const Tensor ink = ink_of(x0.index_select(0, (labels == digit).nonzero().flatten())).flatten(1);
    return ink / ink.norm(2, 1, /*keepdim=*/true).clamp_min(1e-6);
  }

  std::shared_ptr<Classifier> judge_, rewarded_;
  cf::toy::Digits known_;
};

/// Measures of several sets of samples, side by side.
inline support::Table table_of(const std::vector<std::pair<std::string, Measures>>& columns) {
  std::vector<std::string> header{"measure"};
  for (const auto& [name, measures] : columns) header.push_back(name);
  support::Table table(header);
  for (const Measure& measure : all_measures) {
    std::vector<std::string> row{measure.label};
    for (const auto& [name, measures] : columns) {
      row.push_back(support::fixed(measures.*measure.of, 3));
    }
    table.add(row);
  }
  return table;
}

inline nlohmann::ordered_json to_json(const Measures& measures) {
  nlohmann::ordered_json json;
  for (const Measure& measure : all_measures) json[measure.name] = measures.*measure.of;
  return json;
}

}  // namespace digits
