// Every launcher's file names its kernels here, as the library is loaded; no CUDA function is called then.
#pragma once

#include <cstdint>
#include <vector>

namespace dsae::cuda {

struct Kernel {
  const char* name;
  const void* function;
  int32_t threads;
  int64_t shared_bytes;  // of a block, at d = F = 64, k = 2 and 17 positions
};

std::vector<Kernel>& kernels();

struct RegisterKernel {
  template <class... Parameters>
  RegisterKernel(const char* name, void (*kernel)(Parameters...), int32_t threads, int64_t shared_bytes) {
    kernels().push_back({name, reinterpret_cast<const void*>(kernel), threads, shared_bytes});
  }
};

constexpr int64_t kExampleDepth = 64, kExampleFeatures = 64, kExampleK = 2, kExamplePositions = 17;

}  // namespace dsae::cuda
