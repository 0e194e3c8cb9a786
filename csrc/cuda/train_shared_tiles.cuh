// How train_shared multiplies matrices: in tiles of 64 x 64, 256 threads a tile and 4 x 4 numbers a thread,
// with the next numbers on their way from global memory while the present ones are multiplied.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/train_shared.h"

namespace dsae::cuda {

constexpr int kSharedThreads = 256;
constexpr int kSharedWarps = kSharedThreads / 32;
constexpr int kSharedDepth = 16;                // numbers that a tile's rows and columns are multiplied by at once
constexpr int kSharedPitch = kSharedTile + 4;  // 16-byte writes of neighbouring rows meet different banks
constexpr int kSharedEach = 4;                 // rows, and columns, of a thread

// What a tile's rows or columns are multiplied by at once, the depth in rows.
using SharedStage = float[kSharedDepth * kSharedPitch];

// Two of them: one is written while the other is read.
struct SharedStages {
  SharedStage rows[2], columns[2];
};

// A block's shared memory while it multiplies.
struct alignas(16) SharedTiles {
  union {
    SharedStages stages;
    float sums[kSharedTile / kSharedEach * kSharedTile];  // by threads' rows, of each column
  };
  double warp_sums[kSharedWarps];
  uint32_t active;
};

// Where a thread's 4 x 4 numbers are in a tile: a warp has 16 rows and 32 columns.
__device__ inline int shared_row() { return (threadIdx.x / 64 * 4 + threadIdx.x % 32 / 8) * kSharedEach; }
__device__ inline int shared_column() {
  return (threadIdx.x / 32 % 2 * 8 + threadIdx.x % 8) * kSharedEach;
}

// The thread's share of one stage of an operand. from(i, j) gives four numbers from (i, j) on, neighbours
// along j. kAlongDepth: the tile's rows or columns run along i and the depth along j; else the other way round.
template <bool kAlongDepth, class From>
__device__ inline Four<float> fetch(const From& from, int depth) {
  if (kAlongDepth) return from(threadIdx.x / 4, depth + threadIdx.x % 4 * 4);
  return from(depth + threadIdx.x / 16, threadIdx.x % 16 * 4);
}

template <bool kAlongDepth>
__device__ inline void put(const Four<float>& numbers, float* stage) {
  if (kAlongDepth) {
    DSAE_UNROLL
    for (int i = 0; i < 4; ++i) {
      stage[(threadIdx.x % 4 * 4 + i) * kSharedPitch + threadIdx.x / 4] = numbers.at[i];
    }
  } else {
    auto* const to = stage + threadIdx.x / 16 * kSharedPitch + threadIdx.x % 16 * 4;
    *reinterpret_cast<Four<float>*>(to) = numbers;
  }
}

using SharedSums = float[kSharedEach][kSharedEach];

// sums[r][c] = the sum over the depth from `begin` to `end` of rows * columns, for this thread's part of the
// tile. What lies between `end` and the next multiple of kSharedDepth must be zero in rows or columns.
// matters(depth): whether the kSharedDepth from there on are to be taken at all; the same for all threads.
template <bool kRowsAlongDepth, bool kColumnsAlongDepth, class Rows, class Columns, class Matters>
__device__ inline void multiply(
    const Rows& rows, const Columns& columns, const Matters& matters, int begin, int end, SharedTiles& shared,
    SharedSums& sums) {
  const int row = shared_row(), column = shared_column();
  DSAE_UNROLL
  for (int r = 0; r < kSharedEach; ++r) {
    DSAE_UNROLL
    for (int c = 0; c < kSharedEach; ++c) sums[r][c] = 0.0f;
  }
  int depth = begin;
  while (depth < end && !matters(depth)) depth += kSharedDepth;
  if (depth >= end) return;
  Four<float> next_rows = fetch<kRowsAlongDepth>(rows, depth);
  Four<float> next_columns = fetch<kColumnsAlongDepth>(columns, depth);
  int stage = 0;
  while (depth < end) {
    put<kRowsAlongDepth>(next_rows, shared.stages.rows[stage]);
    put<kColumnsAlongDepth>(next_columns, shared.stages.columns[stage]);
    __syncthreads();  // this one suffices: who is here has read the other stage, which is written next
    do depth += kSharedDepth;
    while (depth < end && !matters(depth));
    if (depth < end) {
      next_rows = fetch<kRowsAlongDepth>(rows, depth);
      next_columns = fetch<kColumnsAlongDepth>(columns, depth);
    }
    DSAE_UNROLL
    for (int k = 0; k < kSharedDepth; ++k) {
      const Four<float> a = load4(shared.stages.rows[stage] + k * kSharedPitch + row);
      const Four<float> b = load4(shared.stages.columns[stage] + k * kSharedPitch + column);
      DSAE_UNROLL
      for (int r = 0; r < kSharedEach; ++r) {
        DSAE_UNROLL
        for (int c = 0; c < kSharedEach; ++c) sums[r][c] += a.at[r] * b.at[c];
      }
    }
    stage ^= 1;
  }
}

// Of products that leave nothing out.
struct AllMatter {
  __device__ bool operator()(int) const { return true; }
};

// sums[column] = the sum of a tile's columns over its rows, from the threads' own sums.
__device__ inline void sum_columns(const float (&of_thread)[kSharedEach], float* sums, SharedTiles& shared) {
  __syncthreads();  // before these replace what is still multiplied
  const int row = shared_row() / kSharedEach, column = shared_column();
  DSAE_UNROLL
  for (int c = 0; c < kSharedEach; ++c) shared.sums[row * kSharedTile + column + c] = of_thread[c];
  __syncthreads();
  if (threadIdx.x < kSharedTile) {
    float sum = 0.0f;
    for (int r = 0; r < kSharedTile / kSharedEach; ++r) sum += shared.sums[r * kSharedTile + threadIdx.x];
    sums[threadIdx.x] = sum;
  }
}

// A block's sum, the same in every run; all threads get it. The next one needs other memory, or a barrier.
template <class Number>
__device__ inline Number shared_block_sum(Number number, Number* warp_sums) {
  number = warp_sum(number);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = number;
  __syncthreads();
  Number sum = 0;
  for (int warp = 0; warp < kSharedWarps; ++warp) sum += warp_sums[warp];
  return sum;
}

}  // namespace dsae::cuda
