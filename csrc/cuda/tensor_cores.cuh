// Tensor cores and asynchronous copies, one small function an instruction (PTX ISA, sm_80 and newer). Where a
// C++ compiler sees the kernels' bodies, cpusim/tensor_cores.h stands in for these functions.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"

namespace dsae::cuda {

// What mma_halves multiplies: rows x depth times depth x features.
constexpr int kMmaRows = 16, kMmaDepth = 16, kMmaFeatures = 8;

// Whether every architecture that this is compiled for has them; where one lacks them, nothing calls these.
#ifdef __CUDA_ARCH_LIST__
constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};
constexpr bool have_tensor_cores() {
  for (int architecture : kArchitectures) {
    if (architecture < 800) return false;
  }
  return true;
}
constexpr bool kHaveTensorCores = have_tensor_cores();
#else
constexpr bool kHaveTensorCores = true;
#endif

#ifdef __CUDACC__

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define DSAE_PTX(...) __trap()
#define DSAE_PURE_PTX(...) __trap()
#else
#define DSAE_PTX(...) asm volatile(__VA_ARGS__)
#define DSAE_PURE_PTX(...) asm(__VA_ARGS__)  // may be moved, and left out where nothing needs its result
#endif

// threadIdx.x, read anew at every call: what follows from it takes no register from here to the next use.
__device__ inline int thread_now() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// And blockIdx.x.
__device__ inline int block_now() {
  int block;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
  return block;
}

// 0, which the compiler does not know: an address plus this is worked out anew where it is used.
__device__ inline int nothing_now() {
  int nothing;
  asm volatile("mov.u32 %0, 0;" : "=r"(nothing));
  return nothing;
}

// Two numbers in half precision, rounded to the nearest of 11 significant bits and to nothing finer than 2^-24;
// from 65520 on they are infinite. `first` is in the lower bits.
__device__ inline uint32_t to_halves(float first, float second) {
  uint32_t halves = 0;
  DSAE_PURE_PTX("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(halves) : "f"(second), "f"(first));
  return halves;
}

// And what they are in float32: the first one.
__device__ inline float first_half(uint32_t halves) {
  float number = 0.0f;
  DSAE_PURE_PTX(
      "{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}" : "=f"(number) : "r"(halves));
  return number;
}

__device__ inline float second_half(uint32_t halves) { return first_half(halves >> 16); }

// The square root, good to about a rounding.
__device__ inline float near_root(float number) {
  float root = 0.0f;
  DSAE_PURE_PTX("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(number));
  return root;
}

// sums += a b by a whole warp. With g = lane / 4 and j = lane % 4, a lane has pairs of halves
//   of a [16, 16]: [g, 2j], [g + 8, 2j], [g, 2j + 8], [g + 8, 2j + 8], each with the next one of its row;
//   of b [16, 8]:  [2j, g], [2j + 8, g], each with the next one of its column;
// and of the sums [16, 8]: [g, 2j], [g, 2j + 1], [g + 8, 2j], [g + 8, 2j + 1].
__device__ inline void mma_halves(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  DSAE_PTX(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Starts to copy `valid` bytes from global to shared memory, and zeros behind them, kBytes in all, which both
// addresses are a multiple of. Nothing may read or write them before this thread has called wait_for_copies;
// other threads, before a barrier after that.
template <int kBytes>
__device__ inline void copy_async(void* to, const void* from, int valid) {
  static_assert(kBytes == 4 || kBytes == 16);
  const auto target = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16) {
    DSAE_PTX("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(from), "r"(valid) : "memory");
  } else {
    DSAE_PTX("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(target), "l"(from), "r"(valid) : "memory");
  }
}

// The same for 16 bytes that are all there, in fewer instructions.
__device__ inline void copy16_async(void* to, const void* from) {
  const auto target = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  DSAE_PTX("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(from) : "memory");
}

// Until all copies that this thread started are done.
__device__ inline void wait_for_copies() { DSAE_PTX("cp.async.wait_all;" ::: "memory"); }

#undef DSAE_PTX
#undef DSAE_PURE_PTX
#endif

}  // namespace dsae::cuda
