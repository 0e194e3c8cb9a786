// discover_heads on the CPU: a thread encodes a few heads and scores them while their codes are in its cache.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <tuple>

#include "arguments.h"
#include "cpu/encode_codes.h"
#include "cpu/unique_scores.h"

namespace dsae {
namespace {

// Makes the codes of masked rows inactive.
class Mask {
 public:
  explicit Mask(const std::optional<Tensor>& mask)
      : data_(mask ? static_cast<const bool*>(mask->const_data_ptr()) : nullptr),
        example_stride_(mask ? mask->stride(0) : 0),
        position_stride_(mask ? mask->stride(1) : 0) {}

  void apply(const EncodeJob& job, int64_t begin_head, int64_t end_head) const {
    if (!data_) return;
    for (int64_t row = 0; row < job.rows(); ++row) {
      const int64_t example = row / job.sizes.positions, position = row % job.sizes.positions;
      if (data_[example * example_stride_ + position * position_stride_]) continue;
      int32_t* const codes = job.codes + row * job.sizes.heads;
      std::fill(codes + begin_head, codes + end_head, kInactive);
    }
  }

 private:
  const bool* data_;
  int64_t example_stride_, position_stride_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor> discover_heads(
    const Tensor& z, const Tensor& dictionary, const Tensor& bias, double threshold, int64_t n_positive,
    const std::optional<Tensor>& mask) {
  const char* op = "discover_heads";
  const EncodeSizes sizes = check_encode_codes(z, dictionary, bias, threshold, op);
  check_n_positive(op, n_positive, sizes.examples);
  check_mask(op, mask, z);
  check_positions_fit_stamps(op, sizes.positions);
  const auto& [examples, positions, heads, depth, features] = sizes;
  const Tensor packed_dictionary = torch::stable::contiguous(dictionary),
               packed_bias = torch::stable::contiguous(bias);
  Tensor codes = torch::stable::new_empty(z, {examples, positions, heads}, ScalarType::Int);
  Tensor values = torch::stable::new_empty(z, {examples, positions, heads}, ScalarType::Float);
  Tensor counts = torch::stable::new_empty(z, {heads}, ScalarType::Int);
  Tensor mass = torch::stable::new_empty(z, {heads}, ScalarType::Float);
  const EncodeJob job{
      sizes,
      float_array(op, "z", z),
      z.stride(0),
      z.stride(1),
      z.stride(2),
      packed_dictionary.const_data_ptr<float>(),
      packed_bias.const_data_ptr<float>(),
      static_cast<float>(threshold),
      codes.mutable_data_ptr<int32_t>(),
      values.mutable_data_ptr<float>()};
  const int64_t example_stride = positions * heads;
  const Codes found{
      {examples, positions, heads, n_positive, features},
      job.codes,
      job.values,
      {example_stride, heads, 1},
      {example_stride, heads, 1}};
  const Mask left_out(mask);
  int32_t* const count_of = counts.mutable_data_ptr<int32_t>();
  float* const mass_of = mass.mutable_data_ptr<float>();

  // Blocks as large as the scorer takes them, but no fewer than threads.
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t block = std::clamp<int64_t>(heads / std::max<int64_t>(threads, 1), 1, kHeadsPerBlock);
  torch::stable::parallel_for(0, ceil_div(heads, block), 1, [&](int64_t first, int64_t last) {
    Encoder encoder(job);
    Scorer scorer(found);
    for (int64_t begin = first * block; begin < std::min(last * block, sizes.heads); begin += block) {
      const int64_t end = std::min(begin + block, sizes.heads);
      for (int64_t head = begin; head < end; ++head) {
        encoder.load_head(head);
        for (int64_t group = 0; group < job.groups(); ++group) encoder.encode(head, group);
      }
      left_out.apply(job, begin, end);
      scorer.score(begin, end, count_of, mass_of);
    }
  });
  return {codes, values, counts, mass};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CPU, library) {
  library.impl("discover_heads", TORCH_BOX(&discover_heads));
}

}  // namespace dsae
