// What every implementation of an operator asks of its arguments, and the sizes it reads from them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <sstream>
#include <string>

#include "floats.h"

namespace dsae {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int32_t kInactive = -1;

inline std::string shape(const Tensor& tensor) {
  std::ostringstream text;
  text << '[';
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) text << (dim ? ", " : "") << tensor.size(dim);
  text << ']';
  return text.str();
}

inline bool has_shape(const Tensor& tensor, std::initializer_list<int64_t> sizes) {
  if (tensor.dim() != static_cast<int64_t>(sizes.size())) return false;
  int64_t dim = 0;
  for (int64_t size : sizes) {
    if (tensor.size(dim++) != size) return false;
  }
  return true;
}

inline void check_same_device(const char* op, const Tensor& first, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(
      first.device() == tensor.device(), op, ": ", name, " must be on the same device as the first argument");
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor, ScalarType dtype) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == dtype, op, ": ", name, " must be ",
      dtype == ScalarType::Int ? "int32" : "float32", ", not ",
      torch::headeronly::toString(tensor.scalar_type()));
}

// What a tensor of head outputs holds; it may be of half the width of float.
inline FloatType float_type(const char* op, const char* name, const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16, op, ": ",
      name, " must be float32, float16 or bfloat16, not ", torch::headeronly::toString(dtype));
  return dtype == ScalarType::Half       ? FloatType::float16
         : dtype == ScalarType::BFloat16 ? FloatType::bfloat16
                                         : FloatType::float32;
}

inline FloatArray float_array(const char* op, const char* name, const Tensor& tensor) {
  return {tensor.const_data_ptr(), float_type(op, name, tensor)};
}

// Tables of a number a feature are made without a look at the codes, so that n_features alone must not fill
// the memory.
constexpr int64_t kMostFeatures = int64_t{1} << 24;

inline void check_n_features(const char* op, int64_t n_features) {
  STD_TORCH_CHECK(
      n_features >= 1 && n_features <= kMostFeatures, op, ": n_features must be between 1 and ", kMostFeatures,
      ", not ", n_features);
}

// The sizes that arithmetic on them can hold, on any device. A dimension of size 0, or one that repeats, lets
// others be larger than any memory.
inline void check_rows(const char* op, const Tensor& tensor, int64_t row_dims) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  int64_t rows = 1;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    const int64_t size = tensor.size(dim);
    STD_TORCH_CHECK(size <= kMost, op, ": at most 2^31 - 1 numbers a dimension, not ", size);
    STD_TORCH_CHECK(
        dim >= row_dims || size == 0 || rows <= kMost / size, op, ": at most 2^31 - 1 rows, not those of shape ",
        shape(tensor));
    if (dim < row_dims && size) rows *= size;
  }
}

inline void check_n_positive(const char* op, int64_t n_positive, int64_t n_examples) {
  STD_TORCH_CHECK(
      n_positive >= 0 && n_positive <= n_examples, op,
      ": n_positive must be between 0 and the number of examples (", n_examples, "), not ", n_positive);
}

struct EncodeSizes {
  int64_t examples, positions, heads, depth, features;
};

