// What a block of train_topk works with: its shared memory, and a head's parameters with Adam's moments. The
// parameters are in shared memory where they fit. The moments, which only a step reads and writes, are in
// global memory, so that two blocks find room on a processor.
#pragma once

#include "cuda/device.cuh"
#include "cuda/tensor_cores.cuh"
#include "cuda/train_topk.h"

namespace dsae::cuda {

constexpr int kTrainThreads = 512;
constexpr int kTrainWarps = kTrainThreads / 32;
constexpr int kTrainFeatures = 64;  // of a tile
constexpr int kTrainDepth = 64;     // of a tile
constexpr int kRebuildLanes = 16;   // that share a row while it is reconstructed
constexpr int kTrainRowPitch = kTrainDepth + 4;  // 16-byte reads of neighbouring rows meet different banks

// A block's shared memory without the parameters; kRowsEach: rows of a thread.
template <int kRowsEach>
struct alignas(16) TrainShared {
  static constexpr int kRows = 32 * kRowsEach;
  static constexpr int kPitch = kRows + 4;  // a warp's writes, and choose's reads, meet different banks
  static constexpr int kNumbers =
      kRows * kTrainRowPitch > kTrainFeatures * kPitch ? kRows * kTrainRowPitch : kTrainFeatures * kPitch;
  union {
    float rows[kRows * kTrainRowPitch];          // a tile of x
    float activations[kTrainFeatures * kPitch];  // of that tile, before relu; a feature a row
    float feature_gradients[kNumbers];           // [warps][2][depth], where there is room
  };
  double sums[kTrainWarps];
  double squared_errors[kTrainThreads / kRebuildLanes];  // of the lanes that share a row
  double beta1_power, beta2_power;  // of Adam, by epochs
  float rate, square_root_factor;  // of Adam's next step
  float gradient_scale;            // the derivative of the loss by a reconstruction, over the error
  int64_t head;                    // that is trained
};

// A feature's direction, a row of its matrix, takes this many floats: whole 16-byte reads, and those of
// neighbouring features meet different banks.
DSAE_HOST_DEVICE inline int32_t train_pitch(int32_t depth) { return ((depth + 3) / 4 | 1) * 4; }

// One matrix of parameters with Adam's moments, a feature a row, zeros beyond the depth.
struct TrainMatrix {
  float* weights;        // [features][pitch]
  float *mean, *square;  // [features][pitch]: Adam's, in global memory
  float* inverse;        // [features]: 1 / length of the weights
};

struct TrainState {
  TrainMatrix encoder, decoder;
  float *bias, *bias_mean, *bias_square;  // [features]
  float* values;                          // [k][rows of a tile]: the strongest activations, descending
  int32_t* names;                         // [k][rows of a tile]: their features, -1 where too few
};

DSAE_HOST_DEVICE inline int64_t train_state_floats(int64_t features, int64_t pitch, int64_t k, int64_t rows) {
  return (2 * features * pitch + 5 * features + 2 * k * rows + 3) / 4 * 4;
}

DSAE_HOST_DEVICE inline int64_t train_moment_floats(int64_t features, int64_t pitch) {
  return 4 * features * pitch;
}

__device__ inline TrainState train_state(
    const TrainTopk& p, int pitch, int tile_rows, float* memory, float* moments) {
  const int matrix = p.features * pitch;
  float* free = memory + 2 * matrix;
  const auto take = [&](int size) {
    float* const taken = free;
    free += size;
    return taken;
  };
  const TrainMatrix encoder{memory, moments, moments + matrix, take(p.features)};
  const TrainMatrix decoder{memory + matrix, moments + 2 * matrix, moments + 3 * matrix, take(p.features)};
  float *const bias = take(p.features), *const mean = take(p.features), *const square = take(p.features);
  float* const values = take(p.k * tile_rows);
  return {encoder, decoder, bias, mean, square, values, reinterpret_cast<int32_t*>(take(p.k * tile_rows))};
}

// What a block works on: a head, and its own scratch memory.
struct TrainHead {
  int64_t x;  // where the head's rows begin
  float *errors, *activations, *gradients, *feature_gradients;  // the last ones of this warp
  int32_t* chosen;
  float gradient_scale;
};

// Where everything of a block is: worked out anew at every call, as registers are scarce.
template <int kRowsEach, bool kStateIsShared>
struct TrainBlock {
  using Shared = TrainShared<kRowsEach>;

  const TrainTopk& p;
  unsigned char* const memory;

  __device__ Shared& shared() const { return *reinterpret_cast<Shared*>(memory + nothing_now()); }

