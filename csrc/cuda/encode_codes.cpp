// encode_codes on CUDA: from tensors to the launcher and back.
#include "cuda/encode_codes.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "arguments.h"
#include "cuda/encode_arguments.h"
#include "cuda/stream.h"

namespace dsae {
namespace {

std::tuple<Tensor, Tensor> encode_codes(
    const Tensor& z, const Tensor& dictionary, const Tensor& bias, double threshold) {
  const char* op = "encode_codes";
  const EncodeSizes sizes = check_encode_codes(z, dictionary, bias, threshold);
  const cuda::DeviceGuard guard(z.get_device_index());
  const cuda::Encoding encoding =
      cuda::prepare_encoding(op, sizes, z, dictionary, bias, threshold, std::nullopt);
  if (encoding.arguments.rows() * sizes.heads > 0) {
    cuda::check_blocks(op, cuda::encode_codes_blocks(encoding.arguments));
    const char* error =
        cuda::launch_encode_codes(encoding.arguments, cuda::current_stream(z.get_device_index()));
    STD_TORCH_CHECK(!error, op, ": ", error);
  }
  return {encoding.codes, encoding.values};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CUDA, library) { library.impl("encode_codes", TORCH_BOX(&encode_codes)); }

}  // namespace dsae
