// The kernels' names, without the CUDA functions of cuda/kernels.cu.
#include "cuda/registry.h"

namespace dsae::cuda {

std::vector<Kernel>& kernels() {
  static std::vector<Kernel> all;
  return all;
}

}  // namespace dsae::cuda
