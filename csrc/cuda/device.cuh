// What the kernel bodies share. A body (.cuh) is seen by nvcc and, in tests, by a C++ compiler with
// cpusim/cpusim.h: no torch or CUDA header in it.
#pragma once

#include <cstdint>

#ifndef DSAE_SHARED_MEMORY
#define DSAE_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

#ifdef __CUDACC__
#define DSAE_UNROLL _Pragma("unroll")
#define DSAE_ROLLED _Pragma("unroll 1")
#else
#define DSAE_UNROLL
#define DSAE_ROLLED
#endif

namespace dsae::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

template <class Number>
__device__ inline Number warp_sum(Number number) {
  for (int offset = 16; offset > 0; offset /= 2) number += __shfl_xor_sync(kAllLanes, number, offset);
  return number;
}

__device__ inline float warp_max(float number) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, number, offset);
    number = other > number ? other : number;
  }
  return number;
}

// Four numbers of 4 bytes at a multiple of 16 bytes, read in one go.
template <class Number>
struct alignas(16) Four {
  Number at[4];
};

template <class Number>
__device__ inline Four<Number> load4(const Number* from) {
  static_assert(sizeof(Number) == 4);
  return *reinterpret_cast<const Four<Number>*>(from);
}

}  // namespace dsae::cuda
