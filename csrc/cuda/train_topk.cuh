// train_topk on the GPU: a block trains one head, all epochs, with the weights and Adam's moments in shared
// memory where they fit. An epoch: for a tile of rows at a time, the activations, the k strongest of each row,
// the reconstruction and its error; then, for each feature, its gradient from the rows that chose it, in their
// order, and its step. No atomics: every run gives the same numbers.
#pragma once

#include <cmath>

#include "cuda/adam.cuh"
#include "cuda/device.cuh"
#include "cuda/train_topk.h"

namespace dsae::cuda {

constexpr int kTrainThreads = 512;
constexpr int kTrainWarps = kTrainThreads / 32;
constexpr int kTrainFeatures = 64;  // of a tile
constexpr int kTrainDepth = 32;     // of a tile
constexpr int kTrainRowPitch = kTrainDepth + 4;  // 16-byte reads of neighbouring rows meet different banks

// A block's shared memory without the state; kRowsEach: rows of a thread.
template <int kRowsEach>
struct alignas(16) TrainShared {
  static constexpr int kRows = 32 * kRowsEach;
  static constexpr int kPitch = kRows + 4;  // a warp's writes meet different banks
  union {
    float rows[kRows * kTrainRowPitch];           // a tile of x
    float activations[kTrainFeatures * kPitch];  // of that tile, before relu; a feature a row
  };
  double sums[kTrainWarps];
  float rate, square_root_factor;  // of Adam's next step
};

// A feature's direction, a row of its matrix, takes this many floats: whole 16-byte reads, and those of
// neighbouring features meet different banks.
DSAE_HOST_DEVICE inline int32_t train_pitch(int32_t depth) { return ((depth + 3) / 4 | 1) * 4; }

// One matrix of parameters with Adam's moments, a feature a row, zeros beyond the depth.
struct TrainMatrix {
  float *weights, *mean, *square;  // [features][pitch]
  float* inverse;                  // [features]: 1 / length of the weights
};

struct TrainState {
  TrainMatrix encoder, decoder;
  float *bias, *bias_mean, *bias_square;  // [features]
  float* values;                          // [k][rows of a tile]: the strongest activations, descending
  int32_t* names;                         // [k][rows of a tile]: their features, -1 where too few
};

DSAE_HOST_DEVICE inline int64_t train_state_floats(int64_t features, int64_t pitch, int64_t k, int64_t rows) {
  return (6 * features * pitch + 5 * features + 2 * k * rows + 3) / 4 * 4;
}

__device__ inline TrainState train_state(const TrainTopk& p, int tile_rows, float* memory) {
  const int matrix = p.features * train_pitch(p.depth);
  float* free = memory + 6 * matrix;
  const auto take = [&](int size) {
    float* const taken = free;
    free += size;
    return taken;
  };
  const TrainMatrix encoder{memory, memory + matrix, memory + 2 * matrix, take(p.features)};
  const TrainMatrix decoder{memory + 3 * matrix, memory + 4 * matrix, memory + 5 * matrix, take(p.features)};
  float *const bias = take(p.features), *const mean = take(p.features), *const square = take(p.features);
  float* const values = take(p.k * tile_rows);
  return {encoder, decoder, bias, mean, square, values, reinterpret_cast<int32_t*>(take(p.k * tile_rows))};
}

// What a block works on: a head, and its own scratch memory.
struct TrainHead {
  int64_t x;  // where the head's rows begin
  float *errors, *activations, *gradients, *feature_gradients;
  int32_t* chosen;
  float gradient_scale;  // the derivative of the loss by a reconstruction, over the error
};

// A block's sum, the same in every run; all threads get it. Callers have a barrier before the next one.
__device__ inline double block_sum(double number, double* sums) {
  number = warp_sum(number);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = number;
  __syncthreads();
  double sum = 0;
  for (int warp = 0; warp < kTrainWarps; ++warp) sum += sums[warp];
  return sum;
}

__device__ inline void load_parameters(const TrainTopk& p, int64_t head, const TrainState& state) {
  const int pitch = train_pitch(p.depth), size = p.features * pitch;
  for (int i = threadIdx.x; i < size; i += kTrainThreads) {
    const int f = i % p.features, at = i / p.features;  // neighbours read neighbours
    const int64_t from = (head * p.depth + at) * p.features + f;
    const int to = f * pitch + at;
    state.encoder.weights[to] = at < p.depth ? p.encoder[from] : 0.0f;
    state.decoder.weights[to] = at < p.depth ? p.decoder[from] : 0.0f;
    state.encoder.mean[to] = state.encoder.square[to] = 0.0f;
    state.decoder.mean[to] = state.decoder.square[to] = 0.0f;
  }
  for (int f = threadIdx.x; f < p.features; f += kTrainThreads) {
    state.bias[f] = p.bias[head * p.features + f];
    state.bias_mean[f] = state.bias_square[f] = 0.0f;
  }
}

__device__ inline void save_parameters(const TrainTopk& p, int64_t head, const TrainState& state) {
  const int pitch = train_pitch(p.depth);
  for (int i = threadIdx.x; i < p.features * p.depth; i += kTrainThreads) {
    const int f = i % p.features, from = f * pitch + i / p.features;
    const int64_t to = head * p.features * p.depth + i;
    p.trained_encoder[to] = state.encoder.weights[from] * state.encoder.inverse[f];
    p.trained_decoder[to] = state.decoder.weights[from] * state.decoder.inverse[f];
  }
  for (int f = threadIdx.x; f < p.features; f += kTrainThreads) {
    p.trained_bias[head * p.features + f] = state.bias[f];
  }
}

// By a warp: the inverse of the length of a feature's weights.
__device__ inline void measure(const TrainTopk& p, const TrainMatrix& matrix, int feature) {
  const float* const weights = matrix.weights + feature * train_pitch(p.depth);
  float sum = 0.0f;
  for (int i = threadIdx.x % 32; i < p.depth; i += 32) sum += weights[i] * weights[i];
  const float length = sqrtf(warp_sum(sum));
  if (threadIdx.x % 32 == 0) {
    matrix.inverse[feature] = 1.0f / (length > kSmallestLength ? length : kSmallestLength);
  }
}

// rows[r][i] = x[first + r][depth + i], zeros beyond the rows and the depth.
template <int kRowsEach>
__device__ inline void load_x(
    const TrainTopk& p, const TrainHead& head, int first, int depth, TrainShared<kRowsEach>& shared) {
  const int i = threadIdx.x % kTrainDepth;
  DSAE_UNROLL
  for (int n = 0; n < TrainShared<kRowsEach>::kRows / (kTrainThreads / kTrainDepth); ++n) {
    const int row = threadIdx.x / kTrainDepth + n * (kTrainThreads / kTrainDepth);
    const bool inside = first + row < p.rows && depth + i < p.depth;
    shared.rows[row * kTrainRowPitch + i] =
        inside ? p.x.at(head.x + (first + row) * p.row_stride + depth + i) : 0.0f;
  }
}

// activations[f][r] of a tile of rows and features, before relu. 16 warps share the tile, 8 along the rows and
// 2 along the features; in a warp, neighbouring lanes have neighbouring features.
template <int kRowsEach>
__device__ inline void activate(
    const TrainTopk& p, const TrainHead& head, const TrainState& state, int first_row, int first_feature,
    TrainShared<kRowsEach>& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pitch = train_pitch(p.depth);
  const int row = warp % 8 * 4 * kRowsEach + lane / 8, feature = warp / 8 * 32 + lane % 8;
  const float* weights[4];
  DSAE_UNROLL
  for (int j = 0; j < 4; ++j) {  // features that the last tile lacks are read from the last one there is
    const int f = first_feature + feature + 8 * j;
    weights[j] = state.encoder.weights + (f < p.features ? f : p.features - 1) * pitch;
  }
  float sums[kRowsEach][4];
  DSAE_UNROLL
  for (int i = 0; i < kRowsEach; ++i) {
    DSAE_UNROLL
    for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
  }
  for (int depth = 0; depth < p.depth; depth += kTrainDepth) {
    load_x(p, head, first_row, depth, shared);
    __syncthreads();
    const int size = p.depth - depth < kTrainDepth ? p.depth - depth : kTrainDepth;
    for (int k = 0; k < size; k += 4) {
      Four<float> rows[kRowsEach], features[4];
      DSAE_UNROLL
      for (int i = 0; i < kRowsEach; ++i) rows[i] = load4(shared.rows + (row + 4 * i) * kTrainRowPitch + k);
      DSAE_UNROLL
      for (int j = 0; j < 4; ++j) features[j] = load4(weights[j] + depth + k);
      DSAE_UNROLL
      for (int step = 0; step < 4; ++step) {
        DSAE_UNROLL
        for (int i = 0; i < kRowsEach; ++i) {
          DSAE_UNROLL
          for (int j = 0; j < 4; ++j) sums[i][j] += rows[i].at[step] * features[j].at[step];
        }
      }
    }
    __syncthreads();  // before the next rows, or the activations, replace these
  }
  DSAE_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int f = feature + 8 * j;
    if (first_feature + f >= p.features) break;
    const float inverse = state.encoder.inverse[first_feature + f], bias = state.bias[first_feature + f];
    DSAE_UNROLL
    for (int i = 0; i < kRowsEach; ++i) {
      shared.activations[f * TrainShared<kRowsEach>::kPitch + row + 4 * i] = sums[i][j] * inverse + bias;
    }
  }
}

