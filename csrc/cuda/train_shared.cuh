// train_shared on the GPU: a few launches an epoch. What follows one of its five matrix products (offset,
// relu, errors, sums over rows) is done before it leaves the registers. Once the sparsity has set in, almost
// all activations are zero: products leave out 16 rows or features at a time that none is positive in. No
// atomics on numbers that round: sums over rows are added up a tile after another, and the gradients' a slice
// of rows after another, so every run gives the same numbers.
#pragma once

#include <utility>

#include "cuda/train_shared_steps.cuh"
#include "cuda/train_shared_tiles.cuh"

namespace dsae::cuda {

// Four numbers of x, zeros beyond it.
__device__ inline Four<float> x_at(const SharedTraining& p, int row, int i) {
  Four<float> numbers{};
  if (row >= p.rows || i >= p.depth) return numbers;
  const float* const from = p.x + static_cast<int64_t>(row) * p.depth + i;
  if (p.x_has_quads) return load4(from);
  DSAE_UNROLL
  for (int j = 0; j < 4; ++j) numbers.at[j] = i + j < p.depth ? from[j] : 0.0f;
  return numbers;
}

// Four numbers of x less the offset. Rows beyond x are not zero.
__device__ inline Four<float> centred_at(const SharedTraining& p, int row, int i) {
  Four<float> numbers = x_at(p, row, i);
  const Four<float> offset = load4(p.offset + i);
  DSAE_UNROLL
  for (int j = 0; j < 4; ++j) numbers.at[j] -= offset.at[j];
  return numbers;
}

__device__ inline void store4(float* to, const Four<float>& numbers) {
  *reinterpret_cast<Four<float>*>(to) = numbers;
}

// activations = relu((x - offset) encoder' + bias); a block a tile.
__global__ void __launch_bounds__(kSharedThreads) shared_encode_kernel(const SharedTraining p) {
  DSAE_SHARED_MEMORY(memory);
  auto& shared = *reinterpret_cast<SharedTiles*>(memory);
  const int first_row = static_cast<int>(blockIdx.x / p.feature_tiles) * kSharedTile;
  const int first_feature = static_cast<int>(blockIdx.x % p.feature_tiles) * kSharedTile;
  const int64_t depth_pitch = p.depth_pitch();
  const float* const encoder = p.unit_encoder + first_feature * depth_pitch;
  if (threadIdx.x == 0) shared.active = 0;
  SharedSums sums;
  multiply<true, true>(
      [&](int row, int i) { return centred_at(p, first_row + row, i); },
      [&](int f, int i) { return load4(encoder + f * depth_pitch + i); }, AllMatter{}, 0, p.depth, shared, sums);
  double total = 0;
  bool is_active = false;
  DSAE_UNROLL
  for (int r = 0; r < kSharedEach; ++r) {
    const int row = first_row + shared_row() + r, first = first_feature + shared_column();
    Four<float> activations;
    DSAE_UNROLL
    for (int c = 0; c < kSharedEach; ++c) {
      const bool inside = row < p.rows && first + c < p.features;
      const float product = inside ? sums[r][c] + p.state[p.bias_at() + first + c] : 0.0f;
      activations.at[c] = product <= 0 ? 0.0f : product;  // NaN stays
      total += activations.at[c];
      is_active |= activations.at[c] != 0;
    }
    store4(p.activations + row * p.feature_pitch() + first, activations);
  }
  if (is_active) atomicOr(&shared.active, SharedTraining::active_bit(shared_row(), shared_column()));
  total = shared_block_sum(total, shared.warp_sums);
  if (threadIdx.x == 0) {
    p.activation_sums[blockIdx.x] = total;
    p.active[blockIdx.x] = shared.active;
  }
}

// residual = activations decoder' + offset - x; a block a tile.
__global__ void __launch_bounds__(kSharedThreads) shared_rebuild_kernel(const SharedTraining p) {
  DSAE_SHARED_MEMORY(memory);
  auto& shared = *reinterpret_cast<SharedTiles*>(memory);
  const int row_tile = static_cast<int>(blockIdx.x / p.depth_tiles), first_row = row_tile * kSharedTile;
  const int first_depth = static_cast<int>(blockIdx.x % p.depth_tiles) * kSharedTile;
  const int64_t pitch = p.feature_pitch();
  const float *const activations = p.activations + first_row * pitch, *const decoder =
      p.unit_decoder + first_depth * pitch;
  const uint32_t* const active = p.active + row_tile * p.feature_tiles;
  SharedSums sums;
  multiply<true, true>(
      [&](int row, int f) { return load4(activations + row * pitch + f); },
      [&](int i, int f) { return load4(decoder + i * pitch + f); },
      [&](int f) {
        const uint32_t bits = SharedTraining::active_bit(0, f % kSharedTile) * 0x1111u;  // any of the rows
        return (active[f / kSharedTile] & bits) != 0;
      },
      0, p.features, shared, sums);
  float squared_error = 0.0f, column_sums[kSharedEach] = {};
  const int first = first_depth + shared_column();
  DSAE_UNROLL
  for (int r = 0; r < kSharedEach; ++r) {
    const int row = first_row + shared_row() + r;
    const Four<float> centred = centred_at(p, row, first);
    Four<float> residual;
    DSAE_UNROLL
    for (int c = 0; c < kSharedEach; ++c) {
      residual.at[c] = row < p.rows && first + c < p.depth ? sums[r][c] - centred.at[c] : 0.0f;
      squared_error += residual.at[c] * residual.at[c];
      column_sums[c] += residual.at[c];
    }
    store4(p.residual + row * p.depth_pitch() + first, residual);
  }
  const double total = shared_block_sum(static_cast<double>(squared_error), shared.warp_sums);
  if (threadIdx.x == 0) p.squared_errors[blockIdx.x] = total;
  sum_columns(column_sums, p.residual_sums + row_tile * p.depth_pitch() + first_depth, shared);
}

// activation_gradients = the loss's derivative by the activations; a block a tile.
__global__ void __launch_bounds__(kSharedThreads) shared_backward_kernel(const SharedTraining p) {
  DSAE_SHARED_MEMORY(memory);
  auto& shared = *reinterpret_cast<SharedTiles*>(memory);
  const int row_tile = static_cast<int>(blockIdx.x / p.feature_tiles), first_row = row_tile * kSharedTile;
  const int first_feature = static_cast<int>(blockIdx.x % p.feature_tiles) * kSharedTile;
  const int64_t depth_pitch = p.depth_pitch(), pitch = p.feature_pitch();
  const float *const residual = p.residual + first_row * depth_pitch, *const decoder =
      p.unit_decoder + first_feature;
  const bool is_active = p.active[blockIdx.x] != 0;
  SharedSums sums;
  multiply<true, false>(
      [&](int row, int i) { return load4(residual + row * depth_pitch + i); },
      [&](int i, int f) { return load4(decoder + i * pitch + f); },
      [&](int) { return is_active; }, 0, p.depth, shared, sums);
  float column_sums[kSharedEach] = {};
  const int first = first_feature + shared_column();
  DSAE_UNROLL
  for (int r = 0; r < kSharedEach; ++r) {
    const int64_t at = (first_row + shared_row() + r) * pitch + first;
    const Four<float> activations = load4(p.activations + at);
    Four<float> gradients;
    DSAE_UNROLL
    for (int c = 0; c < kSharedEach; ++c) {
      gradients.at[c] = activations.at[c] > 0 ? p.error_scale * sums[r][c] + p.sparsity : 0.0f;
      column_sums[c] += gradients.at[c];
    }
    store4(p.activation_gradients + at, gradients);
  }
  sum_columns(column_sums, p.activation_gradient_sums + row_tile * pitch + first_feature, shared);
}

// The gradients by the encoder's and the decoder's directions, of one slice of rows; a block a tile and slice.
// The decoder's still lack error_scale.
__global__ void __launch_bounds__(kSharedThreads) shared_learn_kernel(const SharedTraining p) {
  DSAE_SHARED_MEMORY(memory);
  auto& shared = *reinterpret_cast<SharedTiles*>(memory);
  const int64_t tiles = p.depth_tiles * p.feature_tiles, tile = blockIdx.x % tiles;
  const int slice = static_cast<int>(blockIdx.x / tiles % p.slices);
  const bool is_encoder = blockIdx.x / tiles / p.slices == 0;
  const int first_depth = static_cast<int>(tile / p.feature_tiles) * kSharedTile;
  const int first_feature = static_cast<int>(tile % p.feature_tiles) * kSharedTile;
  const int begin = slice * p.slice_rows, left = p.rows - begin;
  const int end = begin + (left < p.slice_rows ? left : p.slice_rows);
  const int64_t depth_pitch = p.depth_pitch(), pitch = p.feature_pitch();
  const float* const of_features = (is_encoder ? p.activation_gradients : p.activations) + first_feature;
  const auto features = [&](int row, int f) { return load4(of_features + row * pitch + f); };
  const uint32_t* const active = p.active + first_feature / kSharedTile;
  const auto matters = [&](int row) {
    const uint32_t bits = SharedTraining::active_bit(row % kSharedTile, 0) * 0xfu;  // any of the features
    return (active[row / kSharedTile * p.feature_tiles] & bits) != 0;
  };
  SharedSums sums;
  float* to;
  int64_t to_pitch;
  if (is_encoder) {
    multiply<false, false>(
        features, [&](int row, int i) { return centred_at(p, row, first_depth + i); }, matters, begin, end,
        shared, sums);
    to = p.encoder_gradients + (slice * pitch + first_feature) * depth_pitch + first_depth;
    to_pitch = depth_pitch;
  } else {
    const float* const residual = p.residual + first_depth;
    multiply<false, false>(
        [&](int row, int i) { return load4(residual + row * depth_pitch + i); }, features, matters, begin, end,
        shared, sums);
    to = p.decoder_gradients + (slice * depth_pitch + first_depth) * pitch + first_feature;
    to_pitch = pitch;
  }
  DSAE_UNROLL
  for (int r = 0; r < kSharedEach; ++r) {
    store4(
        to + (shared_row() + r) * to_pitch + shared_column(),
        {sums[r][0], sums[r][1], sums[r][2], sums[r][3]});
  }
}

// What is summed over all rows: bias_gradient, residual_sum and, by the last block, this epoch's loss.
__global__ void __launch_bounds__(kSharedThreads) shared_sums_kernel(const SharedTraining p, int64_t epoch) {
  DSAE_SHARED_MEMORY(memory);
  auto* const warp_sums = reinterpret_cast<double*>(memory);
  if (blockIdx.x < gridDim.x - 1) {
    int64_t column = static_cast<int64_t>(blockIdx.x) * kSharedThreads + threadIdx.x;
    const bool of_features = column < p.feature_pitch();
    if (!of_features) column -= p.feature_pitch();
    const int64_t pitch = of_features ? p.feature_pitch() : p.depth_pitch();
    if (column >= pitch) return;
    const float* const sums = of_features ? p.activation_gradient_sums : p.residual_sums;
    double sum = 0;
    for (int64_t tile = 0; tile < p.row_tiles; ++tile) sum += sums[tile * pitch + column];
    (of_features ? p.bias_gradient : p.residual_sum)[column] = static_cast<float>(sum);
    return;
  }
  double squared_error = 0, activation = 0;
  for (int64_t i = threadIdx.x; i < p.row_tiles * p.depth_tiles; i += kSharedThreads) {
    squared_error += p.squared_errors[i];
  }
  for (int64_t i = threadIdx.x; i < p.row_tiles * p.feature_tiles; i += kSharedThreads) {
    activation += p.activation_sums[i];
  }
  const double numbers = static_cast<double>(p.rows) * p.depth;
  const double loss =
      shared_block_sum(squared_error / numbers + p.sparsity * activation, warp_sums);
  if (threadIdx.x == 0) p.loss[epoch] = static_cast<float>(loss);
}

// All launches of a training in their order. launch(kernel, blocks, bytes of shared memory, arguments...)
// returns 0, or an error that ends it.
template <class Launch>
auto train_shared_in_order(SharedTraining p, int64_t step, int64_t epochs, double lr, const Launch& launch) {
  constexpr int64_t kTiles = sizeof(SharedTiles), kSums = sizeof(double) * kSharedWarps;
  const auto swap = [&] { std::swap(p.unit_encoder, p.next_unit_encoder); };
  const int64_t columns = p.feature_pitch() + p.depth_pitch();
  auto error = launch(shared_start_kernel, shared_step_blocks(p), kSums, p);
  swap();
  for (int64_t epoch = 0; epoch < epochs && !error; ++epoch) {
    error = launch(shared_encode_kernel, p.row_tiles * p.feature_tiles, kTiles, p);
    if (!error) error = launch(shared_rebuild_kernel, p.row_tiles * p.depth_tiles, kTiles, p);
    if (!error) error = launch(shared_backward_kernel, p.row_tiles * p.feature_tiles, kTiles, p);
    if (!error) error = launch(shared_learn_kernel, 2 * p.depth_tiles * p.feature_tiles * p.slices, kTiles, p);
    const int64_t sum_blocks = (columns + kSharedThreads - 1) / kSharedThreads + 1;
    if (!error) error = launch(shared_sums_kernel, sum_blocks, kSums, p, epoch);
    if (!error) {
      error = launch(shared_step_kernel, shared_step_blocks(p), kSums, p, adam_step(lr, step + epoch + 1));
    }
    swap();
  }
  return error;
}

}  // namespace dsae::cuda
