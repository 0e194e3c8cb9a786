// The arithmetic of train_topk for one head. See foreach_isa.h, and train_topk.h for the memory it works in.
#include "cpu/tile.isa.h"

#include "cpu/adam.isa.h"

constexpr float kMustLook = __builtin_inff();

// Brings a feature to unit length; returns the square of the way it has moved.
inline float normalize(const Matrix& matrix, const TopkHead& head, int64_t f) {
  const float* weights = matrix.weights + f * head.pitch;
  float* unit = matrix.unit + f * head.pitch;
  const float norm = __builtin_sqrtf(dot(weights, weights, head.pitch));
  const float length = norm > kSmallestLength ? norm : kSmallestLength;
  matrix.lengths[f] = length;
  Floats moved{};
  for (int64_t i = 0; i < head.pitch; i += kLanes) {
    const Floats now = load(weights + i) / length, way = now - load(unit + i);
    moved += way * way;
    store(unit + i, now);
  }
  return sum_of_lanes(moved);
}

void normalize_dictionary(const TopkHead& head) {
  for (int64_t f = 0; f < head.features; ++f) {
    head.path[f] += (1 + 1e-5f) * __builtin_sqrtf(normalize(head.encoder, head, f));
    normalize(head.decoder, head, f);
  }
}

// Enters a feature into the k strongest of each lane's row, which are sorted; among equals the lowest feature
// comes first. Zeros, negative numbers and NaN never enter.
inline void enter(Floats activation, int32_t feature, int64_t k, int32_t* chosen, float* chosen_values) {
  Ints name = feature - Ints{};
  for (int64_t i = 0; i < k; ++i, chosen += kPanelColumns, chosen_values += kPanelColumns) {
    const Floats value = load(chosen_values);
    Ints other;
    __builtin_memcpy(&other, chosen, sizeof other);
    const Ints better = (activation > value) | ((activation == value) & (name < other));
    const Ints kept = better ? name : other;
    __builtin_memcpy(chosen, &kept, sizeof kept);
    store(chosen_values, better ? activation : value);
    name = better ? other : name;
    activation = better ? value : activation;
  }
}

// Computes the candidates [begin, end) on a panel's rows and enters them.
inline void look_at(const TopkHead& head, int64_t panel, int64_t begin, int64_t end) {
  const float* x = head.x_panels + panel * kPanelColumns * head.depth;
  for (int64_t first = begin; first < end; first += kTileRows) {
    const int64_t size = end - first < kTileRows ? end - first : kTileRows;
    const float* features[kTileRows];
    for (int64_t r = 0; r < kTileRows; ++r) {
      features[r] = head.encoder.unit + head.candidates[r < size ? first + r : first] * head.pitch;
    }
    for (int64_t column = 0; column < kPanelColumns; column += kTileColumns) {
      Floats tile[kTileRows][kTileVectors];
      multiply_tile(features, x + column, head.depth, tile);
#pragma GCC unroll 8
      for (int64_t r = 0; r < kTileRows; ++r) {
        if (r >= size) break;
        const int32_t feature = head.candidates[first + r];
        const float bias = head.bias.weights[feature];
#pragma GCC unroll 2
        for (int64_t v = 0; v < kTileVectors; ++v) {
          const int64_t lane = column + v * kLanes;
          const Floats product = tile[r][v] + bias;
          store(head.products + (first + r) * kPanelColumns + lane, product);
          enter(product, feature, head.k, head.chosen + lane, head.chosen_values + lane);
        }
      }
    }
  }
}

// How far a row's k-th largest product has fallen at most since the last epoch.
inline float deepest_fall(const TopkHead& head, int64_t panel) {
  const float* thresholds = head.chosen_values + (head.k - 1) * kPanelColumns;
  Floats most{};
  for (int64_t lane = 0; lane < kPanelColumns; lane += kLanes) {
    const Floats fall = load(head.thresholds + panel * kPanelColumns + lane) - load(thresholds + lane);
    most = fall > most ? fall : most;
  }
  return (1 + 1e-5f) * greatest_lane(most);
}

// Lists the features that must be looked at, and returns how many: those that were chosen in the last epoch.
inline int64_t list_chosen(const TopkHead& head, int64_t panel) {
  const float* slack = head.slack + panel * head.padded_features;
  int64_t n = 0;
  for (int64_t f = 0; f < head.features; ++f) {
    head.candidates[n] = static_cast<int32_t>(f);
    n += slack[f] == kMustLook;
  }
  return n;
}

// Adds to the n listed features those that may be chosen instead, and returns how many there are then.
// `fall`: how far any row's k-th largest product has fallen, at most, since the training began.
inline int64_t list_rivals(const TopkHead& head, int64_t panel, int64_t n, float fall) {
  const float* slack = head.slack + panel * head.padded_features;
  const float radius = head.radius[panel], guard = head.rounding * radius + 1e-6f * fall;
  for (int64_t f = 0; f < head.features; ++f) {
    const float bias = head.bias.weights[f], way = radius * head.path[f];
    const float off = __builtin_fabsf(slack[f]) + __builtin_fabsf(bias) + way;
    head.bounds[f] = slack[f] + bias + way + fall + guard + 1e-6f * off;
  }
  for (int64_t f = 0; f < head.features; ++f) {
    head.candidates[n] = static_cast<int32_t>(f);
    // Written so that a NaN is no reason to leave a feature out.
    n += (slack[f] != kMustLook) & !(head.bounds[f] < 0);
  }
  return n;
}

