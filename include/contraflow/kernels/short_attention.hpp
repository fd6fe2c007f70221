#pragma once

/// @file
/// Attention over few tokens in float32 on the host.

#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include <contraflow/kernels/gelu_silu.hpp>
#include <contraflow/kernels/packed_loop.hpp>

namespace contraflow::kernels {

/// Sizes that all streams of an attention share.
struct AttentionShape {
  std::int64_t batch = 0;      ///< samples
  std::int64_t heads = 0;      ///< of a token
  std::int64_t head_size = 0;  ///< numbers of a head; a token has heads times head_size
};

/// Tokens as they come out of linear layers: [batch, tokens, heads head_size], without gaps.
struct AttentionStream {
  std::int64_t queries = 0;             ///< tokens that look; may be 0
  std::int64_t keys = 0;                ///< tokens that are looked at; may be 0
  const float* query = nullptr;         ///< [batch, queries, ...]
  const float* key = nullptr;           ///< [batch, keys, ...]
  const float* value = nullptr;         ///< [batch, keys, ...]
  const float* query_weight = nullptr;  ///< of the queries' normalisation, [head_size]; or null
  const float* key_weight = nullptr;    ///< of the keys' normalisation, [head_size]; or null
};

/// Gradients of a stream, shaped as it is.
struct AttentionGradient {
  const float* dout = nullptr;     ///< of what the queries found
  float* dquery = nullptr;         ///< of the queries
  float* dkey = nullptr;           ///< of the keys
  float* dvalue = nullptr;         ///< of the values
  float* dquery_weight = nullptr;  ///< of the weight of the queries; null where not wanted
  float* dkey_weight = nullptr;    ///< of the weight of the keys; null where not wanted
};

namespace detail {

// Numbers of a matrix in steps of one's own.
struct Strided {
  const float* first;
  std::int64_t row, column;
};
// Rows of whole packs.
struct PackRows {
  float* first;
  std::int64_t stride;
  float* row(std::int64_t i) const { return first + i * stride; }
};

// c = a b for `rows` rows and `packs` packs of c, whose sums stay in registers. The order of a
// sum is that of the source and does not depend on the tile.
template <int rows, int packs>
void product_tile(const Strided& a, const PackRows& b, const PackRows& c, std::int64_t depth) {
  Floats sums[rows][packs] = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    Floats row[packs];
    for (int p = 0; p < packs; ++p) row[p] = load<float>(b.row(k) + p * float_lanes);
    for (int r = 0; r < rows; ++r) {
      const float factor = a.first[r * a.row + k * a.column];
      for (int p = 0; p < packs; ++p) sums[r][p] += factor * row[p];
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int p = 0; p < packs; ++p) store<float>(c.row(r) + p * float_lanes, sums[r][p]);
  }
}

// The same for any number of rows: as many at a time as there are, then the rest.
template <int rows, int packs>
void product_rows(Strided a, const PackRows& b, PackRows c, std::int64_t count,
                  std::int64_t depth) {
  for (; count >= rows; count -= rows) {
    product_tile<rows, packs>(a, b, c, depth);
    a.first += rows * a.row;
    c.first += rows * c.stride;
  }
  if constexpr (rows > 1) product_rows<rows - 1, packs>(a, b, c, count, depth);
}

// c = a b, where a is [count, depth] and the rows of b and c are `width` numbers of whole packs.
inline void product(const Strided& a, PackRows b, PackRows c, std::int64_t count,
                    std::int64_t depth, std::int64_t width) {
  constexpr int rows = 6, packs = 2;
  for (; width >= packs * float_lanes; width -= packs * float_lanes) {
    product_rows<rows, packs>(a, b, c, count, depth);
    b.first += packs * float_lanes;
    c.first += packs * float_lanes;
  }
  if (width > 0) product_rows<rows, 1>(a, b, c, count, depth);
}

#if defined(__has_builtin) && !defined(__CUDACC__)
#if __has_builtin(__builtin_shufflevector)
#define CONTRAFLOW_SHUFFLES
#endif
#endif

// Four rows of four numbers, transposed.
inline void transpose_block(const PackRows& from, const PackRows& to) {
#if defined(CONTRAFLOW_SHUFFLES)
  using Four = FloatsOf<16>::type;
  Four in[4];
  for (int r = 0; r < 4; ++r) std::memcpy(&in[r], from.row(r), sizeof(Four));
  const Four a = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5);
  const Four b = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5);
  const Four c = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7);
  const Four d = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
  const Four out[4] = {
      __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
      __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
  for (int r = 0; r < 4; ++r) std::memcpy(to.row(r), &out[r], sizeof(Four));
#else
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < 4; ++c) to.row(c)[r] = from.row(r)[c];
  }
