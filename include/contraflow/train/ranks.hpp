#pragma once

/// @file
/// What makes the ranks of a run one run: that they start alike, and what they tell each other.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/checksum.hpp>
#include <contraflow/distributed/text.hpp>
#include <contraflow/observe/report.hpp>

namespace contraflow {

/// Names and texts of what must be the same on all ranks when a run starts.
using StartOfRank = std::vector<std::pair<std::string, std::string>>;

/// The bits of a tensor in a short text, to be compared.
inline std::string bits_text(const Tensor& tensor) {
  const Tensor host = tensor.detach().to(at::kCPU).contiguous();
  return shape_text(tensor) + " with bits " + shown(checksum(host.const_data_ptr(), host.nbytes()));
}

/// Throws Error, on every rank, where two ranks start in different ways: collective.
/// @param communicator of the ranks
/// @param own what must be the same
template <class Comm>
void expects_same_start(const Comm& communicator, const StartOfRank& own) {
  if constexpr (!is_alone<Comm>) {
    std::string text;
    for (const auto& [name, value] : own) text.append(name + "\t" + value + "\n");
    const std::vector<std::string> all = gathered_texts(communicator, text);
    for (std::size_t rank = 1; rank < all.size(); ++rank) {
      if (all[rank] == all[0]) continue;
      const auto differ =
          std::mismatch(all[0].begin(), all[0].end(), all[rank].begin(), all[rank].end());
      const auto line_at = [](const std::string& lines, std::size_t place) {
        const std::size_t before = place == 0 ? 0 : lines.rfind('\n', place - 1) + 1;
        const std::string line = lines.substr(before, lines.find('\n', place) - before);
        const std::size_t tab = line.find('\t');
        return std::pair(line.substr(0, tab), tab == std::string::npos ? "" : line.substr(tab + 1));
      };
      const auto [name, first] = line_at(all[0], std::size_t(differ.first - all[0].begin()));
      const auto [other_name, other] =
          line_at(all[rank], std::size_t(differ.second - all[rank].begin()));
      throw Error(name, "the same on all ranks: " + first + " as on rank 0",
                  other + " on rank " + shown(rank));
    }
  }
}

/// The first reason that a rank has: collective.
template <class Comm>
std::string reason_of_all(const Comm& communicator, const std::string& own) {
  if constexpr (is_alone<Comm>) {
    return own;
  } else {
    for (const std::string& reason : gathered_texts(communicator, own)) {
      if (!reason.empty()) return reason;
    }
    return "";
  }
}

/// Warnings of all ranks, each once: collective.
template <class Comm>
std::vector<Warning> warnings_of_all(const Comm& communicator, const std::vector<Warning>& own) {
  std::vector<std::string> lines;
  for (const Warning& warning : own) {
    std::string message = warning.message;
    std::replace(message.begin(), message.end(), '\n', ' ');
    lines.push_back(warning.quantity + "\t" + shown(warning.value) + "\t" + message);
  }
  std::vector<Warning> all;
  for (const std::string& line : gathered_lines(communicator, lines)) {
    const std::size_t first = line.find('\t'), second = line.find('\t', first + 1);
    all.push_back({line.substr(0, first), std::stod(line.substr(first + 1, second - first - 1)),
                   line.substr(second + 1)});
  }
  return all;
}

}  // namespace contraflow
