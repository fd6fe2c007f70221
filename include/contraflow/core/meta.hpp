#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <type_traits>
#include <utility>

#include <boost/hana/at_key.hpp>
#include <boost/hana/map.hpp>
#include <boost/hana/pair.hpp>
#include <boost/hana/type.hpp>

/// @file
/// Compile-time sets, maps and names. The only header that knows Boost.Hana.

namespace contraflow::meta {

namespace hana = boost::hana;

/// A string that can be a template argument.
template <std::size_t N>
struct FixedString {
  char text[N]{};  ///< with its final zero
  /// Of a literal.
  consteval FixedString(const char (&literal)[N]) { std::copy_n(literal, N, text); }  // NOLINT
  /// Without its final zero.
  constexpr std::string_view view() const { return {text, N - 1}; }
};

/// A name as a type, so that a misspelt name does not compile.
template <FixedString Text>
struct Name {
  /// The name.
  static constexpr std::string_view text = Text.view();
};

/// A set of values of an enumeration, as a type.
template <auto... Values>
struct Set {
  static constexpr std::size_t size = sizeof...(Values);  ///< number of values
  /// Whether a value is in the set.
  template <auto Value>
  static constexpr bool contains = ((Values == Value) || ...);
  /// Calls @p body with each value as an integral constant.
  template <class Body>
  static constexpr void for_each(Body&& body) {
    (body(std::integral_constant<decltype(Values), Values>{}), ...);
  }
};

namespace detail {
/// How often @p T is among @p All.
template <class T, class... All>
inline constexpr int occurrences = (static_cast<int>(std::is_same_v<T, All>) + ...);

// By hand where Hana has sets: of the roles of each objective they took a second to compile.
template <class Seen, auto... Values>
struct Joined {
  using type = Seen;
};
template <auto... Seen, auto First, auto... Rest>
struct Joined<Set<Seen...>, First, Rest...>
    : Joined<std::conditional_t<((Seen == First) || ...), Set<Seen...>, Set<Seen..., First>>,
             Rest...> {};
}  // namespace detail

/// Union of sets, each value once.
template <class... Sets>
struct UnionOf {
  using type = Set<>;  ///< the union
};
/// Of one set.
template <class Only>
struct UnionOf<Only> {
  using type = Only;  ///< the union
};
/// Of two sets and more.
template <class First, auto... Values, class... Rest>
struct UnionOf<First, Set<Values...>, Rest...>
    : UnionOf<typename detail::Joined<First, Values...>::type, Rest...> {};
/// Union of sets, each value once.
template <class... Sets>
using Union = typename UnionOf<Sets...>::type;

/// A map from each value of a Set to a @p Mapped; a key that is not in the set does not compile.
template <class Keys, class Mapped>
class ValueMap;

/// See the template.
template <auto... Values, class Mapped>
class ValueMap<Set<Values...>, Mapped> {
 public:
  /// Whether a value is a key.
  template <auto Value>
  static constexpr bool contains = Set<Values...>::template contains<Value>;

  /// What a key is mapped to.
  template <auto Value>
  Mapped& get() {
    static_assert(contains<Value>, "contraflow: this key is not in the map");
    return values_[position<Value>()];
  }
  /// What a key is mapped to.
  template <auto Value>
  const Mapped& get() const {
    static_assert(contains<Value>, "contraflow: this key is not in the map");
    return values_[position<Value>()];
  }

 private:
  template <auto Value>
  static consteval std::size_t position() {
    std::size_t before = 0;
    static_cast<void>(((Values == Value || (++before, false)) || ...));
    return before;
  }

  std::array<Mapped, sizeof...(Values)> values_{};
};

/// A value under a name.
template <class NameType, class Value>
struct Named {
  Value value;  ///< under the name
};

/// A map from names to values of any types.
template <class... Entries>
class NamedMap;

/// See the template.
template <class... Names, class... Values>
class NamedMap<Named<Names, Values>...> {
 public:
  static constexpr std::size_t size = sizeof...(Values);  ///< number of entries

  /// @param entries in the order in which they are visited
  explicit NamedMap(Named<Names, Values>... entries)
      : map_(hana::make_map(hana::make_pair(hana::type_c<Names>, std::move(entries.value))...)) {
    static_assert(((detail::occurrences<Names, Names...> == 1) && ...),
                  "contraflow: every name may be used once");
  }

  /// The value under a name.
  template <class NameType>
  const auto& operator[](NameType) const {
    static_assert((std::is_same_v<NameType, Names> || ...), "contraflow: no entry has this name");
    return map_[hana::type_c<NameType>];
  }

  /// Calls @p body(index, text of the name, value) for each entry in the order of construction.
  template <class Body>
  void for_each(Body&& body) const {
    std::size_t index = 0;
    (body(index++, Names::text, map_[hana::type_c<Names>]), ...);
  }

  /// Position of a name in the order of construction.
  template <class NameType>
  static constexpr std::size_t index(NameType = {}) {
    std::size_t position = 0;
    static_cast<void>(((std::is_same_v<NameType, Names> || (++position, false)) || ...));
    return position;
  }

 private:
  decltype(hana::make_map(hana::make_pair(hana::type_c<Names>, std::declval<Values>())...)) map_;
};

/// Name of a type as the compiler writes it, without its namespaces: for messages.
template <class T>
constexpr std::string_view type_name() {
  std::string_view text = __PRETTY_FUNCTION__;
  const auto begin = text.find("T = ") + 4;
  text = text.substr(begin, text.find_first_of(";]", begin) - begin);
  const auto scope = text.substr(0, text.find('<')).rfind("::");
  return scope == std::string_view::npos ? text : text.substr(scope + 2);
}

}  // namespace contraflow::meta
