// train_shared on the CPU. Almost all activations of this dictionary are zero once its sparsity has set in,
// so each epoch computes only those that may be positive (see train_shared.h) and everything after them from
// the active features alone. Threads share rows in one half of an epoch and features or dimensions in the
// other, so no sum depends on their number.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.h"
#include "cpu/panels.h"
#include "cpu/train_shared.h"

#define DSAE_ISA_BODY "cpu/train_shared.isa.h"
#include "cpu/foreach_isa.h"

namespace dsae {
namespace {

class Trainer {
 public:
  Trainer(const SharedSizes& sizes, const float* x, double l1)
      : sizes_(sizes),
        panels_(ceil_div(sizes.rows, kPanelColumns)),
        pitch_(round_up(sizes.depth, kPanelColumns)),
        padded_features_(round_up(sizes.features, kGroupRows)),
        x_(panels_ * kPanelColumns * pitch_),
        x_lanes_(panels_ * kPanelColumns * pitch_),
        residual_(panels_ * kPanelColumns * pitch_),
        activations_(2 * panels_ * padded_features_ * kPanelColumns),
        panel_numbers_(panels_ * (padded_features_ + kPanelColumns + 1)),
        parameters_(10 * padded_features_ * pitch_ + 6 * padded_features_ + 5 * pitch_),
        active_(panels_ * padded_features_),
        doubles_(2 * pitch_ + 3 * padded_features_ + panels_) {
    float* free = parameters_.data();
    const auto take = [&](int64_t size) { return std::exchange(free, free + size); };
    const int64_t matrix = padded_features_ * pitch_, vector = padded_features_;
    const auto take_matrix = [&](int64_t lengths) {
      return SharedMatrix{take(matrix), take(matrix), take(matrix),
                          take(matrix), take(matrix), take(lengths)};
    };
    const auto take_vector = [&](int64_t size) {
      return SharedVector{take(size), take(size), take(size), take(size)};
    };
    double* free_double = doubles_.data();
    const auto take_doubles = [&](int64_t size) { return std::exchange(free_double, free_double + size); };
    const double n = static_cast<double>(sizes.rows), d = static_cast<double>(sizes.depth);
    float* numbers = panel_numbers_.data();
    s_.rows = sizes.rows;
    s_.panels = panels_;
    s_.depth = sizes.depth;
    s_.features = sizes.features;
    s_.pitch = pitch_;
    s_.padded_features = padded_features_;
    s_.error_scale = static_cast<float>(2 / (n * d));
    s_.sparsity = static_cast<float>(l1 / n);
    s_.rounding = static_cast<float>(4 * (d + 2) * std::numeric_limits<float>::epsilon());
    s_.x = x_.data();
    s_.x_lanes = x_lanes_.data();
    s_.residual = residual_.data();
    s_.activations = activations_.data();
    s_.activation_gradients = activations_.data() + panels_ * padded_features_ * kPanelColumns;
    s_.slack = std::exchange(numbers, numbers + panels_ * padded_features_);
    padding_ = std::exchange(numbers, numbers + panels_ * kPanelColumns);
    radius_ = numbers;
    s_.padding = padding_;
    s_.radius = radius_;
    s_.encoder = take_matrix(vector);
    s_.decoder = take_matrix(pitch_);
    s_.encoder_bias = take_vector(vector);
    s_.offset = take_vector(pitch_);
    s_.shift = take(vector);
    s_.active = active_.data();
    x_sum_ = take_doubles(pitch_);
    x_square_ = take_doubles(pitch_);
    s_.x_sum = x_sum_;
    s_.x_square = x_square_;
    s_.path = take_doubles(vector);
    s_.activation_sum = take_doubles(vector);
    s_.activation_gradient_sum = take_doubles(vector);
    s_.panel_loss = take_doubles(panels_);
    load_rows(x);
  }

