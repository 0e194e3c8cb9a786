// What the torch side and the kernel side of train_topk share: plain C++, without torch and without CUDA.
#pragma once

#include <cstdint>

#include "floats.h"

namespace dsae::cuda {

struct TrainTopk {
  FloatArray x;  // [heads, rows, depth], the last dimension contiguous
  int64_t head_stride, row_stride;
  const float *encoder, *decoder;  // start values, [heads, depth, features], contiguous
  const float* bias;               // [heads, features], contiguous
  int64_t heads;
  int32_t rows, depth, features, k, epochs;  // rows * depth, rows * k and the state below 2^31
  double lr;
  float *trained_encoder, *trained_decoder, *trained_bias;
  float* loss;             // [epochs]
  double* squares;         // [heads]: the sum of the squares of a head's x
  double* square_sum;      // [1]: of all heads; not finite where x is not
  double* squared_errors;  // [epochs, heads]

  // Memory of each block, for one head after another.
  float* errors;             // [blocks, rows, depth]: a reconstruction minus its row
  int32_t* chosen;           // [blocks, rows, k]: the strongest features of a row, -1 where too few
  float* activations;        // [blocks, rows, k]: theirs
  float* gradients;          // [blocks, rows, k]: the derivative of the loss by them
  float* feature_gradients;  // [blocks, warps, 2, depth]: by a feature's directions in encoder and decoder
  float* states;             // [blocks, state floats]: Adam's moments; parameters, if not in shared memory
};

// How a training is launched on the current device.
struct TrainPlan {
  int64_t blocks;
  int64_t shared_bytes;
  int64_t feature_gradient_floats;  // of a block
  int64_t state_floats;             // of a block, in global memory
  int32_t rows_each;                // rows of a thread
  bool state_is_shared;             // whether the parameters are in shared memory
};

// Fills the plan, from the sizes among the arguments. Returns nullptr, or what went wrong.
const char* plan_train_topk(const TrainTopk& arguments, TrainPlan& plan);

// Launches on the current device and the given cudaStream_t. Returns nullptr, or what went wrong.
const char* launch_train_topk(const TrainTopk& arguments, const TrainPlan& plan, void* stream);

}  // namespace dsae::cuda