// By one thread a row: enters a tile's activations into the row's k strongest. They pass only those they are
// greater than: so among equals the lowest feature stays first, and zeros, negative numbers and NaN never
// enter.
template <int kRowsEach>
__device__ inline void choose(
    const TrainTopk& p, const TrainState& state, int first_feature, const TrainShared<kRowsEach>& shared) {
  constexpr int kRows = TrainShared<kRowsEach>::kRows;
  const int row = threadIdx.x, left = p.features - first_feature;
  const int size = left < kTrainFeatures ? left : kTrainFeatures;
  float* const values = state.values + row;
  int32_t* const names = state.names + row;
  float weakest = values[(p.k - 1) * kRows];
  for (int f = 0; f < size; ++f) {
    float activation = shared.activations[f * TrainShared<kRowsEach>::kPitch + row];
    if (!(activation > weakest)) continue;
    int32_t name = first_feature + f;
    for (int i = 0; i < p.k; ++i) {
      const float value = values[i * kRows];
      if (!(activation > value)) continue;
      const int32_t other = names[i * kRows];
      values[i * kRows] = activation;
      names[i * kRows] = name;
      activation = value;
      name = other;
    }
    weakest = values[(p.k - 1) * kRows];
  }
}

// By a warp: reconstructs a row from its chosen features. Returns the squared error.
__device__ inline float reconstruct(
    const TrainTopk& p, const TrainHead& head, const TrainState& state, int tile_rows, int row, int in_tile) {
  const int lane = threadIdx.x % 32, pitch = train_pitch(p.depth);
  const float* const values = state.values + in_tile;
  const int32_t* const names = state.names + in_tile;
  float* const errors = head.errors + row * p.depth;  // each number read by the lane that wrote it
  float squared_error = 0.0f;
  for (int i = lane; i < p.depth; i += 32) {
    float error = -p.x.at(head.x + row * p.row_stride + i);
    for (int n = 0; n < p.k && names[n * tile_rows] >= 0; ++n) {
      const int f = names[n * tile_rows];
      error += values[n * tile_rows] * (state.decoder.weights[f * pitch + i] * state.decoder.inverse[f]);
    }
    errors[i] = error;
    squared_error += error * error;
  }
  for (int n = 0; n < p.k; ++n) {
    const int f = names[n * tile_rows];
    float gradient = 0.0f;
    if (f >= 0) {
      for (int i = lane; i < p.depth; i += 32) gradient += errors[i] * state.decoder.weights[f * pitch + i];
      gradient = warp_sum(gradient) * state.decoder.inverse[f] * head.gradient_scale;
    }
    if (lane == 0) {
      head.chosen[row * p.k + n] = f;
      head.activations[row * p.k + n] = values[n * tile_rows];
      head.gradients[row * p.k + n] = gradient;
    }
  }
  return warp_sum(squared_error);
}

