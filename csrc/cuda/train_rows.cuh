// The first half of an epoch of train_topk: for a tile of rows at a time, the activations, the k strongest of
// each row, the reconstruction and its error.
#pragma once

#include <cmath>

#include "cuda/train_state.cuh"

namespace dsae::cuda {

// rows[r][i] = x[first + r][depth + i], zeros beyond the rows and the depth.
template <class Block>
__device__ inline void load_numbers(const Block& block, int first, int depth) {
  const TrainTopk& p = block.p;
  const int64_t of_head = block.head().x;
  auto& shared = block.shared();
  constexpr int kRowsAtOnce = kTrainThreads / kTrainDepth, kEach = 4;
  const int i = thread_now() % kTrainDepth;
  for (int row = thread_now() / kTrainDepth; row < Block::Shared::kRows; row += kEach * kRowsAtOnce) {
    const int left = (p.rows - first - row + kRowsAtOnce - 1) / kRowsAtOnce;
    float numbers[kEach];
    const int64_t from = of_head + (first + row) * p.row_stride + depth + i;
    read_x(p.x, from, kRowsAtOnce * p.row_stride, depth + i < p.depth ? left : 0, numbers);
    DSAE_UNROLL
    for (int n = 0; n < kEach; ++n) shared.rows[(row + n * kRowsAtOnce) * kTrainRowPitch + i] = numbers[n];
  }
}

// The same where four numbers can be read in one go.
template <class Block>
__device__ inline void load_quads(const Block& block, int first, int depth) {
  const TrainTopk& p = block.p;
  const int64_t of_head = block.head().x;
  auto& shared = block.shared();
  constexpr int kLanes = kTrainDepth / 4, kRowsAtOnce = kTrainThreads / kLanes;
  const int thread = thread_now(), i = thread % kLanes * 4;
  DSAE_UNROLL
  for (int n = 0; n < Block::Shared::kRows / kRowsAtOnce; ++n) {
    const int row = thread / kLanes + n * kRowsAtOnce;
    const bool inside = first + row < p.rows && depth + i < p.depth;
    const float* const from =
        static_cast<const float*>(p.x.data) + of_head + (first + row) * p.row_stride + depth + i;
    *reinterpret_cast<Four<float>*>(shared.rows + row * kTrainRowPitch + i) =
        inside ? load4(from) : Four<float>{};
  }
}

__device__ inline bool has_quads(const TrainTopk& p) {
  const int64_t all = p.head_stride | p.row_stride | p.depth;
  return p.x.type == FloatType::float32 && all % 4 == 0 && reinterpret_cast<uintptr_t>(p.x.data) % 16 == 0;
}

// A tile of rows and features. 16 warps share it, 8 along the rows and 2 along the features; in a warp,
// neighbouring lanes have neighbouring features.
template <class Block>
struct TrainTile {
  using Shared = typename Block::Shared;
  static constexpr int kRowsEach = Shared::kRows / 32;
  using Sums = float[kRowsEach][4];

  const Block& block;
  int first_feature;

  __device__ static int row() {
    const int thread = thread_now();
    return thread / 32 % 8 * 4 * kRowsEach + thread % 32 / 8;
  }
  __device__ static int feature() {
    const int thread = thread_now();
    return thread / 256 * 32 + thread % 8;
  }

  // sums += rows * weights from depth on.
  __device__ void multiply(int depth, Sums& sums) const {
    const TrainTopk& p = block.p;
    const int pitch = train_pitch(p.depth), left = p.depth - depth;
    const int size = left < kTrainDepth ? left : kTrainDepth;
    const float* const rows = block.shared().rows + row() * kTrainRowPitch;
    const float* weights[4];
    DSAE_UNROLL
    for (int j = 0; j < 4; ++j) {  // features that the last tile lacks are read from the last one there is
      const int f = first_feature + feature() + 8 * j;
      weights[j] = block.state().encoder.weights + (f < p.features ? f : p.features - 1) * pitch + depth;
    }
    DSAE_ROLLED
    for (int k = 0; k < size; k += 4) {
      Four<float> features[4];
      DSAE_UNROLL
      for (int j = 0; j < 4; ++j) features[j] = load4(weights[j] + k);
      DSAE_UNROLL
      for (int i = 0; i < kRowsEach; ++i) {
        const Four<float> numbers = load4(rows + 4 * i * kTrainRowPitch + k);
        DSAE_UNROLL
        for (int step = 0; step < 4; ++step) {
          DSAE_UNROLL
          for (int j = 0; j < 4; ++j) sums[i][j] += numbers.at[step] * features[j].at[step];
        }
      }
    }
  }

  __device__ void write(const Sums& sums) const {
    const TrainState state = block.state();
    const int first = feature(), left = block.p.features - first_feature;
    float* const to = block.shared().activations + row();
    DSAE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int f = first + 8 * j;
      if (f >= left) break;
      const float inverse = state.encoder.inverse[first_feature + f], bias = state.bias[first_feature + f];
      DSAE_UNROLL
      for (int i = 0; i < kRowsEach; ++i) to[f * Shared::kPitch + 4 * i] = sums[i][j] * inverse + bias;
    }
  }
};