// Remembers the rows' thresholds, and how far from them the n listed features were.
inline void remember(const TopkHead& head, int64_t panel, int64_t n) {
  const float* thresholds = head.chosen_values + (head.k - 1) * kPanelColumns;
  head.fall[panel] += deepest_fall(head, panel);
  for (int64_t lane = 0; lane < kPanelColumns; lane += kLanes) {
    store(head.thresholds + panel * kPanelColumns + lane, load(thresholds + lane));
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t f = head.candidates[i];
    const float* products = head.products + i * kPanelColumns;
    Floats nearest = load(products) - load(thresholds);
    for (int64_t lane = kLanes; lane < kPanelColumns; lane += kLanes) {
      const Floats other = load(products + lane) - load(thresholds + lane);
      nearest = other > nearest ? other : nearest;
    }
    const float most = greatest_lane(nearest), way = head.radius[panel] * head.path[f];
    head.slack[panel * head.padded_features + f] =
        most < 0 ? most - head.bias.weights[f] - way - head.fall[panel] : kMustLook;
  }
}

// The k strongest features of each of a panel's rows. The lanes are rows, so nothing is ever compared across
// lanes.
inline void choose(const TopkHead& head, int64_t panel) {
  for (int64_t i = 0; i < head.k * kPanelColumns; ++i) {
    head.chosen[i] = kInactive;
    head.chosen_values[i] = 0;
  }
  const int64_t n_chosen = list_chosen(head, panel);
  look_at(head, panel, 0, n_chosen);
  const int64_t n = list_rivals(head, panel, n_chosen, head.fall[panel] + deepest_fall(head, panel));
  look_at(head, panel, n_chosen, n);
  remember(head, panel, n);
}

// Reconstructs a row from its chosen features and adds to the gradients; no other feature has one. Returns
// the squared error. gradient_scale: the derivative of the loss by the reconstruction, over the error.
__attribute__((always_inline)) inline float learn_row(
    const TopkHead& head, const float* x, const int32_t* chosen, const float* chosen_values,
    float gradient_scale, int64_t pitch) {
  for (int64_t i = 0; i < pitch; i += kLanes) store(head.error + i, -load(x + i));
  int64_t end = 0;
  for (; end < head.k * kPanelColumns && chosen[end] != kInactive; end += kPanelColumns) {
    add_scaled(head.error, chosen_values[end], head.decoder.unit + chosen[end] * pitch, pitch);
  }
  for (int64_t i = 0; i < end; i += kPanelColumns) {
    const int64_t at = chosen[i] * pitch;
    const float gradient = gradient_scale * dot(head.error, head.decoder.unit + at, pitch);
    add_scaled(head.decoder.gradient + at, gradient_scale * chosen_values[i], head.error, pitch);
    add_scaled(head.encoder.gradient + at, gradient, x, pitch);
    head.bias.gradient[chosen[i]] += gradient;
  }
  return dot(head.error, head.error, pitch);
}

// One pass over the rows: adds to the gradients and returns the sum of squared errors.
__attribute__((always_inline)) inline double learn_all_rows(
    const TopkHead& head, float gradient_scale, int64_t pitch) {
  double squared_error = 0;
  for (int64_t first = 0; first < head.rows; first += kPanelColumns) {
    choose(head, first / kPanelColumns);
    const int64_t size = head.rows - first < kPanelColumns ? head.rows - first : kPanelColumns;
    for (int64_t r = 0; r < size; ++r) {
      const float* x = head.x + (first + r) * pitch;
      squared_error += learn_row(head, x, head.chosen + r, head.chosen_values + r, gradient_scale, pitch);
    }
  }
  return squared_error;
}

double learn_rows(const TopkHead& head, float gradient_scale) {
  // Heads of 64 numbers are common, and loops of known length are faster.
  if (head.pitch == 64) return learn_all_rows(head, gradient_scale, 64);
  return learn_all_rows(head, gradient_scale, head.pitch);
}

// From the gradient with respect to unit to that with respect to the weights: changing a feature's length
// changes nothing, and the longer it is, the less a change turns it.
inline void through_normalize(const Matrix& matrix, const TopkHead& head) {
  for (int64_t f = 0; f < head.features; ++f) {
    const float* unit = matrix.unit + f * head.pitch;
    float* gradient = matrix.gradient + f * head.pitch;
    const float along = dot(unit, gradient, head.pitch);
    for (int64_t i = 0; i < head.pitch; i += kLanes) {
      store(gradient + i, (load(gradient + i) - along * load(unit + i)) / matrix.lengths[f]);
    }
  }
}

inline void update_matrix(const Matrix& matrix, const TopkHead& head, AdamStep step) {
  through_normalize(matrix, head);
  adam(matrix.weights, matrix.gradient, matrix.mean, matrix.square, head.features * head.pitch, step);
}

void update(const TopkHead& head, AdamStep step) {
  update_matrix(head.encoder, head, step);
  update_matrix(head.decoder, head, step);
  adam(head.bias.weights, head.bias.gradient, head.bias.mean, head.bias.square, head.features, step);
}
