// expect: at most one term of an objective may compare pairs of samples
#include <contraflow/objective/algebra.hpp>
#include <contraflow/objective/regression.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Other = cf::BestOfGroup;
#else
using Other = cf::Dpo;
#endif

auto run(const cf::Scores& scores) { return (cf::Dpo{} + 0.5 * Other{}).units(scores); }
