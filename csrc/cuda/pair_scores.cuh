// pair_scores on the GPU. A positive's pair of codes counts if no negative and no earlier positive has the same
// pair. For one head, the examples that would stop a positive are a bitmap: the negatives and earlier positives
// with the same code. For two heads they are the intersection of two bitmaps, whatever the codes were: so the
// counts are a matrix product of bitmaps, which a block does for a square of heads at a time.
#pragma once

#include "cuda/device.cuh"
#include "cuda/pair_scores.h"

namespace dsae::cuda {

constexpr int kRecordThreads = 128;
constexpr int kRecordPositives = 32;  // of a thread
constexpr int kPairThreads = 256;
constexpr int kPairSide = 64;   // heads of a square's side; each thread has 4 x 4 pairs of them
constexpr int kPairWords = 32;  // of the records, in shared memory at a time
constexpr int kPairSideThreads = kPairSide / 4;

struct alignas(16) PairShared {
  uint32_t rows[kPairWords * kPairSide], columns[kPairWords * kPairSide];
};

inline int64_t pair_record_blocks(int64_t heads, int64_t examples) {
  return (heads + kRecordThreads - 1) / kRecordThreads * (pair_record_words(examples) - 1);
}

inline int64_t pair_sides(int64_t heads) { return (heads + kPairSide - 1) / kPairSide; }

// Of examples 32 * word and following: a bit for those that can stop a positive, the earlier positives and all
// negatives.
__device__ inline uint32_t stoppers(const PairScores& p, int64_t word, int64_t positive) {
  const auto below = [&](int64_t example) -> uint32_t {
    const int64_t bits = example - 32 * word;
    return bits <= 0 ? 0u : bits >= 32 ? ~0u : (1u << bits) - 1;
  };
  return below(positive) | ~below(p.positives);
}

// Grid: words and heads x positives. A thread writes one word of one head's bitmaps, for some positives.
__global__ void __launch_bounds__(kRecordThreads) pair_records_kernel(const PairScores p) {
  const int64_t words = pair_record_words(p.examples) - 1;
  const int64_t word = blockIdx.x % words, head = blockIdx.x / words * kRecordThreads + threadIdx.x;
  if (head >= p.heads) return;
  const auto code_of = [&](int64_t example) {
    return p.codes[example * p.code_strides[0] + head * p.code_strides[1]];
  };
  int32_t codes[32];
  uint32_t active = 0;  // those that can be equal to a code
  DSAE_UNROLL
  for (int bit = 0; bit < 32; ++bit) {
    const int64_t example = 32 * word + bit;
    codes[bit] = example < p.examples ? code_of(example) : -1;
    if (codes[bit] < -1 || codes[bit] >= p.features) *p.in_range = 0;
    active |= static_cast<uint32_t>(codes[bit] >= 0) << bit;
  }
  const int64_t begin = int64_t{blockIdx.y} * kRecordPositives;
  const int64_t end = begin + kRecordPositives < p.some_positives ? begin + kRecordPositives : p.some_positives;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t positive = p.first_positive + i;
    const int32_t code = code_of(positive);
    uint32_t same = 0;
    DSAE_UNROLL
    for (int bit = 0; bit < 32; ++bit) same |= static_cast<uint32_t>(codes[bit] == code) << bit;
    uint32_t* const record = p.records + i * (words + 1) * p.heads + head;
    record[(word + 1) * p.heads] = same & active & stoppers(p, word, positive);
    if (word == 0) *record = code < 0 ? ~0u : 0u;
  }
}

// to[k][h] = word first + k of the records at hand, of head h of this side; zeros beyond them.
__device__ inline void load_words(
    const PairScores& p, int64_t first, int64_t end, int64_t first_head, uint32_t* to) {
  const int h = threadIdx.x % kPairSide;
  DSAE_UNROLL
  for (int k = threadIdx.x / kPairSide; k < kPairWords; k += kPairThreads / kPairSide) {
    const bool inside = first + k < end && first_head + h < p.heads;
    to[k * kPairSide + h] = inside ? p.records[(first + k) * p.heads + first_head + h] : 0;
  }
}

// Grid: sides x sides x splits. Adds to the scores of its square, above the diagonal of squares and, mirrored,
// below it.
__global__ void __launch_bounds__(kPairThreads) pair_counts_kernel(const PairScores p) {
  DSAE_SHARED_MEMORY(memory);
  auto& shared = *reinterpret_cast<PairShared*>(memory);
  if (blockIdx.y > blockIdx.x) return;
  const int64_t first_row = int64_t{blockIdx.y} * kPairSide, first_column = int64_t{blockIdx.x} * kPairSide;
  const int row = threadIdx.x / kPairSideThreads * 4, column = threadIdx.x % kPairSideThreads * 4;
  const int64_t words = pair_record_words(p.examples);
  const int64_t each = (p.some_positives + p.splits - 1) / p.splits, begin = blockIdx.z * each;
  const int64_t last = begin + each < p.some_positives ? begin + each : p.some_positives;

  uint32_t stopped[4][4] = {};
  int32_t counts[4][4] = {};
  int64_t word = 0;  // of the record
  for (int64_t first = begin * words; first < last * words; first += kPairWords) {
    load_words(p, first, last * words, first_row, shared.rows);
    load_words(p, first, last * words, first_column, shared.columns);
    __syncthreads();
    const int64_t left = last * words - first;
    const int size = left < kPairWords ? static_cast<int>(left) : kPairWords;
    for (int k = 0; k < size; ++k) {
      const Four<uint32_t> of_rows = load4(shared.rows + k * kPairSide + row);
      const Four<uint32_t> of_columns = load4(shared.columns + k * kPairSide + column);
      const bool starts = word == 0, ends = word == words - 1;
      DSAE_UNROLL
      for (int i = 0; i < 4; ++i) {
        DSAE_UNROLL
        for (int j = 0; j < 4; ++j) {
          const uint32_t a = of_rows.at[i], b = of_columns.at[j];
          // Inactive in either head, or stopped in both by the same example.
          stopped[i][j] = starts ? a | b : stopped[i][j] | (a & b);
          counts[i][j] += ends && stopped[i][j] == 0;
        }
      }
      word = ends ? 0 : word + 1;
    }
    __syncthreads();  // before the next words replace these
  }
  DSAE_UNROLL
  for (int i = 0; i < 4; ++i) {
    DSAE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int64_t h = first_row + row + i, g = first_column + column + j;
      if (h >= p.heads || g >= p.heads || counts[i][j] == 0) continue;
      atomicAdd(&p.scores[h * p.heads + g], counts[i][j]);  // whole numbers: the order does not matter
      if (blockIdx.x != blockIdx.y) atomicAdd(&p.scores[g * p.heads + h], counts[i][j]);
    }
  }
}

}  // namespace dsae::cuda
