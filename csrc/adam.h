// What the operators that train know of Adam (Kingma & Ba 2015, arXiv 1412.6980) and of torch's normalize.
#pragma once

#include <cmath>
#include <cstdint>

namespace dsae {

constexpr double kAdamBeta1 = 0.9, kAdamBeta2 = 0.999, kAdamEpsilon = 1e-8;
constexpr float kSmallestLength = 1e-12f;  // torch.nn.functional.normalize divides by no less

// What changes from one of Adam's steps to the next: the step size with its bias correction, and the factor
// that corrects the square root of `square`.
struct AdamStep {
  float rate, square_root_factor;
};

// step: 1 for the first.
inline AdamStep adam_step(double lr, int64_t step) {
  const auto t = static_cast<double>(step);
  return {
      static_cast<float>(lr / (1 - std::pow(kAdamBeta1, t))),
      static_cast<float>(1 / std::sqrt(1 - std::pow(kAdamBeta2, t)))};
}

}  // namespace dsae
