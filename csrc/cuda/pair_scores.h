// What the torch side and the kernel side of pair_scores share: plain C++, without torch and without CUDA.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace dsae::cuda {

struct PairScores {
  const int32_t* codes;  // [examples, heads], any strides
  int64_t code_strides[2];
  int64_t examples, heads, positives, features;  // heads and examples below 2^31
  uint32_t* records;         // [record_positives, words of a record, heads]; see pair_scores.cuh
  int64_t record_positives;  // positives that are looked at in one go
  int32_t* scores;           // [heads, heads], zeros at first
  int32_t* in_range;         // [1], 1 at first: 0 where a code is out of range

  // The positives looked at now, and how many blocks share a square of heads; the launcher sets them.
  int64_t first_positive, some_positives, splits;
};

// A bit an example, and a word that says whether the positive's own code is inactive.
DSAE_HOST_DEVICE inline int64_t pair_record_words(int64_t examples) { return 1 + (examples + 31) / 32; }

// Launches on the current device and the given cudaStream_t. Returns nullptr, or what went wrong.
const char* launch_pair_scores(PairScores arguments, void* stream);

}  // namespace dsae::cuda
