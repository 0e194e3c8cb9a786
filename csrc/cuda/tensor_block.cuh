// What a block of the tensor cores' kernels works with: its sizes, its shared memory, and which rows and
// features of a tile a thread has.
#pragma once

#include "cuda/encode_codes.cuh"
#include "cuda/tensor_cores.cuh"

namespace dsae::cuda {

constexpr int kTensorWarps = kEncodeThreads / 32;
constexpr int kChunkFeatures = 64;  // multiplied at once
constexpr int kSmallDepth = 64;
constexpr int kTensorStages = 2;  // tiles in shared memory
constexpr int kMostExtras = 256;  // features of a tile to multiply again besides each row's likely winner

// The sizes that a head's dictionary and rows have in shared memory, zeros behind what is there. kSmall: up to
// 64 x 64, which they are filled up to; then a warp keeps its part of the dictionary in registers, and shared
// memory is read for rows alone.
//
// Banks: a row's bytes are 16 times an odd number, so that the 16-byte reads of a row a thread meet all banks,
// and those of multiply_step do as well, where lanes of a phase read rows 4 (float32) or 2 (16 bits) apart; see
// row_of. A dictionary row's numbers are 2 more than a multiple of 8, so that the lanes of load_fragments,
// 4 rows and 1 feature apart, meet all banks.
template <bool kSmall>
struct TensorSizes {
  int depth, features;

  DSAE_HOST_DEVICE int padded_depth() const {
    return kSmall ? kSmallDepth : (depth + kMmaDepth - 1) / kMmaDepth * kMmaDepth;
  }
  DSAE_HOST_DEVICE int padded_features() const {
    return kSmall ? kChunkFeatures : (features + kMmaFeatures - 1) / kMmaFeatures * kMmaFeatures;
  }
  DSAE_HOST_DEVICE int chunks() const {
    return kSmall ? 1 : (features + kChunkFeatures - 1) / kChunkFeatures;
  }
  DSAE_HOST_DEVICE int dictionary_pitch() const { return padded_features() + 2; }
  DSAE_HOST_DEVICE int dictionary_numbers() const { return padded_depth() * dictionary_pitch(); }
  DSAE_HOST_DEVICE int row_bytes(int number_bytes) const { return padded_depth() * number_bytes + 16; }
};

// How warps share a tile of kRows rows and a chunk of features.
template <int kRows>
struct TensorWarps {
  static constexpr int kRowGroups = kRows / kMmaRows, kFeatureGroups = kTensorWarps / kRowGroups;
  static constexpr int kGroupFeatures = kChunkFeatures / kFeatureGroups;
  static constexpr int kGroupMmas = kGroupFeatures / kMmaFeatures;  // mmas across a warp's features
  static_assert(kRowGroups * kFeatureGroups == kTensorWarps && kFeatureGroups <= 2);
};

// A feature to multiply again, unless its row's T is above `upper`, which its t + 2 e is not.
struct Extra {
  int16_t row, feature;
  float upper;
};

// A block's shared memory: this, then the biases, the dictionary and the tiles. Of [2], tiles or chunks
// take turns.
template <int kRows>
struct alignas(16) TensorShared {
  const unsigned char* rows[kRows];  // where those of the tile to be loaded next begin in z
  unsigned long long best[kRows];  // see best_key
  float bounds[kRows];             // e
  float largest[2][kRows];         // T of the chunks before
  float leader_t[TensorWarps<kRows>::kFeatureGroups][kRows];  // the largest t of a warp's features
  int16_t leader[TensorWarps<kRows>::kFeatureGroups][kRows];  // the first that can win, see first_of
  Extra extras[kMostExtras];
  int32_t n_extras[2];                   // that there were
  uint32_t all_features[2][kRows / 32];  // a bit a row: multiply it again with every feature
  uint32_t again[2][kRows / 32];         // a bit a row: more features than one were multiplied again
  uint32_t radius, slack;                // bits of the floats, which atomicMax orders as it does numbers
  int32_t head, end;                     // the block's, and where its tiles end; here, as registers are scarce
};

template <int kRows, bool kSmall>
DSAE_HOST_DEVICE inline int64_t tensor_shared_bytes(const TensorSizes<kSmall>& sizes, int number_bytes) {
  return static_cast<int64_t>(sizeof(TensorShared<kRows>)) +
         4 * static_cast<int64_t>(sizes.chunks() * kChunkFeatures + sizes.dictionary_numbers()) +
         kTensorStages * kRows * static_cast<int64_t>(sizes.row_bytes(number_bytes));
}

// The place in 8 rows of a lane's row of an mma, g: its three bits reversed. Lanes 8 n to 8 n + 7 so read rows
// r and r + 4; lanes 0 to 15 even rows, 16 to 31 odd ones.
__device__ inline int row_of(int g) { return (g & 1) << 2 | (g & 2) | g >> 2; }

// A thread's view of a block that encodes one head.
template <int kRows_, bool kSmall_, class Number_>
struct TensorBlock {
  static constexpr int kRows = kRows_;
  static constexpr bool kSmall = kSmall_;
  using Number = Number_;
  using Warps = TensorWarps<kRows>;
  static constexpr int kKeptSteps = kSmall ? kSmallDepth / kMmaDepth : 1;
  using Fragments = uint32_t[Warps::kGroupMmas][2];  // of the dictionary, for a step of the depth
  using Sums = float[Warps::kGroupMmas][4];
  using OfRows = float[2];  // of a lane's rows: row_of(g), and 8 below

