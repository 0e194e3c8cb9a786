// pair_scores on the CPU. For one head, the examples are grouped by its code once; then, for each other head,
// a pair of codes is unique when the group's negatives lack the other head's code, which a table with one
// stamp a code answers. Within a group the negatives go first, so a positive whose code is stamped was seen
// in a negative or counted already.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "arguments.h"

namespace dsae {
namespace {

constexpr uint32_t kInactiveSlot = 0;  // code c is slot c + 1

// The codes of each head side by side, [heads][examples], as slots.
std::vector<uint32_t> slots_by_head(const Tensor& codes, const PairSizes& sizes) {
  std::vector<uint32_t> slots(sizes.heads * sizes.examples);
  const int32_t* data = codes.const_data_ptr<int32_t>();
  const int64_t example_stride = codes.stride(0), head_stride = codes.stride(1);
  std::atomic<bool> in_range{true};
  torch::stable::parallel_for(0, sizes.heads, 64, [&](int64_t begin, int64_t end) {
    bool valid = true;
    for (int64_t example = 0; example < sizes.examples; ++example) {
      for (int64_t head = begin; head < end; ++head) {
        const int32_t code = data[example * example_stride + head * head_stride];
        valid &= code >= kInactive && code < sizes.features;
        slots[head * sizes.examples + example] = static_cast<uint32_t>(code) + 1;
      }
    }
    if (!valid) in_range = false;
  });
  check_codes_in_range("pair_scores", in_range, sizes.features);
  return slots;
}

class PairCounter {
 public:
  PairCounter(const std::vector<uint32_t>& slots, const PairSizes& sizes)
      : slots_(slots), sizes_(sizes), last_group_(sizes.features + 1, 0) {}

  // row[g] = the unique pairs of codes of this head and g, for every g >= head.
  void count(int64_t head, int32_t* row) {
    group_examples(slots_of(head));
    for (int64_t other = head; other < sizes_.heads; ++other) row[other] = count_with(slots_of(other));
  }

 private:
  struct Entry {
    uint32_t example, group, is_positive;
  };

  const uint32_t* slots_of(int64_t head) const { return slots_.data() + head * sizes_.examples; }

  // Sorts the examples by the head's code, negatives first. INACTIVE is no group, and a group without
  // positives cannot count.
  void group_examples(const uint32_t* slots) {
    order_.clear();
    for (uint32_t example = 0; example < sizes_.examples; ++example) {
      if (slots[example] != kInactiveSlot)
        order_.push_back({example, slots[example], example < sizes_.positives});
    }
    std::sort(order_.begin(), order_.end(), [](const Entry& a, const Entry& b) {
      return a.group != b.group ? a.group < b.group : a.is_positive < b.is_positive;
    });
    groups_ = 0;
    auto kept = order_.begin();
    for (auto begin = order_.begin(), end = begin; begin != order_.end(); begin = end) {
      while (end != order_.end() && end->group == begin->group) ++end;
      if (!(end - 1)->is_positive) continue;
      for (auto entry = begin; entry != end; ++entry) *kept++ = {entry->example, groups_, entry->is_positive};
      ++groups_;
    }
    order_.erase(kept, order_.end());
  }

  int32_t count_with(const uint32_t* slots) {
    const uint32_t first_stamp = reserve_stamps();
    uint32_t* const last_group = last_group_.data();
    uint32_t count = 0;
    for (const auto& [example, group, is_positive] : order_) {
      const uint32_t slot = slots[example], stamp = first_stamp + group;
      count += is_positive & (slot != kInactiveSlot) & (last_group[slot] != stamp);
      last_group[slot] = stamp;
    }
    return static_cast<int32_t>(count);
  }

  // A stamp for each group, none used before, so that the table needn't be cleared.
  uint32_t reserve_stamps() {
    if (next_stamp_ > std::numeric_limits<uint32_t>::max() - groups_) {
      std::fill(last_group_.begin(), last_group_.end(), 0);
      next_stamp_ = 1;
    }
    const uint32_t first = next_stamp_;
    next_stamp_ += groups_;
    return first;
  }

  const std::vector<uint32_t>& slots_;
  const PairSizes sizes_;
  std::vector<Entry> order_;
  uint32_t groups_ = 0;
  std::vector<uint32_t> last_group_;  // by slot of the other head: the stamp of the last group that had it
  uint32_t next_stamp_ = 1;
};

// Copies the triangle above the diagonal below it, in squares that fit the cache.
void mirror(int32_t* scores, int64_t heads) {
  constexpr int64_t kSquare = 64;
  torch::stable::parallel_for(0, (heads + kSquare - 1) / kSquare, 1, [&](int64_t first, int64_t last) {
    for (int64_t rows = first * kSquare; rows < std::min(last * kSquare, heads); rows += kSquare) {
      for (int64_t columns = 0; columns <= rows; columns += kSquare) {
        for (int64_t row = rows; row < std::min(rows + kSquare, heads); ++row) {
          for (int64_t column = columns; column < std::min(columns + kSquare, row); ++column) {
            scores[row * heads + column] = scores[column * heads + row];
          }
        }
      }
    }
  });
}

Tensor pair_scores(const Tensor& codes, int64_t n_positive, int64_t n_features) {
  const PairSizes sizes = check_pair_scores(codes, n_positive, n_features);
  Tensor scores = torch::stable::new_empty(codes, {sizes.heads, sizes.heads}, ScalarType::Int);
  const std::vector<uint32_t> slots = slots_by_head(codes, sizes);
  int32_t* out = scores.mutable_data_ptr<int32_t>();

  // Rows shrink towards the last head, so each thread takes the next one as it gets free.
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    PairCounter counter(slots, sizes);
    for (int64_t head; (head = next++) < sizes.heads;) counter.count(head, out + head * sizes.heads);
  });
  mirror(out, sizes.heads);
  return scores;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CPU, library) { library.impl("pair_scores", TORCH_BOX(&pair_scores)); }

}  // namespace dsae
