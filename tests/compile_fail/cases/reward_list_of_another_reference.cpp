// expect: a RewardList<Reference> is scored under that reference
#include <contraflow/reward/image_batch.hpp>
#include <contraflow/reward/list.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Reference = cf::Captions;
#else
using Reference = cf::Tensor;
#endif

cf::ScoreSheet run(const cf::Tensor& images, const Reference& reference) {
  const cf::RewardList<cf::Captions> list;
  return list.score(images, reference);
}
