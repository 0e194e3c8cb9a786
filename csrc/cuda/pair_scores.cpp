// pair_scores on CUDA: from tensors to the launcher and back.
#include "cuda/pair_scores.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "arguments.h"
#include "cuda/limits.h"
#include "cuda/stream.h"

namespace dsae {
namespace {

constexpr int64_t kRecordBytes = int64_t{64} << 20;
constexpr int64_t kMostAtOnce = 1 << 16;  // keeps every dimension of the grids in range
constexpr int64_t kMostHeads = 65535 * int64_t{64};  // squares of 64 heads, a grid's second dimension

Tensor pair_scores(const Tensor& codes, int64_t n_positive, int64_t n_features) {
  const char* op = "pair_scores";
  const PairSizes sizes = check_pair_scores(codes, n_positive, n_features);
  STD_TORCH_CHECK(
      sizes.heads <= kMostHeads, op, ": at most ", kMostHeads, " heads on CUDA, not ", sizes.heads);
  cuda::check_rows(op, sizes.examples, 1);
  const cuda::DeviceGuard guard(codes.get_device_index());
  Tensor scores = torch::stable::new_zeros(codes, {sizes.heads, sizes.heads}, ScalarType::Int);
  if (sizes.heads == 0 || sizes.examples == 0) return scores;
  const int64_t words = cuda::pair_record_words(sizes.examples);
  cuda::check_blocks(op, sizes.heads * words);  // more than there will be
  // Without positives one pass is left, to find codes out of range.
  const int64_t at_once = std::clamp<int64_t>(
      kRecordBytes / (4 * words * sizes.heads), 1, std::clamp<int64_t>(sizes.positives, 1, kMostAtOnce));
  Tensor records = torch::stable::new_empty(codes, {at_once, words, sizes.heads}, ScalarType::Int);
  Tensor in_range = torch::stable::fill_(torch::stable::new_empty(codes, {1}, ScalarType::Int), 1);

  const char* error = cuda::launch_pair_scores(
      {codes.const_data_ptr<int32_t>(),
       {codes.stride(0), codes.stride(1)},
       sizes.examples,
       sizes.heads,
       sizes.positives,
       sizes.features,
       reinterpret_cast<uint32_t*>(records.mutable_data_ptr<int32_t>()),
       at_once,
       scores.mutable_data_ptr<int32_t>(),
       in_range.mutable_data_ptr<int32_t>(),
       0,
       0,
       1},
      cuda::current_stream(codes.get_device_index()));
  STD_TORCH_CHECK(!error, op, ": ", error);
  const Tensor in_range_here =
      torch::stable::to(in_range, torch::stable::Device(torch::headeronly::DeviceType::CPU));
  check_codes_in_range(op, *in_range_here.const_data_ptr<int32_t>() != 0, n_features);
  return scores;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CUDA, library) { library.impl("pair_scores", TORCH_BOX(&pair_scores)); }

}  // namespace dsae
