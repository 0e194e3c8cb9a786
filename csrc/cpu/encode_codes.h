// What encode_codes and discover_heads share on the CPU: one head's rows to codes and values.
#pragma once

#include "arguments.h"
#include "cpu/panels.h"

namespace dsae {

struct EncodeJob {
  EncodeSizes sizes;
  FloatArray z;
  int64_t example_stride, position_stride, head_stride;
  const float *dictionary, *bias;  // contiguous
  float threshold;
  int32_t* codes;  // [examples, positions, heads], contiguous; so are the values
  float* values;

  int64_t rows() const { return sizes.examples * sizes.positions; }
  int64_t groups() const { return ceil_div(rows(), kGroupRows); }
  int64_t row_offset(int64_t row, int64_t head) const {
    return row / sizes.positions * example_stride + row % sizes.positions * position_stride +
           head * head_stride;
  }
};

// What one thread works with: a head's dictionary, packed.
class Encoder {
 public:
  explicit Encoder(const EncodeJob& job);
  void load_head(int64_t head);
  // Encodes rows group * kGroupRows and following, of the head that was loaded.
  void encode(int64_t head, int64_t group);

 private:
  using EncodeGroup = void (*)(
      const float* const* rows, const float* panels, const float* bias, int64_t depth,
      int64_t padded_features, float* values, int32_t* features);

  const float* row(int64_t row, int64_t head, float* converted) const;

  const EncodeJob& job_;
  int64_t padded_features_;
  Scratch panels_, bias_, converted_;
  EncodeGroup encode_group_;
};

}  // namespace dsae
