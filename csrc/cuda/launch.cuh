// What the launchers share.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace dsae::cuda {

// What went wrong, or nullptr. The runtime forgets it, or the next launch would report it once more.
inline const char* message(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(error);
}

inline cudaError_t device_attribute(cudaDeviceAttr attribute, int& value) {
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  return cudaDeviceGetAttribute(&value, attribute, device);
}

// The shared memory that a block may have on the current device.
inline cudaError_t shared_bytes_limit(int64_t& bytes) {
  int value = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, value);
  bytes = value;
  return error;
}

// Allows a kernel these bytes and all that a block may have: a launch fails above what was allowed last, which
// another thread may be about to make use of.
inline cudaError_t allow_shared_bytes(const void* kernel, int64_t bytes) {
  int64_t limit = 0;
  if (cudaError_t error = shared_bytes_limit(limit)) return error;
  return cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes > limit ? bytes : limit));
}

template <class... Parameters>
cudaError_t allow_shared_bytes(void (*kernel)(Parameters...), int64_t bytes) {
  return allow_shared_bytes(reinterpret_cast<const void*>(kernel), bytes);
}

template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(
    void (*kernel)(Parameters...), dim3 blocks, int threads, int64_t shared_bytes, void* stream,
    const Arguments&... arguments) {
  constexpr int64_t kAlwaysAllowed = 48 * 1024;
  if (shared_bytes > kAlwaysAllowed) {
    if (cudaError_t error = allow_shared_bytes(kernel, shared_bytes)) return error;
  }
  kernel<<<blocks, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return cudaGetLastError();
}

}  // namespace dsae::cuda