inline EncodeSizes check_encode_codes(
    const Tensor& z, const Tensor& dictionary, const Tensor& bias, double threshold,
    const char* op = "encode_codes") {
  STD_TORCH_CHECK(z.dim() == 4, op, ": z must be [examples, positions, heads, d], not of shape ", shape(z));
  check_rows(op, z, 2);
  const EncodeSizes sizes{
      z.size(0), z.size(1), z.size(2), z.size(3), dictionary.dim() ? dictionary.size(-1) : 0};
  STD_TORCH_CHECK(
      has_shape(dictionary, {sizes.heads, sizes.depth, sizes.features}), op,
      ": dictionary must be [heads, d, features] = [", sizes.heads, ", ", sizes.depth,
      ", features], not of shape ", shape(dictionary));
  check_n_features(op, sizes.features);
  STD_TORCH_CHECK(
      has_shape(bias, {sizes.heads, sizes.features}), op, ": bias must be [heads, features] = [", sizes.heads,
      ", ", sizes.features, "], not of shape ", shape(bias));
  float_type(op, "z", z);
  check_dtype(op, "dictionary", dictionary, ScalarType::Float);
  check_dtype(op, "bias", bias, ScalarType::Float);
  check_same_device(op, z, "dictionary", dictionary);
  check_same_device(op, z, "bias", bias);
  STD_TORCH_CHECK(
      sizes.depth <= 1 || z.stride(3) == 1, op,
      ": the last dimension of z must be contiguous (stride 1), but its stride is ", z.stride(3));
  STD_TORCH_CHECK(threshold >= 0, op, ": threshold must be 0 or more, not ", threshold);
  return sizes;
}

// Of discover_heads: which (example, position)s are to be left out.
inline void check_mask(const char* op, const std::optional<Tensor>& mask, const Tensor& z) {
  if (!mask) return;
  STD_TORCH_CHECK(
      has_shape(*mask, {z.size(0), z.size(1)}), op, ": mask must be [examples, positions] = [", z.size(0), ", ",
      z.size(1), "], not of shape ", shape(*mask));
  STD_TORCH_CHECK(
      mask->scalar_type() == ScalarType::Bool, op, ": mask must be bool, not ",
      torch::headeronly::toString(mask->scalar_type()));
  check_same_device(op, z, "mask", *mask);
}

struct UniqueSizes {
  int64_t examples, positions, heads, positives, features;
};

inline UniqueSizes check_unique_scores(
    const Tensor& codes, const Tensor& values, int64_t n_positive, int64_t n_features) {
  const char* op = "unique_scores";
  STD_TORCH_CHECK(
      codes.dim() == 3, op, ": codes must be [examples, positions, heads], not of shape ", shape(codes));
  check_rows(op, codes, 2);
  const UniqueSizes sizes{codes.size(0), codes.size(1), codes.size(2), n_positive, n_features};
  STD_TORCH_CHECK(
      has_shape(values, {sizes.examples, sizes.positions, sizes.heads}), op,
      ": values must have the shape of codes, ", shape(codes), ", not ", shape(values));
  check_dtype(op, "codes", codes, ScalarType::Int);
  check_dtype(op, "values", values, ScalarType::Float);
  check_same_device(op, codes, "values", values);
  check_n_positive(op, n_positive, sizes.examples);
  check_n_features(op, n_features);
  return sizes;
}

struct PairSizes {
  int64_t examples, heads, positives, features;
};

inline PairSizes check_pair_scores(const Tensor& codes, int64_t n_positive, int64_t n_features) {
  const char* op = "pair_scores";
  STD_TORCH_CHECK(codes.dim() == 2, op, ": codes must be [examples, heads], not of shape ", shape(codes));
  check_rows(op, codes, 1);
  check_dtype(op, "codes", codes, ScalarType::Int);
  check_n_positive(op, n_positive, codes.size(0));
  check_n_features(op, n_features);
  return {codes.size(0), codes.size(1), n_positive, n_features};
}

struct TrainSizes {
  int64_t heads, rows, depth, features;
};

