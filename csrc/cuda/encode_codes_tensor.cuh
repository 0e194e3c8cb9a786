// encode_codes with tensor cores, as fast as z can be read: a block keeps a head's whole dictionary in shared
// memory while tiles of the head's rows stream through it, the next one while this one is multiplied.
//
// Tensor cores multiply in TF32, whose 11 significant bits cannot tell near winners apart. So their activations
// only decide which features can have a row's largest one; those few, most often a single one, are multiplied
// again in float32 in the order of the depth. Codes and values are bit for bit those of encode_codes.cuh.
//
// The bound. For a row z and a feature of dictionary column a and bias b, let S = sum |z_k| |a_k|, D the depth
// padded to 16, u = 2^-24. The tensor cores' activation t and the float32 activation f differ by at most
//   (2^-10 + 2^-22) S  from rounding z and a to TF32, to nearest: 2^-11 of each factor;
//   D 2^-22 (S + |b|)  from the tensor cores' sums, which begin with the bias. Each mma adds up nine numbers;
//                      aligning eight of them to the largest and cutting off loses less than 2^-23 of it each,
//                      and rounding the sum 2^-23 more (measured by Fasi et al. 2021, "Numerical behavior of
//                      NVIDIA tensor cores"; NVIDIA does not say): 10 2^-23 (S + |b|) for each of D / 8 mmas,
//                      where this allows 16;
//   D u S + u (S + |b|)  from the float32 sum, a rounding a term.
// By Cauchy and Schwarz S <= |z| |a|. With A and B the largest |a| and |b| of the head, and more to spare than
// the rounding of comparisons takes, this is below
//   e = (|z| + floor) radius + slack, radius = 1.02 (2^-10 + D 2^-21) (A + floor), slack = 1.02 D 2^-21 B,
// where 1.02 also covers the rounding of norms and of e, and floor = 2^-50 what squares and products lose below
// the smallest normal number. A row of zeros has e = slack. So with T the largest t of a row, only features with
// t >= T - 2 e and t > -e can have its largest activation and a positive one. A row whose e is not below 2^100,
// NaN and infinity included, is multiplied in float32 entirely; in any other nothing above can overflow.
#pragma once

#include <cmath>

#include "cuda/encode_codes.cuh"
#include "cuda/tensor_cores.cuh"