  void load(const float* state) {
    each_parameter([&](int64_t at, float* weights, float* mean, float* square) {
      *weights = state[at];
      *mean = state[sizes_.parameters() + at];
      *square = state[2 * sizes_.parameters() + at];
    });
    std::fill_n(s_.slack, panels_ * padded_features_, std::numeric_limits<float>::infinity());
    for (int64_t first = 0; first < pitch_; first += kPanelColumns) normalize_decoder_(s_, first);
    for (int64_t f = 0; f < sizes_.features; ++f) normalize_encoder_(s_, f);
  }

  void save(float* state) {
    each_parameter([&](int64_t at, const float* weights, const float* mean, const float* square) {
      state[at] = *weights;
      state[sizes_.parameters() + at] = *mean;
      state[2 * sizes_.parameters() + at] = *square;
    });
  }

  // One epoch; returns the loss before it.
  double learn(AdamStep step) {
    const double offset_loss = loss_of_the_offset();
    torch::stable::parallel_for(0, panels_, 1, [&](int64_t begin, int64_t end) {
      std::vector<int32_t> features(2 * padded_features_);
      Scratch residual(pitch_ * kPanelColumns);
      const PanelScratch scratch{features.data(), features.data() + padded_features_, residual.data()};
      for (int64_t i = begin; i < end; ++i) learn_panel_(s_, panel_order_[i], scratch);
    });
    torch::stable::parallel_for(0, padded_features_ / kGroupRows, 1, [&](int64_t begin, int64_t end) {
      Scratch scales(2 * kBlockRows * kGroupRows);
      std::vector<int32_t> rows(kBlockRows);
      const GroupScratch scratch{scales.data(), scales.data() + kBlockRows * kGroupRows, rows.data()};
      learn_groups_(s_, begin, end, scratch);
    });
    const double n = static_cast<double>(sizes_.rows);
    const double squares = std::accumulate(s_.panel_loss, s_.panel_loss + panels_, offset_loss);
    const double l1 = std::accumulate(s_.activation_sum, s_.activation_sum + sizes_.features, 0.0);
    torch::stable::parallel_for(0, pitch_ / kPanelColumns, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) step_decoder_(s_, i * kPanelColumns, step);
    });
    torch::stable::parallel_for(0, sizes_.features, 8, [&](int64_t begin, int64_t end) {
      for (int64_t f = begin; f < end; ++f) step_encoder_(s_, f, step);
    });
    return squares / (n * static_cast<double>(sizes_.depth)) + static_cast<double>(s_.sparsity) * l1;
  }

 private:
  // The rows by length, in both layouts, and what is summed over them once.
  void load_rows(const float* x) {
    const auto& [rows, depth, features] = sizes_;
    std::vector<double> squares(rows);
    for (int64_t row = 0; row < rows; ++row) {
      const float* numbers = x + row * depth;
      for (int64_t i = 0; i < depth; ++i) {
        const double number = numbers[i];
        squares[row] += number * number;
        x_sum_[i] += number;
        x_square_[i] += number * number;
      }
      STD_TORCH_CHECK(std::isfinite(squares[row]), "train_shared: x must be finite, but has NaN or infinity");
    }
    std::vector<int64_t> order(rows);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(
        order.begin(), order.end(), [&](int64_t a, int64_t b) { return squares[a] < squares[b]; });
    for (int64_t place = 0; place < panels_ * kPanelColumns; ++place) {
      const int64_t panel = place / kPanelColumns, lane = place % kPanelColumns;
      if (place >= rows) {
        padding_[place] = -std::numeric_limits<float>::infinity();
        continue;
      }
      const float* numbers = x + order[place] * depth;
      std::copy_n(numbers, depth, x_.data() + place * pitch_);
      float* lanes = x_lanes_.data() + panel * pitch_ * kPanelColumns + lane;
      for (int64_t i = 0; i < depth; ++i) lanes[i * kPanelColumns] = numbers[i];
      radius_[panel] = static_cast<float>(std::sqrt(squares[order[place]]) * (1 + 1e-6));
    }
    // Long rows have more active features: a stride near the golden section spreads them over the threads.
    int64_t stride = std::max<int64_t>(1, std::llround(0.618 * static_cast<double>(panels_)));
    while (std::gcd(stride, panels_) != 1) ++stride;
    for (int64_t i = 0; i < panels_; ++i) panel_order_.push_back(i * stride % panels_);
  }

