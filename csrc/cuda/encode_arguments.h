// The bindings of encode_codes and discover_heads: from checked tensors to the kernel's arguments.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "arguments.h"
#include "cuda/encode_codes.h"
#include "cuda/limits.h"

namespace dsae::cuda {

// Tensors that the arguments point into: the caller keeps them alive until the kernel is launched (torch frees
// memory in the order of the stream).
struct Encoding {
  Tensor dictionary, bias, codes, values;
  EncodeCodes arguments;
};

inline Encoding prepare_encoding(
    const char* op, const EncodeSizes& sizes, const Tensor& z, const Tensor& dictionary, const Tensor& bias,
    double threshold, const std::optional<Tensor>& mask) {
  const auto& [examples, positions, heads, depth, features] = sizes;
  check_heads(op, heads);
  check_rows(op, examples, positions);
  Encoding made{
      torch::stable::contiguous(dictionary), torch::stable::contiguous(bias),
      torch::stable::new_empty(z, {examples, positions, heads}, ScalarType::Int),
      torch::stable::new_empty(z, {examples, positions, heads}, ScalarType::Float), {}};
  made.arguments = {
      float_array(op, "z", z),
      {z.stride(0), z.stride(1), z.stride(2)},
      made.dictionary.const_data_ptr<float>(),
      made.bias.const_data_ptr<float>(),
      mask ? static_cast<const bool*>(mask->const_data_ptr()) : nullptr,
      {mask ? mask->stride(0) : 0, mask ? mask->stride(1) : 0},
      examples,
      positions,
      heads,
      depth,
      features,
      static_cast<float>(threshold),
      made.codes.mutable_data_ptr<int32_t>(),
      made.values.mutable_data_ptr<float>(),
      rechecked_counter()};
  return made;
}

}  // namespace dsae::cuda
