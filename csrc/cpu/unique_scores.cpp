// unique_scores on the CPU, a block of heads at a time; see unique_scores.h.
#include "cpu/unique_scores.h"

#include <torch/csrc/stable/library.h>

#include <atomic>
#include <tuple>

namespace dsae {
namespace {

std::tuple<Tensor, Tensor> unique_scores(
    const Tensor& codes, const Tensor& values, int64_t n_positive, int64_t n_features) {
  const UniqueSizes sizes = check_unique_scores(codes, values, n_positive, n_features);
  check_positions_fit_stamps("unique_scores", sizes.positions);
  const Codes input{
      sizes,
      codes.const_data_ptr<int32_t>(),
      values.const_data_ptr<float>(),
      {codes.stride(0), codes.stride(1), codes.stride(2)},
      {values.stride(0), values.stride(1), values.stride(2)}};
  Tensor counts = torch::stable::new_empty(codes, {sizes.heads}, ScalarType::Int);
  Tensor mass = torch::stable::new_empty(codes, {sizes.heads}, ScalarType::Float);
  int32_t* count_of = counts.mutable_data_ptr<int32_t>();
  float* mass_of = mass.mutable_data_ptr<float>();

  std::atomic<bool> in_range{true};
  const int64_t blocks = (sizes.heads + kHeadsPerBlock - 1) / kHeadsPerBlock;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    Scorer scorer(input);
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kHeadsPerBlock, end = std::min(begin + kHeadsPerBlock, sizes.heads);
      if (!scorer.score(begin, end, count_of, mass_of)) in_range = false;
    }
  });
  check_codes_in_range("unique_scores", in_range, n_features);
  return {counts, mass};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CPU, library) { library.impl("unique_scores", TORCH_BOX(&unique_scores)); }

}  // namespace dsae