#endif
}

// Whole blocks, so that rows and columns are rounded up to four.
inline void transpose(const PackRows& from, const PackRows& to, std::int64_t rows,
                      std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; r += 4) {
    for (std::int64_t c = 0; c < columns; c += 4) {
      transpose_block({from.row(r) + c, from.stride}, {to.row(c) + r, to.stride});
    }
  }
}

// `scale x / rms(x) weight`, or `scale x` without a weight. Returns what x is multiplied by beside
// the weight and the scale.
inline float normalise_head(const float* x, const float* weight, float eps, float scale, float* out,
                            std::int64_t size) {
  if (weight == nullptr) {
    each_pack(0, size, [&](std::int64_t i, auto width) {
      store<float>(out + i, load(x + i, width) * scale);
    });
    return 1;
  }
  Floats square{};
  each_pack(0, size, [&](std::int64_t i, auto width) {
    const Floats value = load(x + i, width);
    square += value * value;
  });
  const float inverse = 1.0f / std::sqrt(sum_of(square) / static_cast<float>(size) + eps);
  const float factor = inverse * scale;
  each_pack(0, size, [&](std::int64_t i, auto width) {
    store<float>(out + i, load(x + i, width) * factor * load(weight + i, width));
  });
  return inverse;
}

// The gradient of normalise_head(): with h = x inverse and g = scale weight dout,
// dx = inverse (g - h mean(g h)). The gradient of the weight is added to dweight.
inline void normalise_head_backward(const float* x, const float* weight, float inverse, float scale,
                                    const float* dout, float* dx, float* dweight,
                                    std::int64_t size) {
  if (weight == nullptr) {
    each_pack(0, size, [&](std::int64_t i, auto width) {
      store(dx + i, load(dout + i, width) * scale, width);
    });
    return;
  }
  Floats product{};
  each_pack(0, size, [&](std::int64_t i, auto width) {
    const Floats h = load(x + i, width) * inverse;
    const Floats upstream = load(dout + i, width) * scale * h;
    product += upstream * load(weight + i, width);
    store(dweight + i, load(dweight + i, width) + upstream, width);
  });
  const float mean = sum_of(product) / static_cast<float>(size);
  each_pack(0, size, [&](std::int64_t i, auto width) {
    const Floats g = load(dout + i, width) * scale * load(weight + i, width);
    store(dx + i, (g - load(x + i, width) * (inverse * mean)) * inverse, width);
  });
}