namespace dsae::cuda {

// Warps share a tile by rows and by features.
constexpr int kRowGroups = 4, kFeatureGroups = 2;
static_assert(kRowGroups * kFeatureGroups * 32 == kEncodeThreads);
constexpr int kGroupMmas = 4;  // mmas across a warp's features
constexpr int kGroupFeatures = kGroupMmas * kMmaFeatures;
constexpr int kChunkFeatures = kFeatureGroups * kGroupFeatures;
constexpr int kStepDepth = 2 * kMmaDepth;  // read at once: four numbers a lane
constexpr int kSmallDepth = 64;
constexpr int kTensorStages = 2;  // tiles in shared memory
constexpr int kMostExtras = 256;  // features of a tile to multiply again besides each row's likely winner

constexpr float kTf32Error = 1.02f * 0x1p-10f, kSumError = 1.02f * 0x1p-21f;
constexpr float kNormFloor = 0x1p-50f, kLargestBound = 0x1p100f;

template <int kRowMmas>
constexpr int kTensorRows = kRowGroups * kRowMmas * kMmaRows;

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
    return kSmall ? kSmallDepth : (depth + kStepDepth - 1) / kStepDepth * kStepDepth;
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

// A feature to multiply again, unless its row's T is above t + 2 e.
struct Extra {
  int16_t row, feature;
  float upper;
};

// A block's shared memory: this, then the biases, the dictionary and the tiles. Of [2], tiles or chunks take
// turns.
template <int kRows>
struct alignas(16) TensorShared {
  int64_t offsets[kRows];                 // where a row of the tile to be loaded next begins in z
  unsigned long long best[kRows];         // see best_key
  float bounds[kRows];                    // e
  float largest[2][kRows];                // T of the chunks before
  float leader_t[kFeatureGroups][kRows];  // the largest t of a warp's features
  int32_t leader[kFeatureGroups][kRows];  // and whose it is
  Extra extras[kMostExtras];
  int32_t n_extras[2];                   // that there were
  uint32_t all_features[2][kRows / 32];  // a bit a row: multiply it again with every feature
  uint32_t again[2][kRows / 32];         // a bit a row: more features than one were multiplied again
  uint32_t radius, slack;                // bits of the floats, which atomicMax orders as it does numbers
};

template <int kRowMmas, bool kSmall>
DSAE_HOST_DEVICE inline int64_t tensor_shared_bytes(const TensorSizes<kSmall>& sizes, int number_bytes) {
  return static_cast<int64_t>(sizeof(TensorShared<kTensorRows<kRowMmas>>)) +
         4 * static_cast<int64_t>(sizes.chunks() * kChunkFeatures + sizes.dictionary_numbers()) +
         kTensorStages * kTensorRows<kRowMmas> * static_cast<int64_t>(sizes.row_bytes(number_bytes));
}

// A positive activation and its feature as a number that is larger for a larger activation, and among equals
// for a lower feature. 0: none.
__device__ inline unsigned long long best_key(float activation, int feature) {
  if (!(activation > 0.0f)) return 0;  // NaN never wins
  return static_cast<unsigned long long>(bits_of_float(activation)) << 32 | ~static_cast<uint32_t>(feature);
}

__device__ inline Four<float> read4(const float* from) { return load4(from); }

struct alignas(8) FourHalves {
  uint32_t pairs[2];
};

__device__ inline Four<float> read4(const Bfloat16* from) {
  const auto [first, second] = reinterpret_cast<const FourHalves*>(from)->pairs;
  return {
      {float_of_bits(first << 16), float_of_bits(first & 0xffff0000u), float_of_bits(second << 16),
       float_of_bits(second & 0xffff0000u)}};
}

__device__ inline Four<float> read4(const Float16* from) {
  const auto [first, second] = reinterpret_cast<const FourHalves*>(from)->pairs;
  const auto number = [](uint32_t bits) { return to_float(Float16{static_cast<uint16_t>(bits)}); };
  return {{number(first), number(first >> 16), number(second), number(second >> 16)}};
}

// Half precision numbers are TF32 numbers already.
__device__ inline uint32_t operand(float number, const float*) { return to_tf32(number); }
template <class Half>
__device__ inline uint32_t operand(float number, const Half*) {
  return bits_of_float(number);
}

// The place in 8 rows of a lane's row of an mma, g: its three bits reversed. Lanes 8 n to 8 n + 7 so read rows
// r and r + 4; lanes 0 to 15 even rows, 16 to 31 odd ones.
__device__ inline int row_of(int g) { return (g & 1) << 2 | (g & 2) | g >> 2; }

// A thread's view of a block that encodes one head; kRowMmas: mmas across a warp's rows, one after another.
template <int kRowMmas, bool kSmall, class Number>
struct TensorEncoder {
  static constexpr int kRows = kTensorRows<kRowMmas>;
  static constexpr int kKeptSteps = kSmall ? kSmallDepth / kStepDepth : 1;
  using Fragments = uint32_t[2][kGroupMmas][2];  // of the dictionary, for a step of the depth
  using Sums = float[kGroupMmas][4];
  using OfRows = float[2];  // of a lane's rows in an mma: row_of(g), and 8 below

  const EncodeCodes& p;
  const TensorSizes<kSmall> sizes;
  const int head;
  TensorShared<kRows>& shared;
  float* const biases;
  float* const dictionary;
  unsigned char* const tiles;

