// Attention of streams against its formula in float64, gradients against difference quotients.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/kernels/short_attention.hpp>

#include "numbers.hpp"

namespace kernels = contraflow::kernels;
using kernels::AttentionShape;
using numbers::dot;
using numbers::relative_distance;

namespace {

constexpr float eps = 1e-6f;

struct Counts {
  std::int64_t queries, keys;
};

// The arrays of a stream in float32 or float64.
template <class T>
struct Stream {
  Counts counts;
  std::vector<T> query, key, value, query_weight, key_weight;
};

template <class T>
using Streams = std::vector<Stream<T>>;

struct Setting {
  AttentionShape shape;
  std::vector<Counts> counts;
  bool normalised = true;
  float scale = 1;  ///< of queries and keys
};

Streams<float> drawn(const Setting& s) {
  Streams<float> streams;
  unsigned seed = 1;
  const std::int64_t token = s.shape.heads * s.shape.head_size;
  for (const Counts& counts : s.counts) {
    Stream<float> stream{counts, {}, {}, {}, {}, {}};
    stream.query = numbers::normal(s.shape.batch * counts.queries * token, seed++, s.scale);
    stream.key = numbers::normal(s.shape.batch * counts.keys * token, seed++, s.scale);
    stream.value = numbers::normal(s.shape.batch * counts.keys * token, seed++);
    if (s.normalised) {
      stream.query_weight = numbers::normal(s.shape.head_size, seed++);
      stream.key_weight = numbers::normal(s.shape.head_size, seed++);
    }
    streams.push_back(stream);
  }
  return streams;
}

struct Result {
  std::vector<std::vector<float>> out;
  Streams<float> gradient;
};

const float* array_of(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}
float* room_of(std::vector<float>& values) { return values.empty() ? nullptr : values.data(); }

std::vector<std::vector<float>> upstream(const Streams<float>& streams) {
  std::vector<std::vector<float>> all;
  unsigned seed = 100;
  for (const auto& stream : streams) {
    all.push_back(numbers::normal(std::int64_t(stream.query.size()), seed++));
  }
  return all;
}

template <class Loop = kernels::SerialLoop>
Result run(const AttentionShape& shape, const Streams<float>& streams,
           const std::vector<std::vector<float>>& dout, const Loop& loop = {}) {
  Result result{{}, streams};
  std::vector<kernels::AttentionStream> in;
  std::vector<kernels::AttentionGradient> gradients;
  std::vector<float*> out;
  for (const auto& stream : streams) result.out.emplace_back(stream.query.size());
  for (std::size_t s = 0; s < streams.size(); ++s) {
    const auto& stream = streams[s];
    auto& g = result.gradient[s];
    in.push_back({stream.counts.queries, stream.counts.keys, array_of(stream.query),
                  array_of(stream.key), array_of(stream.value), array_of(stream.query_weight),
                  array_of(stream.key_weight)});
    gradients.push_back({array_of(dout[s]), room_of(g.query), room_of(g.key), room_of(g.value),
                         room_of(g.query_weight), room_of(g.key_weight)});
    out.push_back(room_of(result.out[s]));
  }
  kernels::attention(shape, in, out, eps, loop);
  kernels::attention_backward(shape, in, gradients, eps, loop);
  return result;
}

Streams<double> wide(const Streams<float>& streams) {
  Streams<double> result;
  for (const auto& s : streams) {
    result.push_back({s.counts, numbers::wide(s.query), numbers::wide(s.key),
                      numbers::wide(s.value), numbers::wide(s.query_weight),
                      numbers::wide(s.key_weight)});
  }
  return result;
}

std::vector<double> head_of(const std::vector<double>& x, const std::vector<double>& weight,
                            std::size_t first, std::size_t size) {
  std::vector<double> head(x.begin() + std::ptrdiff_t(first),
                           x.begin() + std::ptrdiff_t(first + size));
  if (weight.empty()) return head;
  const double inverse = 1 / std::sqrt(dot(head, head) / double(size) + double(eps));
  for (std::size_t c = 0; c < size; ++c) head[c] *= inverse * weight[c];
  return head;
}

// What the queries of all streams find, in order.
std::vector<std::vector<double>> defined(const AttentionShape& shape,
                                         const Streams<double>& streams) {
  const auto size = std::size_t(shape.head_size), heads = std::size_t(shape.heads);
  std::vector<std::vector<double>> out;
  for (const auto& looking : streams) {
    out.emplace_back(looking.query.size());
    for (std::size_t q = 0; q < looking.query.size() / size; ++q) {
      const std::size_t head = q % heads;
      const std::size_t sample = q / heads / std::size_t(looking.counts.queries);
      const auto query = head_of(looking.query, looking.query_weight, q * size, size);
      std::vector<double> scores;
      std::vector<const double*> values;
      for (const auto& seen : streams) {
        for (std::size_t k = 0; k < std::size_t(seen.counts.keys); ++k) {
          const std::size_t first =
              ((sample * std::size_t(seen.counts.keys) + k) * heads + head) * size;
          const auto key = head_of(seen.key, seen.key_weight, first, size);
          scores.push_back(dot(query, key) / std::sqrt(double(size)));
          values.push_back(seen.value.data() + first);
        }
      }
      const double largest = *std::max_element(scores.begin(), scores.end());
      double total = 0;
      for (double& score : scores) total += score = std::exp(score - largest);
      for (std::size_t k = 0; k < scores.size(); ++k) {
        for (std::size_t c = 0; c < size; ++c) {
          out.back()[q * size + c] += scores[k] / total * values[k][c];
        }
      }
    }
  }
  return out;
}

double loss(const AttentionShape& shape, const Streams<double>& streams,
            const std::vector<std::vector<float>>& dout) {
  double sum = 0;
  const auto out = defined(shape, streams);
  for (std::size_t s = 0; s < out.size(); ++s) sum += dot(out[s], dout[s]);
  return sum;
}

std::vector<Setting> settings() {
  std::vector<Setting> all{
      {{2, 2, 32}, {{16, 16}, {8, 8}}},        {{1, 1, 64}, {{40, 40}, {21, 21}}},
      {{2, 3, 8}, {{5, 5}, {3, 3}}},           {{2, 2, 5}, {{1, 1}}},
      {{3, 2, 17}, {{7, 4}}, false},           {{2, 2, 33}, {{3, 3}, {0, 9}}},
      {{1, 2, 16}, {{13, 13}, {2, 2}}, false}, {{1, 1, 4}, {{1, 1}, {1, 1}, {2, 2}}}};
  for (std::int64_t tokens = 1; tokens <= 35; ++tokens) {
    all.push_back({{1, 2, 12}, {{tokens, tokens}, {tokens / 2, tokens / 2}}});
  }
  return all;
}

}  // namespace

