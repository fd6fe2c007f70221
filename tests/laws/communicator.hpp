#pragma once

#include <string>
#include <vector>

#include <contraflow/distributed/shards.hpp>
#include <contraflow/distributed/text.hpp>

namespace laws {

/// The laws of Communicator, to be asked on every rank: what of them does not hold. Ranks may be
/// threads, in which a test must not check.
template <contraflow::Communicator C>
std::vector<std::string> broken_laws(const C& ranks) {
  using contraflow::Tensor;
  std::vector<std::string> broken;
  const auto law = [&](bool holds, const char* which) {
    if (!holds) broken.push_back("rank " + std::to_string(ranks.rank()) + ": " + which);
  };
  const int size = ranks.size(), rank = ranks.rank();
  law(rank >= 0 && rank < size, "0 <= rank < size");

  // 1 + 2 + ... + n, in every dtype that is summed, of several shapes at once.
  const double sum = size * (size + 1) / 2.0;
  for (const auto dtype : {at::kFloat, at::kDouble, at::kLong, at::kBFloat16}) {
    const Tensor a = at::full({2, 3}, rank + 1, dtype), b = at::full({}, rank + 1, dtype);
    const Tensor other = at::full({2}, double(rank + 1), at::kDouble);
    const Tensor turned = at::full({3, 2}, rank + 1, dtype).t();
    ranks.sum({a, other, b, turned});
    law(a.eq(sum).all().template item<bool>() && b.eq(sum).all().template item<bool>(), "sum");
    law(other.eq(sum).all().template item<bool>(), "sum beside another dtype");
    law(turned.eq(sum).all().template item<bool>(), "sum of what is not contiguous");
  }

  // The same to each of the ranks, and from it; for every communicator, by what it has.
  for (int owner = 0; owner < size; ++owner) {
    for (const auto dtype : {at::kFloat, at::kDouble, at::kLong, at::kBFloat16}) {
      const Tensor a = at::full({2, 3}, rank + 1, dtype),
                   turned = at::full({3, 2}, rank + 1, dtype).t();
      const Tensor other = at::full({2}, double(rank + 1), at::kDouble);
      contraflow::sum_to(ranks, {a, other, turned}, owner);
      const bool is_sum = a.eq(sum).all().template item<bool>() &&
                          other.eq(sum).all().template item<bool>() &&
                          turned.eq(sum).all().template item<bool>();
      law(rank != owner || is_sum, "sum to one rank");
      const Tensor b = at::full({2, 3}, rank + 1, dtype), scalar = at::full({}, rank + 1, dtype),
                   b_turned = at::full({3, 2}, rank + 1, dtype).t();
      contraflow::broadcast_from(ranks, {b, scalar, b_turned}, owner);
      const bool is_owners = b.eq(owner + 1).all().template item<bool>() &&
                             scalar.eq(owner + 1).all().template item<bool>() &&
                             b_turned.eq(owner + 1).all().template item<bool>();
      law(is_owners, "broadcast from one rank");
    }
    const Tensor uneven = at::arange(1000, at::kFloat).add(rank).sin().mul(1 + 1e-3 * rank);
    const Tensor first = uneven.clone(), second = uneven.clone();
    contraflow::sum_to(ranks, {first}, owner);
    contraflow::sum_to(ranks, {second}, owner);
    law(rank != owner || at::equal(first, second), "the same sum to one rank each time");
  }
  if constexpr (contraflow::HasBytesSent<C> && contraflow::HasSumTo<C> &&
                contraflow::HasBroadcastFrom<C>) {
    const std::int64_t before = ranks.bytes_sent();
    ranks.sum_to({at::ones({10}), at::ones({2}, at::kDouble)}, size - 1);
    ranks.broadcast_from({at::ones({5})}, size - 1);
    law(size == 1 || ranks.bytes_sent() - before == (rank == size - 1 ? 20 : 56),
        "bytes sent to and from one rank");
  }

  // What a rank gives is counted: sums and rows of its own, a broadcast by the first.
  if constexpr (contraflow::HasBytesSent<C>) {
    const std::int64_t before = ranks.bytes_sent();
    ranks.sum({at::ones({10}), at::ones({2}, at::kDouble)});
    ranks.gather(at::ones({rank, 3}));
    ranks.broadcast({at::ones({5})});
    const std::int64_t given = 40 + 16 + rank * 12 + (rank == 0 ? 20 : 0);
    // One rank by itself may send nothing.
    law(size == 1 || ranks.bytes_sent() - before == given, "bytes sent");
  }

  // All ranks have the same bits, each time.
  const Tensor uneven = at::arange(1000, at::kFloat).add(rank).sin().mul(1 + 1e-3 * rank);
  Tensor once = uneven.clone(), again = uneven.clone();
  ranks.sum({once});
  ranks.sum({again});
  law(at::equal(once, again), "the same sum each time");
  const Tensor all = ranks.gather(once.unsqueeze(0));
  law(all.sizes() == at::IntArrayRef({size, 1000}), "gather's shape");
  law(all.eq(all[0]).all().template item<bool>(), "the same sum on all ranks");

  // Rank r gives r rows: rank 0 none.
  const Tensor rows = ranks.gather(at::full({rank, 2}, rank, at::kLong));
  law(rows.sizes() == at::IntArrayRef({size * (size - 1) / 2, 2}), "gather of unequal rows");
  std::int64_t row = 0;
  for (int r = 0; r < size; ++r) {
    for (int i = 0; i < r; ++i) law(rows[row++].eq(r).all().template item<bool>(), "rows in order");
  }

  const Tensor number = at::full({4}, 10.0 + rank, at::kDouble),
               flag = at::full({}, rank, at::kLong);
  ranks.broadcast({number, flag});
  law(number.eq(10).all().template item<bool>() && flag.template item<std::int64_t>() == 0,
      "broadcast");

  law(ranks.agree(rank == size - 1), "agree where one says so");
  law(!ranks.agree(false), "agree where none says so");

  const auto texts = contraflow::gathered_texts(ranks, std::string(std::size_t(rank), 'x'));
  law(texts.size() == std::size_t(size) && texts.back().size() == std::size_t(size - 1), "texts");
  const auto lines = contraflow::gathered_lines(ranks, {"same", "rank " + std::to_string(rank)});
  law(lines.size() == std::size_t(size) + 1 && lines[0] == "same", "lines, each once");
  return broken;
}

}  // namespace laws