  __device__ TensorEncoder(const EncodeCodes& arguments, int of_head, unsigned char* memory)
      : p(arguments),
        sizes{static_cast<int>(arguments.depth), static_cast<int>(arguments.features)},
        head(of_head),
        shared(*reinterpret_cast<TensorShared<kRows>*>(memory)),
        biases(reinterpret_cast<float*>(memory + sizeof(TensorShared<kRows>))),
        dictionary(biases + sizes.chunks() * kChunkFeatures),
        tiles(reinterpret_cast<unsigned char*>(dictionary + sizes.dictionary_numbers())) {}

  __device__ int lane_row() const { return threadIdx.x % 32 / 4; }     // g
  __device__ int lane_column() const { return threadIdx.x % 32 % 4; }  // j
  __device__ int feature_group() const { return threadIdx.x / 32 % kFeatureGroups; }
  __device__ int first_row() const { return threadIdx.x / 32 / kFeatureGroups * kRowMmas * kMmaRows; }
  __device__ int row(int mma, int half) const {
    return first_row() + mma * kMmaRows + half * 8 + row_of(lane_row());
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

  // The features of a lane are those of a warp's with columns 2 j and 2 j + 1 in each mma. This is the first.
  __device__ int first_feature(int chunk) const {
    const int thread = thread_now();
    return chunk * kChunkFeatures + thread / 32 % kFeatureGroups * kGroupFeatures + 2 * (thread % 4);
  }

  // Changes from a chunk to the next, and from a tile's last one to the next tile's first.
  __device__ int turn_of(int number, int chunk) const { return (number * sizes.chunks() + chunk) & 1; }

  // Beforehand: the dictionary, and what depends on it.

  __device__ void load_dictionary() const {
    const float* const from = p.dictionary + int64_t{head} * p.depth * p.features;
    const int thread = thread_now();
    for (int k = thread / 32; k < sizes.padded_depth(); k += kEncodeThreads / 32) {
      for (int f = thread % 32; f < sizes.padded_features(); f += 32) {
        const bool inside = k < sizes.depth && f < sizes.features;
        copy_async<4>(
            dictionary + k * sizes.dictionary_pitch() + f,
            from + (inside ? static_cast<int64_t>(k) * p.features + f : 0), inside ? 4 : 0);
      }
    }
  }

  // NaN becomes infinity, and makes every row's bound infinite.
  __device__ static void raise(uint32_t& bits, float number) {
    atomicMax(&bits, bits_of_float(number < INFINITY ? number : INFINITY));
  }

  // The biases, and what the bound needs. Features beyond the last one never win, and neither does one whose
  // bias is -infinity: its numbers do not count.
  __device__ void measure_features() const {
    const auto depth = static_cast<float>(sizes.padded_depth());
    for (int f = thread_now(); f < sizes.chunks() * kChunkFeatures; f += kEncodeThreads) {
      const float bias = f < sizes.features ? p.bias[int64_t{head} * p.features + f] : -INFINITY;
      biases[f] = bias;
      if (bias == -INFINITY) continue;
      float squares = 0.0f;
      for (int k = 0; k < sizes.depth; ++k) {
        const float number = dictionary[k * sizes.dictionary_pitch() + f];
        squares += number * number;
      }
      raise(shared.radius, (kTf32Error + kSumError * depth) * (sqrtf(squares) + kNormFloor));
      raise(shared.slack, kSumError * depth * fabsf(bias));
    }
  }

  // A warp's part of the dictionary from (depth, chunk of features) on, as operands of mma. A lane's four
  // numbers of a row are the columns j and j + 4 of two mmas; so are the dictionary's rows here.
  __device__ void load_fragments(int depth, int chunk, Fragments& fragments) const {
    const int k = depth + 4 * lane_column();
    const int first = chunk * kChunkFeatures + feature_group() * kGroupFeatures + lane_row();
    DSAE_UNROLL
    for (int n = 0; n < kGroupMmas; ++n) {
      const int f = first + n * kMmaFeatures;
      DSAE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const bool inside = f < sizes.padded_features();
        const float number = inside ? dictionary[(k + i) * sizes.dictionary_pitch() + f] : 0.0f;
        fragments[i / 2][n][i % 2] = to_tf32(number);
      }
    }
  }