// A head of a sample: everything about it fits into the cache next to the processor.
//
// Scores are kept with the queries in lanes, so that softmax runs over keys without sums within a
// pack, and every product is one of a number and a row.
class AttentionHead {
 public:
  AttentionHead(const AttentionHead&) = delete;
  AttentionHead& operator=(const AttentionHead&) = delete;
  AttentionHead(const AttentionShape& shape, std::span<const AttentionStream> streams, float eps,
                bool with_backward)
      : shape_(shape), streams_(streams), eps_(eps) {
    for (const AttentionStream& stream : streams) {
      queries_ += stream.queries;
      keys_ += stream.keys;
    }
    const std::int64_t size = rounded_up(shape.head_size), looking = rounded_up(queries_);
    scale_ = 1.0f / std::sqrt(static_cast<float>(shape.head_size));
    std::int64_t room = 0;
    const auto reserve = [&](std::int64_t& at, std::int64_t numbers) {
      at = room;
      room += rounded_up(numbers);
    };
    // What is transposed has room for whole blocks.
    reserve(query_, looking * size);
    reserve(query_by_channel_, size * looking);
    reserve(key_, keys_ * size);
    reserve(value_, keys_ * size);
    reserve(share_, keys_ * looking);
    reserve(total_, looking);
    reserve(out_, looking * size);
    reserve(inverse_, queries_ + keys_);
    if (with_backward) {
      reserve(out_by_channel_, size * looking);
      reserve(dshare_, keys_ * looking);
      reserve(dquery_, queries_ * size);
      reserve(dkey_, keys_ * size);
      reserve(dvalue_, keys_ * size);
    }
    // A pack that crosses a cache line is read twice.
    memory_.assign(static_cast<std::size_t>(room) + pack_bytes / sizeof(float), 0.0f);
    void* first = memory_.data();
    std::size_t left = memory_.size() * sizeof(float);
    first_ = static_cast<float*>(
        std::align(pack_bytes, static_cast<std::size_t>(room) * sizeof(float), first, left));
  }

  void forward(std::int64_t sample, std::int64_t head, std::span<float* const> out) {
    read(sample, head);
    score();
    exponentiate();
    product({at(share_), 1, rows(share_, looking()).stride}, tokens(value_), tokens(out_), queries_,
            keys_, size());
    std::int64_t first = 0;
    for (std::size_t s = 0; s < streams_.size(); ++s) {
      for (std::int64_t i = 0; i < streams_[s].queries; ++i, ++first) {
        const float factor = 1.0f / at(total_)[first];
        const float* row = tokens(out_).row(first);
        float* target = out[s] + offset(sample, head, i, streams_[s].queries);
        each_pack(0, shape_.head_size, [&](std::int64_t c, auto width) {
          store(target + c, load(row + c, width) * factor, width);
        });
      }
    }
  }

  // The gradients of the weights, two of head_size numbers a stream, are added to dweights.
  void backward(std::int64_t sample, std::int64_t head,
                std::span<const AttentionGradient> gradients, float* dweights) {
    read(sample, head);
    score();
    exponentiate();
    read_dout(sample, head, gradients);
    const PackRows share = rows(share_, looking()), dshare = rows(dshare_, looking());
    product({at(value_), size(), 1}, rows(out_by_channel_, looking()), dshare, keys_,
            shape_.head_size, looking());
    softmax_backward();
    product({share.first, share.stride, 1}, tokens(out_), tokens(dvalue_), keys_, queries_, size());
    product({dshare.first, 1, dshare.stride}, tokens(key_), tokens(dquery_), queries_, keys_,
            size());
    product({dshare.first, dshare.stride, 1}, tokens(query_), tokens(dkey_), keys_, queries_,
            size());
    write_gradients(sample, head, gradients, dweights);
  }

 private:
  float* at(std::int64_t place) { return first_ + place; }
  std::int64_t size() const { return rounded_up(shape_.head_size); }
  std::int64_t looking() const { return rounded_up(queries_); }
  PackRows rows(std::int64_t place, std::int64_t width) { return {at(place), width}; }
  PackRows tokens(std::int64_t place) { return rows(place, size()); }
  std::int64_t offset(std::int64_t sample, std::int64_t head, std::int64_t token,
                      std::int64_t tokens) const {
    return ((sample * tokens + token) * shape_.heads + head) * shape_.head_size;
  }

