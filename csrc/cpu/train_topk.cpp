// train_topk on the CPU. Heads are independent, so each thread trains whole heads, one after another, in
// memory that fits its cache. The encoder is dense; of everything else, only the k chosen features of a row
// are ever touched.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.h"
#include "cpu/panels.h"
#include "cpu/train_topk.h"

#define DSAE_ISA_BODY "cpu/train_topk.isa.h"
#include "cpu/foreach_isa.h"

namespace dsae {
namespace {

constexpr int64_t kWidestVector = 16;  // floats

struct Job {
  TrainSizes sizes;
  int64_t k, epochs;
  double lr;
  const float* x;
  int64_t head_stride, row_stride;
  const float *encoder, *decoder, *bias;  // start values
  float *trained_encoder, *trained_decoder, *trained_bias;
  double* squared_errors;  // [epochs][heads]
  double mean_square;      // of a row's length, over all heads

  const float* row(int64_t head, int64_t row) const { return x + head * head_stride + row * row_stride; }
};

// Memory for one head's training, used again for the next head.
class Trainer {
 public:
  explicit Trainer(const Job& job)
      : job_(job),
        pitch_(round_up(job.sizes.depth, kWidestVector)),
        padded_features_(round_up(job.sizes.features, kGroupRows)),
        x_(job.sizes.rows * pitch_),
        x_panels_(packed_size(job.sizes.depth, job.sizes.rows)),
        parameters_(10 * padded_features_ * pitch_ + 7 * padded_features_),
        bounds_((panels() + 1) * padded_features_ + panels() * (kPanelColumns + 2)),
        products_(padded_features_ * kPanelColumns),
        chosen_values_(job.k * kPanelColumns),
        error_(pitch_),
        candidates_(padded_features_ + 1),
        chosen_(job.k * kPanelColumns) {}

  void train(int64_t head) {
    load_rows(head);
    load_parameters(head);
    const double n = static_cast<double>(job_.sizes.heads) * static_cast<double>(job_.sizes.rows);
    const auto gradient_scale = static_cast<float>(2.0 / (n * job_.mean_square));
    normalize_dictionary_(state_);
    for (int64_t epoch = 0; epoch < job_.epochs; ++epoch) {
      job_.squared_errors[epoch * job_.sizes.heads + head] = learn_rows_(state_, gradient_scale);
      update_(state_, adam_step(job_.lr, epoch + 1));
      normalize_dictionary_(state_);
    }
    save(head);
  }

 private:
  int64_t panels() const { return ceil_div(job_.sizes.rows, kPanelColumns); }

  // The rows by length, in both layouts.
  void load_rows(int64_t head) {
    const auto& [heads, rows, depth, features] = job_.sizes;
    std::vector<double> squares(rows);
    std::vector<int64_t> order(rows);
    for (int64_t row = 0; row < rows; ++row) {
      const float* numbers = job_.row(head, row);
      for (int64_t i = 0; i < depth; ++i) squares[row] += static_cast<double>(numbers[i]) * numbers[i];
      order[row] = row;
    }
    std::stable_sort(
        order.begin(), order.end(), [&](int64_t a, int64_t b) { return squares[a] < squares[b]; });
    float *x = x_.data(), *panels = x_panels_.data();
    for (int64_t row = 0; row < rows; ++row) {
      const float* numbers = job_.row(head, order[row]);
      std::copy_n(numbers, depth, x + row * pitch_);
      const int64_t panel = row / kPanelColumns * kPanelColumns, column = row % kPanelColumns;
      for (int64_t i = 0; i < depth; ++i) panels[panel * depth + i * kPanelColumns + column] = numbers[i];
    }
    bounds_.clear();
    float* radius =
        bounds_.data() + (this->panels() + 1) * padded_features_ + this->panels() * (kPanelColumns + 1);
    for (int64_t row = 0; row < rows; ++row) {
      radius[row / kPanelColumns] = static_cast<float>(std::sqrt(squares[order[row]]) * (1 + 1e-6));
    }
  }

  // Start values; moments, gradients and whatever pads them are zeros, so padding is never active.
  void load_parameters(int64_t head) {
    const auto& [heads, rows, depth, features] = job_.sizes;
    parameters_.clear();
    float* free = parameters_.data();
    const auto take = [&](int64_t size) { return std::exchange(free, free + size); };
    const int64_t matrix = padded_features_ * pitch_, vector = padded_features_;
    const auto take_matrix = [&] {
      return Matrix{take(matrix), take(matrix), take(matrix), take(matrix), take(matrix), take(vector)};
    };
    float* slack = bounds_.data();
    float* bounds = slack + panels() * vector;
    float* thresholds = bounds + vector;
    float* fall = thresholds + panels() * kPanelColumns;
    float* radius = fall + panels();
    std::fill_n(slack, panels() * vector, std::numeric_limits<float>::infinity());  // look at everything once
    state_ = {
        rows,
        features,
        job_.k,
        depth,
        pitch_,
        padded_features_,
        x_.data(),
        x_panels_.data(),
        radius,
        static_cast<float>(4 * (static_cast<double>(depth) + 2) * std::numeric_limits<float>::epsilon()),
        take_matrix(),
        take_matrix(),
        {take(vector), take(vector), take(vector), take(vector)},
        take(vector),
        slack,
        fall,
        thresholds,
        products_.data(),
        bounds,
        candidates_.data(),
        chosen_.data(),
        chosen_values_.data(),
        error_.data()};
    for (int64_t i = 0; i < depth; ++i) {
      for (int64_t f = 0; f < features; ++f) {
        state_.encoder.weights[f * pitch_ + i] = job_.encoder[(head * depth + i) * features + f];
        state_.decoder.weights[f * pitch_ + i] = job_.decoder[(head * depth + i) * features + f];
      }
    }
    std::copy_n(job_.bias + head * features, features, state_.bias.weights);
  }

