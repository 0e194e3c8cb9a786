// What the bindings of several CUDA operators check: the sizes that 32-bit numbers in the kernels can hold.
#pragma once

#include <cstdint>
#include <limits>

#include "arguments.h"

namespace dsae::cuda {

constexpr int64_t kLargest32 = std::numeric_limits<int32_t>::max();

inline void check_heads(const char* op, int64_t heads) {
  STD_TORCH_CHECK(heads <= kLargest32, op, ": at most 2^31 - 1 heads on CUDA, not ", heads);
}

inline void check_rows(const char* op, int64_t examples, int64_t positions) {
  STD_TORCH_CHECK(
      examples == 0 || positions <= kLargest32 / examples, op,
      ": at most 2^31 - 1 examples x positions on CUDA, not ", examples, " x ", positions);
}

inline void check_blocks(const char* op, int64_t blocks) {
  STD_TORCH_CHECK(
      blocks <= kLargest32, op, ": too large for one launch on CUDA (", blocks, " blocks); split the examples");
}

}  // namespace dsae::cuda
