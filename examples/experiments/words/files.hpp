#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/io/contact_sheet.hpp>
#include <contraflow/io/png.hpp>

#include "run.hpp"
#include "support/files.hpp"
#include "support/format.hpp"
#include "support/html.hpp"
#include "support/table.hpp"

/// What a run leaves for people and for programs.
namespace words_example {

using Json = nlohmann::ordered_json;
namespace html = support::html;

inline Json to_json(const Scores& scores) {
  Json json = Json::object();
  for (const List& list : lists) {
    for (const Measure& measure : measures) {
      json[list.name][measure.name] = scores.*list.of.*measure.of;
    }
  }
  return json;
}

inline Json to_json(const Run& run) {
  Json curve = Json::array();
  for (const Point& point : run.curve) {
    curve.push_back({{"epoch", point.epoch},
                     {"evaluations", point.evaluations},
                     {"seconds", point.seconds},
                     {"scores", to_json(point.scores)}});
  }
  return {{"complete", run.is_complete}, {"reading", run.reading}, {"curve", std::move(curve)}};
}

/// A row of a table: a name, and the scores of both lists of words.
inline std::vector<std::string> row_of(const std::string& name, const Scores& scores) {
  std::vector<std::string> row{name};
  for (const List& list : lists) {
    for (const Measure& measure : measures) {
      row.push_back(support::fixed(scores.*list.of.*measure.of, 3));
    }
  }
  return row;
}
inline std::vector<std::string> header_of(const std::string& name) {
  return {name,       "read",    "in full",  "template", "residual",
          "kept out", "in full", "template", "residual"};
}

/// Images of words, enlarged, on grey: several in a row.
inline Tensor sheet(const Tensor& x0, std::int64_t columns) {
  constexpr std::int64_t times = 3, margin = 4;
  std::vector<Tensor> tiles;
  for (const Tensor& image : words::shown_images(x0).unbind()) {
    const Tensor large = image.repeat_interleave(times, 1).repeat_interleave(times, 2);
    tiles.push_back(at::constant_pad_nd(large, {1, 1, 1, 1}, 0.6).expand({3, -1, -1}).contiguous());
  }
  return cf::contact_sheet(tiles, columns, margin);
}

/// Writes pictures of the same words and noise before and after, those kept out apart.
inline void write_pictures(const std::filesystem::path& folder, const WordFlow& base,
                           const WordFlow& model) {
  constexpr std::int64_t columns = 6, count = 24;
  std::string body = html::element("h1", "Words before and after") +
                     html::paragraph("The same words and noise, without guidance.");
  for (const List& list : lists) {
    const std::string name = list.name;
    const bool is_known = list.of == &Scores::known;
    const Tensor numbers =
        spread(is_known ? words::training_words() : words::kept_out_words(), count);
    body += html::element("h2", is_known ? "Words of training" : "Words kept out");
    for (const auto& [when, flow] : {std::pair("before", base), std::pair("after", model)}) {
      const std::string file = name + "-" + when + ".png";
      cf::write_png(folder / file, sheet(drawn(flow, numbers, 2), columns));
      body += "<img src=\"" + file + "\" alt=\"" + name + " " + when + "\" width=\"100%\">";
    }
    body += html::paragraph(support::joined(words::texts_of(numbers), ", "));
  }
  support::write_text(folder / "pictures.html", html::page("Words before and after", body));
}

}  // namespace words_example