// By a warp: the gradients of the loss by a feature's directions, and by its bias, which is returned. Only
// rows that chose it count. Four of them at a time, so that the waits for their numbers overlap.
__device__ inline float gather(const TrainTopk& p, const TrainHead& head, int feature, float* of_encoder) {
  constexpr int kAtOnce = 4, kEach = 4;  // numbers of a lane
  const int lane = threadIdx.x % 32, entries = p.rows * p.k;
  float* const of_decoder = of_encoder + p.depth;
  float of_bias = 0.0f;
  for (int first = 0; first < p.depth; first += 32 * kEach) {
    float encoder[kEach] = {}, decoder[kEach] = {};
    of_bias = 0.0f;
    for (int begin = 0; begin < entries; begin += 32) {
      const bool is_here = begin + lane < entries && head.chosen[begin + lane] == feature;
      for (unsigned found = __ballot_sync(kAllLanes, is_here); found != 0;) {
        float activations[kAtOnce], gradients[kAtOnce];
        int rows[kAtOnce];
        int entry = begin + __ffs(static_cast<int>(found)) - 1;
        DSAE_UNROLL
        for (int n = 0; n < kAtOnce; ++n) {
          const bool some = found != 0;
          if (some) entry = begin + __ffs(static_cast<int>(found)) - 1;
          found &= found - 1;
          rows[n] = entry / p.k;
          activations[n] = some ? head.activations[entry] * head.gradient_scale : 0.0f;
          gradients[n] = some ? head.gradients[entry] : 0.0f;
          of_bias += gradients[n];
        }
        DSAE_UNROLL
        for (int m = 0; m < kEach; ++m) {
          const int i = first + lane + 32 * m;
          if (i >= p.depth) break;
          DSAE_UNROLL
          for (int n = 0; n < kAtOnce; ++n) {
            decoder[m] += activations[n] * head.errors[rows[n] * p.depth + i];
            encoder[m] += gradients[n] * p.x.at(head.x + rows[n] * p.row_stride + i);
          }
        }
      }
    }
    DSAE_UNROLL
    for (int m = 0; m < kEach; ++m) {
      const int i = first + lane + 32 * m;
      if (i >= p.depth) break;
      of_encoder[i] = encoder[m];
      of_decoder[i] = decoder[m];
    }
  }
  return of_bias;
}