  // Calls visit(place in a row of the state, weight, mean, square) for every parameter.
  template <typename Visit>
  void each_parameter(Visit visit) {
    const auto& [rows, depth, features] = sizes_;
    int64_t at = 0;
    const auto of_matrix = [&](const SharedMatrix& m, int64_t f, int64_t i) {
      const int64_t from = f * pitch_ + i;
      visit(at++, m.weights + from, m.mean + from, m.square + from);
    };
    const auto of_vector = [&](const SharedVector& v, int64_t size) {
      for (int64_t i = 0; i < size; ++i) visit(at++, v.weights + i, v.mean + i, v.square + i);
    };
    for (int64_t f = 0; f < features; ++f) {
      for (int64_t i = 0; i < depth; ++i) of_matrix(s_.encoder, f, i);
    }
    of_vector(s_.encoder_bias, features);
    for (int64_t i = 0; i < depth; ++i) {
      for (int64_t f = 0; f < features; ++f) of_matrix(s_.decoder, f, i);
    }
    of_vector(s_.offset, depth);
  }

  // The squared errors of rebuilding every row with the offset alone.
  double loss_of_the_offset() const {
    double sum = 0;
    for (int64_t i = 0; i < sizes_.depth; ++i) {
      const double offset = s_.offset.weights[i];
      sum += x_square_[i] + offset * (static_cast<double>(sizes_.rows) * offset - 2 * x_sum_[i]);
    }
    return sum;
  }

  const SharedSizes sizes_;
  const int64_t panels_, pitch_, padded_features_;
  Scratch x_, x_lanes_, residual_, activations_, panel_numbers_, parameters_;
  std::vector<uint32_t> active_;
  std::vector<double> doubles_;
  std::vector<int64_t> panel_order_;
  float *padding_, *radius_;
  double *x_sum_, *x_square_;
  SharedState s_{};
  decltype(DSAE_BEST(learn_panel)) learn_panel_ = DSAE_BEST(learn_panel);
  decltype(DSAE_BEST(learn_groups)) learn_groups_ = DSAE_BEST(learn_groups);
  decltype(DSAE_BEST(step_decoder)) step_decoder_ = DSAE_BEST(step_decoder);
  decltype(DSAE_BEST(step_encoder)) step_encoder_ = DSAE_BEST(step_encoder);
  decltype(DSAE_BEST(normalize_decoder)) normalize_decoder_ = DSAE_BEST(normalize_decoder);
  decltype(DSAE_BEST(normalize_encoder)) normalize_encoder_ = DSAE_BEST(normalize_encoder);
};

std::tuple<Tensor, Tensor> train_shared(
    const Tensor& x, const Tensor& state, int64_t n_features, int64_t step, int64_t epochs, double l1,
    double lr) {
  const SharedSizes sizes = check_train_shared(x, state, n_features, step, epochs, l1, lr);
  const Tensor rows = torch::stable::contiguous(x), start = torch::stable::contiguous(state);
  Tensor trained = torch::stable::new_empty(state, {3, sizes.parameters()});
  Tensor loss = torch::stable::new_empty(x, {epochs});
  float* losses = loss.mutable_data_ptr<float>();
  Trainer trainer(sizes, rows.const_data_ptr<float>(), l1);
  trainer.load(start.const_data_ptr<float>());
  for (int64_t epoch = 0; epoch < epochs; ++epoch) {
    losses[epoch] = static_cast<float>(trainer.learn(adam_step(lr, step + epoch + 1)));
  }
  trainer.save(trained.mutable_data_ptr<float>());
  return {trained, loss};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dsae, CPU, library) { library.impl("train_shared", TORCH_BOX(&train_shared)); }

}  // namespace dsae
