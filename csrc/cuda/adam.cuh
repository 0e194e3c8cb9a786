// Adam on the GPU, for the operators that train.
#pragma once

#include "adam.h"
#include "cuda/device.cuh"

namespace dsae::cuda {

__device__ inline void adam(
    float gradient, float rate, float square_root_factor, float& weight, float& mean, float& square) {
  constexpr float gain1 = 1 - kAdamBeta1, beta2 = kAdamBeta2, gain2 = 1 - kAdamBeta2, epsilon = kAdamEpsilon;
  mean += gain1 * (gradient - mean);
  square = beta2 * square + gain2 * gradient * gradient;
  weight -= rate * mean / (sqrtf(square) * square_root_factor + epsilon);
}

}  // namespace dsae::cuda
