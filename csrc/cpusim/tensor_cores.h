// Tensor cores and asynchronous copies for the simulator: the functions of cuda/tensor_cores.cuh. cpusim.h
// includes this.
#pragma once

#include "floats.h"

namespace dsae::cuda {

inline int thread_now() { return static_cast<int>(threadIdx.x); }

inline int block_now() { return static_cast<int>(blockIdx.x); }

inline int nothing_now() { return 0; }

// As cvt.rn.f16x2.f32 does: to nearest, ties to even.
inline uint32_t to_half(float number) {
  const uint32_t sign = bits_of_float(number) >> 16 & 0x8000u;
  const float size = std::fabs(number);
  if (std::isnan(number)) return 0x7fffu;
  if (size >= 65520.0f) return sign | 0x7c00u;
  if (size < 0x1p-14f) return sign | static_cast<uint32_t>(std::nearbyint(size * 0x1p24f));  // may become normal
  const uint32_t bits = bits_of_float(size), odd = bits >> 13 & 1;
  return sign | ((bits + 0xfffu + odd - (112u << 23)) >> 13);
}

inline uint32_t to_halves(float first, float second) { return to_half(first) | to_half(second) << 16; }

inline float first_half(uint32_t halves) { return to_float(Float16{static_cast<uint16_t>(halves)}); }

inline float second_half(uint32_t halves) { return first_half(halves >> 16); }

// Off by as much as a device's may be.
inline float near_root(float number) { return std::nextafter(std::sqrt(number), 0.0f); }

// The sum is exact but for the last rounding, which is towards zero: tensor cores are not known to do better
// (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores").
inline void mma_halves(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Operands {
    uint32_t a[4], b[2];
  };
  Operands own, all[32];
  std::memcpy(own.a, a, sizeof a);
  std::memcpy(own.b, b, sizeof b);
  cpusim::Block& block = *cpusim::Block::current;
  block.gather(own, all);

  const auto number = [](uint32_t pair, unsigned k) {
    return static_cast<double>(k % 2 ? second_half(pair) : first_half(pair));
  };
  const unsigned group = block.lane() / 4, in_group = block.lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = group + 8 * (i / 2), column = 2 * in_group + i % 2;
    double sum = sums[i];
    for (unsigned k = 0; k < 16; ++k) {
      const Operands &of_row = all[row % 8 * 4 + k / 2 % 4], &of_column = all[column * 4 + k / 2 % 4];
      sum += number(of_row.a[row / 8 + 2 * (k / 8)], k) * number(of_column.b[k / 8], k);
    }
    const auto nearest = static_cast<float>(sum);
    sums[i] = std::fabs(nearest) > std::fabs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
  }
}

template <int kBytes>
void copy_async(void* to, const void* from, int valid) {
  static_assert(kBytes == 4 || kBytes == 16);
  cpusim::Block::current->start_copy(to, from, valid, kBytes);
}

inline void copy16_async(void* to, const void* from) { copy_async<16>(to, from, 16); }

inline void wait_for_copies() { cpusim::Block::current->finish_copies(); }

}  // namespace dsae::cuda
