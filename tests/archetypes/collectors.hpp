#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <contraflow/train/collector.hpp>

namespace archetypes {

/// A Collector: the rollouts that it is given, one an epoch.
template <class Record = contraflow::NothingRecorded>
struct StoredRollouts {
  std::vector<contraflow::Rollout<Record>> rollouts;

  template <class P, class Prompts>
  contraflow::Rollout<Record> collect(
      const contraflow::CollectorContext<P, Prompts>& context) const {
    return rollouts.at(static_cast<std::size_t>(context.epoch));
  }
};

/// A Collector in batches: another one, whose rollouts it keeps.
template <class Inner, class Record = contraflow::NothingRecorded>
struct Recording {
  Inner inner;
  std::shared_ptr<std::vector<contraflow::Rollout<Record>>> kept =
      std::make_shared<std::vector<contraflow::Rollout<Record>>>();

  template <class P, class Prompts, class Made>
  contraflow::Rollout<Record> collect(const contraflow::CollectorContext<P, Prompts>& context,
                                      Made&& made) const {
    contraflow::Rollout<Record> rollout = inner.collect(context, std::forward<Made>(made));
    kept->push_back(rollout);
    return rollout;
  }
};

}  // namespace archetypes
