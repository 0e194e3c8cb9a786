// encode_codes on the GPU: a block multiplies a tile of one head's rows with the head's dictionary, 64
// features after another, and keeps for each row the largest activation and its feature; activations exist in
// registers only. Products are added up in float32 in the order of the depth, as on the CPU.
#pragma once

#include "cuda/device.cuh"
#include "cuda/encode_codes.h"

namespace dsae::cuda {

constexpr int kEncodeThreads = 256;
constexpr int kEncodeLanes = 16;     // threads that share a row, each with 4 features of a tile
constexpr int kEncodeFeatures = 64;  // of a tile
constexpr int kEncodeDepth = 32;     // of a tile
constexpr int kEncodeRowPitch = kEncodeDepth + 4;  // 16-byte reads of neighbouring rows meet different banks

// A block's shared memory; kRowsEach: rows of a thread.
template <int kRowsEach>
struct alignas(16) EncodeShared {
  static constexpr int kRows = kRowsEach * kEncodeThreads / kEncodeLanes;
  float rows[kRows * kEncodeRowPitch];
  float dictionary[kEncodeDepth * kEncodeFeatures];
  int64_t offsets[kRows];  // where a row begins in z
};

// Rows are (example, position)s; 32-bit division is several times faster.
__device__ inline int64_t z_offset(const EncodeCodes& p, int64_t row, int64_t head) {
  const uint32_t example = static_cast<uint32_t>(row) / static_cast<uint32_t>(p.positions);
  const uint32_t position = static_cast<uint32_t>(row) % static_cast<uint32_t>(p.positions);
  return example * p.z_strides[0] + position * p.z_strides[1] + head * p.z_strides[2];
}

__device__ inline bool is_left_out(const EncodeCodes& p, int64_t row) {
  if (!p.mask) return false;
  const uint32_t example = static_cast<uint32_t>(row) / static_cast<uint32_t>(p.positions);
  const uint32_t position = static_cast<uint32_t>(row) % static_cast<uint32_t>(p.positions);
  return !p.mask[example * p.mask_strides[0] + position * p.mask_strides[1]];
}

// rows[r][k] = z[row r][depth + k], zeros beyond the depth. A warp reads neighbouring numbers of a row.
template <int kRowsEach, class Number>
__device__ inline void load_rows(
    const EncodeCodes& p, const Number* z, int64_t depth, EncodeShared<kRowsEach>& shared) {
  const int k = threadIdx.x % kEncodeDepth;
  const bool inside = depth + k < p.depth;
  DSAE_UNROLL
  for (int i = 0; i < EncodeShared<kRowsEach>::kRows / (kEncodeThreads / kEncodeDepth); ++i) {
    const int row = threadIdx.x / kEncodeDepth + i * (kEncodeThreads / kEncodeDepth);
    shared.rows[row * kEncodeRowPitch + k] = inside ? to_float(z[shared.offsets[row] + depth + k]) : 0.0f;
  }
}

template <int kRowsEach>
__device__ inline void load_rows(const EncodeCodes& p, int64_t depth, EncodeShared<kRowsEach>& shared) {
  switch (p.z.type) {
    case FloatType::float16:
      return load_rows(p, static_cast<const Float16*>(p.z.data), depth, shared);
    case FloatType::bfloat16:
      return load_rows(p, static_cast<const Bfloat16*>(p.z.data), depth, shared);
    default:
      return load_rows(p, static_cast<const float*>(p.z.data), depth, shared);
  }
}

// dictionary[k][f] = the head's dictionary at [depth + k][feature + f], zeros beyond it.
template <int kRowsEach>
__device__ inline void load_dictionary(
    const EncodeCodes& p, int64_t head, int64_t depth, int64_t feature, EncodeShared<kRowsEach>& shared) {
  const int f = threadIdx.x % kEncodeFeatures;
  DSAE_UNROLL
  for (int i = 0; i < kEncodeDepth / (kEncodeThreads / kEncodeFeatures); ++i) {
    const int k = threadIdx.x / kEncodeFeatures + i * (kEncodeThreads / kEncodeFeatures);
    const bool inside = depth + k < p.depth && feature + f < p.features;
    const int64_t at = (head * p.depth + depth + k) * p.features + feature + f;
    shared.dictionary[k * kEncodeFeatures + f] = inside ? p.dictionary[at] : 0.0f;
  }
}

// sums[i][j] += row i of this thread times its feature j, over a tile's depth.
template <int kRowsEach>
__device__ inline void multiply_tile(const EncodeShared<kRowsEach>& shared, float (&sums)[kRowsEach][4]) {
  const int lane = threadIdx.x % kEncodeLanes, first_row = threadIdx.x / kEncodeLanes;
  DSAE_UNROLL
  for (int k = 0; k < kEncodeDepth; k += 4) {
    Four<float> rows[kRowsEach];
    DSAE_UNROLL
    for (int i = 0; i < kRowsEach; ++i) {
      const int row = first_row + i * (kEncodeThreads / kEncodeLanes);
      rows[i] = load4(shared.rows + row * kEncodeRowPitch + k);
    }
    DSAE_UNROLL
    for (int step = 0; step < 4; ++step) {
      const Four<float> features = load4(shared.dictionary + (k + step) * kEncodeFeatures + lane * 4);
      DSAE_UNROLL
      for (int i = 0; i < kRowsEach; ++i) {
        DSAE_UNROLL
        for (int j = 0; j < 4; ++j) sums[i][j] += rows[i].at[step] * features.at[j];
      }
    }
  }
}

// The largest value among the lanes that share a row, and its feature: the lowest one among equals.
__device__ inline void best_of_lanes(float& value, int32_t& feature) {
  for (int offset = kEncodeLanes / 2; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, value, offset);
    const int32_t of_other = __shfl_xor_sync(kAllLanes, feature, offset);
    const bool better = other > value || (other == value && of_other < feature);
    value = better ? other : value;
    feature = better ? of_other : feature;
  }
}