// activations[f][r] of a tile of rows and features, before relu.
template <class Block>
__device__ inline void activate(const Block& block, int first_row, int first_feature) {
  const TrainTile<Block> tile{block, first_feature};
  typename TrainTile<Block>::Sums sums = {};
  for (int depth = 0; depth < block.p.depth; depth += kTrainDepth) {
    if (has_quads(block.p)) {
      load_quads(block, first_row, depth);
    } else {
      load_numbers(block, first_row, depth);
    }
    __syncthreads();
    tile.multiply(depth, sums);
    __syncthreads();  // before the next rows, or the activations, replace these
  }
  tile.write(sums);
}

// An activation and its feature's place in a tile; -1: none.
struct Strongest {
  float value;
  int32_t place;
};

__device__ inline bool is_before(const Strongest& a, const Strongest& b) {
  return (a.value > b.value) | ((a.value == b.value) & (a.place < b.place));
}

// The strongest of a row's activations that come after `last`, by the lanes that share the row. Among equals
// the lowest feature comes first; zeros, negative numbers and NaN never come.
template <int kRowsEach>
__device__ inline Strongest find_strongest(
    const TrainShared<kRowsEach>& shared, int row, int size, const Strongest& last) {
  constexpr int kLanes = kTrainThreads / TrainShared<kRowsEach>::kRows, kNext = 8 / kLanes;
  constexpr int kPitch = TrainShared<kRowsEach>::kPitch, kAtOnce = 8;
  const int first = thread_now() % kLanes * kNext;  // neighbouring lanes meet different banks
  Strongest best{0.0f, kTrainFeatures};
  DSAE_ROLLED
  for (int begin = first; begin < size; begin += kAtOnce / kNext * 8) {
    const auto place = [&](int i) { return begin + i % kNext + i / kNext * 8; };
    float values[kAtOnce];
    DSAE_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      values[i] = place(i) < size ? shared.activations[place(i) * kPitch + row] : 0.0f;
    }
    DSAE_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const bool better = is_before(last, {values[i], place(i)}) & (values[i] > best.value);
      best = {better ? values[i] : best.value, better ? place(i) : best.place};
    }
  }
  for (int lanes = 1; lanes < kLanes; lanes *= 2) {
    const Strongest other{
        __shfl_xor_sync(kAllLanes, best.value, lanes), __shfl_xor_sync(kAllLanes, best.place, lanes)};
    if (is_before(other, best)) best = other;
  }
  return best;
}

// Enters an activation, which is greater than the last of a row's k strongest, from place n on. It passes
// only those it is greater than.
__device__ inline void enter(
    float activation, int32_t name, int n, int k, int tile_rows, float* values, int32_t* names) {
  for (; n < k; ++n) {
    const float value = values[n * tile_rows];
    if (!(activation > value)) continue;
    const int32_t other = names[n * tile_rows];
    values[n * tile_rows] = activation;
    names[n * tile_rows] = name;
    activation = value;
    name = other;
  }
}

// By a few lanes a row: enters a tile's activations into the row's k strongest, strongest first.
template <class Block>
__device__ inline void choose(const Block& block, int first_feature) {
  constexpr int kRows = Block::Shared::kRows, kLanes = kTrainThreads / kRows;
  const int k = block.p.k, left = block.p.features - first_feature;
  const int thread = thread_now(), row = thread / kLanes, size = left < kTrainFeatures ? left : kTrainFeatures;
  float* const values = block.state().values + row;
  Strongest last{INFINITY, -1};
  for (int n = 0; n < k; ++n) {
    last = find_strongest(block.shared(), row, size, last);
    const bool enters = last.value > values[(k - 1) * kRows];
    if (!__ballot_sync(kAllLanes, enters)) break;
    if (enters && thread % kLanes == 0) {
      enter(last.value, first_feature + last.place, n, k, kRows, values, block.state().names + row);
    }
    __syncwarp();  // for safety: the lanes of a row read its last value anew
  }
}

constexpr int kRebuildEach = 4;  // numbers of a lane
constexpr int kRebuildDepth = kRebuildLanes * kRebuildEach;

__device__ inline float rebuild_sum(float number) {
  for (int offset = kRebuildLanes / 2; offset > 0; offset /= 2) {
    number += __shfl_xor_sync(kAllLanes, number, offset);
  }
  return number;
}

// A row that some lanes rebuild from its chosen features.
struct TrainRow {
  const TrainTopk& p;
  const TrainHead& head;
  const TrainState& state;
  int tile_rows, in_tile, row;
  bool is_there;

  __device__ int lane() const { return thread_now() % kRebuildLanes; }
  __device__ int name(int n) const { return is_there ? state.names[n * tile_rows + in_tile] : -1; }
  __device__ float value(int n) const { return state.values[n * tile_rows + in_tile]; }
  // How many of this lane's numbers from `depth` on there are.
  __device__ int count(int depth) const {
    return is_there ? (p.depth - depth - lane() + kRebuildLanes - 1) / kRebuildLanes : 0;
  }

