#include "cuda/kernels.h"

#include <cuda_runtime.h>

#include <cstring>

#include "cuda/launch.cuh"
#include "cuda/registry.h"

namespace dsae::cuda {

std::vector<Kernel>& kernels() {
  static std::vector<Kernel> all;
  return all;
}

namespace {

cudaError_t describe(const Kernel& kernel, DsaeKernel& out) {
  cudaFuncAttributes attributes{};
  if (cudaError_t error = cudaFuncGetAttributes(&attributes, kernel.function)) return error;
  int64_t limit = 0;
  if (cudaError_t error = shared_bytes_limit(limit)) return error;
  int blocks = 0;  // as many as fit, where a block needs more than the device has
  if (kernel.shared_bytes <= limit) {
    if (cudaError_t error = allow_shared_bytes(kernel.function, kernel.shared_bytes)) return error;
    if (cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
            &blocks, kernel.function, kernel.threads, kernel.shared_bytes)) {
      return error;
    }
  }
  out = {kernel.name, kernel.threads, attributes.numRegs, static_cast<int32_t>(attributes.localSizeBytes),
         blocks,      static_cast<int64_t>(attributes.sharedSizeBytes) + kernel.shared_bytes};
  return cudaSuccess;
}

cudaError_t describe(int device, DsaeDevice& out) {
  cudaDeviceProp properties{};
  if (cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
  out = {};
  std::strncpy(out.name, properties.name, sizeof out.name - 1);
  out.major = properties.major;
  out.minor = properties.minor;
  out.processors = properties.multiProcessorCount;
  out.memory_bus_bits = properties.memoryBusWidth;
  out.shared_bytes_per_block = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  out.shared_bytes_per_processor = static_cast<int64_t>(properties.sharedMemPerMultiprocessor);
  out.l2_bytes = properties.l2CacheSize;
  out.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  // CUDA 13 took the clocks out of the properties.
  if (cudaError_t error = cudaDeviceGetAttribute(&out.clock_khz, cudaDevAttrClockRate, device)) return error;
  return cudaDeviceGetAttribute(&out.memory_clock_khz, cudaDevAttrMemoryClockRate, device);
}

}  // namespace
}  // namespace dsae::cuda

#define DSAE_EXPORT __attribute__((visibility("default")))

extern "C" {

DSAE_EXPORT int32_t dsae_kernel_count() { return static_cast<int32_t>(dsae::cuda::kernels().size()); }

DSAE_EXPORT const char* dsae_kernel(int32_t number, DsaeKernel* kernel) {
  return dsae::cuda::message(dsae::cuda::describe(dsae::cuda::kernels()[number], *kernel));
}

DSAE_EXPORT const char* dsae_device(int32_t number, DsaeDevice* device) {
  return dsae::cuda::message(dsae::cuda::describe(number, *device));
}
}
