// unique_scores on the GPU: one block a head.
#pragma once

#include "cuda/score_head.cuh"

namespace dsae::cuda {

__global__ void __launch_bounds__(kUniqueScoresThreads) unique_scores_kernel(const UniqueScores p) {
  DSAE_SHARED_MEMORY(memory);
  score_head(p, blockIdx.x, memory);
}

}  // namespace dsae::cuda
