#include "cuda/encode_codes.cuh"

#include "cuda/launch.cuh"
#include "cuda/registry.h"

namespace dsae::cuda {

namespace {

// Few rows would leave most of a large tile empty.
bool has_few_rows(const EncodeCodes& arguments) { return arguments.rows() <= EncodeShared<8>::kRows / 2; }

template <int kRowsEach>
cudaError_t launch(const EncodeCodes& arguments, void* stream) {
  return launch_kernel(
      encode_codes_kernel<kRowsEach>, static_cast<unsigned>(encode_codes_blocks(arguments)), kEncodeThreads,
      sizeof(EncodeShared<kRowsEach>), stream, arguments);
}

const RegisterKernel registered[] = {
    {"encode_codes, tiles of 32 rows", encode_codes_kernel<2>, kEncodeThreads, sizeof(EncodeShared<2>)},
    {"encode_codes, tiles of 128 rows", encode_codes_kernel<8>, kEncodeThreads, sizeof(EncodeShared<8>)}};

}  // namespace

int64_t encode_codes_blocks(const EncodeCodes& arguments) {
  const int64_t rows = has_few_rows(arguments) ? EncodeShared<2>::kRows : EncodeShared<8>::kRows;
  return (arguments.rows() + rows - 1) / rows * arguments.heads;
}

const char* launch_encode_codes(const EncodeCodes& arguments, void* stream) {
  return message(has_few_rows(arguments) ? launch<2>(arguments, stream) : launch<8>(arguments, stream));
}

}  // namespace dsae::cuda