  // Tiles: offsets are noted a barrier before load_tile reads them.

  __device__ void note_offsets(int number) const {
    const int thread = thread_now();
    if (thread >= kRows) return;
    const int64_t row = int64_t{kRows} * number + thread, last = p.rows() - 1;
    shared.offsets[thread] = z_offset(p, row < last ? row : last, head);
  }

  // Eight neighbouring threads copy a row, kBytes each at a time, zeros beyond the depth and the last row.
  template <int kBytes>
  __device__ void load_rows(int number) const {
    constexpr int kLanes = 8;
    const int thread = thread_now(), padded = sizes.padded_depth() * sizeof(Number), rows = rows_in(number);
    DSAE_ROLLED
    for (int row = thread / kLanes; row < kRows; row += kEncodeThreads / kLanes) {
      unsigned char* const to = tile(number) + row * sizes.row_bytes(sizeof(Number));
      const auto* const from = reinterpret_cast<const unsigned char*>(
          static_cast<const Number*>(p.z.data) + shared.offsets[row]);
      const int bytes = row < rows ? sizes.depth * static_cast<int>(sizeof(Number)) : 0;
      for (int at = thread % kLanes * kBytes; at < padded; at += kLanes * kBytes) {
        const int left = bytes - at, valid = left < 0 ? 0 : left < kBytes ? left : kBytes;
        if constexpr (kBytes < 4) {
          *reinterpret_cast<Number*>(to + at) = valid ? *reinterpret_cast<const Number*>(from + at) : Number{};
        } else {
          copy_async<kBytes>(to + at, valid ? from + at : from, valid);
        }
      }
    }
  }

  __device__ bool rows_are_aligned() const {
    const uint64_t all = p.z_strides[0] | p.z_strides[1] | p.z_strides[2];
    return (all * sizeof(Number) | reinterpret_cast<uintptr_t>(p.z.data)) % 16 == 0;
  }

  __device__ void load_tile(int number) const {
    if (rows_are_aligned()) {
      load_rows<16>(number);
    } else {
      load_rows<sizeof(Number)>(number);
    }
  }

  // Products in TF32, for 16 rows and the features of a warp.

  __device__ void begin_with_bias(int chunk, Sums& sums) const {
    const float* const from = biases + first_feature(chunk);
    DSAE_UNROLL
    for (int n = 0; n < kGroupMmas; ++n) {
      DSAE_UNROLL
      for (int i = 0; i < 2; ++i) sums[n][i] = sums[n][2 + i] = from[n * kMmaFeatures + i];
    }
  }

  // And the squares of the lane's numbers of its rows.
  __device__ void multiply_step(
      const Number* from, const Number* below, const Fragments& fragments, Sums& sums, OfRows& squares) const {
    const Four<float> numbers[2] = {read4(from), read4(below)};
    DSAE_UNROLL
    for (int half = 0; half < 2; ++half) {
      DSAE_UNROLL
      for (int i = 0; i < 4; ++i) squares[half] += numbers[half].at[i] * numbers[half].at[i];
    }
    DSAE_UNROLL
    for (int i = 0; i < 4; i += 2) {
      const uint32_t rows[4] = {
          operand(numbers[0].at[i], from), operand(numbers[1].at[i], from), operand(numbers[0].at[i + 1], from),
          operand(numbers[1].at[i + 1], from)};
      DSAE_UNROLL
      for (int n = 0; n < kGroupMmas; ++n) mma_tf32(sums[n], rows, fragments[i / 2][n]);
    }
  }

