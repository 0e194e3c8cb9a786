// train_shared on CUDA: from tensors to the launcher and back.
#include "cuda/train_shared.h"

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <tuple>

#include "arguments.h"
#include "cuda/limits.h"
#include "cuda/stream.h"

namespace dsae {
namespace {

// Nothing here waits for the device, so that a caller can capture the call in a CUDA graph; where x is not
// finite, nor is the loss.
std::tuple<Tensor, Tensor> train_shared(
    const Tensor& x, const Tensor& state, int64_t n_features, int64_t step, int64_t epochs, double l1,
    double lr) {
  const char* op = "train_shared";
  const SharedSizes sizes = check_train_shared(x, state, n_features, step, epochs, l1, lr);
  constexpr int64_t kMost = int64_t{1} << 30;  // so that sizes in whole tiles are 32-bit numbers
  STD_TORCH_CHECK(
      sizes.rows <= kMost && sizes.depth <= kMost && sizes.features <= kMost, op,
      ": at most 2^30 rows, numbers of a row and features on CUDA, not ", sizes.rows, ", ", sizes.depth, " and ",
      sizes.features);
  const cuda::DeviceGuard guard(x.get_device_index());
  const Tensor rows = torch::stable::contiguous(x);
  Tensor trained = torch::stable::clone(torch::stable::contiguous(state));
  Tensor loss = torch::stable::new_empty(x, {epochs});
  cuda::SharedTraining training{};
  cuda::set_shared_sizes(training, sizes.rows, sizes.depth, sizes.features, l1);
  cuda::check_blocks(op, cuda::most_shared_blocks(training));
  const auto [n_zeros, n_floats, n_doubles] = cuda::place_shared_scratch(training, nullptr, nullptr, nullptr);
  Tensor zeros = torch::stable::new_zeros(x, {n_zeros}), floats = torch::stable::new_empty(x, {n_floats});
  Tensor doubles = torch::stable::new_empty(x, {n_doubles}, ScalarType::Double);
  cuda::place_shared_scratch(
      training, zeros.mutable_data_ptr<float>(), floats.mutable_data_ptr<float>(),
      doubles.mutable_data_ptr<double>());
  training.x = rows.const_data_ptr<float>();
  training.x_has_quads = sizes.depth % 4 == 0 && reinterpret_cast<uintptr_t>(training.x) % 16 == 0;
  training.state = trained.mutable_data_ptr<float>();
  training.loss = loss.mutable_data_ptr<float>();
  const char* error = cuda::launch_train_shared(
      training, step, epochs, lr, cuda::current_stream(x.get_device_index()));
  STD_TORCH_CHECK(!error, op, ": ", error);
  return {trained, loss};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CUDA, library) { library.impl("train_shared", TORCH_BOX(&train_shared)); }

}  // namespace dsae
