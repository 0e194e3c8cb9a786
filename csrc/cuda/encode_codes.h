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
  int32_t* rechecked;  // nullptr, or where the tensor cores' kernels count rows of several possible winners

  DSAE_HOST_DEVICE int64_t rows() const { return examples * positions; }
};

// Where the kernels count the rows of several possible winners; nullptr: nowhere. See dsae_count_rechecked.
int32_t* rechecked_counter();

// The blocks of its launch without tensor cores, whose blocks are never that many where there are many; at most
// 2^31 - 1 can be.
int64_t encode_codes_blocks(const EncodeCodes& arguments);

// Launches on the current device and the given cudaStream_t. Returns nullptr, or what went wrong.
const char* launch_encode_codes(const EncodeCodes& arguments, void* stream);

}  // namespace dsae::cuda
