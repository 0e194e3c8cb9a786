#include "cuda/train_topk.cuh"

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/registry.h"

namespace dsae::cuda {

namespace {

constexpr int64_t kMostScratchBytes = int64_t{2} << 30;  // of all blocks

template <int kRowsEach, bool kStateIsShared>
cudaError_t plan_blocks(const TrainTopk& p, TrainPlan& plan) {
  auto* const kernel = train_topk_kernel<kRowsEach, kStateIsShared>;
  int processors = 0, blocks_each = 0;
  if (cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, processors)) return error;
  if (cudaError_t error = allow_shared_bytes(kernel, plan.shared_bytes)) return error;
  if (cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
          &blocks_each, kernel, kTrainThreads, plan.shared_bytes)) {
    return error;
  }
  const int64_t rows = p.rows, scratch_floats = rows * p.depth + 3 * rows * p.k +
                                                plan.feature_gradient_floats + plan.state_floats;
  const int64_t room = kMostScratchBytes / (4 * scratch_floats);
  plan.rows_each = kRowsEach;
  plan.state_is_shared = kStateIsShared;
  plan.blocks = std::min({p.heads, int64_t{processors} * std::max(blocks_each, 1), std::max<int64_t>(room, 1)});
  return cudaSuccess;
}

// Of the parameters.
template <int kRowsEach>
int64_t state_bytes(const TrainTopk& p) {
  return 4 * train_state_floats(p.features, train_pitch(p.depth), p.k, TrainShared<kRowsEach>::kRows);
}

cudaError_t make_plan(const TrainTopk& p, TrainPlan& plan) {
  int64_t limit = 0;
  if (cudaError_t error = shared_bytes_limit(limit)) return error;
  plan.feature_gradient_floats = int64_t{kTrainWarps} * 2 * p.depth;
  plan.state_floats = train_moment_floats(p.features, train_pitch(p.depth));
  plan.shared_bytes = sizeof(TrainShared<4>) + state_bytes<4>(p);
  if (plan.shared_bytes <= limit) return plan_blocks<4, true>(p, plan);
  plan.shared_bytes = sizeof(TrainShared<2>) + state_bytes<2>(p);
  if (plan.shared_bytes <= limit) return plan_blocks<2, true>(p, plan);
  plan.shared_bytes = sizeof(TrainShared<2>);
  plan.state_floats += state_bytes<2>(p) / 4;
  return plan_blocks<2, false>(p, plan);
}

cudaError_t launch(const TrainTopk& arguments, const TrainPlan& plan, void* stream) {
  constexpr int64_t kSumBytes = sizeof(double) * kTrainWarps;
  const auto small = [&](void (*kernel)(TrainTopk), int64_t blocks) {
    return launch_kernel(kernel, static_cast<unsigned>(blocks), kTrainThreads, kSumBytes, stream, arguments);
  };
  if (cudaError_t error = small(train_squares_kernel, arguments.heads)) return error;
  if (cudaError_t error = small(train_square_sum_kernel, 1)) return error;
  const auto kernel = !plan.state_is_shared ? train_topk_kernel<2, false>
                      : plan.rows_each == 2 ? train_topk_kernel<2, true>
                                            : train_topk_kernel<4, true>;
  if (cudaError_t error = launch_kernel(
          kernel, static_cast<unsigned>(plan.blocks), kTrainThreads, plan.shared_bytes, stream, arguments)) {
    return error;
  }
  return arguments.epochs ? small(train_loss_kernel, arguments.epochs) : cudaSuccess;
}

template <int kRowsEach>
int64_t example_bytes() {
  return sizeof(TrainShared<kRowsEach>) +
         4 * train_state_floats(
                 kExampleFeatures, train_pitch(kExampleDepth), kExampleK, TrainShared<kRowsEach>::kRows);
}

const RegisterKernel registered[] = {
    {"train_topk, tiles of 128 rows", train_topk_kernel<4, true>, kTrainThreads, example_bytes<4>()},
    {"train_topk, tiles of 64 rows", train_topk_kernel<2, true>, kTrainThreads, example_bytes<2>()},
    {"train_topk, state in global memory", train_topk_kernel<2, false>, kTrainThreads, sizeof(TrainShared<2>)},
    {"train_topk, squares", train_squares_kernel, kTrainThreads, sizeof(double) * kTrainWarps},
    {"train_topk, sum of squares", train_square_sum_kernel, kTrainThreads, sizeof(double) * kTrainWarps},
    {"train_topk, loss", train_loss_kernel, kTrainThreads, sizeof(double) * kTrainWarps}};

}  // namespace

const char* plan_train_topk(const TrainTopk& arguments, TrainPlan& plan) {
  return message(make_plan(arguments, plan));
}

const char* launch_train_topk(const TrainTopk& arguments, const TrainPlan& plan, void* stream) {
  return message(launch(arguments, plan, stream));
}

}  // namespace dsae::cuda