// By a warp: Adam's step for a feature's weights. The gradient is by its direction: changing the weights'
// length changes nothing, and the longer they are, the less a change turns them.
__device__ inline void step(
    const TrainTopk& p, const TrainMatrix& matrix, int feature, const float* gradient, float rate,
    float square_root_factor) {
  const int lane = threadIdx.x % 32, begin = feature * train_pitch(p.depth);
  const float inverse = matrix.inverse[feature];
  float along = 0.0f;
  for (int i = lane; i < p.depth; i += 32) along += matrix.weights[begin + i] * inverse * gradient[i];
  along = warp_sum(along);
  for (int i = lane; i < p.depth; i += 32) {
    const float turning = (gradient[i] - along * (matrix.weights[begin + i] * inverse)) * inverse;
    adam(
        turning, rate, square_root_factor, matrix.weights[begin + i], matrix.mean[begin + i],
        matrix.square[begin + i]);
  }
  measure(p, matrix, feature);
}

// One pass over the rows: errors and chosen features of all of them. Returns this warp's share of the squared
// error.
template <int kRowsEach>
__device__ inline double learn_rows(
    const TrainTopk& p, const TrainHead& head, const TrainState& state, TrainShared<kRowsEach>& shared) {
  constexpr int kRows = TrainShared<kRowsEach>::kRows;
  double squared_error = 0;
  for (int first = 0; first < p.rows; first += kRows) {
    for (int i = threadIdx.x; i < p.k * kRows; i += kTrainThreads) {
      state.values[i] = 0.0f;
      state.names[i] = -1;
    }
    for (int feature = 0; feature < p.features; feature += kTrainFeatures) {
      activate(p, head, state, first, feature, shared);
      __syncthreads();
      if (threadIdx.x < kRows) choose(p, state, feature, shared);
      __syncthreads();
    }
    for (int row = threadIdx.x / 32; row < kRows && first + row < p.rows; row += kTrainWarps) {
      squared_error += reconstruct(p, head, state, kRows, first + row, row);
    }
    __syncthreads();  // before the next tile's strongest replace these, and before features are stepped
  }
  return squared_error;
}

