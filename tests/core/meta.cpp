// Compile-time sets, maps and names.

#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/core/meta.hpp>

namespace meta = contraflow::meta;

namespace {

enum class Letter { a, b, c };

template <Letter... L>
using Letters = meta::Set<L...>;

template <class A, class B>
constexpr bool same_set() {
  bool same = A::size == B::size;
  A::for_each([&](auto value) { same = same && B::template contains<value()>; });
  return same;
}

using A = meta::Name<"alpha">;
using B = meta::Name<"beta">;

}  // namespace

TEST_CASE("sets know their values") {
  static_assert(Letters<>::size == 0);
  static_assert(Letters<Letter::a, Letter::c>::contains<Letter::c>);
  static_assert(!Letters<Letter::a, Letter::c>::contains<Letter::b>);
  std::vector<Letter> seen;
  Letters<Letter::c, Letter::a>::for_each([&](auto value) { seen.push_back(value()); });
  CHECK((seen == std::vector{Letter::c, Letter::a}));
}

TEST_CASE("unions hold each value once") {
  using Two = Letters<Letter::a, Letter::b>;
  static_assert(same_set<meta::Union<>, Letters<>>());
  static_assert(same_set<meta::Union<Two>, Two>());
  static_assert(same_set<meta::Union<Two, Letters<>>, Two>());
  static_assert(same_set<meta::Union<Letters<>, Two>, Two>());
  static_assert(same_set<meta::Union<Two, Two>, Two>());
  static_assert(meta::Union<Two, Letters<Letter::b, Letter::c>, Letters<Letter::a>>::size == 3);
  SUCCEED("checked by the compiler");
}

TEST_CASE("a map of values holds one thing a value") {
  meta::ValueMap<Letters<Letter::a, Letter::c>, int> map;
  map.get<Letter::a>() = 1;
  map.get<Letter::c>() = 3;
  const auto& view = map;
  CHECK(view.get<Letter::a>() == 1);
  CHECK(view.get<Letter::c>() == 3);
  static_assert(decltype(map)::contains<Letter::a> && !decltype(map)::contains<Letter::b>);
}

TEST_CASE("a map of names keeps its order and finds by name") {
  const meta::NamedMap<meta::Named<B, int>, meta::Named<A, std::string>> map({7}, {"seven"});
  static_assert(decltype(map)::size == 2);
  CHECK(map[B{}] == 7);
  CHECK(map[A{}] == "seven");
  static_assert(decltype(map)::index(B{}) == 0 && decltype(map)::index(A{}) == 1);
  std::string seen;
  map.for_each([&](std::size_t index, std::string_view name, const auto&) {
    seen += std::to_string(index) + std::string(name) + " ";
  });
  CHECK(seen == "0beta 1alpha ");
}

TEST_CASE("names of types leave out their namespaces") {
  CHECK(meta::type_name<Letter>() == "Letter");
  CHECK(meta::type_name<int>() == "int");
}
