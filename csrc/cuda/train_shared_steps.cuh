// The parameters of train_shared: their directions, and Adam's step.
#pragma once

#include "cuda/adam.cuh"
#include "cuda/train_shared_tiles.cuh"

namespace dsae::cuda {

// A row of a matrix with unit rows: its weights and Adam's moments, its direction, now and after the step.
struct SharedRow {
  float *weights, *mean, *square;
  const float* unit;
  float *next_unit, *length;
  int32_t size;
};

// The threads that share a row of the encoder: the whole block, as the rows are few and long.
struct BlockTeam {
  static constexpr int kSize = kSharedThreads;
  float* warp_sums;  // for two sums

  __device__ int index() const { return threadIdx.x; }
  // which: 0 or 1. Each at most once, so that no sum waits until all have read the other.
  __device__ float sum(float number, int which) const {
    return shared_block_sum(number, warp_sums + which * kSharedWarps);
  }
};

// And a row of the decoder: a warp, as the rows are many and short.
struct WarpTeam {
  static constexpr int kSize = 32;

  __device__ int index() const { return threadIdx.x % 32; }
  __device__ float sum(float number, int) const { return warp_sum(number); }
};

// next_unit and length, from the weights.
template <class Team>
__device__ inline void normalize(const Team& team, const SharedRow& row) {
  float squares = 0.0f;
  for (int i = team.index(); i < row.size; i += Team::kSize) squares += row.weights[i] * row.weights[i];
  const float norm = sqrtf(team.sum(squares, 1)), length = norm > kSmallestLength ? norm : kSmallestLength;
  for (int i = team.index(); i < row.size; i += Team::kSize) row.next_unit[i] = row.weights[i] / length;
  if (team.index() == 0) *row.length = length;
}

// Adds up the gradient by the row's direction, and takes Adam's step. Changing the weights' length changes
// nothing, and the longer they are, the less a change turns them.
template <class Team>
__device__ inline void step_row(
    const Team& team, const SharedRow& row, float* gradients, int64_t slice_size, int32_t slices, float scale,
    AdamStep step) {
  const float length = *row.length;
  float along = 0.0f;
  for (int i = team.index(); i < row.size; i += Team::kSize) {
    float gradient = 0.0f;
    for (int slice = 0; slice < slices; ++slice) gradient += gradients[slice * slice_size + i];
    gradient *= scale;
    gradients[i] = gradient;  // for this thread alone
    along += gradient * row.unit[i];
  }
  along = team.sum(along, 0);
  for (int i = team.index(); i < row.size; i += Team::kSize) {
    const float turning = (gradients[i] - along * row.unit[i]) / length;
    adam(turning, step.rate, step.square_root_factor, row.weights[i], row.mean[i], row.square[i]);
  }
  normalize(team, row);
}

__device__ inline SharedRow encoder_row(const SharedTraining& p, int64_t f) {
  float* const weights = p.state + f * p.depth;
  const int64_t at = f * p.depth_pitch();
  return {weights,           weights + p.parameters(),  weights + 2 * p.parameters(),
          p.unit_encoder + at, p.next_unit_encoder + at, p.encoder_lengths + f, p.depth};
}

__device__ inline SharedRow decoder_row(const SharedTraining& p, int64_t i) {
  float* const weights = p.state + p.decoder_at() + i * p.features;
  float* const unit = p.unit_decoder + i * p.feature_pitch();
  return {weights, weights + p.parameters(), weights + 2 * p.parameters(), unit, unit, p.decoder_lengths + i,
          p.features};
}

// By one thread: Adam's step for a parameter that is not normalised. Returns its new value.
__device__ inline float step_number(const SharedTraining& p, int64_t at, float gradient, AdamStep step) {
  float* const weight = p.state + at;
  adam(
      gradient, step.rate, step.square_root_factor, *weight, weight[p.parameters()],
      weight[2 * p.parameters()]);
  return *weight;
}

// By a warp: the derivative of the loss by the offset in dimension i, with the directions of this epoch.
__device__ inline float offset_gradient(const SharedTraining& p, int64_t i) {
  float of_activations = 0.0f;
  for (int64_t f = threadIdx.x % 32; f < p.features; f += 32) {
    of_activations += p.bias_gradient[f] * p.unit_encoder[f * p.depth_pitch() + i];
  }
  return p.error_scale * p.residual_sum[i] - warp_sum(of_activations);
}

// The blocks of the two kernels below: one a feature of the encoder, then one for so many dimensions.
inline int64_t shared_step_blocks(const SharedTraining& p) {
  return p.features + (p.depth + kSharedWarps - 1) / kSharedWarps;
}

// Directions and offset of the first epoch.
__global__ void __launch_bounds__(kSharedThreads) shared_start_kernel(const SharedTraining p) {
  DSAE_SHARED_MEMORY(memory);
  const int64_t block = blockIdx.x;
  if (block < p.features) {
    normalize(BlockTeam{reinterpret_cast<float*>(memory)}, encoder_row(p, block));
    return;
  }
  const int64_t i = (block - p.features) * kSharedWarps + threadIdx.x / 32;
  if (i >= p.depth) return;
  normalize(WarpTeam{}, decoder_row(p, i));
  if (threadIdx.x % 32 == 0) p.offset[i] = p.state[p.offset_at() + i];
}

// Adam's step of every parameter.
__global__ void __launch_bounds__(kSharedThreads) shared_step_kernel(const SharedTraining p, AdamStep step) {
  DSAE_SHARED_MEMORY(memory);
  const int64_t block = blockIdx.x, slice_size = p.feature_pitch() * p.depth_pitch();
  if (block < p.features) {
    step_row(
        BlockTeam{reinterpret_cast<float*>(memory)}, encoder_row(p, block),
        p.encoder_gradients + block * p.depth_pitch(), slice_size, p.slices, 1.0f, step);
    if (threadIdx.x == 0) step_number(p, p.bias_at() + block, p.bias_gradient[block], step);
    return;
  }
  const int64_t i = (block - p.features) * kSharedWarps + threadIdx.x / 32;
  if (i >= p.depth) return;
  const float gradient = offset_gradient(p, i);
  if (threadIdx.x % 32 == 0) p.offset[i] = step_number(p, p.offset_at() + i, gradient, step);
  step_row(
      WarpTeam{}, decoder_row(p, i), p.decoder_gradients + i * p.feature_pitch(), slice_size, p.slices,
      p.error_scale, step);
}

}  // namespace dsae::cuda
