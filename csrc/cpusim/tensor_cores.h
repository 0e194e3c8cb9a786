// Tensor cores and asynchronous copies for the simulator: the functions of cuda/tensor_cores.cuh. cpusim.h
// includes this.
#pragma once

namespace dsae::cuda {

inline int thread_now() { return static_cast<int>(threadIdx.x); }

// As cvt.rna.tf32.f32 does: of the 13 bits that go, the first one rounds the size up.
inline uint32_t to_tf32(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  const bool is_finite = (bits & 0x7f800000u) != 0x7f800000u;
  return is_finite ? (bits + 0x1000u) & ~0x1fffu : bits;
}

// The 13 lowest bits of a and b count for nothing. The sum is exact but for the last rounding, which is
// towards zero: tensor cores are not known to do better (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores").
inline void mma_tf32(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Operands {
    uint32_t a[4], b[2];
  };
  Operands own, all[32];
  std::memcpy(own.a, a, sizeof a);
  std::memcpy(own.b, b, sizeof b);
  cpusim::Block& block = *cpusim::Block::current;
  block.gather(own, all);

  const auto number = [](uint32_t bits) {
    bits &= ~0x1fffu;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return static_cast<double>(value);
  };
  const unsigned group = block.lane() / 4, in_group = block.lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = group + 8 * (i / 2), column = 2 * in_group + i % 2;
    double sum = sums[i];
    for (unsigned k = 0; k < 8; ++k) {
      const Operands &of_row = all[row % 8 * 4 + k % 4], &of_column = all[column * 4 + k % 4];
      sum += number(of_row.a[row / 8 + 2 * (k / 4)]) * number(of_column.b[k / 4]);
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

inline void wait_for_copies() { cpusim::Block::current->finish_copies(); }

}  // namespace dsae::cuda
