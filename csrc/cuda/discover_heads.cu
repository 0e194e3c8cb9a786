#include "cuda/discover_heads.cuh"

#include "cuda/launch.cuh"
#include "cuda/registry.h"

namespace dsae::cuda {

namespace {

template <int kRowsEach>
cudaError_t launch(const DiscoverHeads& arguments, void* stream) {
  return launch_kernel(
      discover_heads_kernel<kRowsEach>, static_cast<unsigned>(arguments.encode.heads), kEncodeThreads,
      discover_heads_shared_bytes<kRowsEach>(arguments.score.bits), stream, arguments);
}

constexpr int64_t kExampleBits = kExamplePositions * kExampleFeatures;

const RegisterKernel registered[] = {
    {"discover_heads, tiles of 32 rows", discover_heads_kernel<2>, kEncodeThreads,
     discover_heads_shared_bytes<2>(kExampleBits)},
    {"discover_heads, tiles of 128 rows", discover_heads_kernel<8>, kEncodeThreads,
     discover_heads_shared_bytes<8>(kExampleBits)}};

}  // namespace

const char* launch_discover_heads(DiscoverHeads arguments, void* stream) {
  int64_t shared_bytes = 0;
  if (cudaError_t error = shared_bytes_limit(shared_bytes)) return message(error);
  UniqueScores& score = arguments.score;
  score.bits = unique_scores_bits(score.positions, score.features, shared_bytes);
  const bool few = arguments.encode.rows() <= EncodeShared<8>::kRows / 2;
  return message(few ? launch<2>(arguments, stream) : launch<8>(arguments, stream));
}

}  // namespace dsae::cuda
