// What the torch side and the kernel side of train_shared share: plain C++, without torch and without CUDA.
//
// Scratch matrices are padded to whole tiles. What pads is zero, so that it adds nothing to any sum.
#pragma once

#include <algorithm>
#include <cstdint>

#include "host_device.h"

namespace dsae::cuda {

constexpr int kSharedTile = 64;  // rows and columns of a tile of a product

struct SharedTraining {
  const float* x;  // [rows, depth], contiguous
  float* state;    // [3, parameters], contiguous: stepped in place
  float* loss;     // [epochs]
  int32_t rows, depth, features;
  float error_scale;    // 2 / (rows * depth): the loss's derivative by an error is this times the error
  float sparsity;       // l1 / rows: its derivative by an activation, the error left aside
  bool x_has_quads;     // four numbers of x, from a multiple of four on, can be read in one go
  int32_t slice_rows;   // gradients are summed over this many rows each, and then over the slices
  int32_t slices;
  int64_t row_tiles, depth_tiles, feature_tiles;

  float *unit_encoder, *next_unit_encoder;  // [feature_pitch, depth_pitch]: of this epoch and the next
  float* unit_decoder;                      // [depth_pitch, feature_pitch]
  float* offset;                            // [depth_pitch]
  float *encoder_lengths, *decoder_lengths;  // [features], [depth]: what weights were divided by
  float *activations, *activation_gradients;  // [row_pitch, feature_pitch]
  float* residual;                            // [row_pitch, depth_pitch]: rebuilt - x
  float* encoder_gradients;                   // [slices, feature_pitch, depth_pitch]
  float* decoder_gradients;                   // [slices, depth_pitch, feature_pitch]
  float* activation_gradient_sums;            // [row_tiles, feature_pitch]
  float* residual_sums;                       // [row_tiles, depth_pitch]
  float* bias_gradient;                       // [feature_pitch]
  float* residual_sum;                        // [depth_pitch]
  uint32_t* active;                           // [row_tiles, feature_tiles]: see active_bit
  double* activation_sums;                    // [row_tiles, feature_tiles]
  double* squared_errors;                     // [row_tiles, depth_tiles]

  // A tile's bit that some activation is positive in 16 of its rows and 16 of its features.
  DSAE_HOST_DEVICE static uint32_t active_bit(int row, int feature) { return 1u << (row / 16 * 4 + feature / 16); }

  DSAE_HOST_DEVICE int64_t depth_pitch() const { return depth_tiles * kSharedTile; }
  DSAE_HOST_DEVICE int64_t feature_pitch() const { return feature_tiles * kSharedTile; }
  DSAE_HOST_DEVICE int64_t row_pitch() const { return row_tiles * kSharedTile; }

  // Where the parts of a row of the state begin.
  DSAE_HOST_DEVICE int64_t bias_at() const { return static_cast<int64_t>(features) * depth; }
  DSAE_HOST_DEVICE int64_t decoder_at() const { return bias_at() + features; }
  DSAE_HOST_DEVICE int64_t offset_at() const { return decoder_at() + bias_at(); }
  DSAE_HOST_DEVICE int64_t parameters() const { return offset_at() + depth; }
};

// Numbers that a training needs besides: `zeros` are zero before it starts.
struct SharedScratch {
  int64_t zeros, floats, doubles;
};

// Sets the sizes. How rows are cut into slices depends on nothing else, so every device sums alike.
inline void set_shared_sizes(SharedTraining& p, int64_t rows, int64_t depth, int64_t features, double l1) {
  constexpr int64_t kWantedBlocks = 512, kFewestRows = 256;  // enough work for a large device; of a slice
  const auto tiles = [](int64_t size) { return (size + kSharedTile - 1) / kSharedTile; };
  p.rows = static_cast<int32_t>(rows);
  p.depth = static_cast<int32_t>(depth);
  p.features = static_cast<int32_t>(features);
  p.error_scale = static_cast<float>(2 / (static_cast<double>(rows) * static_cast<double>(depth)));
  p.sparsity = static_cast<float>(l1 / static_cast<double>(rows));
  p.row_tiles = tiles(rows);
  p.depth_tiles = tiles(depth);
  p.feature_tiles = tiles(features);
  const int64_t blocks = 2 * p.depth_tiles * p.feature_tiles;
  const int64_t wanted = std::min(kWantedBlocks / blocks, rows / kFewestRows);
  const int64_t tiles_each = (p.row_tiles + std::max<int64_t>(wanted, 1) - 1) / std::max<int64_t>(wanted, 1);
  p.slice_rows = static_cast<int32_t>(tiles_each * kSharedTile);
  p.slices = static_cast<int32_t>((p.row_tiles + tiles_each - 1) / tiles_each);
}

// Places a training's scratch in memory that begins at multiples of 16 bytes. Returns how much it takes; with
// nullptrs, that is all it does.
inline SharedScratch place_shared_scratch(SharedTraining& p, float* zeros, float* floats, double* doubles) {
  SharedScratch used{};
  const auto take = [](auto* base, int64_t& taken, int64_t size) {
    auto* const place = base ? base + taken : nullptr;
    taken += (size + 3) / 4 * 4;
    return place;
  };
  const int64_t matrix = p.feature_pitch() * p.depth_pitch();
  p.unit_encoder = take(zeros, used.zeros, matrix);
  p.next_unit_encoder = take(zeros, used.zeros, matrix);
  p.unit_decoder = take(zeros, used.zeros, matrix);
  p.offset = take(zeros, used.zeros, p.depth_pitch());
  p.encoder_lengths = take(floats, used.floats, p.features);
  p.decoder_lengths = take(floats, used.floats, p.depth);
  p.activations = take(floats, used.floats, p.row_pitch() * p.feature_pitch());
  p.activation_gradients = take(floats, used.floats, p.row_pitch() * p.feature_pitch());
  p.residual = take(floats, used.floats, p.row_pitch() * p.depth_pitch());
  p.encoder_gradients = take(floats, used.floats, p.slices * matrix);
  p.decoder_gradients = take(floats, used.floats, p.slices * matrix);
  p.activation_gradient_sums = take(floats, used.floats, p.row_tiles * p.feature_pitch());
  p.residual_sums = take(floats, used.floats, p.row_tiles * p.depth_pitch());
  p.bias_gradient = take(floats, used.floats, p.feature_pitch());
  p.residual_sum = take(floats, used.floats, p.depth_pitch());
  p.active = reinterpret_cast<uint32_t*>(take(floats, used.floats, p.row_tiles * p.feature_tiles));
  p.activation_sums = take(doubles, used.doubles, p.row_tiles * p.feature_tiles);
  p.squared_errors = take(doubles, used.doubles, p.row_tiles * p.depth_tiles);
  return used;
}

// The most blocks that one of its launches has; at most 2^31 - 1 can be.
inline int64_t most_shared_blocks(const SharedTraining& p) {
  const int64_t wide = std::max(p.depth_tiles, p.feature_tiles);
  return std::max({p.row_tiles * wide, 2 * p.depth_tiles * p.feature_tiles * p.slices,
                   int64_t{p.features} + p.depth + 1});
}

// All epochs, on the current device and the given cudaStream_t, which is not waited for. step: epochs done
// before. Returns nullptr, or what went wrong.
const char* launch_train_shared(
    const SharedTraining& training, int64_t step, int64_t epochs, double lr, void* stream);

}  // namespace dsae::cuda
