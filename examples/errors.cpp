// Bad input is an exception that names the argument, what was expected and what came.
#include <iostream>

#include <contraflow/time/grid.hpp>

namespace cf = contraflow;

int main() {
  //! [errors]
  try {
    cf::uniform_grid(0);
  } catch (const cf::Error& error) {
    std::cout << error.what() << '\n';  // steps: expected at least 1, got 0
    return error.argument() == "steps" && error.got() == "0" ? 0 : 1;
  }
  //! [errors]
  return 1;
}