  // kept: the fragments of all steps, where kSmall.
  __device__ void multiply(
      int number, int m, int chunk, const Fragments (&kept)[kKeptSteps], Sums& sums, OfRows& squares) const {
    const Number* const from = tile_row(number, row(m, 0)) + 4 * lane_column();
    const Number* const below = tile_row(number, row(m, 1)) + 4 * lane_column();
    if constexpr (kSmall) {
      DSAE_UNROLL
      for (int step = 0; step < kKeptSteps; ++step) {
        multiply_step(from + step * kStepDepth, below + step * kStepDepth, kept[step], sums, squares);
      }
    } else {
      for (int depth = 0; depth < sizes.padded_depth(); depth += kStepDepth) {
        Fragments fragments;
        load_fragments(depth, chunk, fragments);
        multiply_step(from + depth, below + depth, fragments, sums, squares);
      }
    }
  }

  // Which features can win.

  __device__ bool is_zero(const Number* numbers) const {
    DSAE_ROLLED
    for (int k = 0; k < sizes.depth; ++k) {
      if (to_float(numbers[k]) != 0.0f) return false;
    }
    return true;
  }

  // e of a row, from the squares of its numbers in four lanes.
  __device__ float bound_of(float squares, const Number* numbers) const {
    squares += __shfl_xor_sync(kAllLanes, squares, 1);
    squares += __shfl_xor_sync(kAllLanes, squares, 2);
    const float radius = float_of_bits(shared.radius), slack = float_of_bits(shared.slack);
    const bool zero = squares == 0.0f && is_zero(numbers);
    return zero ? slack : (sqrtf(squares) + kNormFloor) * radius + slack;
  }

  __device__ float largest_before(int chunk, int turn, int r) const {
    return chunk == 0 ? -INFINITY : shared.largest[turn][r];
  }

  // The largest t of a row among this warp's features, and whose it is.
  struct Leader {
    float t;
    int32_t feature;
  };
  __device__ Leader find_leader(int first, int half, const Sums& activations) const {
    Leader best{-INFINITY, -1};
    DSAE_UNROLL
    for (int n = 0; n < kGroupMmas; ++n) {
      DSAE_UNROLL
      for (int i = 0; i < 2; ++i) {
        const float t = activations[n][2 * half + i];
        best.feature = t > best.t ? first + n * kMmaFeatures + i : best.feature;
        best.t = t > best.t ? t : best.t;
      }
    }
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      const float other = __shfl_xor_sync(kAllLanes, best.t, lanes);
      const int32_t of_other = __shfl_xor_sync(kAllLanes, best.feature, lanes);
      const bool better = other > best.t || (other == best.t && of_other < best.feature);
      best = better ? Leader{other, of_other} : best;
    }
    return best;
  }

  // Notes what of a row's features in this warp can win: the leader, and those near it.
  __device__ void note_row(
      int number, int chunk, int turn, int r, int half, float e, const Sums& activations) const {
    const int first = first_feature(chunk);
    const Leader leader = find_leader(first, half, activations);
    if (lane_column() == 0) {
      if (feature_group() == 0) shared.bounds[r] = e;
      shared.leader_t[feature_group()][r] = leader.t;
      shared.leader[feature_group()][r] = leader.feature;
    }
    if (r >= rows_in(number)) return;
    if (!(e < kLargestBound)) {
      note_all_features(number, r);
      return;
    }
    const float before = largest_before(chunk, turn, r), largest = leader.t > before ? leader.t : before;
    DSAE_UNROLL
    for (int n = 0; n < kGroupMmas; ++n) {
      DSAE_UNROLL
      for (int i = 0; i < 2; ++i) {
        const float t = activations[n][2 * half + i], upper = t + 2.0f * e;
        const int f = first + n * kMmaFeatures + i;
        if (upper >= largest && t > -e && f != leader.feature) note_extra(number, turn, r, f, upper);
      }
    }
  }

  __device__ void note_all_features(int number, int r) const {
    atomicOr(&shared.all_features[number & 1][r / 32], 1u << (r % 32));
  }

