#include "cuda/train_shared.cuh"

#include "cuda/launch.cuh"
#include "cuda/registry.h"

namespace dsae::cuda {

namespace {

constexpr int64_t kSumBytes = sizeof(double) * kSharedWarps;

const RegisterKernel registered[] = {
    {"train_shared, start", shared_start_kernel, kSharedThreads, kSumBytes},
    {"train_shared, encode", shared_encode_kernel, kSharedThreads, sizeof(SharedTiles)},
    {"train_shared, rebuild", shared_rebuild_kernel, kSharedThreads, sizeof(SharedTiles)},
    {"train_shared, backward", shared_backward_kernel, kSharedThreads, sizeof(SharedTiles)},
    {"train_shared, learn", shared_learn_kernel, kSharedThreads, sizeof(SharedTiles)},
    {"train_shared, sums", shared_sums_kernel, kSharedThreads, kSumBytes},
    {"train_shared, step", shared_step_kernel, kSharedThreads, kSumBytes}};

}  // namespace

const char* launch_train_shared(
    const SharedTraining& training, int64_t step, int64_t epochs, double lr, void* stream) {
  const auto launch = [&](auto* kernel, int64_t blocks, int64_t shared_bytes, const auto&... arguments) {
    return launch_kernel(
        kernel, static_cast<unsigned>(blocks), kSharedThreads, shared_bytes, stream, arguments...);
  };
  return message(train_shared_in_order(training, step, epochs, lr, launch));
}

}  // namespace dsae::cuda
