#include "cuda/discover_heads.cuh"

#include "cuda/discover_heads_tensor.cuh"
#include "cuda/launch.cuh"
#include "cuda/registry.h"
#include "cuda/tensor_plan.h"

namespace dsae::cuda {

namespace {

int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <int kRowsEach>
cudaError_t launch(const DiscoverHeads& arguments, void* stream) {
  return launch_kernel(
      discover_heads_kernel<kRowsEach>, static_cast<unsigned>(arguments.encode.heads), kEncodeThreads,
      discover_heads_shared_bytes<kRowsEach>(arguments.score.bits), stream, arguments);
}

cudaError_t launch(const DiscoverHeads& arguments, const TensorPlan& plan, void* stream) {
  const int64_t bytes = larger(plan.shared_bytes, unique_scores_shared_bytes(arguments.score.bits));
  return with_tensor_kind(plan, arguments.encode.z.type, [&](auto kind) {
    using Kind = decltype(kind);
    return launch_kernel(
        discover_heads_tensor_kernel<Kind::kRows, Kind::kSmall, typename Kind::Number>,
        static_cast<unsigned>(plan.parts.count() * arguments.encode.heads), kEncodeThreads, bytes, stream,
        arguments, plan.parts);
  });
}

constexpr int64_t kExampleBits = kExamplePositions * kExampleFeatures;
constexpr TensorSizes<true> kSmallExample{kExampleDepth, kExampleFeatures};
constexpr TensorSizes<false> kExample{kExampleDepth, kExampleFeatures};

const RegisterKernel registered[] = {
    {"discover_heads, tiles of 32 rows", discover_heads_kernel<2>, kEncodeThreads,
     discover_heads_shared_bytes<2>(kExampleBits)},
    {"discover_heads, tiles of 128 rows", discover_heads_kernel<8>, kEncodeThreads,
     discover_heads_shared_bytes<8>(kExampleBits)},
    {"discover_heads, tensor cores, d and F up to 64, float32",
     discover_heads_tensor_kernel<128, true, float>, kEncodeThreads, tensor_shared_bytes<128>(kSmallExample, 4)},
    {"discover_heads, tensor cores, d and F up to 64, bfloat16",
     discover_heads_tensor_kernel<128, true, Bfloat16>, kEncodeThreads, tensor_shared_bytes<128>(kSmallExample, 2)},
    {"discover_heads, tensor cores, d and F up to 64, float16",
     discover_heads_tensor_kernel<128, true, Float16>, kEncodeThreads, tensor_shared_bytes<128>(kSmallExample, 2)},
    {"discover_heads, tensor cores, tiles of 128 rows, float32",
     discover_heads_tensor_kernel<128, false, float>, kEncodeThreads, tensor_shared_bytes<128>(kExample, 4)},
    {"discover_heads, tensor cores, tiles of 128 rows, bfloat16",
     discover_heads_tensor_kernel<128, false, Bfloat16>, kEncodeThreads, tensor_shared_bytes<128>(kExample, 2)},
    {"discover_heads, tensor cores, tiles of 128 rows, float16",
     discover_heads_tensor_kernel<128, false, Float16>, kEncodeThreads, tensor_shared_bytes<128>(kExample, 2)},
    {"discover_heads, tensor cores, tiles of 64 rows, float32",
     discover_heads_tensor_kernel<64, false, float>, kEncodeThreads, tensor_shared_bytes<64>(kExample, 4)},
    {"discover_heads, tensor cores, tiles of 64 rows, bfloat16",
     discover_heads_tensor_kernel<64, false, Bfloat16>, kEncodeThreads, tensor_shared_bytes<64>(kExample, 2)},
    {"discover_heads, tensor cores, tiles of 64 rows, float16",
     discover_heads_tensor_kernel<64, false, Float16>, kEncodeThreads, tensor_shared_bytes<64>(kExample, 2)}};

}  // namespace

const char* launch_discover_heads(DiscoverHeads arguments, void* stream) {
  int64_t shared_bytes = 0;
  int processors = 0;
  if (cudaError_t error = shared_bytes_limit(shared_bytes)) return message(error);
  if (cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, processors)) return message(error);
  UniqueScores& score = arguments.score;
  score.bits = unique_scores_bits(score.positions, score.features, shared_bytes);
  if (arguments.encode.rows() <= EncodeShared<8>::kRows / 2) return message(launch<2>(arguments, stream));
  const TensorPlan plan = plan_tensor(arguments.encode, shared_bytes, processors);
  return message(plan.rows ? launch(arguments, plan, stream) : launch<8>(arguments, stream));
}

}  // namespace dsae::cuda
