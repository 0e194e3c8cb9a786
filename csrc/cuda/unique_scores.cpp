// unique_scores on CUDA: from tensors to the launcher and back.
#include "cuda/unique_scores.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "arguments.h"
#include "cuda/limits.h"
#include "cuda/stream.h"

namespace dsae {
namespace {

std::tuple<Tensor, Tensor> unique_scores(
    const Tensor& codes, const Tensor& values, int64_t n_positive, int64_t n_features) {
  const UniqueSizes sizes = check_unique_scores(codes, values, n_positive, n_features);
  cuda::check_heads("unique_scores", sizes.heads);
  cuda::check_rows("unique_scores", sizes.examples, sizes.positions);
  const cuda::DeviceGuard guard(codes.get_device_index());
  Tensor counts = torch::stable::new_empty(codes, {sizes.heads}, ScalarType::Int);
  Tensor mass = torch::stable::new_empty(codes, {sizes.heads}, ScalarType::Float);
  if (sizes.heads == 0) return {counts, mass};
  Tensor strongest = torch::stable::new_zeros(codes, {sizes.heads, sizes.positives}, ScalarType::Float);
  Tensor in_range = torch::stable::fill_(torch::stable::new_empty(codes, {1}, ScalarType::Int), 1);

  const char* error = cuda::launch_unique_scores(
      {codes.const_data_ptr<int32_t>(),
       values.const_data_ptr<float>(),
       {codes.stride(0), codes.stride(1), codes.stride(2)},
       {values.stride(0), values.stride(1), values.stride(2)},
       sizes.examples,
       sizes.positions,
       sizes.heads,
       sizes.positives,
       sizes.features,
       0,
       strongest.mutable_data_ptr<float>(),
       counts.mutable_data_ptr<int32_t>(),
       mass.mutable_data_ptr<float>(),
       in_range.mutable_data_ptr<int32_t>()},
      cuda::current_stream(codes.get_device_index()));
  STD_TORCH_CHECK(!error, "unique_scores: ", error);
  const Tensor in_range_here =
      torch::stable::to(in_range, torch::stable::Device(torch::headeronly::DeviceType::CPU));
  check_codes_in_range("unique_scores", *in_range_here.const_data_ptr<int32_t>() != 0, n_features);
  return {counts, mass};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CUDA, library) { library.impl("unique_scores", TORCH_BOX(&unique_scores)); }

}  // namespace dsae
