// discover_heads with tensor cores: blocks encode the parts of a head, and the last one to end scores it.
#pragma once

#include "cuda/discover_heads.h"
#include "cuda/encode_codes_tensor.cuh"
#include "cuda/score_head.cuh"

namespace dsae::cuda {

static_assert(kEncodeThreads == kUniqueScoresThreads, "one block does both");

// Whether all other parts of the head are encoded; if so, this block sees their codes.
__device__ inline bool is_last_part(const DiscoverHeads& p, int head, int parts, unsigned char* memory) {
  __threadfence();
  __syncthreads();  // for safety: every code of this block is written before its part counts
  auto& before = *reinterpret_cast<int32_t*>(memory);
  if (threadIdx.x == 0) before = atomicAdd(&p.finished[head], 1);
  __syncthreads();  // the number of parts is known
  const bool is_last = before == parts - 1;
  __syncthreads();  // for safety: it is read before score_head writes there, which has barriers of its own
  __threadfence();
  return is_last;
}

template <int kRows, bool kSmall, class Number>
__global__ void __launch_bounds__(kEncodeThreads, 2)
    discover_heads_tensor_kernel(const DiscoverHeads p, const TensorParts parts) {
  DSAE_SHARED_MEMORY(memory);
  encode_part<kRows, kSmall, Number>(p.encode, parts, memory);
  const int head = parts.head();
  if (is_last_part(p, head, parts.count(), memory)) score_head(p.score, head, memory);
}

}  // namespace dsae::cuda