  void save(int64_t head) {
    const auto& [heads, rows, depth, features] = job_.sizes;
    for (int64_t i = 0; i < depth; ++i) {
      for (int64_t f = 0; f < features; ++f) {
        job_.trained_encoder[(head * depth + i) * features + f] = state_.encoder.unit[f * pitch_ + i];
        job_.trained_decoder[(head * depth + i) * features + f] = state_.decoder.unit[f * pitch_ + i];
      }
    }
    std::copy_n(state_.bias.weights, features, job_.trained_bias + head * features);
  }

  const Job& job_;
  const int64_t pitch_, padded_features_;
  Scratch x_, x_panels_, parameters_, bounds_, products_, chosen_values_, error_;
  std::vector<int32_t> candidates_, chosen_;
  TopkHead state_{};
  decltype(DSAE_BEST(normalize_dictionary)) normalize_dictionary_ = DSAE_BEST(normalize_dictionary);
  decltype(DSAE_BEST(learn_rows)) learn_rows_ = DSAE_BEST(learn_rows);
  decltype(DSAE_BEST(update)) update_ = DSAE_BEST(update);
};

// The mean squared length of a row, over all heads; 1 where x is all zeros, so that dividing by it changes
// nothing.
double mean_square(const Job& job) {
  const auto& [heads, rows, depth, features] = job.sizes;
  std::vector<double> sums(heads);
  torch::stable::parallel_for(0, heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      double sum = 0;
      for (int64_t row = 0; row < rows; ++row) {
        const float* numbers = job.row(head, row);
        for (int64_t i = 0; i < depth; ++i) sum += static_cast<double>(numbers[i]) * numbers[i];
      }
      sums[head] = sum;
    }
  });
  double sum = 0;
  for (double of_head : sums) sum += of_head;
  check_finite_x(std::isfinite(sum));
  return sum > 0 ? sum / (static_cast<double>(heads) * static_cast<double>(rows)) : 1.0;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> train_topk(
    const Tensor& x, const Tensor& encoder, const Tensor& decoder, const Tensor& bias, int64_t k,
    int64_t epochs, double lr) {
  const TrainSizes sizes = check_train_topk(x, encoder, decoder, bias, k, epochs, lr);
  const auto dense = [](const Tensor& tensor) { return torch::stable::contiguous(tensor); };
  const Tensor floats = x.scalar_type() == ScalarType::Float ? x : torch::stable::to(x, ScalarType::Float);
  const Tensor rows = sizes.depth <= 1 || floats.stride(2) == 1 ? floats : dense(floats);
  const Tensor start_encoder = dense(encoder), start_decoder = dense(decoder), start_bias = dense(bias);
  Tensor trained_encoder = torch::stable::new_empty(bias, {sizes.heads, sizes.depth, sizes.features});
  Tensor trained_decoder = torch::stable::new_empty(bias, {sizes.heads, sizes.depth, sizes.features});
  Tensor trained_bias = torch::stable::new_empty(bias, {sizes.heads, sizes.features});
  Tensor loss = torch::stable::new_empty(bias, {epochs});
  std::vector<double> squared_errors(epochs * sizes.heads);
  Job job{
      sizes,
      k,
      epochs,
      lr,
      rows.const_data_ptr<float>(),
      rows.stride(0),
      rows.stride(1),
      start_encoder.const_data_ptr<float>(),
      start_decoder.const_data_ptr<float>(),
      start_bias.const_data_ptr<float>(),
      trained_encoder.mutable_data_ptr<float>(),
      trained_decoder.mutable_data_ptr<float>(),
      trained_bias.mutable_data_ptr<float>(),
      squared_errors.data(),
      1.0};
  job.mean_square = mean_square(job);

  torch::stable::parallel_for(0, sizes.heads, 1, [&](int64_t begin, int64_t end) {
    Trainer trainer(job);
    for (int64_t head = begin; head < end; ++head) trainer.train(head);
  });

  // Added up in the order of heads, whichever thread trained them.
  const double n = static_cast<double>(sizes.heads) * static_cast<double>(sizes.rows);
  float* losses = loss.mutable_data_ptr<float>();
  for (int64_t epoch = 0; epoch < epochs; ++epoch) {
    double sum = 0;
    for (int64_t head = 0; head < sizes.heads; ++head) sum += squared_errors[epoch * sizes.heads + head];
    losses[epoch] = static_cast<float>(sum / (n * job.mean_square));
  }
  return {trained_encoder, trained_decoder, trained_bias, loss};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CPU, library) { library.impl("train_topk", TORCH_BOX(&train_topk)); }

}  // namespace dsae
