// train_topk on CUDA: from tensors to the launcher and back.
#include "cuda/train_topk.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "arguments.h"
#include "cuda/limits.h"
#include "cuda/stream.h"

namespace dsae {
namespace {

// Indices within a head are 32-bit numbers; a matrix takes up to features * (depth + 7) floats, six times.
void check_sizes(const char* op, const TrainSizes& sizes, int64_t k, int64_t epochs) {
  const auto& [heads, rows, depth, features] = sizes;
  cuda::check_heads(op, heads);
  STD_TORCH_CHECK(
      rows <= cuda::kLargest32 / std::max<int64_t>(depth, 1), op, ": at most 2^31 - 1 rows x d on CUDA, not ",
      rows, " x ", depth);
  STD_TORCH_CHECK(
      rows <= cuda::kLargest32 / k, op, ": at most 2^31 - 1 rows x k on CUDA, not ", rows, " x ", k);
  STD_TORCH_CHECK(
      features <= cuda::kLargest32 / (8 * (depth + 7 + 32)), op,
      ": at most 2^28 d x features on CUDA, not ", depth, " x ", features);
  STD_TORCH_CHECK(epochs <= cuda::kLargest32, op, ": at most 2^31 - 1 epochs on CUDA, not ", epochs);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> train_topk(
    const Tensor& x, const Tensor& encoder, const Tensor& decoder, const Tensor& bias, int64_t k,
    int64_t epochs, double lr) {
  const char* op = "train_topk";
  const TrainSizes sizes = check_train_topk(x, encoder, decoder, bias, k, epochs, lr);
  check_sizes(op, sizes, k, epochs);
  const auto& [heads, n_rows, depth, features] = sizes;
  const cuda::DeviceGuard guard(x.get_device_index());
  const auto dense = [](const Tensor& tensor) { return torch::stable::contiguous(tensor); };
  const auto make = [&](torch::headeronly::IntHeaderOnlyArrayRef size, ScalarType type) {
    return torch::stable::new_empty(x, size, type);
  };
  const Tensor rows = depth <= 1 || x.stride(2) == 1 ? x : dense(x);
  const Tensor start_encoder = dense(encoder), start_decoder = dense(decoder), start_bias = dense(bias);
  Tensor trained_encoder = make({heads, depth, features}, ScalarType::Float);
  Tensor trained_decoder = make({heads, depth, features}, ScalarType::Float);
  Tensor trained_bias = make({heads, features}, ScalarType::Float);
  Tensor loss = make({epochs}, ScalarType::Float);
  Tensor squares = make({heads}, ScalarType::Double), square_sum = make({1}, ScalarType::Double);
  Tensor squared_errors = make({epochs, heads}, ScalarType::Double);
  cuda::TrainTopk arguments{};
  arguments.x = float_array(op, "x", rows);
  arguments.head_stride = rows.stride(0);
  arguments.row_stride = rows.stride(1);
  arguments.encoder = start_encoder.const_data_ptr<float>();
  arguments.decoder = start_decoder.const_data_ptr<float>();
  arguments.bias = start_bias.const_data_ptr<float>();
  arguments.heads = heads;
  arguments.rows = static_cast<int32_t>(n_rows);
  arguments.depth = static_cast<int32_t>(depth);
  arguments.features = static_cast<int32_t>(features);
  arguments.k = static_cast<int32_t>(k);
  arguments.epochs = static_cast<int32_t>(epochs);
  arguments.lr = lr;
  arguments.trained_encoder = trained_encoder.mutable_data_ptr<float>();
  arguments.trained_decoder = trained_decoder.mutable_data_ptr<float>();
  arguments.trained_bias = trained_bias.mutable_data_ptr<float>();
  arguments.loss = loss.mutable_data_ptr<float>();
  arguments.squares = squares.mutable_data_ptr<double>();
  arguments.square_sum = square_sum.mutable_data_ptr<double>();
  arguments.squared_errors = squared_errors.mutable_data_ptr<double>();

  cuda::TrainPlan plan{};
  const char* error = cuda::plan_train_topk(arguments, plan);
  STD_TORCH_CHECK(!error, op, ": ", error);
  Tensor errors = make({plan.blocks, n_rows, depth}, ScalarType::Float);
  Tensor chosen = make({plan.blocks, n_rows, k}, ScalarType::Int);
  Tensor activations = make({plan.blocks, n_rows, k}, ScalarType::Float);
  Tensor gradients = make({plan.blocks, n_rows, k}, ScalarType::Float);
  Tensor feature_gradients = make({plan.blocks, plan.feature_gradient_floats}, ScalarType::Float);
  Tensor states = make({plan.blocks, plan.state_floats}, ScalarType::Float);
  arguments.errors = errors.mutable_data_ptr<float>();
  arguments.chosen = chosen.mutable_data_ptr<int32_t>();
  arguments.activations = activations.mutable_data_ptr<float>();
  arguments.gradients = gradients.mutable_data_ptr<float>();
  arguments.feature_gradients = feature_gradients.mutable_data_ptr<float>();
  arguments.states = states.mutable_data_ptr<float>();
  error = cuda::launch_train_topk(arguments, plan, cuda::current_stream(x.get_device_index()));
  STD_TORCH_CHECK(!error, op, ": ", error);
  const Tensor square_sum_here =
      torch::stable::to(square_sum, torch::stable::Device(torch::headeronly::DeviceType::CPU));
  check_finite_x(std::isfinite(*square_sum_here.const_data_ptr<double>()));
  return {trained_encoder, trained_decoder, trained_bias, loss};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CUDA, library) { library.impl("train_topk", TORCH_BOX(&train_topk)); }

}  // namespace dsae