  void read(std::int64_t sample, std::int64_t head) {
    std::int64_t query = 0, key = 0;
    for (const AttentionStream& stream : streams_) {
      for (std::int64_t i = 0; i < stream.queries; ++i, ++query) {
        at(inverse_)[query] = normalise_head(stream.query + offset(sample, head, i, stream.queries),
                                             stream.query_weight, eps_, scale_,
                                             tokens(query_).row(query), shape_.head_size);
      }
      for (std::int64_t i = 0; i < stream.keys; ++i, ++key) {
        const std::int64_t place = offset(sample, head, i, stream.keys);
        at(inverse_)[queries_ + key] = normalise_head(stream.key + place, stream.key_weight, eps_,
                                                      1, tokens(key_).row(key), shape_.head_size);
        normalise_head(stream.value + place, nullptr, eps_, 1, tokens(value_).row(key),
                       shape_.head_size);
      }
    }
    transpose(tokens(query_), rows(query_by_channel_, looking()), queries_, shape_.head_size);
  }

  void score() {
    product({at(key_), size(), 1}, rows(query_by_channel_, looking()), rows(share_, looking()),
            keys_, shape_.head_size, looking());
  }

  // exp(score - largest score of the query), and the sums of these.
  void exponentiate() {
    const PackRows share = rows(share_, looking());
    for (std::int64_t q = 0; q < looking(); q += float_lanes) {
      Floats largest = load<float>(share.row(0) + q);
      for (std::int64_t k = 1; k < keys_; ++k) {
        const Floats score = load<float>(share.row(k) + q);
        largest = score > largest ? score : largest;
      }
      Floats sum{};
      for (std::int64_t k = 0; k < keys_; ++k) {
        const Floats e = exponential(load<float>(share.row(k) + q) - largest);
        store<float>(share.row(k) + q, e);
        sum += e;
      }
      store<float>(at(total_) + q, sum);
    }
  }

  void read_dout(std::int64_t sample, std::int64_t head,
                 std::span<const AttentionGradient> gradients) {
    std::int64_t query = 0;
    for (std::size_t s = 0; s < streams_.size(); ++s) {
      for (std::int64_t i = 0; i < streams_[s].queries; ++i, ++query) {
        const float* dout = gradients[s].dout + offset(sample, head, i, streams_[s].queries);
        normalise_head(dout, nullptr, eps_, 1, tokens(out_).row(query), shape_.head_size);
      }
    }
    transpose(tokens(out_), rows(out_by_channel_, looking()), queries_, shape_.head_size);
  }

  // From exponentials to shares p, and from the gradient of these to that of the scores:
  // p (dp - sum over keys of p dp).
  void softmax_backward() {
    const PackRows share = rows(share_, looking()), dshare = rows(dshare_, looking());
    for (std::int64_t q = 0; q < looking(); q += float_lanes) {
      const Floats factor = 1.0f / load<float>(at(total_) + q);
      Floats sum{};
      for (std::int64_t k = 0; k < keys_; ++k) {
        const Floats p = load<float>(share.row(k) + q) * factor;
        store<float>(share.row(k) + q, p);
        sum += p * load<float>(dshare.row(k) + q);
      }
      for (std::int64_t k = 0; k < keys_; ++k) {
        const Floats p = load<float>(share.row(k) + q);
        store<float>(dshare.row(k) + q, p * (load<float>(dshare.row(k) + q) - sum));
      }
    }
  }

  void write_gradients(std::int64_t sample, std::int64_t head,
                       std::span<const AttentionGradient> gradients, float* dweights) {
    std::int64_t query = 0, key = 0;
    for (std::size_t s = 0; s < streams_.size(); ++s) {
      const AttentionStream& stream = streams_[s];
      for (std::int64_t i = 0; i < stream.queries; ++i, ++query) {
        const std::int64_t place = offset(sample, head, i, stream.queries);
        normalise_head_backward(stream.query + place, stream.query_weight, at(inverse_)[query],
                                scale_, tokens(dquery_).row(query), gradients[s].dquery + place,
                                dweights, shape_.head_size);
      }
      dweights += shape_.head_size;
      for (std::int64_t i = 0; i < stream.keys; ++i, ++key) {
        const std::int64_t place = offset(sample, head, i, stream.keys);
        normalise_head_backward(stream.key + place, stream.key_weight, at(inverse_)[queries_ + key],
                                1, tokens(dkey_).row(key), gradients[s].dkey + place, dweights,
                                shape_.head_size);
        const float* row = tokens(dvalue_).row(key);
        std::copy_n(row, shape_.head_size, gradients[s].dvalue + place);
      }
      dweights += shape_.head_size;
    }
  }

