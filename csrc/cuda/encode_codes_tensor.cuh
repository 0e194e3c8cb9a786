// encode_codes with tensor cores, as fast as z can be read: a block keeps a head's whole dictionary in shared
// memory while tiles of the head's rows stream through it, the next one while this one is multiplied. Tensor
// cores find which features can win a row, and those are multiplied again; see tensor_bound.cuh. Codes and
// values are bit for bit those of encode_codes.cuh.
#pragma once

#include "cuda/tensor_bound.cuh"
#include "cuda/tensor_load.cuh"

namespace dsae::cuda {

// A positive activation and its feature as a number that is larger for a larger activation, and among equals
// for a lower feature. 0: none.
__device__ inline unsigned long long best_key(float activation, int feature) {
  if (!(activation > 0.0f)) return 0;  // NaN never wins
  return static_cast<unsigned long long>(bits_of_float(activation)) << 32 | ~static_cast<uint32_t>(feature);
}

// A thread's view of a block that encodes one head.
template <class Block>
struct TensorEncoder {
  using Number = typename Block::Number;
  using Warps = typename Block::Warps;
  using Sums = typename Block::Sums;
  using OfRows = typename Block::OfRows;
  using Kept = typename Block::Fragments[Block::kKeptSteps];  // the fragments of all steps, where kSmall
  using Bits = uint32_t[Block::kRows / 32];                   // one a row

  const Block b;

  // Products in halves, for 16 rows and the features of a warp.

  __device__ void begin_with_bias(int chunk, Sums& sums) const {
    const float* const from = b.biases + chunk * kChunkFeatures + b.first_place();
    DSAE_UNROLL
    for (int n = 0; n < Warps::kGroupMmas; ++n) {
      DSAE_UNROLL
      for (int i = 0; i < 2; ++i) sums[n][i] = sums[n][2 + i] = from[n * kMmaFeatures + i];
    }
  }

  // And the squares of the lane's numbers of its rows.
  __device__ void multiply_step(
      const Number* from, const Number* below, const typename Block::Fragments& fragments, Sums& sums,
      OfRows& squares) const {
    const Operands operands[2] = {read_operands(from), read_operands(below)};
    DSAE_UNROLL
    for (int half = 0; half < 2; ++half) {
      DSAE_UNROLL
      for (int i = 0; i < 4; ++i) squares[half] += operands[half].numbers.at[i] * operands[half].numbers.at[i];
    }
    const uint32_t rows[4] = {
        operands[0].halves[0], operands[1].halves[0], operands[0].halves[1], operands[1].halves[1]};
    DSAE_UNROLL
    for (int n = 0; n < Warps::kGroupMmas; ++n) mma_halves(sums[n], rows, fragments[n]);
  }

  __device__ void multiply(
      int number, int chunk, int row, const Kept& kept, Sums& sums, OfRows& squares) const {
    const Number* const from = b.tile_row(number, row) + 4 * b.lane_column();
    const Number* const below = b.tile_row(number, row + 8) + 4 * b.lane_column();
    if constexpr (Block::kSmall) {
      DSAE_UNROLL
      for (int step = 0; step < Block::kKeptSteps; ++step) {
        multiply_step(from + step * kMmaDepth, below + step * kMmaDepth, kept[step], sums, squares);
      }
    } else {
      for (int depth = 0; depth < b.sizes.padded_depth(); depth += kMmaDepth) {
        typename Block::Fragments fragments;
        load_fragments(b, depth, chunk, fragments);
        multiply_step(from + depth, below + depth, fragments, sums, squares);
      }
    }
  }

  // Which features can win.

  __device__ float largest_before(int chunk, int turn, int r) const {
    return chunk == 0 ? -INFINITY : b.shared.largest[turn][r];
  }

  // The largest t of a row among the features of this warp.
  __device__ float largest_of_warp(int half, const Sums& sums) const {
    float largest = -INFINITY;
    DSAE_UNROLL
    for (int n = 0; n < Warps::kGroupMmas; ++n) {
      largest = fmaxf(largest, fmaxf(sums[n][2 * half], sums[n][2 * half + 1]));
    }
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    return fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
  }

  // A bit for each of this lane's features whose t is not below `least`, by its place.
  __device__ uint32_t not_below(float least, int half, const Sums& sums) const {
    uint32_t places = 0;
    DSAE_UNROLL
    for (int n = 0; n < Warps::kGroupMmas; ++n) {
      DSAE_UNROLL
      for (int i = 0; i < 2; ++i) {
        if (sums[n][2 * half + i] >= least) places |= 1u << (2 * n + i);
      }
    }
    return places;
  }

  // The first place in a chunk of those, or kChunkFeatures.
  __device__ int first_of(uint32_t places) const {
    const int bit = __ffs(static_cast<int>(places)) - 1;
    return places ? b.first_place() + bit / 2 * kMmaFeatures + bit % 2 : kChunkFeatures;
  }

