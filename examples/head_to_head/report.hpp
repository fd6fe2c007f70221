#pragma once

#include <string>
#include <vector>

#include "../support/html.hpp"
#include "experiment.hpp"
#include "summary.hpp"

namespace head_to_head {

/// The report as a page.
inline std::string report(const Plan& plan, const std::vector<TaskResult>& results) {
  namespace html = support::html;
  return html::page("NFT and Flow-GRPO, head to head",
                    html::element("h1", "NFT and Flow-GRPO, head to head") +
                        html::table(final_table(plan, results)) +
                        html::table(ratio_table(plan, results)));
}

}  // namespace head_to_head