  AttentionShape shape_;
  std::span<const AttentionStream> streams_;
  float eps_, scale_;
  std::int64_t queries_ = 0, keys_ = 0;
  // Places of arrays in the memory.
  std::int64_t query_, query_by_channel_, key_, value_, share_, total_, out_, inverse_;
  std::int64_t out_by_channel_ = 0, dshare_ = 0, dquery_ = 0, dkey_ = 0, dvalue_ = 0;
  std::vector<float> memory_;
  float* first_ = nullptr;
};

}  // namespace detail

/// Softmax attention of all streams' queries over all streams' keys, straight from the linear
/// layers: heads are not transposed, streams not joined, scores never leave the cache.
///
/// `out = softmax(q k' / sqrt(head_size)) v`, where q and k are, where there are weights,
/// `x / sqrt(mean(x^2) + eps) weight` over a head (Esser and others 2024, figure 2). Made for few
/// tokens: all scores of a head are kept at once.
/// @param shape batch, heads and their size
/// @param streams tokens; together they have at least one key
/// @param out a stream: what its queries found, [batch, queries, heads head_size]
/// @param eps of the normalisations, above 0
/// @param loop parallel loop over samples and heads, see SerialLoop; bits do not depend on its
///   number of threads
template <class Loop = SerialLoop>
void attention(const AttentionShape& shape, std::span<const AttentionStream> streams,
               std::span<float* const> out, float eps, const Loop& loop = {}) {
  loop(shape.batch * shape.heads, [&](std::int64_t begin, std::int64_t end) {
    detail::AttentionHead head(shape, streams, eps, /*with_backward=*/false);
    for (std::int64_t i = begin; i < end; ++i) head.forward(i / shape.heads, i % shape.heads, out);
  });
}

/// The gradients of attention(), for which nothing but its inputs is kept: scores are computed
/// again.
/// @param shape batch, heads and their size
/// @param streams what went in
/// @param gradients a stream: those of what came out, and room for those of what went in
/// @param eps of the normalisations, above 0
/// @param loop parallel loop over samples and heads, see SerialLoop; bits do not depend on its
///   number of threads
template <class Loop = SerialLoop>
void attention_backward(const AttentionShape& shape, std::span<const AttentionStream> streams,
                        std::span<const AttentionGradient> gradients, float eps,
                        const Loop& loop = {}) {
  // A head of a sample has sums of its own, which are added in their order.
  const std::int64_t items = shape.batch * shape.heads;
  const auto numbers = 2 * streams.size() * static_cast<std::size_t>(shape.head_size);
  std::vector<float> dweights(static_cast<std::size_t>(items) * numbers, 0.0f);
  loop(items, [&](std::int64_t begin, std::int64_t end) {
    detail::AttentionHead head(shape, streams, eps, /*with_backward=*/true);
    for (std::int64_t i = begin; i < end; ++i) {
      head.backward(i / shape.heads, i % shape.heads, gradients,
                    dweights.data() + static_cast<std::size_t>(i) * numbers);
    }
  });
  std::vector<double> sums(numbers, 0.0);
  for (const float* item = dweights.data(); item != dweights.data() + dweights.size();) {
    for (double& sum : sums) sum += static_cast<double>(*item++);
  }
  const double* sum = sums.data();
  for (const AttentionGradient& gradient : gradients) {
    for (float* target : {gradient.dquery_weight, gradient.dkey_weight}) {
      for (std::int64_t c = 0; c < shape.head_size; ++c, ++sum) {
        if (target != nullptr) target[c] = static_cast<float>(*sum);
      }
    }
  }
}

}  // namespace contraflow::kernels
