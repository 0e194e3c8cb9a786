// Which of the tensor cores' kernels takes a case, and how its rows are shared out; for the launchers.
#pragma once

#include "cuda/encode_codes_tensor.cuh"

namespace dsae::cuda {

// A kernel's template parameters as a type.
template <int kRows_, bool kSmall_, class Number_>
struct TensorKind {
  static constexpr int kRows = kRows_;
  static constexpr bool kSmall = kSmall_;
  using Number = Number_;
};

struct TensorPlan {
  int rows;  // of a tile; 0: this case is not for tensor cores
  bool small;
  int64_t shared_bytes;
  TensorParts parts;
};

// A block's part: enough blocks for the last ones to end together, without loading the dictionary too often.
inline TensorParts tensor_parts(int64_t rows, int tile_rows, int64_t heads, int64_t processors) {
  constexpr int64_t kBlocksOfProcessor = 16, kBlocksAtOnce = 2, kTilesEnough = 4;
  const int64_t tiles = (rows + tile_rows - 1) / tile_rows, all = tiles * heads;
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t many = ceil_div(all, kBlocksOfProcessor * processors);
  const int64_t few = ceil_div(all, kBlocksAtOnce * processors);
  const int64_t each = many > kTilesEnough ? many : few < kTilesEnough ? few : kTilesEnough;
  return {static_cast<int>(tiles), static_cast<int>(each < tiles ? each : tiles)};
}

// shared_limit: of a block; two blocks at once need about half as much each.
inline TensorPlan plan_tensor(const EncodeCodes& p, int64_t shared_limit, int64_t processors) {
  constexpr int64_t kMostDepth = 1 << 12, kMostFeatures = 1 << 12, kSystemBytes = 1024;
  if (!kHaveTensorCores || p.depth < 1 || p.depth > kMostDepth || p.features > kMostFeatures) return {};
  const int depth = static_cast<int>(p.depth), features = static_cast<int>(p.features);
  const int number_bytes = p.z.type == FloatType::float32 ? 4 : 2;
  const auto plan = [&](int tile_rows, bool small, int64_t bytes) {
    return TensorPlan{tile_rows, small, bytes, tensor_parts(p.rows(), tile_rows, p.heads, processors)};
  };
  const int64_t small = tensor_shared_bytes<128>(TensorSizes<true>{depth, features}, number_bytes);
  if (depth <= kSmallDepth && features <= kChunkFeatures && small <= shared_limit) return plan(128, true, small);
  const TensorSizes<false> sizes{depth, features};
  const int64_t one = tensor_shared_bytes<64>(sizes, number_bytes);
  const int64_t two = tensor_shared_bytes<128>(sizes, number_bytes);
  const int64_t half = (shared_limit - kSystemBytes) / 2;
  if (two <= half || (one > half && two <= shared_limit)) return plan(128, false, two);
  if (one <= shared_limit) return plan(64, false, one);
  return {};
}

// Calls with the plan's TensorKind.
template <class Call>
auto with_tensor_kind(const TensorPlan& plan, FloatType type, Call call) {
  const auto with_type = [&](auto number) {
    using Number = decltype(number);
    if (plan.small) return call(TensorKind<128, true, Number>{});
    return plan.rows == 64 ? call(TensorKind<64, false, Number>{}) : call(TensorKind<128, false, Number>{});
  };
  if (type == FloatType::float16) return with_type(Float16{});
  if (type == FloatType::bfloat16) return with_type(Bfloat16{});
  return with_type(0.0f);
}

}  // namespace dsae::cuda