  // Notes what of a row's features in this warp can win: the first one as the leader, others as extras.
  __device__ void note_row(
      int number, int chunk, int turn, int r, int half, float e, const Sums& sums) const {
    const float t = largest_of_warp(half, sums), before = largest_before(chunk, turn, r);
    const bool can_win = t > -e && e < kLargestBound && r < b.rows_in(number);
    uint32_t places = can_win ? not_below(fmaxf(t, before) - 2.0f * e, half, sums) : 0;
    const int own = first_of(places);
    int leader = own;
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      const int other = __shfl_xor_sync(kAllLanes, leader, lanes);
      leader = other < leader ? other : leader;
    }
    if (own == leader) places &= places - 1;
    for (; places != 0; places &= places - 1) {
      note_extra(number, turn, r, chunk * kChunkFeatures + first_of(places), t + 2.0f * e);
    }
    if (b.lane_column() == 0) note_leader(number, r, e, t, leader);
  }

  __device__ void note_leader(int number, int r, float e, float t, int leader) const {
    if (b.feature_group() == 0) b.shared.bounds[r] = e;
    b.shared.leader_t[b.feature_group()][r] = t;
    b.shared.leader[b.feature_group()][r] = static_cast<int16_t>(leader);
    if (!(e < kLargestBound) && r < b.rows_in(number)) note_all_features(number, r);
  }

  __device__ void note_all_features(int number, int r) const {
    atomicOr(&b.shared.all_features[number & 1][r / 32], 1u << (r % 32));
  }

  __device__ void note_extra(int number, int turn, int r, int f, float upper) const {
    const int32_t place = atomicAdd(&b.shared.n_extras[turn], 1);
    if (place < kMostExtras) {
      b.shared.extras[place] = {static_cast<int16_t>(r), static_cast<int16_t>(f), upper};
    } else {
      note_all_features(number, r);
    }
  }

  // Again in float32.

  __device__ void multiply_again(int number, int row, int feature) const {
    const Number* from = b.tile_row(number, row);
    const float* column = b.dictionary + feature;
    const int pitch = b.sizes.dictionary_pitch();
    float sum = 0.0f;
    DSAE_ROLLED
    for (int left = b.sizes.padded_depth(); left > 0; left -= kMmaDepth) {
      DSAE_UNROLL
      for (int k = 0; k < kMmaDepth; k += 4) {
        const Four<float> numbers = read4(from + k);
        DSAE_UNROLL
        for (int i = 0; i < 4; ++i) sum += numbers.at[i] * column[(k + i) * pitch];
      }
      from += kMmaDepth;
      column += kMmaDepth * pitch;
    }
    atomicMax(&b.shared.best[row], best_key(sum + b.biases[feature], feature));
  }

  // A row's T with this chunk.
  __device__ float largest_of(int chunk, int turn, int r) const {
    float largest = largest_before(chunk, turn, r);
    for (const auto& of_group : b.shared.leader_t) largest = fmaxf(largest, of_group[r]);
    return largest;
  }

  // A thread a row takes the largest of its leaders; others the second one, if there is one, which can seldom
  // win.
  __device__ void multiply_leaders(int number, int chunk, int turn) const {
    const int thread = thread_now(), r = thread % Block::kRows, place = thread / Block::kRows;
    if (place >= Warps::kFeatureGroups || r >= b.rows_in(number)) return;
    const auto& leader_t = b.shared.leader_t;
    const int group = place ^ static_cast<int>(leader_t[Warps::kFeatureGroups - 1][r] > leader_t[0][r]);
    const int leader = b.shared.leader[group][r];
    const float largest = largest_of(chunk, turn, r), t = leader_t[group][r], e = b.shared.bounds[r];
    if (place == 0 && chunk + 1 < b.sizes.chunks()) b.shared.largest[turn ^ 1][r] = largest;
    if (leader == kChunkFeatures || !(t + 2.0f * e >= largest)) return;
    multiply_again(number, r, chunk * kChunkFeatures + leader);
    if (place != 0 || t < largest) note_again(number, r);
  }

  // Threads from the last one on: the first ones have the leaders.
  __device__ void multiply_extras(int number, int chunk, int turn) const {
    const int noted = b.shared.n_extras[turn], n_extras = noted < kMostExtras ? noted : kMostExtras;
    for (int i = kEncodeThreads - 1 - thread_now(); i < n_extras; i += kEncodeThreads) {
      const Extra extra = b.shared.extras[i];
      if (!(extra.upper >= largest_of(chunk, turn, extra.row))) continue;
      multiply_again(number, extra.row, extra.feature);
      note_again(number, extra.row);
    }
  }

  __device__ void note_again(int number, int r) const {
    atomicOr(&b.shared.again[number & 1][r / 32], 1u << (r % 32));
  }

  __device__ static bool is_noted(const Bits& rows, int row) { return rows[row / 32] >> (row % 32) & 1; }

  __device__ void multiply_all_features(int number) const {
    const Bits& rows = b.shared.all_features[number & 1];
    uint32_t any = 0;
    for (uint32_t of_rows : rows) any |= of_rows;
    if (!any) return;
    for (int i = thread_now(); i < Block::kRows * b.sizes.features; i += kEncodeThreads) {
      const int row = i / b.sizes.features, f = i % b.sizes.features;
      if (is_noted(rows, row)) multiply_again(number, row, f);
    }
  }

