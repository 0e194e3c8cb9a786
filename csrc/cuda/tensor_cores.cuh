// Tensor cores and asynchronous copies, one small function an instruction (PTX ISA, sm_80 and newer). Where a
// C++ compiler sees the kernels' bodies, cpusim/tensor_cores.h stands in for these functions.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"

namespace dsae::cuda {

// What mma_tf32 multiplies: rows x depth times depth x features.
constexpr int kMmaRows = 16, kMmaDepth = 8, kMmaFeatures = 8;

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
#else
#define DSAE_PTX(...) asm volatile(__VA_ARGS__)
#endif

// threadIdx.x, read anew at every call: what follows from it takes no register from here to the next use.
__device__ inline int thread_now() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// The number in TF32, as mma takes it: rounded to the nearest of 11 significant bits, ties away from zero.
__device__ inline uint32_t to_tf32(float number) {
  uint32_t rounded = 0;
  DSAE_PTX("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(number));
  return rounded;
}

// sums += a b by a whole warp. With g = lane / 4 and j = lane % 4, a lane has
//   of a [16, 8]:   a0 = [g, j], a1 = [g + 8, j], a2 = [g, j + 4], a3 = [g + 8, j + 4];
//   of b [8, 8]:    b0 = [j, g], b1 = [j + 4, g];
//   of the sums [16, 8]: [g, 2j], [g, 2j + 1], [g + 8, 2j], [g + 8, 2j + 1].
__device__ inline void mma_tf32(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  DSAE_PTX(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
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

// Until all copies that this thread started are done.
__device__ inline void wait_for_copies() { DSAE_PTX("cp.async.wait_all;" ::: "memory"); }

#undef DSAE_PTX
#endif

}  // namespace dsae::cuda
