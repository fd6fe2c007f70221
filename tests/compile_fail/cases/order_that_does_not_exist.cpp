// expect: DpmSolver has orders 1, 2 and 3
#include <contraflow/solver/dpm_solver.hpp>

#ifdef POSITIVE_CONTROL
contraflow::DpmSolver<3> run() { return {}; }
#else
contraflow::DpmSolver<4> run() { return {}; }
#endif
