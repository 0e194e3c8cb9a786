// Kernels with known faults, and one without, to see that the simulator tells them apart.
// tests/test_cpusim.py runs one by name and schedule; what it prints is the kernel's result.
#include "cpusim/cpusim.h"
//
#include <cstdio>

namespace {

constexpr int kThreads = 70;  // two warps and a part of one

// Each thread reads what the next one wrote, which needs the barrier.
template <bool with_barrier>
__global__ void neighbours(int* out) {
  DSAE_SHARED_MEMORY(memory);
  int* numbers = reinterpret_cast<int*>(memory);
  numbers[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (with_barrier) __syncthreads();
  out[threadIdx.x] = numbers[(threadIdx.x + 1) % kThreads];
}

__global__ void warp_sums(int* out) {
  int sum = static_cast<int>(threadIdx.x);
  for (int offset = 16; offset > 0; offset /= 2) {
    const int other = __shfl_xor_sync(~0u, sum, offset);
    sum += threadIdx.x < 64 ? other : 0;  // the last warp has 6 lanes
  }
  out[threadIdx.x] = sum;
}

__global__ void divergent_barrier(int* out) {
  if (threadIdx.x < 40) __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void lane_outside_mask(int* out) {
  __syncwarp(0x7fffffffu);
  out[threadIdx.x] = 1;
}

__global__ void beyond_shared_memory(int* out) {
  DSAE_SHARED_MEMORY(memory);
  int* numbers = reinterpret_cast<int*>(memory);
  numbers[threadIdx.x + 1] = 1;
  out[threadIdx.x] = 1;
}

// Each thread reads what the next one copied, which needs the wait and the barrier.
template <bool with_wait, bool with_barrier>
__global__ void copies(int* out) {
  static const int numbers_from_outside[kThreads] = {11, 22, 33};
  DSAE_SHARED_MEMORY(memory);
  int* numbers = reinterpret_cast<int*>(memory);
  dsae::cuda::copy_async<4>(numbers + threadIdx.x, numbers_from_outside + threadIdx.x, 4);
  if (with_wait) dsae::cuda::wait_for_copies();
  if (with_barrier) __syncthreads();
  out[threadIdx.x] = numbers[(threadIdx.x + 1) % kThreads];
  dsae::cuda::wait_for_copies();
}

__global__ void copy_without_end(int* out) {
  DSAE_SHARED_MEMORY(memory);
  dsae::cuda::copy_async<4>(memory + 4 * threadIdx.x, out + threadIdx.x, 4);
}

__global__ void copy_not_aligned(int* out) {
  DSAE_SHARED_MEMORY(memory);
  dsae::cuda::copy_async<16>(memory + 4, out, 16);
}

// a[row, k] = row + 1 at k = 3, b[k, column] = 10 (column + 1) there, zeros elsewhere: of each product the sum
// of this lane's four, by the fragments that the PTX ISA describes.
__global__ void products(int* out) {
  const int group = threadIdx.x % 32 / 4, in_group = threadIdx.x % 4;
  const auto third = [&](int value) {
    return dsae::cuda::to_halves(0.0f, in_group == 1 ? static_cast<float>(value) : 0.0f);
  };
  const uint32_t a[4] = {third(group + 1), third(group + 9), 0, 0};
  const uint32_t b[2] = {third(10 * (group + 1)), 0};
  float sums[4] = {0.5f, 0.5f, 0.5f, 0.5f};
  if (threadIdx.x < 64) dsae::cuda::mma_halves(sums, a, b);  // the last warp is not a whole one
  out[threadIdx.x] = static_cast<int>(sums[0] + sums[1] + sums[2] + sums[3]);
}

using KernelPointer = void (*)(int*);

KernelPointer find(const std::string& name) {
  if (name == "with_barrier") return neighbours<true>;
  if (name == "without_barrier") return neighbours<false>;
  if (name == "warp_sums") return warp_sums;
  if (name == "divergent_barrier") return divergent_barrier;
  if (name == "lane_outside_mask") return lane_outside_mask;
  if (name == "beyond_shared_memory") return beyond_shared_memory;
  if (name == "copies") return copies<true, true>;
  if (name == "copies_without_wait") return copies<false, true>;
  if (name == "copies_without_barrier") return copies<true, false>;
  if (name == "copy_without_end") return copy_without_end;
  if (name == "copy_not_aligned") return copy_not_aligned;
  if (name == "products") return products;
  throw std::runtime_error("no kernel " + name);
}

}  // namespace

int main(int, char** arguments) {
  try {
    const auto order = static_cast<cpusim::Schedule::Order>(std::stoi(arguments[2]));
    int out[kThreads] = {};
    cpusim::launch(dim3(2), dim3(kThreads), sizeof(int) * kThreads, {order, 7}, find(arguments[1]), out);
    for (int number : out) std::printf("%d ", number);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
