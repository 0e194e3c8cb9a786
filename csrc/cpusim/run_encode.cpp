// Runs the body of cuda/encode_codes.cuh or of cuda/discover_heads.cuh on one case: reads it from standard
// input and writes codes and values, and of discover_heads counts and mass, to standard output, all in binary.
// tests/test_cpusim_encode.py compiles this and talks to it.
#include "cpusim/cpusim.h"
//
#include "cuda/discover_heads.cuh"
#include "cuda/discover_heads_tensor.cuh"
#include "cuda/tensor_plan.h"
#include "cpusim/streams.h"

namespace {

constexpr size_t kNumberBytes[] = {4, 2, 2};  // by FloatType

template <int kRowsEach>
void launch(bool discover, cpusim::Schedule schedule, const dsae::cuda::DiscoverHeads& arguments) {
  using namespace dsae::cuda;
  const EncodeCodes& encode = arguments.encode;
  if (discover) {
    const int64_t bytes = discover_heads_shared_bytes<kRowsEach>(arguments.score.bits);
    cpusim::launch(
        dim3(encode.heads), dim3(kEncodeThreads), bytes, schedule, discover_heads_kernel<kRowsEach>, arguments);
  } else {
    const int64_t rows = EncodeShared<kRowsEach>::kRows, tiles = (encode.rows() + rows - 1) / rows;
    cpusim::launch(
        dim3(tiles * encode.heads), dim3(kEncodeThreads), sizeof(EncodeShared<kRowsEach>), schedule,
        encode_codes_kernel<kRowsEach>, encode);
  }
}

// Where tiles_each is not 0: tensor cores, a block for as many tiles.
template <class Kind>
void launch_tensor(
    Kind, bool discover, int64_t tiles_each, cpusim::Schedule schedule,
    const dsae::cuda::DiscoverHeads& arguments) {
  using namespace dsae::cuda;
  using Number = typename Kind::Number;
  const EncodeCodes& encode = arguments.encode;
  const TensorSizes<Kind::kSmall> sizes{static_cast<int>(encode.depth), static_cast<int>(encode.features)};
  int64_t bytes = tensor_shared_bytes<Kind::kRows>(sizes, sizeof(Number));
  constexpr int64_t kRows = Kind::kRows;
  const TensorParts parts{static_cast<int>((encode.rows() + kRows - 1) / kRows), static_cast<int>(tiles_each)};
  const dim3 blocks(parts.count() * encode.heads), threads(kEncodeThreads);
  if (discover) {
    bytes = std::max(bytes, unique_scores_shared_bytes(arguments.score.bits));
    cpusim::launch(
        blocks, threads, bytes, schedule, discover_heads_tensor_kernel<kRows, Kind::kSmall, Number>,
        arguments, parts);
  } else {
    cpusim::launch(
        blocks, threads, bytes, schedule, encode_codes_tensor_kernel<kRows, Kind::kSmall, Number>,
        encode, parts);
  }
}

}  // namespace

int main() {
  try {
    // Structured bindings cannot be captured.
    const auto numbers = cpusim::read_numbers<15>();
    const auto [discover, rows_each, tiles_each, small, order, seed, type, examples, positions, heads, depth,
                features, positives, bits, masked] = numbers;
    const auto [z_size, offset, example_stride, position_stride, head_stride] = cpusim::read_numbers<5>();
    float threshold;
    cpusim::read(&threshold, 1);
    const auto z = cpusim::read_array<unsigned char>(z_size * kNumberBytes[type]);
    const auto dictionary = cpusim::read_array<float>(heads * depth * features);
    const auto bias = cpusim::read_array<float>(heads * features);
    const auto mask = cpusim::read_array<bool>(masked ? examples * positions : 0);
    const int64_t size = examples * positions * heads;
    auto codes = std::make_unique<int32_t[]>(size);
    auto values = std::make_unique<float[]>(size);
    auto strongest = std::make_unique<float[]>(heads * positives);
    auto counts = std::make_unique<int32_t[]>(heads);
    auto mass = std::make_unique<float[]>(heads);
    auto finished = std::make_unique<int32_t[]>(heads);
    int32_t in_range = 1, rechecked = 0;
    const dsae::cuda::DiscoverHeads arguments{
        {{z.get() + offset * kNumberBytes[type], static_cast<dsae::FloatType>(type)},
         {example_stride, position_stride, head_stride},
         dictionary.get(),
         bias.get(),
         masked ? mask.get() : nullptr,
         {positions, 1},
         examples,
         positions,
         heads,
         depth,
         features,
         threshold,
         codes.get(),
         values.get(),
         &rechecked},
        {codes.get(),
         values.get(),
         {positions * heads, heads, 1},
         {positions * heads, heads, 1},
         examples,
         positions,
         heads,
         positives,
         features,
         bits,
         strongest.get(),
         counts.get(),
         mass.get(),
         &in_range},
        finished.get()};
    const cpusim::Schedule schedule{
        static_cast<cpusim::Schedule::Order>(order), static_cast<unsigned>(seed)};
    if (tiles_each) {
      const dsae::cuda::TensorPlan plan{static_cast<int>(rows_each), small != 0, 0, {}};
      dsae::cuda::with_tensor_kind(plan, arguments.encode.z.type, [&](auto kind) {
        launch_tensor(kind, numbers[0], numbers[2], schedule, arguments);
      });
    } else if (rows_each == 2) {
      launch<2>(discover, schedule, arguments);
    } else {
      launch<8>(discover, schedule, arguments);
    }
    cpusim::write_array(codes.get(), size);
    cpusim::write_array(values.get(), size);
    cpusim::write_array(counts.get(), heads);
    cpusim::write_array(mass.get(), heads);
    cpusim::write_array(&rechecked, 1);
  } catch (const std::exception& error) {
    return cpusim::fail(error);
  }
}
