// What unique_scores and discover_heads share on the CPU: neighbouring heads lie side by side in memory, so a
// block of them is read together; each head has a table with one stamp a feature, which says what happened to
// that code at the current position.
#pragma once

#include <algorithm>
#include <vector>

#include "arguments.h"

namespace dsae {

constexpr int64_t kHeadsPerBlock = 16;  // 16 codes of 4 bytes are a cache line

// codes and values, [examples, positions, heads] in any layout.
struct Codes {
  UniqueSizes sizes;
  const int32_t* codes;
  const float* values;
  int64_t code_strides[3], value_strides[3];

  const int32_t& code(int64_t example, int64_t position, int64_t head) const {
    return codes[example * code_strides[0] + position * code_strides[1] + head * code_strides[2]];
  }
  const float& value(int64_t example, int64_t position, int64_t head) const {
    return values[example * value_strides[0] + position * value_strides[1] + head * value_strides[2]];
  }
};

class Scorer {
 public:
  explicit Scorer(const Codes& input)
      : input_(input),
        stamps_(std::min(kHeadsPerBlock, input.sizes.heads) * input.sizes.features),
        strongest_(std::min(kHeadsPerBlock, input.sizes.heads) * counted_positives()) {}

  // Scores heads begin..end-1, at most a block; false where a code is out of range.
  bool score(int64_t begin, int64_t end, int32_t* counts, float* mass) {
    std::fill(stamps_.begin(), stamps_.end(), 0);
    std::fill(strongest_.begin(), strongest_.end(), 0.0f);
    std::fill(counts + begin, counts + end, 0);
    bool in_range = true;
    for (int64_t position = 0; position < input_.sizes.positions; ++position) {
      in_range &= mark_negatives(position, begin, end) && score_positives(position, begin, end, counts);
    }
    for (int64_t head = begin; head < end; ++head) mass[head] = mean_strongest(head - begin);
    return in_range;
  }

 private:
  // The stamps of a position are above those of the positions before it, so the tables are never cleared.
  static int32_t seen_in_negative(int64_t position) { return static_cast<int32_t>(2 * position + 1); }
  static int32_t counted(int64_t position) { return static_cast<int32_t>(2 * position + 2); }

  bool mark_negatives(int64_t position, int64_t begin, int64_t end) {
    const int64_t features = input_.sizes.features;
    for (int64_t example = input_.sizes.positives; example < input_.sizes.examples; ++example) {
      for (int64_t head = begin; head < end; ++head) {
        const int32_t code = input_.code(example, position, head);
        if (code == kInactive) continue;
        if (code < kInactive || code >= features) return false;
        stamps_[(head - begin) * features + code] = seen_in_negative(position);
      }
    }
    return true;
  }

  bool score_positives(int64_t position, int64_t begin, int64_t end, int32_t* counts) {
    const int64_t features = input_.sizes.features;
    for (int64_t example = 0; example < input_.sizes.positives; ++example) {
      for (int64_t head = begin; head < end; ++head) {
        const int32_t code = input_.code(example, position, head);
        if (code == kInactive) continue;
        if (code < kInactive || code >= features) return false;
        int32_t& stamp = stamps_[(head - begin) * features + code];
        if (stamp == seen_in_negative(position)) continue;
        counts[head] += stamp != counted(position);
        stamp = counted(position);
        float& strongest = strongest_[(head - begin) * input_.sizes.positives + example];
        strongest = std::max(strongest, input_.value(example, position, head));
      }
    }
    return true;
  }

  // None where there are no positions: then nothing is read, however many examples a shape may claim.
  int64_t counted_positives() const { return input_.sizes.positions ? input_.sizes.positives : 0; }

  float mean_strongest(int64_t head_in_block) const {
    const int64_t positives = counted_positives();
    double sum = 0;
    for (int64_t example = 0; example < positives; ++example)
      sum += strongest_[head_in_block * positives + example];
    return positives ? static_cast<float>(sum / static_cast<double>(positives)) : 0.0f;
  }

  const Codes& input_;
  std::vector<int32_t> stamps_;   // [head in block][feature]
  std::vector<float> strongest_;  // [head in block][positive]: the largest value of its unique codes
};

inline void check_positions_fit_stamps(const char* op, int64_t positions) {
  STD_TORCH_CHECK(positions < (int64_t{1} << 30), op, ": at most 2^30 positions, not ", positions);
}

}  // namespace dsae
