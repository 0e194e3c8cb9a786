// The set difference that unique_scores and discover_heads share: a block scores one head. A bit a (position,
// code) says that a negative has it; a second one that it was counted.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/unique_scores.h"

namespace dsae::cuda {

constexpr int kUniqueScoresThreads = 256;
constexpr int kUniqueScoresWarps = kUniqueScoresThreads / 32;

// A block's shared memory: this, then the two bitmaps.
struct UniqueScoresShared {
  double warp_sums[kUniqueScoresWarps];
  int32_t warp_counts[kUniqueScoresWarps];
};

inline int64_t unique_scores_shared_bytes(int64_t bits) {
  return static_cast<int64_t>(sizeof(UniqueScoresShared)) + 2 * bits / 8;
}

// As many bits a bitmap as are of use, or as two bitmaps find room for in a block's shared memory.
inline int64_t unique_scores_bits(int64_t positions, int64_t features, int64_t shared_bytes) {
  const int64_t used = positions * features > 0 ? positions * features : 1;
  const int64_t wanted = (used + 31) / 32 * 32;
  const int64_t room = (shared_bytes - unique_scores_shared_bytes(0)) / 2 / 4 * 32;
  return wanted < room ? wanted : room;
}

__device__ inline int32_t code_at(const UniqueScores& p, int64_t example, int64_t position, int64_t head) {
  return p.codes[example * p.code_strides[0] + position * p.code_strides[1] + head * p.code_strides[2]];
}

__device__ inline float value_at(const UniqueScores& p, int64_t example, int64_t position, int64_t head) {
  return p.values[example * p.value_strides[0] + position * p.value_strides[1] + head * p.value_strides[2]];
}

// The bit of a code at a position, if it is active and among this pass's bits first..first+bits-1; else -1.
__device__ inline int64_t bit_of(const UniqueScores& p, int32_t code, int64_t position, int64_t first) {
  if (code < 0) return -1;
  const int64_t bit = position * p.features + code - first;
  return bit >= 0 && bit < p.bits ? bit : -1;
}

__device__ inline void mark_negatives(
    const UniqueScores& p, int64_t head, int64_t first, uint32_t* negatives) {
  const auto positions = static_cast<uint32_t>(p.positions);  // 32-bit division is several times faster
  const auto end = static_cast<uint32_t>(p.examples * p.positions);
  for (auto i = static_cast<uint32_t>(p.positives * p.positions) + threadIdx.x; i < end;
       i += kUniqueScoresThreads) {
    const uint32_t position = i % positions;
    const int32_t code = code_at(p, i / positions, position, head);
    if (code < -1 || code >= p.features) {
      *p.in_range = 0;
      continue;
    }
    const int64_t bit = bit_of(p, code, position, first);
    if (bit >= 0) atomicOr(&negatives[bit / 32], 1u << (bit % 32));
  }
}

// One warp a positive, its lanes over positions. Returns how many unique codes this thread saw first.
__device__ inline int32_t score_positives(
    const UniqueScores& p, int64_t head, int64_t first, const uint32_t* negatives, uint32_t* counted) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t count = 0;
  for (int64_t example = warp; example < p.positives; example += kUniqueScoresWarps) {
    float strongest = 0.0f;
    for (int64_t position = lane; position < p.positions; position += 32) {
      const int32_t code = code_at(p, example, position, head);
      const float value = value_at(p, example, position, head);  // on its way with the code, needed or not
      if (code < -1 || code >= p.features) {
        *p.in_range = 0;
        continue;
      }
      const int64_t bit = bit_of(p, code, position, first);
      if (bit < 0) continue;
      const uint32_t mask = 1u << (bit % 32);
      if (negatives[bit / 32] & mask) continue;
      count += (atomicOr(&counted[bit / 32], mask) & mask) == 0;
      strongest = value > strongest ? value : strongest;
    }
    strongest = warp_max(strongest);
    float& overall = p.strongest[head * p.positives + example];  // this warp's alone, in every pass
    if (lane == 0 && strongest > overall) overall = strongest;
  }
  return count;
}

// This warp's positives, added up in order: the same sum in every run.
__device__ inline double sum_strongest(const UniqueScores& p, int64_t head) {
  double sum = 0;
  for (int64_t example = threadIdx.x / 32; example < p.positives; example += kUniqueScoresWarps) {
    sum += p.strongest[head * p.positives + example];
  }
  return sum;
}

// All of one head, by a block of kUniqueScoresThreads threads.
__device__ inline void score_head(const UniqueScores& p, int64_t head, unsigned char* memory) {
  auto& [warp_sums, warp_counts] = *reinterpret_cast<UniqueScoresShared*>(memory);
  auto* const bitmaps = reinterpret_cast<uint32_t*>(memory + sizeof(UniqueScoresShared));
  const int64_t words = p.bits / 32;
  uint32_t *const negatives = bitmaps, *const counted = bitmaps + words;

  int32_t count = 0;
  for (int64_t first = 0; first < p.positions * p.features; first += p.bits) {
    for (int64_t word = threadIdx.x; word < 2 * words; word += kUniqueScoresThreads) bitmaps[word] = 0;
    __syncthreads();
    mark_negatives(p, head, first, negatives);
    __syncthreads();
    count += score_positives(p, head, first, negatives, counted);
    __syncthreads();  // before the next pass clears the bitmaps
  }

  count = warp_sum(count);
  if (threadIdx.x % 32 == 0) {
    warp_counts[threadIdx.x / 32] = count;
    warp_sums[threadIdx.x / 32] = sum_strongest(p, head);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t total = 0;
    double sum = 0;
    for (int warp = 0; warp < kUniqueScoresWarps; ++warp) {
      total += warp_counts[warp];
      sum += warp_sums[warp];
    }
    p.counts[head] = total;
    p.mass[head] = p.positives ? static_cast<float>(sum / static_cast<double>(p.positives)) : 0.0f;
  }
}

}  // namespace dsae::cuda
