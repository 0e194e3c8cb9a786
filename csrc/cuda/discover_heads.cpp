// discover_heads on CUDA: from tensors to the launcher and back.
#include "cuda/discover_heads.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "arguments.h"
#include "cuda/encode_arguments.h"
#include "cuda/stream.h"

namespace dsae {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> discover_heads(
    const Tensor& z, const Tensor& dictionary, const Tensor& bias, double threshold, int64_t n_positive,
    const std::optional<Tensor>& mask) {
  const char* op = "discover_heads";
  const EncodeSizes sizes = check_encode_codes(z, dictionary, bias, threshold, op);
  check_n_positive(op, n_positive, sizes.examples);
  check_mask(op, mask, z);
  const auto& [examples, positions, heads, depth, features] = sizes;
  const cuda::DeviceGuard guard(z.get_device_index());
  const cuda::Encoding encoding = cuda::prepare_encoding(op, sizes, z, dictionary, bias, threshold, mask);
  Tensor counts = torch::stable::new_empty(z, {heads}, ScalarType::Int);
  Tensor mass = torch::stable::new_empty(z, {heads}, ScalarType::Float);
  if (heads == 0) return {encoding.codes, encoding.values, counts, mass};
  Tensor strongest = torch::stable::new_zeros(z, {heads, n_positive}, ScalarType::Float);
  Tensor finished = torch::stable::new_zeros(z, {heads}, ScalarType::Int);
  Tensor in_range = torch::stable::new_empty(z, {1}, ScalarType::Int);  // of codes made here: never read

  const int64_t example_stride = positions * heads;
  const char* error = cuda::launch_discover_heads(
      {encoding.arguments,
       {encoding.arguments.codes,
        encoding.arguments.values,
        {example_stride, heads, 1},
        {example_stride, heads, 1},
        examples,
        positions,
        heads,
        n_positive,
        features,
        0,
        strongest.mutable_data_ptr<float>(),
        counts.mutable_data_ptr<int32_t>(),
        mass.mutable_data_ptr<float>(),
        in_range.mutable_data_ptr<int32_t>()},
       finished.mutable_data_ptr<int32_t>()},
      cuda::current_stream(z.get_device_index()));
  STD_TORCH_CHECK(!error, op, ": ", error);
  return {encoding.codes, encoding.values, counts, mass};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CUDA, library) {
  library.impl("discover_heads", TORCH_BOX(&discover_heads));
}

}  // namespace dsae
