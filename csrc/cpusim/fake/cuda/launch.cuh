// Stands in for cuda/launch.cuh where tests/test_cpusim_operators.py compiles the launchers with a C++
// compiler: kernels run in the simulator, on a device with three processors and as much shared memory for a
// block as CPUSIM_SHARED_BYTES says (an H200's by default).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <string>

#include "cpusim/cpusim.h"

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorLaunchFailure };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };

namespace dsae::cuda {

inline std::string fault;  // that the simulator found last

inline int64_t shared_bytes_of_device() {
  const char* const bytes = std::getenv("CPUSIM_SHARED_BYTES");
  return bytes ? std::atoll(bytes) : 232448;
}

inline const char* message(cudaError_t error) {
  if (error == cudaErrorInvalidValue) return "invalid argument";
  return error == cudaSuccess ? nullptr : fault.c_str();
}

inline cudaError_t device_attribute(cudaDeviceAttr, int& value) {
  value = 3;
  return cudaSuccess;
}

inline cudaError_t shared_bytes_limit(int64_t& bytes) {
  bytes = shared_bytes_of_device();
  return cudaSuccess;
}

template <class... Parameters>
cudaError_t allow_shared_bytes(void (*)(Parameters...), int64_t bytes) {
  return bytes <= shared_bytes_of_device() ? cudaSuccess : cudaErrorInvalidValue;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, int64_t) {
  *blocks = 1;
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(
    void (*kernel)(Parameters...), dim3 blocks, int threads, int64_t shared_bytes, void*,
    const Arguments&... arguments) {
  const bool launches = blocks.x >= 1 && blocks.x < 1u << 31 && blocks.y >= 1 && blocks.y < 1 << 16 &&
                        blocks.z >= 1 && blocks.z < 1 << 16 && threads >= 1 && threads <= 1024;
  if (!launches || allow_shared_bytes(kernel, shared_bytes) != cudaSuccess) return cudaErrorInvalidValue;
  try {
    cpusim::launch(
        blocks, dim3(threads), shared_bytes, {cpusim::Schedule::Order::random, 1}, kernel, arguments...);
  } catch (const std::exception& error) {
    fault = error.what();
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

}  // namespace dsae::cuda
