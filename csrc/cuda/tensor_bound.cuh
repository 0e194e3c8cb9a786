// How far the tensor cores' activations can be from those in float32.
//
// Tensor cores multiply halves, whose 11 significant bits cannot tell near winners apart. So their
// activations only decide which features can have a row's largest one; those few, most often a single one,
// are multiplied again in float32 in the order of the depth.
//
// The bound. For a row z and a feature of dictionary column a and bias b, let S = sum |z_k| |a_k|, D the depth
// padded to 16, u = 2^-24. The tensor cores' activation t and the float32 activation f differ by at most
//   (2^-10 + 2^-22) S  from rounding z and a to halves, to nearest: 2^-11 of each factor,
//   1.001 2^-25 D^(1/2) (|z| + |a|) + D 2^-50  and, of a factor below 2^-14, up to 2^-25;
//   D 2^-22 (S + |b|)  from the tensor cores' sums, which begin with the bias. Each mma adds up seventeen
//                      numbers; aligning them to the largest and cutting off loses less than 2^-23 of it each,
//                      and rounding the sum 2^-23 more (measured by Fasi et al. 2021, "Numerical behavior of
//                      NVIDIA tensor cores"; NVIDIA does not say): 18 2^-23 (S + |b|) for each of D / 16 mmas,
//                      where this allows 32;
//   D u S + u (S + |b|)  from the float32 sum, a rounding a term.
// By Cauchy and Schwarz S <= |z| |a|. With A and B the largest |a| and |b| of the head, and more to spare than
// the rounding of comparisons takes, this is below
//   e = (|z| + floor) radius + slack, radius = 1.02 (2^-10 + D 2^-21) (A + floor), slack = 1.02 D 2^-21 B,
//   floor = 2^-15 D^(1/2),
// where 1.02 also covers the rounding of norms and of e, and floor what halves, squares and products lose
// below the smallest normal number. A row of zeros has e = slack. So with T the largest t of a row, only
// features with t >= T - 2 e can have its largest activation, and none a positive one unless T > -e. A row
// with |z| from 2^15 on might be infinite in halves, and so might a head's dictionary with A from there on, whose
// rows of zeros then give NaN; a row whose e is not below 2^100 might overflow. These, NaN and infinity included,
// are multiplied in float32 entirely.
#pragma once

#include <cmath>

#include "cuda/tensor_block.cuh"

namespace dsae::cuda {

constexpr float kHalfError = 1.02f * 0x1p-10f, kSumError = 1.02f * 0x1p-21f;  // the second times the depth
constexpr float kLargestLength = 0x1p15f, kLargestBound = 0x1p100f;

// By the root of the depth.
__device__ inline float length_floor(int padded_depth) {
  return 0x1p-15f * near_root(static_cast<float>(padded_depth));
}

// NaN becomes infinity, and makes every row's bound infinite.
__device__ inline void raise(uint32_t& bits, float number) {
  atomicMax(&bits, bits_of_float(number < INFINITY ? number : INFINITY));
}

// What the bound needs of a feature.
template <class Block>
__device__ inline void measure_feature(const Block& b, int f, float bias) {
  const float sum_error = kSumError * static_cast<float>(b.sizes.padded_depth());
  float squares = 0.0f;
  for (int k = 0; k < b.sizes.depth; ++k) {
    const float number = b.dictionary[k * b.sizes.dictionary_pitch() + f];
    squares += number * number;
  }
  const float length = near_root(squares), floor = length_floor(b.sizes.padded_depth());
  raise(b.shared.radius, length < kLargestLength ? (kHalfError + sum_error) * (length + floor) : INFINITY);
  raise(b.shared.slack, sum_error * fabsf(bias));
}

// Features beyond the last one never win, and neither does one whose bias is -infinity: its numbers do not
// count, and are replaced by zeros, as some may be infinite in halves.
template <class Block>
__device__ inline void measure_features(const Block& b) {
  for (int f = thread_now(); f < b.sizes.chunks() * kChunkFeatures; f += kEncodeThreads) {
    const float bias = f < b.sizes.features ? b.p.bias[int64_t{b.shared.head} * b.p.features + f] : -INFINITY;
    b.biases[f] = bias;
    if (bias != -INFINITY) {
      measure_feature(b, f, bias);
    } else if (f < b.sizes.features) {
      for (int k = 0; k < b.sizes.depth; ++k) b.dictionary[k * b.sizes.dictionary_pitch() + f] = 0.0f;
    }
  }
}

template <class Block>
__device__ inline bool is_zero(const Block& b, const typename Block::Number* numbers) {
  DSAE_ROLLED
  for (int k = 0; k < b.sizes.depth; ++k) {
    if (to_float(numbers[k]) != 0.0f) return false;
  }
  return true;
}

// e of a row, from the squares of its numbers in four lanes.
template <class Block>
__device__ inline float bound_of(const Block& b, float squares, const typename Block::Number* numbers) {
  squares += __shfl_xor_sync(kAllLanes, squares, 1);
  squares += __shfl_xor_sync(kAllLanes, squares, 2);
  const float radius = float_of_bits(b.shared.radius), slack = float_of_bits(b.shared.slack);
  if (squares == 0.0f && radius < INFINITY && is_zero(b, numbers)) return slack;
  const float length = near_root(squares);
  return length < kLargestLength ? (length + length_floor(b.sizes.padded_depth())) * radius + slack : INFINITY;
}

}  // namespace dsae::cuda