  // The parameters are in shared memory, or in a block's own part of p.states, behind Adam's moments.
  __device__ TrainState state() const {
    const int64_t pitch = train_pitch(p.depth + nothing_now());
    const int64_t moments = train_moment_floats(p.features, pitch);
    const int64_t parameters = train_state_floats(p.features, pitch, p.k, Shared::kRows);
    float* const states = p.states + block_now() * (moments + (kStateIsShared ? 0 : parameters));
    auto* const here = reinterpret_cast<float*>(memory + nothing_now() + sizeof(Shared));
    return train_state(p, pitch, Shared::kRows, kStateIsShared ? here : states + moments, states);
  }

  __device__ TrainHead head() const {
    const int64_t block = block_now(), rows = block * p.rows;
    const int of_warp = 2 * p.depth, warp = thread_now() / 32;
    Shared& here = shared();
    float* const gradients = kTrainWarps * of_warp <= Shared::kNumbers
                                 ? here.feature_gradients
                                 : p.feature_gradients + block * kTrainWarps * of_warp;
    return {here.head * p.head_stride, p.errors + rows * p.depth, p.activations + rows * p.k,
            p.gradients + rows * p.k,  gradients + warp * of_warp, p.chosen + rows * p.k,
            here.gradient_scale};
  }
};

template <class Block>
__device__ inline void load_parameters(const Block& block, int64_t head) {
  const TrainTopk& p = block.p;
  const TrainState state = block.state();
  const int pitch = train_pitch(p.depth), size = p.features * pitch;
  for (int i = thread_now(); i < size; i += kTrainThreads) {
    const int f = i % p.features, at = i / p.features;  // neighbours read neighbours
    const int64_t from = (head * p.depth + at) * p.features + f;
    const int to = f * pitch + at;
    state.encoder.weights[to] = at < p.depth ? p.encoder[from] : 0.0f;
    state.decoder.weights[to] = at < p.depth ? p.decoder[from] : 0.0f;
  }
  for (int i = thread_now(); i < size; i += kTrainThreads) {
    state.encoder.mean[i] = state.encoder.square[i] = state.decoder.mean[i] = state.decoder.square[i] = 0.0f;
  }
  for (int f = thread_now(); f < p.features; f += kTrainThreads) {
    state.bias[f] = p.bias[head * p.features + f];
    state.bias_mean[f] = state.bias_square[f] = 0.0f;
  }
}

template <class Block>
__device__ inline void save_parameters(const Block& block, int64_t head) {
  const TrainTopk& p = block.p;
  const TrainState state = block.state();
  const int pitch = train_pitch(p.depth);
  for (int i = thread_now(); i < p.features * p.depth; i += kTrainThreads) {
    const int f = i % p.features, from = f * pitch + i / p.features;
    const int64_t to = head * p.features * p.depth + i;
    p.trained_encoder[to] = state.encoder.weights[from] * state.encoder.inverse[f];
    p.trained_decoder[to] = state.decoder.weights[from] * state.decoder.inverse[f];
  }
  for (int f = thread_now(); f < p.features; f += kTrainThreads) {
    p.trained_bias[head * p.features + f] = state.bias[f];
  }
}

// By a warp: the inverse of the length of a feature's weights.
__device__ inline void measure(const TrainTopk& p, const TrainMatrix& matrix, int feature) {
  const float* const weights = matrix.weights + feature * train_pitch(p.depth);
  float sum = 0.0f;
  for (int i = thread_now() % 32; i < p.depth; i += 32) sum += weights[i] * weights[i];
  const float length = sqrtf(warp_sum(sum));
  if (thread_now() % 32 == 0) {
    matrix.inverse[feature] = 1.0f / (length > kSmallestLength ? length : kSmallestLength);
  }
}

// Calls with the numbers' pointer, of its type: asked for once, so that reads overlap.
template <class Call>
__device__ inline void with_type(const FloatArray& x, const Call& call) {
  switch (x.type) {
    case FloatType::float16:
      return call(static_cast<const Float16*>(x.data));
    case FloatType::bfloat16:
      return call(static_cast<const Bfloat16*>(x.data));
    default:
      return call(static_cast<const float*>(x.data));
  }
}

// to[n] = x[from + n * stride], n < count; zeros beyond.
template <int kMost>
__device__ inline void read_x(
    const FloatArray& x, int64_t from, int64_t stride, int count, float (&to)[kMost]) {
  with_type(x, [&](const auto* numbers) {
    DSAE_UNROLL
    for (int n = 0; n < kMost; ++n) to[n] = n < count ? to_float(numbers[from + n * stride]) : 0.0f;
  });
}

}  // namespace dsae::cuda
