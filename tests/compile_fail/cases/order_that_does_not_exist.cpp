// expect: DpmSolver has orders 1, 2 and 3
#include <contraflow/solver/dpm_solver.hpp>

#ifdef POSITIVE_CONTROL
template struct contraflow::DpmSolver<3>;
#else
template struct contraflow::DpmSolver<4>;
#endif
