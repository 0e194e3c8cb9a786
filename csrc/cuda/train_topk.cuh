// train_topk on the GPU: a block trains one head, all epochs, with the weights in shared memory where they
// fit. An epoch: for a tile of rows at a time, the activations, the k strongest of each row, the
// reconstruction and its error; then, for each feature, its gradient from the rows that chose it, in their
// order, and its step. No atomics: every run gives the same numbers.
#pragma once

#include <cmath>

#include "cuda/train_features.cuh"
#include "cuda/train_rows.cuh"

namespace dsae::cuda {

// A block's sum, the same in every run; all threads get it. Callers have a barrier before the next one.
__device__ inline double block_sum(double number, double* sums) {
  number = warp_sum(number);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = number;
  __syncthreads();
  double sum = 0;
  for (int warp = 0; warp < kTrainWarps; ++warp) sum += sums[warp];
  return sum;
}

// The sum of the squares of all x, by which the loss is divided.
__device__ inline double whole_of(const TrainTopk& p) {
  return *p.square_sum > 0 ? *p.square_sum : static_cast<double>(p.heads) * p.rows;
}

template <class Block>
__device__ inline void measure_all(const Block& block) {
  const TrainState state = block.state();
  for (int f = thread_now() / 32; f < block.p.features; f += kTrainWarps) {
    measure(block.p, state.encoder, f);
    measure(block.p, state.decoder, f);
  }
}

// An epoch of a head.
template <class Block>
__device__ inline void train_epoch(const Block& block, int epoch) {
  const TrainTopk& p = block.p;
  constexpr int kParts = kTrainThreads / kRebuildLanes;
  learn_rows(block);
  const double part = threadIdx.x < kParts ? block.shared().squared_errors[threadIdx.x] : 0.0;
  const double of_block = block_sum(part, block.shared().sums);
  if (threadIdx.x == 0) p.squared_errors[epoch * p.heads + block.shared().head] = of_block;
  for (int f = thread_now() / 32; f < p.features; f += kTrainWarps) step_feature(block, f);
}

// By one thread: Adam's rates of the next epoch.
template <class Block>
__device__ inline void set_rates(const Block& block) {
  auto& shared = block.shared();
  shared.beta1_power *= kAdamBeta1;
  shared.beta2_power *= kAdamBeta2;
  shared.rate = static_cast<float>(block.p.lr / (1 - shared.beta1_power));
  shared.square_root_factor = static_cast<float>(1 / std::sqrt(1 - shared.beta2_power));
}

// By one thread: what a block notes of a head before its first epoch.
template <class Block>
__device__ inline void begin_head(const Block& block, int64_t h) {
  auto& shared = block.shared();
  shared.head = h;
  shared.gradient_scale = static_cast<float>(2.0 / whole_of(block.p));
  shared.beta1_power = shared.beta2_power = 1;
}

template <int kRowsEach, bool kStateIsShared>
__global__ void __launch_bounds__(kTrainThreads, 2) train_topk_kernel(const TrainTopk p) {
  DSAE_SHARED_MEMORY(memory);
  const TrainBlock<kRowsEach, kStateIsShared> block{p, memory};
  for (int64_t h = blockIdx.x; h < p.heads; h += gridDim.x) {
    if (threadIdx.x == 0) begin_head(block, h);
    load_parameters(block, h);
    __syncthreads();
    measure_all(block);
    __syncthreads();
    for (int epoch = 0; epoch < p.epochs; ++epoch) {
      if (threadIdx.x == 0) set_rates(block);
      train_epoch(block, epoch);
      __syncthreads();
    }
    save_parameters(block, h);
    __syncthreads();  // for safety: a thread loads what it has saved
  }
}

// squares[head]; a block a head.
__global__ void __launch_bounds__(kTrainThreads) train_squares_kernel(const TrainTopk p) {
  DSAE_SHARED_MEMORY(memory);
  const int64_t head = blockIdx.x;
  double sum = 0;
  for (int i = threadIdx.x; i < p.rows * p.depth; i += kTrainThreads) {
    const double number = p.x.at(head * p.head_stride + i / p.depth * p.row_stride + i % p.depth);
    sum += number * number;
  }
  sum = block_sum(sum, reinterpret_cast<double*>(memory));
  if (threadIdx.x == 0) p.squares[head] = sum;
}

// square_sum; one block.
__global__ void __launch_bounds__(kTrainThreads) train_square_sum_kernel(const TrainTopk p) {
  DSAE_SHARED_MEMORY(memory);
  double sum = 0;
  for (int64_t head = threadIdx.x; head < p.heads; head += kTrainThreads) sum += p.squares[head];
  sum = block_sum(sum, reinterpret_cast<double*>(memory));
  if (threadIdx.x == 0) *p.square_sum = sum;
}

// loss[epoch]; a block an epoch.
__global__ void __launch_bounds__(kTrainThreads) train_loss_kernel(const TrainTopk p) {
  DSAE_SHARED_MEMORY(memory);
  const int64_t epoch = blockIdx.x;
  double sum = 0;
  for (int64_t head = threadIdx.x; head < p.heads; head += kTrainThreads) {
    sum += p.squared_errors[epoch * p.heads + head];
  }
  sum = block_sum(sum, reinterpret_cast<double*>(memory));
  if (threadIdx.x == 0) p.loss[epoch] = static_cast<float>(sum / whole_of(p));
}

}  // namespace dsae::cuda
