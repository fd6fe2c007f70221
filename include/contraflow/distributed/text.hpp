#pragma once

/// @file
/// Texts between ranks.

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <contraflow/distributed/communicator.hpp>

namespace contraflow {

/// The texts of all ranks, in their order: collective.
template <Communicator Comm>
std::vector<std::string> gathered_texts(const Comm& communicator, std::string_view own) {
  const auto size = static_cast<std::int64_t>(own.size());
  Tensor bytes = at::empty({size}, at::kByte);
  if (size > 0) std::memcpy(bytes.mutable_data_ptr(), own.data(), own.size());
  const Tensor sizes = communicator.gather(at::full({1}, size, at::kLong));
  const Tensor all = communicator.gather(bytes);
  std::vector<std::string> texts;
  const auto* next = static_cast<const char*>(all.const_data_ptr());
  for (std::int64_t i = 0; i < sizes.numel(); ++i) {
    const auto length = static_cast<std::size_t>(sizes[i].item<std::int64_t>());
    texts.emplace_back(next, length);
    next += length;
  }
  return texts;
}

/// The lines of all ranks, each once, in the order in which the ranks have them: collective. Line
/// feeds within a line become blanks.
/// @param communicator of the ranks
/// @param own lines
template <Communicator Comm>
std::vector<std::string> gathered_lines(const Comm& communicator,
                                        const std::vector<std::string>& own) {
  std::string joined;
  for (std::string line : own) {
    std::replace(line.begin(), line.end(), '\n', ' ');
    joined.append(line).push_back('\n');
  }
  std::vector<std::string> all;
  for (const std::string& text : gathered_texts(communicator, joined)) {
    for (std::size_t first = 0; first < text.size();) {
      const std::size_t end = text.find('\n', first);
      std::string line = text.substr(first, end - first);
      if (std::find(all.begin(), all.end(), line) == all.end()) all.push_back(std::move(line));
      first = end + 1;
    }
  }
  return all;
}

}  // namespace contraflow
