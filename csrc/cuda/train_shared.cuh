// train_shared on the GPU: a few launches an epoch. Its five matrix products are computed in tiles of 64 x 64,
// 256 threads a tile and 4 x 4 numbers a thread, with the next numbers on their way from global memory while
// the present ones are multiplied; what follows a product (offset, relu, errors, sums over rows) is done
// before it leaves the registers. Once the sparsity has set in, almost all activations are zero: products leave
// out 16 rows or features at a time that none is positive in. No atomics on numbers that round: sums over rows are added up a tile after another, and the
// gradients' a slice of rows after another, so every run gives the same numbers.
#pragma once

#include <cstdint>

#include "cuda/adam.cuh"
#include "cuda/device.cuh"
#include "cuda/train_shared.h"

namespace dsae::cuda {

constexpr int kSharedThreads = 256;
constexpr int kSharedWarps = kSharedThreads / 32;
constexpr int kSharedDepth = 16;                // numbers that a tile's rows and columns are multiplied by at once
constexpr int kSharedPitch = kSharedTile + 4;  // 16-byte writes of neighbouring rows meet different banks
constexpr int kSharedEach = 4;                 // rows, and columns, of a thread

// What a tile's rows or columns are multiplied by at once, the depth in rows.
using SharedStage = float[kSharedDepth * kSharedPitch];

// Two of them: one is written while the other is read.
struct SharedStages {
  SharedStage rows[2], columns[2];
};

// A block's shared memory while it multiplies.
struct alignas(16) SharedTiles {
  union {
    SharedStages stages;
    float sums[kSharedTile / kSharedEach * kSharedTile];  // by threads' rows, of each column
  };
  double warp_sums[kSharedWarps];
  uint32_t active;
};

// Where a thread's 4 x 4 numbers are in a tile: a warp has 16 rows and 32 columns.
__device__ inline int shared_row() { return (threadIdx.x / 64 * 4 + threadIdx.x % 32 / 8) * kSharedEach; }
__device__ inline int shared_column() {
  return (threadIdx.x / 32 % 2 * 8 + threadIdx.x % 8) * kSharedEach;
}

// The thread's share of one stage of an operand. from(i, j) gives four numbers from (i, j) on, neighbours
// along j. kAlongDepth: the tile's rows or columns run along i and the depth along j; else the other way round.
template <bool kAlongDepth, class From>
__device__ inline Four<float> fetch(const From& from, int depth) {
  if (kAlongDepth) return from(threadIdx.x / 4, depth + threadIdx.x % 4 * 4);
  return from(depth + threadIdx.x / 16, threadIdx.x % 16 * 4);
}

template <bool kAlongDepth>
__device__ inline void put(const Four<float>& numbers, float* stage) {
  if (kAlongDepth) {
    DSAE_UNROLL
    for (int i = 0; i < 4; ++i) {
      stage[(threadIdx.x % 4 * 4 + i) * kSharedPitch + threadIdx.x / 4] = numbers.at[i];
    }
  } else {
    auto* const to = stage + threadIdx.x / 16 * kSharedPitch + threadIdx.x % 16 * 4;
    *reinterpret_cast<Four<float>*>(to) = numbers;
  }
}

using SharedSums = float[kSharedEach][kSharedEach];

// sums[r][c] = the sum over the depth from `begin` to `end` of rows * columns, for this thread's part of the
// tile. What lies between `end` and the next multiple of kSharedDepth must be zero in rows or columns.
// matters(depth): whether the kSharedDepth from there on are to be taken at all; the same for all threads.
template <bool kRowsAlongDepth, bool kColumnsAlongDepth, class Rows, class Columns, class Matters>
__device__ inline void multiply(
    const Rows& rows, const Columns& columns, const Matters& matters, int begin, int end, SharedTiles& shared,
    SharedSums& sums) {
  const int row = shared_row(), column = shared_column();
  DSAE_UNROLL
  for (int r = 0; r < kSharedEach; ++r) {
    DSAE_UNROLL
    for (int c = 0; c < kSharedEach; ++c) sums[r][c] = 0.0f;
  }
  int depth = begin;
  while (depth < end && !matters(depth)) depth += kSharedDepth;
  if (depth >= end) return;
  Four<float> next_rows = fetch<kRowsAlongDepth>(rows, depth);
  Four<float> next_columns = fetch<kColumnsAlongDepth>(columns, depth);
  int stage = 0;
  while (depth < end) {
    put<kRowsAlongDepth>(next_rows, shared.stages.rows[stage]);
    put<kColumnsAlongDepth>(next_columns, shared.stages.columns[stage]);
    __syncthreads();  // this one suffices: who is here has read the other stage, which is written next
    do depth += kSharedDepth;
    while (depth < end && !matters(depth));
    if (depth < end) {
      next_rows = fetch<kRowsAlongDepth>(rows, depth);
      next_columns = fetch<kColumnsAlongDepth>(columns, depth);
    }
    DSAE_UNROLL
    for (int k = 0; k < kSharedDepth; ++k) {
      const Four<float> a = load4(shared.stages.rows[stage] + k * kSharedPitch + row);
      const Four<float> b = load4(shared.stages.columns[stage] + k * kSharedPitch + column);
      DSAE_UNROLL
      for (int r = 0; r < kSharedEach; ++r) {
        DSAE_UNROLL
        for (int c = 0; c < kSharedEach; ++c) sums[r][c] += a.at[r] * b.at[c];
      }
    }
    stage ^= 1;
  }
}

// Of products that leave nothing out.
struct AllMatter {
  __device__ bool operator()(int) const { return true; }
};

// sums[column] = the sum of a tile's columns over its rows, from the threads' own sums.
__device__ inline void sum_columns(const float (&of_thread)[kSharedEach], float* sums, SharedTiles& shared) {
  __syncthreads();  // before these replace what is still multiplied
  const int row = shared_row() / kSharedEach, column = shared_column();
  DSAE_UNROLL
  for (int c = 0; c < kSharedEach; ++c) shared.sums[row * kSharedTile + column + c] = of_thread[c];
  __syncthreads();
  if (threadIdx.x < kSharedTile) {
    float sum = 0.0f;
    for (int r = 0; r < kSharedTile / kSharedEach; ++r) sum += shared.sums[r * kSharedTile + threadIdx.x];
    sums[threadIdx.x] = sum;
  }
}

// A block's sum, the same in every run; all threads get it. The next one needs other memory, or a barrier.
template <class Number>
__device__ inline Number shared_block_sum(Number number, Number* warp_sums) {
  number = warp_sum(number);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = number;
  __syncthreads();
  Number sum = 0;
  for (int warp = 0; warp < kSharedWarps; ++warp) sum += warp_sums[warp];
  return sum;
}

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
