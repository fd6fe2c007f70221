// Random numbers belong to names: a key, a stream, a row; not to the order in which they are drawn.
#include <iostream>

#include <contraflow/core/random.hpp>

namespace cf = contraflow;
using cf::Tensor;

int main() {
  //! [random]
  cf::Generator generator = cf::seeded(7);
  const Tensor a = cf::normal({4, 2}, generator);  // the first draw
  const Tensor b = cf::normal({4, 2}, generator);  // the second one

  // Another object of the same seed draws the same, and one of another stream something else.
  cf::Generator same = cf::seeded(7), other = cf::seeded(7).stream(1);

  // Row i of what is drawn belongs to the name of the row: here to the samples 2 and 0.
  cf::Generator named = cf::seeded(7).rows(at::tensor({2, 0}, at::kLong));
  const Tensor two = cf::normal({2, 2}, named);  // rows 2 and 0 of `a`
  //! [random]
  const bool holds = a.equal(cf::normal({4, 2}, same)) && !a.equal(cf::normal({4, 2}, other)) &&
                     !a.equal(b) && two[0].equal(a[2]) && two[1].equal(a[0]);
  std::cout << a << '\n' << two << '\n';
  return holds ? 0 : 1;
}
