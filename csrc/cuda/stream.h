// torch's current device and its CUDA stream. A CPU-only torch lacks the function that tells the stream, so it
// is looked up when needed instead of being linked: the extension loads beside any torch.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace dsae::cuda {

// Makes a device the current one, for as long as it lives.
using DeviceGuard = torch::stable::accelerator::DeviceGuard;

inline void* current_stream(int32_t device_index) {
  using GetStream = AOTITorchError (*)(int32_t, void**);
  static const auto get_stream = [] {
    void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<GetStream>(
        dlsym(torch_cuda ? torch_cuda : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
  }();
  STD_TORCH_CHECK(
      get_stream, "dsae: this torch has no CUDA; install a CUDA build of torch to use CUDA tensors");
  void* stream = nullptr;
  STD_TORCH_CHECK(
      get_stream(device_index, &stream) == 0, "dsae: torch could not tell its current CUDA stream");
  return stream;
}

}  // namespace dsae::cuda