TEST_CASE("attention of streams is its formula on every size") {
  for (const Setting& s : settings()) {
    const auto streams = drawn(s);
    INFO(s.shape.heads << " heads of " << s.shape.head_size << ", " << streams[0].counts.queries
                       << " queries of " << streams.size() << " streams");
    const auto out = run(s.shape, streams, upstream(streams)).out;
    const auto expected = defined(s.shape, wide(streams));
    for (std::size_t i = 0; i < out.size(); ++i) {
      CHECK(relative_distance(out[i], expected[i]) < 3e-6);
    }
  }
}

TEST_CASE("gradients of attention are difference quotients") {
  for (const Setting& s :
       {Setting{{2, 2, 5}, {{3, 3}, {2, 2}}}, Setting{{1, 2, 17}, {{2, 4}}, false},
        Setting{{2, 1, 4}, {{3, 3}, {0, 5}}}, Setting{{1, 1, 3}, {{19, 19}}}}) {
    const auto streams = drawn(s);
    const auto dout = upstream(streams);
    const auto gradient = run(s.shape, streams, dout).gradient;
    for (std::size_t i = 0; i < streams.size(); ++i) {
      INFO("stream " << i << " of heads of " << s.shape.head_size);
      const auto check = [&](auto member) {
        auto moved = wide(streams);
        const auto quotients =
            numbers::difference_quotients(moved[i].*member.exact, [&](const auto& values) {
              moved[i].*member.exact = values;
              return loss(s.shape, moved, dout);
            });
        CHECK(relative_distance(gradient[i].*member.rounded, quotients) < 1e-5);
      };
      struct Member {
        std::vector<float> Stream<float>::*rounded;
        std::vector<double> Stream<double>::*exact;
      };
      check(Member{&Stream<float>::query, &Stream<double>::query});
      check(Member{&Stream<float>::key, &Stream<double>::key});
      check(Member{&Stream<float>::value, &Stream<double>::value});
      check(Member{&Stream<float>::query_weight, &Stream<double>::query_weight});
      check(Member{&Stream<float>::key_weight, &Stream<double>::key_weight});
    }
  }
}

