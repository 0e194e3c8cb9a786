// encode_codes on the CPU: a head's dictionary is packed once a thread, then every group of 8 rows of z is
// multiplied with it and reduced to codes while the products are still in registers; no matrix of activations
// exists anywhere.
#include "cpu/encode_codes.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#define DSAE_ISA_BODY "cpu/encode_codes.isa.h"
#include "cpu/foreach_isa.h"

namespace dsae {

Encoder::Encoder(const EncodeJob& job)
    : job_(job),
      padded_features_(round_up(job.sizes.features, kPanelColumns)),
      panels_(packed_size(job.sizes.depth, job.sizes.features)),
      bias_(padded_features_),
      converted_(job.z.type == FloatType::float32 ? 0 : kGroupRows * job.sizes.depth),
      encode_group_(DSAE_BEST(encode_group)) {}

void Encoder::load_head(int64_t head) {
  const auto& [examples, positions, heads, depth, features] = job_.sizes;
  pack_panels(job_.dictionary + head * depth * features, depth, features, panels_.data());
  std::memcpy(bias_.data(), job_.bias + head * features, sizeof(float) * features);
  // The features that pad the last panel must not win.
  std::fill(bias_.data() + features, bias_.data() + padded_features_, -std::numeric_limits<float>::infinity());
}

// Where a row's floats are: in z itself, or converted.
const float* Encoder::row(int64_t row, int64_t head, float* converted) const {
  const int64_t first = job_.row_offset(row, head);
  if (job_.z.type == FloatType::float32) return static_cast<const float*>(job_.z.data) + first;
  for (int64_t i = 0; i < job_.sizes.depth; ++i) converted[i] = job_.z.at(first + i);
  return converted;
}

void Encoder::encode(int64_t head, int64_t group) {
  const int64_t first = group * kGroupRows, size = std::min(kGroupRows, job_.rows() - first);
  const float* rows[kGroupRows] = {};
  for (int64_t r = 0; r < kGroupRows; ++r) {
    rows[r] = r < size ? row(first + r, head, converted_.data() + r * job_.sizes.depth) : rows[size - 1];
  }
  float values[kGroupRows];
  int32_t features[kGroupRows];
  encode_group_(rows, panels_.data(), bias_.data(), job_.sizes.depth, padded_features_, values, features);
  for (int64_t r = 0; r < size; ++r) {
    const int64_t out = (first + r) * job_.sizes.heads + head;
    job_.values[out] = values[r];
    job_.codes[out] = values[r] > job_.threshold ? features[r] : kInactive;
  }
}

namespace {

std::tuple<Tensor, Tensor> encode_codes(
    const Tensor& z, const Tensor& dictionary, const Tensor& bias, double threshold) {
  const EncodeSizes sizes = check_encode_codes(z, dictionary, bias, threshold);
  const Tensor packed_dictionary = torch::stable::contiguous(dictionary),
               packed_bias = torch::stable::contiguous(bias);
  Tensor codes = torch::stable::new_empty(z, {sizes.examples, sizes.positions, sizes.heads}, ScalarType::Int);
  Tensor values =
      torch::stable::new_empty(z, {sizes.examples, sizes.positions, sizes.heads}, ScalarType::Float);
  const EncodeJob job{
      sizes,
      float_array("encode_codes", "z", z),
      z.stride(0),
      z.stride(1),
      z.stride(2),
      packed_dictionary.const_data_ptr<float>(),
      packed_bias.const_data_ptr<float>(),
      static_cast<float>(threshold),
      codes.mutable_data_ptr<int32_t>(),
      values.mutable_data_ptr<float>()};

  const int64_t work_of_a_group = kGroupRows * (sizes.depth + 1) * sizes.features;
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 18) / work_of_a_group);
  torch::stable::parallel_for(0, sizes.heads * job.groups(), grain, [&](int64_t begin, int64_t end) {
    Encoder encoder(job);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / job.groups(), group = task % job.groups();
      if (task == begin || group == 0) encoder.load_head(head);
      encoder.encode(head, group);
    }
  });
  return {codes, values};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CPU, library) { library.impl("encode_codes", TORCH_BOX(&encode_codes)); }

}  // namespace dsae