// Codes and values of rows first_row and following, as many as EncodeShared has, by the whole block.
template <int kRowsEach>
__device__ inline void encode_rows(
    const EncodeCodes& p, int64_t head, int64_t first_row, unsigned char* memory) {
  constexpr int kRows = EncodeShared<kRowsEach>::kRows;
  auto& shared = *reinterpret_cast<EncodeShared<kRowsEach>*>(memory);
  const int lane = threadIdx.x % kEncodeLanes, first = threadIdx.x / kEncodeLanes;
  if (threadIdx.x < kRows) {  // the rows that a last tile lacks are read from the last one that there is
    const int64_t row = first_row + threadIdx.x, last = p.rows() - 1;
    shared.offsets[threadIdx.x] = z_offset(p, row < last ? row : last, head);
  }
  __syncthreads();

  float best[kRowsEach];
  int32_t winner[kRowsEach];
  DSAE_UNROLL
  for (int i = 0; i < kRowsEach; ++i) {
    best[i] = 0.0f;
    winner[i] = -1;
  }
  for (int64_t feature = 0; feature < p.features; feature += kEncodeFeatures) {
    float sums[kRowsEach][4];
    DSAE_UNROLL
    for (int i = 0; i < kRowsEach; ++i) {
      DSAE_UNROLL
      for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
    }
    for (int64_t depth = 0; depth < p.depth; depth += kEncodeDepth) {
      load_rows(p, depth, shared);
      load_dictionary(p, head, depth, feature, shared);
      __syncthreads();
      multiply_tile(shared, sums);
      __syncthreads();  // before the next tile replaces this one
    }
    DSAE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int64_t f = feature + lane * 4 + j;
      if (f >= p.features) break;
      const float bias = p.bias[head * p.features + f];
      DSAE_UNROLL
      for (int i = 0; i < kRowsEach; ++i) {
        const float activation = sums[i][j] + bias;
        const bool better = activation > best[i];  // NaN never is
        best[i] = better ? activation : best[i];
        winner[i] = better ? static_cast<int32_t>(f) : winner[i];
      }
    }
  }
  DSAE_UNROLL
  for (int i = 0; i < kRowsEach; ++i) {
    best_of_lanes(best[i], winner[i]);
    const int64_t row = first_row + first + i * (kEncodeThreads / kEncodeLanes);
    if (lane != 0 || row >= p.rows()) continue;
    const int64_t out = row * p.heads + head;
    p.values[out] = best[i];
    p.codes[out] = best[i] > p.threshold && !is_left_out(p, row) ? winner[i] : -1;
  }
}

// Block after block takes the tiles of a head, then those of the next head.
template <int kRowsEach>
__global__ void __launch_bounds__(kEncodeThreads) encode_codes_kernel(const EncodeCodes p) {
  DSAE_SHARED_MEMORY(memory);
  constexpr int kRows = EncodeShared<kRowsEach>::kRows;
  const int64_t tiles = (p.rows() + kRows - 1) / kRows;
  encode_rows<kRowsEach>(p, blockIdx.x / tiles, blockIdx.x % tiles * kRows, memory);
}

}  // namespace dsae::cuda