  __device__ void note_extra(int number, int turn, int r, int f, float upper) const {
    const int32_t place = atomicAdd(&shared.n_extras[turn], 1);
    if (place < kMostExtras) {
      shared.extras[place] = {static_cast<int16_t>(r), static_cast<int16_t>(f), upper};
    } else {
      note_all_features(number, r);
    }
  }

  // Again in float32.

  __device__ void multiply_again(int number, int row, int feature) const {
    const Number* const from = tile_row(number, row);
    const float* const column = dictionary + feature;
    const int pitch = sizes.dictionary_pitch();
    float sum = 0.0f;
    DSAE_ROLLED
    for (int k = 0; k < sizes.padded_depth(); k += 4) {
      const Four<float> numbers = read4(from + k);
      DSAE_UNROLL
      for (int i = 0; i < 4; ++i) sum += numbers.at[i] * column[(k + i) * pitch];
    }
    atomicMax(&shared.best[row], best_key(sum + biases[feature], feature));
  }

  // A row's T with this chunk.
  __device__ float largest_of(int chunk, int turn, int r) const {
    float largest = largest_before(chunk, turn, r);
    for (const auto& of_group : shared.leader_t) largest = of_group[r] > largest ? of_group[r] : largest;
    return largest;
  }

  // Half of the threads take the larger of a row's leaders, the others the second one, which can seldom win.
  __device__ void multiply_leaders(int number, int chunk, int turn) const {
    const int thread = thread_now(), r = thread % kRows, place = thread / kRows;
    if (place >= kFeatureGroups || r >= rows_in(number)) return;
    const int group = place ^ static_cast<int>(shared.leader_t[1][r] > shared.leader_t[0][r]);
    const float largest = largest_of(chunk, turn, r), t = shared.leader_t[group][r], e = shared.bounds[r];
    if (place == 0) shared.largest[turn ^ 1][r] = largest;
    if (!(t + 2.0f * e >= largest && t > -e)) return;
    multiply_again(number, r, shared.leader[group][r]);
    if (place != 0 || t < largest) note_again(number, r);
  }

  // Threads from the last one on: the first ones have the leaders.
  __device__ void multiply_extras(int number, int chunk, int turn) const {
    const int noted = shared.n_extras[turn], n_extras = noted < kMostExtras ? noted : kMostExtras;
    for (int i = kEncodeThreads - 1 - thread_now(); i < n_extras; i += kEncodeThreads) {
      const Extra extra = shared.extras[i];
      if (!(extra.upper >= largest_of(chunk, turn, extra.row))) continue;
      multiply_again(number, extra.row, extra.feature);
      note_again(number, extra.row);
    }
  }

  __device__ void note_again(int number, int r) const {
    atomicOr(&shared.again[number & 1][r / 32], 1u << (r % 32));
  }

  __device__ bool is_noted(const uint32_t (&rows)[kRows / 32], int row) const {
    return rows[row / 32] >> (row % 32) & 1;
  }

  __device__ void multiply_all_features(int number) const {
    uint32_t any = 0;
    for (uint32_t rows : shared.all_features[number & 1]) any |= rows;
    if (!any) return;
    for (int i = thread_now(); i < kRows * sizes.features; i += kEncodeThreads) {
      const int row = i / sizes.features, f = i % sizes.features;
      if (is_noted(shared.all_features[number & 1], row)) multiply_again(number, row, f);
    }
  }

  // And makes ready for the next tile.
  __device__ void write_row(int number) const {
    const int r = thread_now();
    if (r >= rows_in(number)) return;
    const int64_t row = int64_t{kRows} * number + r, out = row * p.heads + head;
    const unsigned long long key = shared.best[r];
    const float value = float_of_bits(static_cast<uint32_t>(key >> 32));
    p.values[out] = value;
    p.codes[out] =
        value > p.threshold && !is_left_out(p, row) ? static_cast<int32_t>(~static_cast<uint32_t>(key)) : -1;
    const bool again = is_noted(shared.again[number & 1], r) || is_noted(shared.all_features[number & 1], r);
    if (p.rechecked && again) atomicAdd(p.rechecked, 1);
    shared.best[r] = 0;
  }

