#include <atomic>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/registry.h"
#include "cuda/tensor_plan.h"

namespace dsae::cuda {

namespace {

std::atomic<int32_t*> counter = nullptr;

// Few rows would leave most of a large tile empty.
bool has_few_rows(const EncodeCodes& arguments) { return arguments.rows() <= EncodeShared<8>::kRows / 2; }

template <int kRowsEach>
cudaError_t launch(const EncodeCodes& arguments, void* stream) {
  return launch_kernel(
      encode_codes_kernel<kRowsEach>, static_cast<unsigned>(encode_codes_blocks(arguments)), kEncodeThreads,
      sizeof(EncodeShared<kRowsEach>), stream, arguments);
}

cudaError_t launch(const EncodeCodes& arguments, const TensorPlan& plan, void* stream) {
  return with_tensor_kind(plan, arguments.z.type, [&](auto kind) {
    using Kind = decltype(kind);
    return launch_kernel(
        encode_codes_tensor_kernel<Kind::kRows, Kind::kSmall, typename Kind::Number>,
        static_cast<unsigned>(plan.parts.count() * arguments.heads), kEncodeThreads, plan.shared_bytes, stream,
        arguments, plan.parts);
  });
}

constexpr TensorSizes<true> kSmallExample{kExampleDepth, kExampleFeatures};
constexpr TensorSizes<false> kExample{kExampleDepth, kExampleFeatures};

const RegisterKernel registered[] = {
    {"encode_codes, tiles of 32 rows", encode_codes_kernel<2>, kEncodeThreads, sizeof(EncodeShared<2>)},
    {"encode_codes, tiles of 128 rows", encode_codes_kernel<8>, kEncodeThreads, sizeof(EncodeShared<8>)},
    {"encode_codes, tensor cores, d and F up to 64, float32",
     encode_codes_tensor_kernel<128, true, float>, kEncodeThreads, tensor_shared_bytes<128>(kSmallExample, 4)},
    {"encode_codes, tensor cores, d and F up to 64, bfloat16",
     encode_codes_tensor_kernel<128, true, Bfloat16>, kEncodeThreads, tensor_shared_bytes<128>(kSmallExample, 2)},
    {"encode_codes, tensor cores, d and F up to 64, float16",
     encode_codes_tensor_kernel<128, true, Float16>, kEncodeThreads, tensor_shared_bytes<128>(kSmallExample, 2)},
    {"encode_codes, tensor cores, tiles of 128 rows, float32",
     encode_codes_tensor_kernel<128, false, float>, kEncodeThreads, tensor_shared_bytes<128>(kExample, 4)},
    {"encode_codes, tensor cores, tiles of 128 rows, bfloat16",
     encode_codes_tensor_kernel<128, false, Bfloat16>, kEncodeThreads, tensor_shared_bytes<128>(kExample, 2)},
    {"encode_codes, tensor cores, tiles of 128 rows, float16",
     encode_codes_tensor_kernel<128, false, Float16>, kEncodeThreads, tensor_shared_bytes<128>(kExample, 2)},
    {"encode_codes, tensor cores, tiles of 64 rows, float32",
     encode_codes_tensor_kernel<64, false, float>, kEncodeThreads, tensor_shared_bytes<64>(kExample, 4)},
    {"encode_codes, tensor cores, tiles of 64 rows, bfloat16",
     encode_codes_tensor_kernel<64, false, Bfloat16>, kEncodeThreads, tensor_shared_bytes<64>(kExample, 2)},
    {"encode_codes, tensor cores, tiles of 64 rows, float16",
     encode_codes_tensor_kernel<64, false, Float16>, kEncodeThreads, tensor_shared_bytes<64>(kExample, 2)}};

}  // namespace

int32_t* rechecked_counter() { return counter; }

int64_t encode_codes_blocks(const EncodeCodes& arguments) {
  const int64_t rows = has_few_rows(arguments) ? EncodeShared<2>::kRows : EncodeShared<8>::kRows;
  return (arguments.rows() + rows - 1) / rows * arguments.heads;
}

const char* launch_encode_codes(const EncodeCodes& arguments, void* stream) {
  if (has_few_rows(arguments)) return message(launch<2>(arguments, stream));
  int64_t shared_bytes = 0;
  int processors = 0;
  if (cudaError_t error = shared_bytes_limit(shared_bytes)) return message(error);
  if (cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, processors)) return message(error);
  const TensorPlan plan = plan_tensor(arguments, shared_bytes, processors);
  return message(plan.rows ? launch(arguments, plan, stream) : launch<8>(arguments, stream));
}

}  // namespace dsae::cuda

extern "C" __attribute__((visibility("default"))) void dsae_count_rechecked(int32_t* counter) {
  dsae::cuda::counter = counter;
}
