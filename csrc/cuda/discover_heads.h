// What the torch side and the kernel side of discover_heads share: plain C++, without torch and without CUDA.
#pragma once

#include "cuda/encode_codes.h"
#include "cuda/unique_scores.h"

namespace dsae::cuda {

struct DiscoverHeads {
  EncodeCodes encode;
  UniqueScores score;  // its codes and values are those that encode writes
  int32_t* finished;   // [heads], zeros at first: blocks that have encoded their part of a head
};

// Launches on the current device and the given cudaStream_t. Returns nullptr, or what went wrong.
const char* launch_discover_heads(DiscoverHeads arguments, void* stream);

}  // namespace dsae::cuda
