// The second half of an epoch of train_topk: for each feature, its gradient from the rows that chose it, in
// their order, and its step.
#pragma once

#include "cuda/adam.cuh"
#include "cuda/train_state.cuh"

namespace dsae::cuda {

// By a warp: the gradients of the loss by a feature's directions, for up to 64 numbers of them from `first`
// on, and by its bias. Only rows that chose it count. Four of them at a time, so that the waits for their
// numbers overlap.
template <class Block>
struct FeatureGradient {
  static constexpr int kAtOnce = 4, kEach = 2;  // numbers of a lane
  static constexpr int kNumbers = 32 * kEach;

  const Block& block;
  int first;
  int pending = 0, entries[kAtOnce] = {};  // of `chosen`, the last `pending` of them
  float encoder[kEach] = {}, decoder[kEach] = {}, of_bias = 0.0f;

  __device__ void add(int entry) {
    DSAE_UNROLL
    for (int n = 1; n < kAtOnce; ++n) entries[n - 1] = entries[n];
    entries[kAtOnce - 1] = entry;
    if (++pending == kAtOnce) take();
  }

  __device__ void take() {
    const TrainTopk& p = block.p;
    const TrainHead head = block.head();
    float activations[kAtOnce], gradients[kAtOnce];
    DSAE_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      const bool some = n >= kAtOnce - pending;
      const int entry = some ? entries[n] : entries[kAtOnce - 1];
      activations[n] = some ? head.activations[entry] * head.gradient_scale : 0.0f;
      gradients[n] = some ? head.gradients[entry] : 0.0f;
      entries[n] = p.k == 1 ? entry : entry / p.k;  // from here on its row
    }
    DSAE_UNROLL
    for (int n = 0; n < kAtOnce; ++n) of_bias += gradients[n];
    const int begin = first + thread_now() % 32;
    DSAE_UNROLL
    for (int m = 0; m < kEach; ++m) {
      const int i = begin + 32 * m;
      if (i < p.depth) take_number(i, activations, gradients, encoder[m], decoder[m]);
    }
    pending = 0;
  }

  __device__ void take_number(
      int i, const float (&activations)[kAtOnce], const float (&gradients)[kAtOnce], float& of_encoder,
      float& of_decoder) const {
    const TrainTopk& p = block.p;
    const TrainHead head = block.head();
    float errors[kAtOnce], numbers[kAtOnce];
    DSAE_UNROLL
    for (int n = 0; n < kAtOnce; ++n) errors[n] = head.errors[entries[n] * p.depth + i];
    const auto read = [&](const auto* x) {
      DSAE_UNROLL
      for (int n = 0; n < kAtOnce; ++n) numbers[n] = to_float(x[head.x + entries[n] * p.row_stride + i]);
    };
    with_type(p.x, read);
    DSAE_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      of_decoder += activations[n] * errors[n];
      of_encoder += gradients[n] * numbers[n];
    }
  }
};

// By a warp: both gradients of a feature, the decoder's behind the encoder's; returns that by its bias.
template <class Block>
__device__ inline float gather(const Block& block, int feature) {
  constexpr int kChunks = 4;  // of entries that are looked at together
  const TrainTopk& p = block.p;
  const int entries = p.rows * p.k;
  float of_bias = 0.0f;
  for (int first = 0; first < p.depth; first += FeatureGradient<Block>::kNumbers) {
    FeatureGradient<Block> gradient{block, first};
    const int lane = thread_now() % 32;
    const int32_t* const chosen = block.head().chosen;
    for (int begin = 0; begin < entries; begin += 32 * kChunks) {
      unsigned here = 0;  // a bit a chunk
      DSAE_UNROLL
      for (int c = 0; c < kChunks; ++c) {
        const int entry = begin + 32 * c + lane;
        here |= static_cast<unsigned>(entry < entries && chosen[entry] == feature) << c;
      }
      DSAE_ROLLED
      for (int c = 0; c < kChunks; ++c) {
        DSAE_ROLLED
        for (unsigned found = __ballot_sync(kAllLanes, here >> c & 1); found != 0; found &= found - 1) {
          gradient.add(begin + 32 * c + __ffs(static_cast<int>(found)) - 1);
        }
      }
    }
    if (gradient.pending != 0) gradient.take();
    of_bias = gradient.of_bias;
    float* const of_encoder = block.head().feature_gradients;
    DSAE_UNROLL
    for (int m = 0; m < FeatureGradient<Block>::kEach; ++m) {
      const int i = first + lane + 32 * m;
      if (i >= p.depth) break;
      of_encoder[i] = gradient.encoder[m];
      of_encoder[p.depth + i] = gradient.decoder[m];
    }
  }
  return of_bias;
}

// By a warp: Adam's step for some of a feature's weights, `first` on. Moments are read before any is written,
// so that the waits for them overlap.
__device__ inline void step_numbers(
    const TrainMatrix& matrix, int begin, int first, int depth, const float* gradient, float inverse,
    float along, float rate, float square_root_factor) {
  constexpr int kEach = 2;
  float mean[kEach], square[kEach];
  DSAE_UNROLL
  for (int m = 0; m < kEach; ++m) {
    const int i = first + 32 * m;
    mean[m] = i < depth ? matrix.mean[begin + i] : 0.0f;
    square[m] = i < depth ? matrix.square[begin + i] : 0.0f;
  }
  DSAE_UNROLL
  for (int m = 0; m < kEach; ++m) {
    const int i = first + 32 * m;
    if (i >= depth) break;
    float& weight = matrix.weights[begin + i];
    const float turning = (gradient[i] - along * (weight * inverse)) * inverse;
    adam(turning, rate, square_root_factor, weight, mean[m], square[m]);
    matrix.mean[begin + i] = mean[m];
    matrix.square[begin + i] = square[m];
  }
}

// By a warp: Adam's step for a feature's weights. The gradient is by its direction: changing the weights'
// length changes nothing, and the longer they are, the less a change turns them.
template <class Block>
__device__ inline void step(const Block& block, const TrainMatrix& matrix, int feature, const float* gradient) {
  const TrainTopk& p = block.p;
  const int lane = thread_now() % 32, begin = feature * train_pitch(p.depth);
  const float rate = block.shared().rate, square_root_factor = block.shared().square_root_factor;
  const float inverse = matrix.inverse[feature];
  float along = 0.0f;
  for (int i = lane; i < p.depth; i += 32) along += matrix.weights[begin + i] * inverse * gradient[i];
  along = warp_sum(along);
  DSAE_ROLLED
  for (int first = lane; first < p.depth; first += 64) {
    step_numbers(matrix, begin, first, p.depth, gradient, inverse, along, rate, square_root_factor);
  }
  measure(p, matrix, feature);
}

template <class Block>
__device__ inline void step_bias(const Block& block, int feature, float gradient) {
  if (thread_now() % 32 != 0) return;
  const TrainState state = block.state();
  adam(
      gradient, block.shared().rate, block.shared().square_root_factor, state.bias[feature],
      state.bias_mean[feature], state.bias_square[feature]);
}

// By a warp: everything of a feature. All its lanes have the same gradient of the bias.
template <class Block>
__device__ inline void step_feature(const Block& block, int f) {
  step_bias(block, f, gather(block, f));
  step(block, block.state().encoder, f, block.head().feature_gradients);
  step(block, block.state().decoder, f, block.head().feature_gradients + block.p.depth);
}

}  // namespace dsae::cuda