  const EncodeCodes& p;
  const TensorSizes<kSmall> sizes;
  TensorShared<kRows>& shared;
  float* const biases;
  float* const dictionary;
  unsigned char* const tiles;

  __device__ TensorBlock(const EncodeCodes& arguments, unsigned char* memory)
      : p(arguments),
        sizes{static_cast<int>(arguments.depth), static_cast<int>(arguments.features)},
        shared(*reinterpret_cast<TensorShared<kRows>*>(memory)),
        biases(reinterpret_cast<float*>(memory + sizeof(TensorShared<kRows>))),
        dictionary(biases + sizes.chunks() * kChunkFeatures),
        tiles(reinterpret_cast<unsigned char*>(dictionary + sizes.dictionary_numbers())) {}

  __device__ int lane_row() const { return thread_now() % 32 / 4; }  // g
  __device__ int lane_column() const { return thread_now() % 4; }  // j
  __device__ int feature_group() const { return thread_now() / 32 % Warps::kFeatureGroups; }
  // A lane's upper row; the other one is 8 below.
  __device__ int row() const {
    const int thread = thread_now();
    return thread / 32 / Warps::kFeatureGroups * kMmaRows + row_of(thread % 32 / 4);
  }
  __device__ unsigned char* tile(int number) const {
    return tiles + (number & 1) * kRows * sizes.row_bytes(sizeof(Number));
  }
  __device__ const Number* tile_row(int number, int row) const {
    return reinterpret_cast<const Number*>(tile(number) + row * sizes.row_bytes(sizeof(Number)));
  }
  __device__ int rows_in(int number) const {
    const int64_t left = p.rows() - int64_t{kRows} * number;
    return left < kRows ? static_cast<int>(left) : kRows;
  }

  // The features of a lane are those of a warp's with columns 2 j and 2 j + 1 in each mma. This is the place
  // of the first one in a chunk.
  __device__ int first_place() const {
    const int thread = thread_now();
    return thread / 32 % Warps::kFeatureGroups * Warps::kGroupFeatures + 2 * (thread % 4);
  }

  // Changes from a chunk to the next, and from a tile's last one to the next tile's first.
  __device__ int turn_of(int number, int chunk) const { return (number * sizes.chunks() + chunk) & 1; }
};

}  // namespace dsae::cuda