  // The reconstruction less the row, of this lane's numbers from `depth` on.
  __device__ void rebuild(int depth, float (&errors)[kRebuildEach]) const {
    const int pitch = train_pitch(p.depth), here = count(depth), first = depth + lane();
    read_x(p.x, head.x + row * p.row_stride + first, kRebuildLanes, here, errors);
    DSAE_UNROLL
    for (int m = 0; m < kRebuildEach; ++m) errors[m] = -errors[m];
    DSAE_ROLLED
    for (int n = 0; n < p.k && name(n) >= 0; ++n) {
      const float value_here = value(n), inverse = state.decoder.inverse[name(n)];
      const float* const weights = state.decoder.weights + name(n) * pitch + first;
      DSAE_UNROLL
      for (int m = 0; m < kRebuildEach; ++m) {
        if (m < here) errors[m] += value_here * (weights[m * kRebuildLanes] * inverse);
      }
    }
  }

  // The sum of this lane's errors times the weights of a feature: of those at hand, where they are all of them.
  __device__ float along(int f, const float (&errors)[kRebuildEach]) const {
    const float* const weights = state.decoder.weights + f * train_pitch(p.depth) + lane();
    const int here = count(0);
    float sum = 0.0f;
    DSAE_UNROLL
    for (int m = 0; m < kRebuildEach; ++m) sum += m < here ? errors[m] * weights[m * kRebuildLanes] : 0.0f;
    return sum;
  }

  // And of those that were noted.
  __device__ float along_noted(int f) const {
    const float* const errors = head.errors + row * p.depth;
    const float* const weights = state.decoder.weights + f * train_pitch(p.depth);
    float sum = 0.0f;
    DSAE_ROLLED
    for (int i = lane(); i < p.depth; i += kRebuildLanes) sum += errors[i] * weights[i];
    return sum;
  }

  // Notes errors, chosen features and the derivatives by their activations. Returns the squared error.
  __device__ float learn() const {
    float* const errors = head.errors + row * p.depth;  // each number read by the lane that wrote it
    float squared_error = 0.0f, kept[kRebuildEach];
    for (int depth = 0; depth < p.depth; depth += kRebuildDepth) {
      rebuild(depth, kept);
      const int here = count(depth);
      float* const to = errors + depth + lane();
      DSAE_UNROLL
      for (int m = 0; m < kRebuildEach; ++m) {
        if (m < here) to[m * kRebuildLanes] = kept[m];
        squared_error += kept[m] * kept[m];
      }
    }
    DSAE_ROLLED
    for (int n = 0; n < p.k; ++n) {
      const int f = name(n);
      float gradient = 0.0f;
      if (f >= 0) gradient = p.depth <= kRebuildDepth ? along(f, kept) : along_noted(f);
      gradient = rebuild_sum(gradient);
      if (lane() != 0 || !is_there) continue;
      head.chosen[row * p.k + n] = f;
      head.activations[row * p.k + n] = value(n);
      head.gradients[row * p.k + n] = f >= 0 ? gradient * state.decoder.inverse[f] * head.gradient_scale : 0.0f;
    }
    return rebuild_sum(squared_error);
  }
};

// By a warp: its rows of a tile, two at a time.
template <class Block>
__device__ inline void rebuild_rows(const Block& block, int first) {
  constexpr int kRows = Block::Shared::kRows;
  const TrainTopk& p = block.p;
  const TrainHead head = block.head();
  const TrainState state = block.state();
  for (int in_tile = thread_now() / kRebuildLanes; in_tile < kRows; in_tile += kTrainThreads / kRebuildLanes) {
    const int row = first + in_tile;
    const bool is_there = row < p.rows;
    const float of_row = TrainRow{p, head, state, kRows, in_tile, is_there ? row : 0, is_there}.learn();
    double& part = block.shared().squared_errors[thread_now() / kRebuildLanes];
    if (thread_now() % kRebuildLanes == 0) part += of_row;
  }
}

template <class Block>
__device__ inline void forget_strongest(const Block& block) {
  const TrainState state = block.state();
  for (int i = thread_now(); i < block.p.k * Block::Shared::kRows; i += kTrainThreads) {
    state.values[i] = 0.0f;
    state.names[i] = -1;
  }
}

// One pass over the rows: errors and chosen features of all of them, and in parts their squared error.
template <class Block>
__device__ inline void learn_rows(const Block& block) {
  if (thread_now() % kRebuildLanes == 0) block.shared().squared_errors[thread_now() / kRebuildLanes] = 0;
  for (int first = 0; first < block.p.rows; first += Block::Shared::kRows) {
    forget_strongest(block);
    for (int feature = 0; feature < block.p.features; feature += kTrainFeatures) {
      activate(block, first, feature);
      __syncthreads();
      choose(block, feature);
      __syncthreads();
    }
    rebuild_rows(block, first);
    __syncthreads();  // before the next tile's strongest replace these, and before features are stepped
  }
}

}  // namespace dsae::cuda
