// Runs the body of cuda/encode_codes.cuh or of cuda/discover_heads.cuh on one case: reads it from standard
// input and writes codes and values, and of discover_heads counts and mass, to standard output, all in binary.
// tests/test_cpusim_encode.py compiles this and talks to it.
#include "cpusim/cpusim.h"
//
#include "cuda/discover_heads.cuh"
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

}  // namespace

int main() {
  try {
    const auto [discover, rows_each, order, seed, type, examples, positions, heads, depth, features, positives,
                bits, masked] = cpusim::read_numbers<13>();
    const auto [z_size, example_stride, position_stride, head_stride] = cpusim::read_numbers<4>();
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
    int32_t in_range = 1;
    const dsae::cuda::DiscoverHeads arguments{
        {{z.get(), static_cast<dsae::FloatType>(type)},
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
         values.get()},
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
         &in_range}};
    const cpusim::Schedule schedule{
        static_cast<cpusim::Schedule::Order>(order), static_cast<unsigned>(seed)};
    if (rows_each == 2) launch<2>(discover, schedule, arguments);
    if (rows_each == 8) launch<8>(discover, schedule, arguments);
    cpusim::write_array(codes.get(), size);
    cpusim::write_array(values.get(), size);
    cpusim::write_array(counts.get(), heads);
    cpusim::write_array(mass.get(), heads);
  } catch (const std::exception& error) {
    return cpusim::fail(error);
  }
}
