#include "cuda/unique_scores.cuh"

#include "cuda/launch.cuh"
#include "cuda/registry.h"

namespace dsae::cuda {

namespace {

cudaError_t launch(UniqueScores arguments, void* stream) {
  int64_t shared_bytes = 0;
  if (cudaError_t error = shared_bytes_limit(shared_bytes)) return error;
  arguments.bits = unique_scores_bits(arguments.positions, arguments.features, shared_bytes);
  return launch_kernel(
      unique_scores_kernel, static_cast<unsigned>(arguments.heads), kUniqueScoresThreads,
      unique_scores_shared_bytes(arguments.bits), stream, arguments);
}

const RegisterKernel registered(
    "unique_scores", unique_scores_kernel, kUniqueScoresThreads,
    unique_scores_shared_bytes(kExamplePositions * kExampleFeatures));

}  // namespace

const char* launch_unique_scores(UniqueScores arguments, void* stream) {
  return message(launch(arguments, stream));
}

}  // namespace dsae::cuda
