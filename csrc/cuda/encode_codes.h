// What the torch side and the kernel side of encode_codes share: plain C++, without torch and without CUDA.
#pragma once

#include <cstdint>

#include "floats.h"

namespace dsae::cuda {

struct EncodeCodes {
  FloatArray z;                // [examples, positions, heads, depth], the last dimension contiguous
  int64_t z_strides[3];        // of the other three
  const float* dictionary;     // [heads, depth, features], contiguous
  const float* bias;           // [heads, features], contiguous
  const bool* mask;            // [examples, positions], false where the code is to be inactive; or nullptr
  int64_t mask_strides[2];
  int64_t examples, positions, heads, depth, features;  // examples * positions and features below 2^31
  float threshold;
  int32_t* codes;  // [examples, positions, heads], contiguous; so are the values
  float* values;

  DSAE_HOST_DEVICE int64_t rows() const { return examples * positions; }
};

// The blocks of its launch; at most 2^31 - 1 can be.
int64_t encode_codes_blocks(const EncodeCodes& arguments);

// Launches on the current device and the given cudaStream_t. Returns nullptr, or what went wrong.
const char* launch_encode_codes(const EncodeCodes& arguments, void* stream);

}  // namespace dsae::cuda
