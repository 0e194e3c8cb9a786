// How a block of the tensor cores' kernels gets its numbers: the head's dictionary once, and rows tile by tile,
// in the background; and how a lane gets its operands from shared memory.
#pragma once

#include "cuda/tensor_block.cuh"

namespace dsae::cuda {

struct alignas(8) TwoPairs {
  uint32_t pairs[2];
};

// Four neighbouring numbers of a row, and what mma takes for them.
struct Operands {
  Four<float> numbers;
  uint32_t halves[2];
};

__device__ inline Four<float> read4(const float* from) { return load4(from); }

__device__ inline Four<float> read4(const Bfloat16* from) {
  const auto [first, second] = reinterpret_cast<const TwoPairs*>(from)->pairs;
  return {
      {float_of_bits(first << 16), float_of_bits(first & 0xffff0000u), float_of_bits(second << 16),
       float_of_bits(second & 0xffff0000u)}};
}

__device__ inline Four<float> read4(const Float16* from) {
  const auto [first, second] = reinterpret_cast<const TwoPairs*>(from)->pairs;
  return {{first_half(first), second_half(first), first_half(second), second_half(second)}};
}

template <class Number>
__device__ inline Operands read_operands(const Number* from) {
  const Four<float> numbers = read4(from);
  return {numbers, {to_halves(numbers.at[0], numbers.at[1]), to_halves(numbers.at[2], numbers.at[3])}};
}

__device__ inline Operands read_operands(const Float16* from) {
  const auto [first, second] = reinterpret_cast<const TwoPairs*>(from)->pairs;
  return {
      {{first_half(first), second_half(first), first_half(second), second_half(second)}}, {first, second}};
}

template <class Block>
__device__ inline void load_dictionary(const Block& b, int head) {
  const float* const from = b.p.dictionary + int64_t{head} * b.p.depth * b.p.features;
  const int thread = thread_now();
  for (int k = thread / 32; k < b.sizes.padded_depth(); k += kTensorWarps) {
    for (int f = thread % 32; f < b.sizes.padded_features(); f += 32) {
      const bool inside = k < b.sizes.depth && f < b.sizes.features;
      copy_async<4>(
          b.dictionary + k * b.sizes.dictionary_pitch() + f,
          from + (inside ? static_cast<int64_t>(k) * b.p.features + f : 0), inside ? 4 : 0);
    }
  }
}

// A warp's part of the dictionary from (depth, chunk of features) on, as operands of mma. A lane's four
// numbers of a row are its two pairs of an mma; so are the dictionary's rows here.
template <class Block>
__device__ inline void load_fragments(
    const Block& b, int depth, int chunk, typename Block::Fragments& fragments) {
  const int pitch = b.sizes.dictionary_pitch();
  const int first = chunk * kChunkFeatures + b.feature_group() * Block::Warps::kGroupFeatures + b.lane_row();
  DSAE_UNROLL
  for (int n = 0; n < Block::Warps::kGroupMmas; ++n) {
    const int f = first + n * kMmaFeatures;
    const bool inside = f < b.sizes.padded_features();
    const float* const column = b.dictionary + (depth + 4 * b.lane_column()) * pitch + (inside ? f : 0);
    DSAE_UNROLL
    for (int i = 0; i < 2; ++i) {
      const uint32_t halves = to_halves(column[2 * i * pitch], column[(2 * i + 1) * pitch]);
      fragments[n][i] = inside ? halves : 0;
    }
  }
}

// Tiles: where rows are is noted a barrier before load_tile reads it.

template <class Block>
__device__ inline void note_rows(const Block& b, int head, int number) {
  const int thread = thread_now();
  if (thread >= Block::kRows) return;
  const int64_t row = int64_t{Block::kRows} * number + thread, last = b.p.rows() - 1;
  const int64_t offset = z_offset(b.p, row < last ? row : last, head);
  b.shared.rows[thread] =
      reinterpret_cast<const unsigned char*>(static_cast<const typename Block::Number*>(b.p.z.data) + offset);
}

// Copies 16 bytes of every row, `at` bytes behind where it begins. They are there.
template <int kLanes, class Block>
__device__ inline void load_full_column(const Block& b, int number, int at) {
  using Number = typename Block::Number;
  const int first = thread_now() / kLanes, pitch = b.sizes.row_bytes(sizeof(Number));
  unsigned char* const to = b.tile(number) + first * pitch + at;
  DSAE_UNROLL
  for (int i = 0; i < Block::kRows; i += kEncodeThreads / kLanes) {
    copy16_async(to + i * pitch, b.shared.rows[first + i] + at);
  }
}

// Copies kBytes of every row, `at` bytes behind where it begins; zeros beyond the depth and the last row.
template <int kBytes, int kLanes, class Block>
__device__ inline void load_column(const Block& b, int number, int at) {
  using Number = typename Block::Number;
  const int left = b.sizes.depth * static_cast<int>(sizeof(Number)) - at;
  const int here = left < 0 ? 0 : left < kBytes ? left : kBytes;
  const int first = thread_now() / kLanes, rows = b.rows_in(number), pitch = b.sizes.row_bytes(sizeof(Number));
  unsigned char* const to = b.tile(number) + first * pitch + at;
  DSAE_UNROLL
  for (int i = 0; i < Block::kRows; i += kEncodeThreads / kLanes) {
    const unsigned char* const from = b.shared.rows[first + i] + (here ? at : 0);
    const int valid = first + i < rows ? here : 0;
    if constexpr (kBytes < 4) {
      *reinterpret_cast<Number*>(to + i * pitch) = valid ? *reinterpret_cast<const Number*>(from) : Number{};
    } else {
      copy_async<kBytes>(to + i * pitch, from, valid);
    }
  }
}

// Eight neighbouring threads copy a row, kBytes each at a time.
template <int kBytes, class Block>
__device__ inline void load_rows(const Block& b, int number) {
  constexpr int kLanes = 8;
  const int padded = b.sizes.padded_depth() * sizeof(typename Block::Number);
  const bool full = b.sizes.depth == b.sizes.padded_depth() && b.rows_in(number) == Block::kRows;
  DSAE_ROLLED
  for (int at = thread_now() % kLanes * kBytes; at < padded; at += kLanes * kBytes) {
    if (kBytes == 16 && full) {
      load_full_column<kLanes>(b, number, at);
    } else {
      load_column<kBytes, kLanes>(b, number, at);
    }
  }
}

template <class Block>
__device__ inline void load_tile(const Block& b, int number) {
  const uint64_t all = b.p.z_strides[0] | b.p.z_strides[1] | b.p.z_strides[2];
  constexpr size_t kSize = sizeof(typename Block::Number);
  if ((all * kSize | reinterpret_cast<uintptr_t>(b.p.z.data)) % 16 == 0) {
    load_rows<16>(b, number);
  } else {
    load_rows<kSize>(b, number);
  }
}

}  // namespace dsae::cuda