  __device__ void clear_notes(int number, int turn) const {
    const int thread = thread_now();
    if (thread == 0) shared.n_extras[turn] = 0;
    if (thread < kRows / 32) {
      shared.all_features[number & 1][thread] = shared.again[number & 1][thread] = 0;
    }
  }

  __device__ void encode_tile(int number, const Fragments (&kept)[kKeptSteps]) const {
    for (int chunk = 0; chunk < sizes.chunks(); ++chunk) {
      const int turn = turn_of(number, chunk);
      DSAE_ROLLED
      for (int m = 0; m < kRowMmas; ++m) {
        __syncwarp();  // for safety: an mma takes the lanes together, and noting rows sets them apart
        Sums sums;
        OfRows squares = {};
        begin_with_bias(chunk, sums);
        multiply(number, m, chunk, kept, sums, squares);
        DSAE_UNROLL
        for (int half = 0; half < 2; ++half) {
          const float e = bound_of(squares[half], tile_row(number, row(m, half)));
          note_row(number, chunk, turn, row(m, half), half, e, sums);
        }
      }
      __syncthreads();  // what can win is noted
      clear_notes(number + 1, turn ^ 1);
      if (chunk == 0) note_offsets(number + 2);
      multiply_leaders(number, chunk, turn);
      multiply_extras(number, chunk, turn);
      if (chunk + 1 < sizes.chunks()) {
        __syncthreads();  // for safety: notes are read, even if the simulator's warps are never so far apart
      }
    }
    multiply_all_features(number);
    wait_for_copies();
    __syncthreads();  // rows are done with, notes are read, and the next tile is there
    write_row(number);
  }

  // Codes and values of the tiles first..end-1.
  __device__ void encode(int first, int end) const {
    load_dictionary();
    note_offsets(first);
    const int thread = thread_now();
    if (thread < kRows) shared.best[thread] = 0;
    if (thread == 0) shared.radius = shared.slack = 0;
    clear_notes(first, turn_of(first, 0));
    __syncthreads();  // the first tile's offsets are noted
    load_tile(first);
    wait_for_copies();
    __syncthreads();  // the dictionary and the first tile are there
    measure_features();
    note_offsets(first + 1);
    Fragments kept[kKeptSteps] = {};
    if constexpr (kSmall) {
      DSAE_UNROLL
      for (int step = 0; step < kKeptSteps; ++step) load_fragments(step * kStepDepth, 0, kept[step]);
    }
    __syncthreads();  // the bound and the second tile's offsets are known
    for (int number = first; number < end; ++number) {
      if (number + 1 < end) load_tile(number + 1);
      encode_tile(number, kept);
    }
  }
};

// A block has a part of a head's tiles. Neighbouring blocks take the parts of one head.
struct TensorParts {
  int tiles, tiles_each;

  DSAE_HOST_DEVICE int count() const { return (tiles + tiles_each - 1) / tiles_each; }
};

template <int kRowMmas, bool kSmall, class Number>
__device__ inline void encode_part(
    const EncodeCodes& p, const TensorParts& parts, int head, int part, unsigned char* memory) {
  const int first = part * parts.tiles_each, end = first + parts.tiles_each;
  const TensorEncoder<kRowMmas, kSmall, Number> encoder(p, head, memory);
  encoder.encode(first, end < parts.tiles ? end : parts.tiles);
}

template <int kRowMmas, bool kSmall, class Number>
__global__ void __launch_bounds__(kEncodeThreads, 2)
    encode_codes_tensor_kernel(const EncodeCodes p, const TensorParts parts) {
  DSAE_SHARED_MEMORY(memory);
  const unsigned count = parts.count();
  encode_part<kRowMmas, kSmall, Number>(p, parts, blockIdx.x / count, blockIdx.x % count, memory);
}

}  // namespace dsae::cuda