  // And makes ready for the next tile.
  __device__ void write_row(int number) const {
    const int r = thread_now();
    if (r >= b.rows_in(number)) return;
    const int64_t row = int64_t{Block::kRows} * number + r, out = row * b.p.heads + b.shared.head;
    const unsigned long long key = b.shared.best[r];
    const float value = float_of_bits(static_cast<uint32_t>(key >> 32));
    const bool active = value > b.p.threshold && !is_left_out(b.p, row);
    b.p.values[out] = value;
    b.p.codes[out] = active ? static_cast<int32_t>(~static_cast<uint32_t>(key)) : -1;
    b.shared.best[r] = 0;
    if (!b.p.rechecked) return;
    const Bits &again = b.shared.again[number & 1], &all = b.shared.all_features[number & 1];
    if (is_noted(again, r) || is_noted(all, r)) atomicAdd(b.p.rechecked, 1);
  }

  __device__ void clear_notes(int number, int turn) const {
    const int thread = thread_now();
    if (thread == 0) b.shared.n_extras[turn] = 0;
    if (thread < Block::kRows / 32) {
      b.shared.all_features[number & 1][thread] = b.shared.again[number & 1][thread] = 0;
    }
  }

  __device__ void find_winners(int number, int chunk, int turn, const Kept& kept) const {
    __syncwarp();  // for safety: an mma takes the lanes together, and noting rows sets them apart
    Sums sums;
    OfRows squares = {};
    begin_with_bias(chunk, sums);
    const int row = b.row();
    multiply(number, chunk, row, kept, sums, squares);
    DSAE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = row + 8 * half;
      const float e = bound_of(b, squares[half], b.tile_row(number, r));
      note_row(number, chunk, turn, r, half, e, sums);
    }
  }

  __device__ void encode_tile(int number, const Kept& kept) const {
    for (int chunk = 0; chunk < b.sizes.chunks(); ++chunk) {
      const int turn = b.turn_of(number, chunk);
      find_winners(number, chunk, turn, kept);
      __syncthreads();  // what can win is noted
      clear_notes(number + 1, turn ^ 1);
      if (chunk == 0) note_rows(b, b.shared.head, number + 2);
      multiply_leaders(number, chunk, turn);
      multiply_extras(number, chunk, turn);
      if (chunk + 1 < b.sizes.chunks()) {
        __syncthreads();  // for safety: notes are read, even if the simulator's warps are never so far apart
      }
    }
    multiply_all_features(number);
    wait_for_copies();
    __syncthreads();  // rows are done with, notes are read, and the next tile is there
    write_row(number);
  }

  __device__ void begin(int head, int first, int end) const {
    load_dictionary(b, head);
    note_rows(b, head, first);
    const int thread = thread_now();
    if (thread < Block::kRows) b.shared.best[thread] = 0;
    if (thread == 0) {
      b.shared.radius = b.shared.slack = 0;
      b.shared.head = head;
      b.shared.end = end;
    }
    clear_notes(first, b.turn_of(first, 0));
    __syncthreads();  // where the first tile's rows are is noted
    load_tile(b, first);
    wait_for_copies();
    __syncthreads();  // the dictionary and the first tile are there
    measure_features(b);
    note_rows(b, head, first + 1);
    __syncthreads();  // the bound is known, and where the second tile's rows are
  }

  // Codes and values of the head's tiles first..end-1.
  __device__ void encode(int head, int first, int end) const {
    begin(head, first, end);
    Kept kept = {};
    if constexpr (Block::kSmall) {
      DSAE_UNROLL
      for (int step = 0; step < Block::kKeptSteps; ++step) load_fragments(b, step * kMmaDepth, 0, kept[step]);
    }
    for (int number = first; number < b.shared.end; ++number) {
      if (number + 1 < b.shared.end) load_tile(b, number + 1);
      encode_tile(number, kept);
    }
  }
};

// A block has a part of a head's tiles. Neighbouring blocks take the parts of one head.
struct TensorParts {
  int tiles, tiles_each;

  DSAE_HOST_DEVICE int count() const { return (tiles + tiles_each - 1) / tiles_each; }

  // This block's.
  __device__ int head() const { return block_now() / count(); }
  __device__ int part() const { return block_now() % count(); }
};

template <int kRows, bool kSmall, class Number>
__device__ inline void encode_part(
    const EncodeCodes& p, const TensorParts& parts, unsigned char* memory) {
  const int head = parts.head(), first = parts.part() * parts.tiles_each, end = first + parts.tiles_each;
  const TensorEncoder<TensorBlock<kRows, kSmall, Number>> encoder{{p, memory}};
  encoder.encode(head, first, end < parts.tiles ? end : parts.tiles);
}

template <int kRows, bool kSmall, class Number>
__global__ void __launch_bounds__(kEncodeThreads, 2)
    encode_codes_tensor_kernel(const EncodeCodes p, const TensorParts parts) {
  DSAE_SHARED_MEMORY(memory);
  encode_part<kRows, kSmall, Number>(p, parts, memory);
}

}  // namespace dsae::cuda
