// discover_heads on the GPU: one block a head encodes its rows tile by tile and then scores the codes it wrote,
// with the sets of codes in the shared memory that held the tiles.
#pragma once

#include "cuda/discover_heads.h"
#include "cuda/encode_codes.cuh"
#include "cuda/score_head.cuh"

namespace dsae::cuda {

static_assert(kEncodeThreads == kUniqueScoresThreads, "one block does both");

template <int kRowsEach>
inline int64_t discover_heads_shared_bytes(int64_t bits) {
  const int64_t encode = sizeof(EncodeShared<kRowsEach>), score = unique_scores_shared_bytes(bits);
  return encode > score ? encode : score;
}

template <int kRowsEach>
__global__ void __launch_bounds__(kEncodeThreads) discover_heads_kernel(const DiscoverHeads p) {
  DSAE_SHARED_MEMORY(memory);
  const int64_t head = blockIdx.x;
  for (int64_t row = 0; row < p.encode.rows(); row += EncodeShared<kRowsEach>::kRows) {
    encode_rows<kRowsEach>(p.encode, head, row, memory);
  }
  __syncthreads();  // for safety: every code is written; score_head has a barrier before it reads them
  score_head(p.score, head, memory);
}

}  // namespace dsae::cuda
