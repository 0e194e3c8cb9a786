// Runs the bodies of cuda/pair_scores.cuh on one case: reads it from standard input and writes scores and
// in_range to standard output, all in binary. tests/test_cpusim_pairs.py compiles this and talks to it.
#include "cpusim/cpusim.h"
//
#include "cpusim/streams.h"
#include "cuda/pair_scores.cuh"

int main() {
  using namespace dsae::cuda;
  try {
    const auto [order, seed, examples, heads, positives, features, at_once, splits] =
        cpusim::read_numbers<8>();
    const auto codes = cpusim::read_array<int32_t>(examples * heads);
    auto records = std::make_unique<uint32_t[]>(at_once * pair_record_words(examples) * heads);
    auto scores = std::make_unique<int32_t[]>(heads * heads);
    int32_t in_range = 1;
    PairScores arguments{
        codes.get(), {heads, 1}, examples, heads, positives, features, records.get(), at_once, scores.get(),
        &in_range, 0, 0, splits};
    const cpusim::Schedule schedule{
        static_cast<cpusim::Schedule::Order>(order), static_cast<unsigned>(seed)};
    const auto sides = static_cast<unsigned>(pair_sides(heads));
    for (int64_t& first = arguments.first_positive; first < positives; first += at_once) {
      arguments.some_positives = std::min<int64_t>(at_once, positives - first);
      arguments.splits = std::min<int64_t>(splits, arguments.some_positives);
      const int64_t groups = (arguments.some_positives + kRecordPositives - 1) / kRecordPositives;
      cpusim::launch(
          dim3(pair_record_blocks(heads, examples), groups), dim3(kRecordThreads), 0, schedule,
          pair_records_kernel, arguments);
      cpusim::launch(
          dim3(sides, sides, arguments.splits), dim3(kPairThreads), sizeof(PairShared), schedule,
          pair_counts_kernel, arguments);
    }
    cpusim::write_array(scores.get(), heads * heads);
    cpusim::write_array(&in_range, 1);
  } catch (const std::exception& error) {
    return cpusim::fail(error);
  }
}