inline TrainSizes check_train_topk(
    const Tensor& x, const Tensor& encoder, const Tensor& decoder, const Tensor& bias, int64_t k,
    int64_t epochs, double lr) {
  const char* op = "train_topk";
  STD_TORCH_CHECK(x.dim() == 3, op, ": x must be [heads, rows, d], not of shape ", shape(x));
  check_rows(op, x, 2);
  const TrainSizes sizes{x.size(0), x.size(1), x.size(2), encoder.dim() ? encoder.size(-1) : 0};
  STD_TORCH_CHECK(
      sizes.heads >= 1 && sizes.rows >= 1 && sizes.depth >= 1, op,
      ": x has no rows to learn from, its shape is ", shape(x));
  const auto check_matrix = [&](const char* name, const Tensor& matrix) {
    STD_TORCH_CHECK(
        has_shape(matrix, {sizes.heads, sizes.depth, sizes.features}), op, ": ", name,
        " must be [heads, d, features] = [", sizes.heads, ", ", sizes.depth, ", ", sizes.features,
        "], not of shape ", shape(matrix));
  };
  check_matrix("encoder", encoder);
  check_matrix("decoder", decoder);
  check_n_features(op, sizes.features);
  STD_TORCH_CHECK(
      has_shape(bias, {sizes.heads, sizes.features}), op, ": bias must be [heads, features] = [", sizes.heads,
      ", ", sizes.features, "], not of shape ", shape(bias));
  const auto check_floats = [&](const char* name, const Tensor& tensor) {
    check_dtype(op, name, tensor, ScalarType::Float);
    check_same_device(op, x, name, tensor);
  };
  float_type(op, "x", x);
  check_floats("encoder", encoder);
  check_floats("decoder", decoder);
  check_floats("bias", bias);
  STD_TORCH_CHECK(
      k >= 1 && k <= sizes.features, op, ": k must be between 1 and the number of features (", sizes.features,
      "), not ", k);
  STD_TORCH_CHECK(epochs >= 0, op, ": epochs must be 0 or more, not ", epochs);
  STD_TORCH_CHECK(lr >= 0 && std::isfinite(lr), op, ": lr must be a finite number of 0 or more, not ", lr);
  return sizes;
}

struct SharedSizes {
  int64_t rows, depth, features;

  int64_t parameters() const { return 2 * features * depth + features + depth; }
};

inline SharedSizes check_train_shared(
    const Tensor& x, const Tensor& state, int64_t n_features, int64_t step, int64_t epochs, double l1,
    double lr) {
  const char* op = "train_shared";
  STD_TORCH_CHECK(x.dim() == 2, op, ": x must be [rows, d], not of shape ", shape(x));
  check_rows(op, x, 1);
  const SharedSizes sizes{x.size(0), x.size(1), n_features};
  STD_TORCH_CHECK(
      sizes.rows >= 1 && sizes.depth >= 1, op, ": x has no numbers to learn from, its shape is ", shape(x));
  check_n_features(op, n_features);
  STD_TORCH_CHECK(
      has_shape(state, {3, sizes.parameters()}), op, ": state must be [3, parameters] = [3, ",
      sizes.parameters(), "], not of shape ", shape(state));
  check_dtype(op, "x", x, ScalarType::Float);
  check_dtype(op, "state", state, ScalarType::Float);
  check_same_device(op, x, "state", state);
  STD_TORCH_CHECK(step >= 0, op, ": step must be 0 or more, not ", step);
  STD_TORCH_CHECK(epochs >= 0, op, ": epochs must be 0 or more, not ", epochs);
  STD_TORCH_CHECK(l1 >= 0 && std::isfinite(l1), op, ": l1 must be a finite number of 0 or more, not ", l1);
  STD_TORCH_CHECK(lr >= 0 && std::isfinite(lr), op, ": lr must be a finite number of 0 or more, not ", lr);
  return sizes;
}

// NaN or infinity in the rows to learn from, found while the operator ran.
inline void check_finite_x(bool is_finite) {
  STD_TORCH_CHECK(is_finite, "train_topk: x must be finite, but has NaN or infinity");
}

// A code outside -1..n_features-1, found while the operator ran.
inline void check_codes_in_range(const char* op, bool in_range, int64_t n_features) {
  STD_TORCH_CHECK(
      in_range, op, ": every code must be -1 (inactive) or between 0 and n_features - 1 = ", n_features - 1,
      ", but codes has others");
}

}  // namespace dsae
