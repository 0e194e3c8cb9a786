// The number types that head outputs come in, and how they become float: plain C++, for the CPU operators,
// for nvcc and for the simulator. Every float16 and bfloat16 is a float exactly, so converting loses nothing.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace dsae {

enum class FloatType : int32_t { float32, float16, bfloat16 };

struct Float16 {
  uint16_t bits;
};

struct Bfloat16 {
  uint16_t bits;
};

DSAE_HOST_DEVICE inline float float_of_bits(uint32_t bits) {
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

DSAE_HOST_DEVICE inline uint32_t bits_of_float(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return bits;
}

DSAE_HOST_DEVICE inline float to_float(float number) { return number; }

DSAE_HOST_DEVICE inline float to_float(Bfloat16 number) {
  return float_of_bits(static_cast<uint32_t>(number.bits) << 16);
}

// The exponent is moved to its place and its bias set right by a multiplication, which also makes a subnormal
// number normal; infinity and NaN keep the largest exponent.
DSAE_HOST_DEVICE inline float to_float(Float16 number) {
  constexpr float kBiasDifference = 5.192296858534828e33f;  // 2^112
  const uint32_t magnitude = number.bits & 0x7fffu, sign = static_cast<uint32_t>(number.bits & 0x8000u) << 16;
  const uint32_t finite = bits_of_float(float_of_bits(magnitude << 13) * kBiasDifference);
  const uint32_t beyond = 0x7f800000u | magnitude << 13;
  return float_of_bits((magnitude < 0x7c00u ? finite : beyond) | sign);
}

// An array of any of the types.
struct FloatArray {
  const void* data;
  FloatType type;

  DSAE_HOST_DEVICE float at(int64_t index) const {
    switch (type) {
      case FloatType::float16:
        return to_float(static_cast<const Float16*>(data)[index]);
      case FloatType::bfloat16:
        return to_float(static_cast<const Bfloat16*>(data)[index]);
      default:
        return static_cast<const float*>(data)[index];
    }
  }
};

}  // namespace dsae