TEST_CASE("scores of thousands leave one key its whole share") {
  const Setting s{{1, 2, 8}, {{6, 6}, {5, 5}}, false, 300};
  const auto streams = drawn(s);
  const auto result = run(s.shape, streams, upstream(streams));
  const auto expected = defined(s.shape, wide(streams));
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(relative_distance(result.out[i], expected[i]) < 1e-4);
    for (const float g : result.gradient[i].query) CHECK(std::isfinite(g));
  }
}

TEST_CASE("queries and keys of zero are normalised to zero") {
  auto streams = drawn({{1, 1, 8}, {{3, 3}}});
  std::fill_n(streams[0].query.begin(), 8, 0.0f);
  std::fill_n(streams[0].key.begin() + 8, 8, 0.0f);
  const auto result = run({1, 1, 8}, streams, upstream(streams));
  const auto expected = defined({1, 1, 8}, wide(streams));
  CHECK(relative_distance(result.out[0], expected[0]) < 1e-6);
  for (const float g : result.gradient[0].query) CHECK(std::isfinite(g));
}

TEST_CASE("a key that is not a number is seen by its sample alone") {
  auto streams = drawn({{3, 1, 8}, {{4, 4}, {2, 2}}});
  streams[1].key[2 * 8 + 3] = std::numeric_limits<float>::quiet_NaN();
  const auto result = run({3, 1, 8}, streams, upstream(streams));
  for (std::size_t s = 0; s < 2; ++s) {
    const std::size_t sample = result.out[s].size() / 3;
    for (std::size_t i = 0; i < result.out[s].size(); ++i) {
      CHECK(std::isnan(result.out[s][i]) == (i / sample == 1));
      CHECK(std::isnan(result.gradient[s].query[i]) == (i / sample == 1));
    }
  }
}

TEST_CASE("bits of attention depend neither on threads nor on other samples") {
  const Setting s{{4, 3, 12}, {{9, 9}, {4, 4}}};
  const auto streams = drawn(s);
  const auto dout = upstream(streams);
  const Result expected = run(s.shape, streams, dout);
  for (const std::int64_t threads : {2, 3, 16}) {
    const Result again = run(s.shape, streams, dout, numbers::ThreadLoop{threads});
    CHECK(again.out == expected.out);
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(again.gradient[i].query == expected.gradient[i].query);
      CHECK(again.gradient[i].key == expected.gradient[i].key);
      CHECK(again.gradient[i].value == expected.gradient[i].value);
      CHECK(again.gradient[i].query_weight == expected.gradient[i].query_weight);
      CHECK(again.gradient[i].key_weight == expected.gradient[i].key_weight);
    }
  }
  const auto third = [](const std::vector<float>& all) {
    const auto quarter = std::ptrdiff_t(all.size() / 4);
    return std::vector<float>(all.begin() + 2 * quarter, all.begin() + 3 * quarter);
  };
  auto alone = streams;
  auto dout_alone = dout;
  for (std::size_t i = 0; i < 2; ++i) {
    alone[i].query = third(streams[i].query);
    alone[i].key = third(streams[i].key);
    alone[i].value = third(streams[i].value);
    dout_alone[i] = third(dout[i]);
  }
  const Result single = run({1, 3, 12}, alone, dout_alone);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(single.out[i] == third(expected.out[i]));
    CHECK(single.gradient[i].query == third(expected.gradient[i].query));
    CHECK(single.gradient[i].key == third(expected.gradient[i].key));
    CHECK(single.gradient[i].value == third(expected.gradient[i].value));
  }
}