// With the state in shared memory, or in a block's own part of p.states.
template <int kRowsEach, bool kStateIsShared>
__global__ void __launch_bounds__(kTrainThreads, 1) train_topk_kernel(const TrainTopk p) {
  DSAE_SHARED_MEMORY(memory);
  constexpr int kRows = TrainShared<kRowsEach>::kRows;
  auto& shared = *reinterpret_cast<TrainShared<kRowsEach>*>(memory);
  const int64_t block = blockIdx.x;
  const int64_t state_floats = train_state_floats(p.features, train_pitch(p.depth), p.k, kRows);
  const TrainState state = train_state(
      p, kRows,
      kStateIsShared ? reinterpret_cast<float*>(memory + sizeof shared) : p.states + block * state_floats);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const double square_sum = *p.square_sum;
  const double whole = square_sum > 0 ? square_sum : static_cast<double>(p.heads) * p.rows;
  float* const gradients_of_warp = p.feature_gradients + (block * kTrainWarps + warp) * 2 * p.depth;

  for (int64_t h = block; h < p.heads; h += gridDim.x) {
    const TrainHead head{
        h * p.head_stride,
        p.errors + block * p.rows * p.depth,
        p.activations + block * p.rows * p.k,
        p.gradients + block * p.rows * p.k,
        gradients_of_warp,
        p.chosen + block * p.rows * p.k,
        static_cast<float>(2.0 / whole)};
    load_parameters(p, h, state);
    __syncthreads();
    for (int f = warp; f < p.features; f += kTrainWarps) {
      measure(p, state.encoder, f);
      measure(p, state.decoder, f);
    }
    __syncthreads();
    double beta1_power = 1, beta2_power = 1;
    for (int epoch = 0; epoch < p.epochs; ++epoch) {
      beta1_power *= kAdamBeta1;
      beta2_power *= kAdamBeta2;
      if (threadIdx.x == 0) {
        shared.rate = static_cast<float>(p.lr / (1 - beta1_power));
        shared.square_root_factor = static_cast<float>(1 / std::sqrt(1 - beta2_power));
      }
      const double squared_error = learn_rows(p, head, state, shared);
      const double of_block = block_sum(lane == 0 ? squared_error : 0.0, shared.sums);
      if (threadIdx.x == 0) p.squared_errors[epoch * p.heads + h] = of_block;
      for (int f = warp; f < p.features; f += kTrainWarps) {
        const float of_bias = gather(p, head, f, head.feature_gradients);
        step(p, state.encoder, f, head.feature_gradients, shared.rate, shared.square_root_factor);
        step(p, state.decoder, f, head.feature_gradients + p.depth, shared.rate, shared.square_root_factor);
        if (lane == 0) {
          adam(
              of_bias, shared.rate, shared.square_root_factor, state.bias[f], state.bias_mean[f],
              state.bias_square[f]);
        }
      }
      __syncthreads();
    }
    save_parameters(p, h, state);
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
  const double whole = *p.square_sum > 0 ? *p.square_sum : static_cast<double>(p.heads) * p.rows;
  if (threadIdx.x == 0) p.loss[epoch] = static_cast<float>(sum / whole);
}

}  // namespace dsae::cuda
