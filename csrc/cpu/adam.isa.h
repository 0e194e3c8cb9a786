// Vector arithmetic on one feature, and Adam, for the operators that train. See foreach_isa.h; wants
// tile.isa.h before it.

__attribute__((always_inline)) inline float dot(const float* a, const float* b, int64_t size) {
  Floats sum{};
  for (int64_t i = 0; i < size; i += kLanes) sum += load(a + i) * load(b + i);
  return sum_of_lanes(sum);
}

// to += scale * from
__attribute__((always_inline)) inline void add_scaled(
    float* to, float scale, const float* from, int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes) store(to + i, load(to + i) + scale * load(from + i));
}

inline float greatest_lane(Floats vector) {
  using Quarter __attribute__((vector_size(16))) = float;
  Quarter parts[kLanes / 4];
  __builtin_memcpy(parts, &vector, sizeof parts);
  Quarter most = parts[0];
#pragma GCC unroll 4
  for (int64_t i = 1; i < kLanes / 4; ++i) most = parts[i] > most ? parts[i] : most;
  const float even = most[0] > most[2] ? most[0] : most[2], odd = most[1] > most[3] ? most[1] : most[3];
  return even > odd ? even : odd;
}

// Adam's update of the weights; the gradient becomes zero.
inline void adam(
    float* __restrict weights, float* __restrict gradient, float* __restrict mean, float* __restrict square,
    int64_t size, AdamStep step) {
  constexpr float gain1 = 1 - kAdamBeta1, beta2 = kAdamBeta2, gain2 = 1 - kAdamBeta2, epsilon = kAdamEpsilon;
  for (int64_t i = 0; i < size; ++i) {
    const float g = gradient[i];
    mean[i] += gain1 * (g - mean[i]);
    square[i] = beta2 * square[i] + gain2 * g * g;
    weights[i] -= step.rate * mean[i] / (__builtin_sqrtf(square[i]) * step.square_root_factor + epsilon);
    gradient[i] = 0;
  }
}
