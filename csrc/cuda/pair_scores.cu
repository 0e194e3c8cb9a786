#include "cuda/pair_scores.cuh"

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/registry.h"

namespace dsae::cuda {

namespace {

cudaError_t launch(PairScores arguments, void* stream) {
  int processors = 0;
  if (cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, processors)) return error;
  const int64_t sides = pair_sides(arguments.heads), squares = sides * (sides + 1) / 2;
  const auto side = static_cast<unsigned>(sides);
  const auto record_blocks =
      static_cast<unsigned>(pair_record_blocks(arguments.heads, arguments.examples));
  int64_t& first = arguments.first_positive;
  first = 0;
  do {  // once without positives, too: codes out of range are reported
    arguments.some_positives = std::min(arguments.record_positives, arguments.positives - first);
    const int64_t groups = (arguments.some_positives + kRecordPositives - 1) / kRecordPositives;
    const dim3 blocks(record_blocks, static_cast<unsigned>(std::max<int64_t>(groups, 1)));
    if (cudaError_t error =
            launch_kernel(pair_records_kernel, blocks, kRecordThreads, 0, stream, arguments)) {
      return error;
    }
    if (arguments.some_positives == 0) break;
    // Few squares leave processors idle, so several blocks share one, each with some of the positives.
    const int64_t wanted = (4 * processors + squares - 1) / squares;
    arguments.splits = std::clamp<int64_t>(wanted, 1, arguments.some_positives);
    const dim3 squares_and_splits(side, side, static_cast<unsigned>(arguments.splits));
    if (cudaError_t error = launch_kernel(
            pair_counts_kernel, squares_and_splits, kPairThreads, sizeof(PairShared), stream, arguments)) {
      return error;
    }
    first += arguments.some_positives;
  } while (first < arguments.positives);
  return cudaSuccess;
}

const RegisterKernel registered[] = {
    {"pair_scores, records", pair_records_kernel, kRecordThreads, 0},
    {"pair_scores, counts", pair_counts_kernel, kPairThreads, sizeof(PairShared)}};

}  // namespace

const char* launch_pair_scores(PairScores arguments, void* stream) {
  return message(launch(arguments, stream));
}

}  // namespace dsae::cuda
