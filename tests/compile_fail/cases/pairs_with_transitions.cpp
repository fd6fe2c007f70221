// expect: a term that compares pairs cannot be added to one that trains on transitions
#include <contraflow/objective/algebra.hpp>
#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/regression.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Other = cf::FlowMatching;
#else
using Other = cf::Grpo;
#endif

auto run(const cf::Scores& scores) { return (cf::Dpo{} + 0.5 * Other{}).units(scores); }
