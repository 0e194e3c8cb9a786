// The arithmetic of train_shared. See foreach_isa.h, and train_shared.h for the memory it works in.
#include "cpu/tile.isa.h"

#include "cpu/adam.isa.h"

inline float greatest(const float* numbers) {
  Floats best = load(numbers);
  for (int64_t lane = kLanes; lane < kPanelColumns; lane += kLanes) {
    const Floats other = load(numbers + lane);
    best = other > best ? other : best;
  }
  return greatest_lane(best);
}

// What `slack` stands for in this epoch: no product of the panel's rows with the feature is greater.
inline float upper_bound(const SharedState& s, int64_t panel, int64_t f) {
  const float slack = s.slack[panel * s.padded_features + f], shift = s.shift[f];
  const float radius = s.radius[panel], way = radius * static_cast<float>(s.path[f]);
  const float off = __builtin_fabsf(slack) + __builtin_fabsf(shift) + way;
  return slack + shift + way + s.rounding * radius + 1e-6f * off;
}

// relu(encoder.unit x + shift) of the candidates on a panel's rows; writes `active` and those that are active
// to `chosen`, and returns how many.
inline int64_t encode_panel(
    const SharedState& s, int64_t panel, int64_t n_candidates, const PanelScratch& scratch) {
  const float* x = s.x_lanes + panel * s.pitch * kPanelColumns;
  int64_t n_chosen = 0;
  for (int64_t first = 0; first < n_candidates; first += kTileRows) {
    const int64_t size = n_candidates - first < kTileRows ? n_candidates - first : kTileRows;
    const float* encoders[kTileRows];
    float products[kTileRows][kPanelColumns];
    for (int64_t i = 0; i < kTileRows; ++i) {
      encoders[i] = s.encoder.unit + scratch.candidates[i < size ? first + i : first] * s.pitch;
    }
    for (int64_t column = 0; column < kPanelColumns; column += kTileColumns) {
      Floats tile[kTileRows][kTileVectors];
      multiply_tile(encoders, x + column, s.depth, tile);
#pragma GCC unroll 8
      for (int64_t i = 0; i < kTileRows; ++i) {
        store(products[i] + column, tile[i][0]);
        store(products[i] + column + kLanes, tile[i][1]);
      }
    }
    for (int64_t i = 0; i < size; ++i) {
      const int64_t f = scratch.candidates[first + i], at = panel * s.padded_features + f;
      for (int64_t lane = 0; lane < kPanelColumns; lane += kLanes) {
        const Floats pad = load(s.padding + panel * kPanelColumns + lane);
        store(products[i] + lane, load(products[i] + lane) + s.shift[f] + pad);
      }
      const float most = greatest(products[i]);
      s.slack[at] = most - s.shift[f] - s.radius[panel] * static_cast<float>(s.path[f]);
      if (!(most > 0)) continue;
      uint32_t bits = 0;
      for (int64_t lane = 0; lane < kPanelColumns; ++lane) {
        const bool positive = products[i][lane] > 0;
        bits |= static_cast<uint32_t>(positive) << lane;
        s.activations[at * kPanelColumns + lane] = positive ? products[i][lane] : 0;
      }
      s.active[at] = bits;
      scratch.chosen[n_chosen++] = static_cast<int32_t>(f);
    }
  }
  return n_chosen;
}

// The residual of a panel's rows, as lanes, from its active features; returns the squared errors less those
// that the offset alone would leave.
inline double rebuild_panel(
    const SharedState& s, int64_t panel, int64_t n_chosen, const PanelScratch& scratch) {
  const float* x = s.x_lanes + panel * s.pitch * kPanelColumns;
  const float* activations = s.activations + panel * s.padded_features * kPanelColumns;
  double loss = 0;
  for (int64_t first = 0; first < s.pitch; first += kTileRows) {
    for (int64_t column = 0; column < kPanelColumns; column += kTileColumns) {
      Floats tile[kTileRows][kTileVectors] = {};
      for (int64_t i = 0; i < n_chosen; ++i) {
        const float* decoder = s.decoder.unit + scratch.chosen[i] * s.pitch + first;
        const float* activation = activations + scratch.chosen[i] * kPanelColumns + column;
        const Floats a0 = load(activation), a1 = load(activation + kLanes);
#pragma GCC unroll 8
        for (int64_t r = 0; r < kTileRows; ++r) {
          tile[r][0] += decoder[r] * a0;
          tile[r][1] += decoder[r] * a1;
        }
      }
      Floats sum{};
#pragma GCC unroll 8
      for (int64_t r = 0; r < kTileRows; ++r) {
        const float offset = s.offset.weights[first + r];
#pragma GCC unroll 2
        for (int64_t v = 0; v < kTileVectors; ++v) {
          const int64_t at = (first + r) * kPanelColumns + column + v * kLanes;
          const Floats alone = offset - load(x + at);
          sum += tile[r][v] * (tile[r][v] + 2 * alone);
          store(scratch.residual_lanes + at, tile[r][v] + alone);
        }
      }
      loss += sum_of_lanes(sum);
    }
  }
  return loss;
}

// The loss's derivative by the activations of a panel's active features.
inline void backward_panel(
    const SharedState& s, int64_t panel, int64_t n_chosen, const PanelScratch& scratch) {
  for (int64_t first = 0; first < n_chosen; first += kTileRows) {
    const int64_t size = n_chosen - first < kTileRows ? n_chosen - first : kTileRows;
    const float* decoders[kTileRows];
    for (int64_t i = 0; i < kTileRows; ++i) {
      decoders[i] = s.decoder.unit + scratch.chosen[i < size ? first + i : first] * s.pitch;
    }
    for (int64_t column = 0; column < kPanelColumns; column += kTileColumns) {
      Floats tile[kTileRows][kTileVectors];
      multiply_tile(decoders, scratch.residual_lanes + column, s.depth, tile);
      for (int64_t i = 0; i < size; ++i) {
        const int64_t at = (panel * s.padded_features + scratch.chosen[first + i]) * kPanelColumns + column;
#pragma GCC unroll 2
        for (int64_t v = 0; v < kTileVectors; ++v) {
          const Floats gradient = s.error_scale * tile[i][v] + s.sparsity;
          const Floats activation = load(s.activations + at + v * kLanes);
          store(s.activation_gradients + at + v * kLanes, activation > Floats{} ? gradient : Floats{});
        }
      }
    }
  }
}

// Forward and back as far as the activations, for the rows of one panel.
void learn_panel(const SharedState& s, int64_t panel, const PanelScratch& scratch) {
  int64_t n_candidates = 0;
  for (int64_t f = 0; f < s.padded_features; ++f) {
    s.active[panel * s.padded_features + f] = 0;
    // Written so that a NaN is no reason to leave a feature out.
    if (f < s.features && !(upper_bound(s, panel, f) <= 0))
      scratch.candidates[n_candidates++] = static_cast<int32_t>(f);
  }
  s.panel_loss[panel] = 0;
  const int64_t n_chosen = encode_panel(s, panel, n_candidates, scratch);
  if (n_chosen == 0) return;
  s.panel_loss[panel] = rebuild_panel(s, panel, n_chosen, scratch);
  backward_panel(s, panel, n_chosen, scratch);
  uint32_t rows = 0;
  for (int64_t i = 0; i < n_chosen; ++i) rows |= s.active[panel * s.padded_features + scratch.chosen[i]];
  for (int64_t lane = 0; lane < kPanelColumns; ++lane) {
    if (!(rows >> lane & 1)) continue;
    float* residual = s.residual + (panel * kPanelColumns + lane) * s.pitch;
    for (int64_t i = 0; i < s.pitch; ++i) residual[i] = scratch.residual_lanes[i * kPanelColumns + lane];
  }
}

// gradient[i][..] += sum over the listed rows of scale[row][i] * x[row][..], for kTileRows features.
inline void add_outer_products(
    float* gradient, const float* scale, const float* x, const int32_t* rows, int64_t n_rows, int64_t pitch) {
  for (int64_t column = 0; column < pitch; column += kTileColumns) {
    Floats tile[kTileRows][kTileVectors];
#pragma GCC unroll 8
    for (int64_t i = 0; i < kTileRows; ++i) {
      tile[i][0] = load(gradient + i * pitch + column);
      tile[i][1] = load(gradient + i * pitch + column + kLanes);
    }
    for (int64_t r = 0; r < n_rows; ++r) {
      const float* row = x + rows[r] * pitch + column;
      const Floats x0 = load(row), x1 = load(row + kLanes);
#pragma GCC unroll 8
      for (int64_t i = 0; i < kTileRows; ++i) {
        tile[i][0] += scale[r * kGroupRows + i] * x0;
        tile[i][1] += scale[r * kGroupRows + i] * x1;
      }
    }
#pragma GCC unroll 8
    for (int64_t i = 0; i < kTileRows; ++i) {
      store(gradient + i * pitch + column, tile[i][0]);
      store(gradient + i * pitch + column + kLanes, tile[i][1]);
    }
  }
}

// Adds what kBlockPanels panels of rows teach kGroupRows features.
inline void learn_block(
    const SharedState& s, int64_t first_panel, int64_t group, const GroupScratch& scratch) {
  const int64_t first = group * kGroupRows;
  int64_t n_rows = 0;
  for (int64_t panel = first_panel; panel < first_panel + kBlockPanels && panel < s.panels; ++panel) {
    const int64_t at = panel * s.padded_features + first;
    uint32_t rows = 0;
    for (int64_t i = 0; i < kGroupRows; ++i) rows |= s.active[at + i];
    for (; rows != 0; rows &= rows - 1) {
      const int64_t lane = __builtin_ctz(rows);
      for (int64_t i = 0; i < kGroupRows; ++i) {
        const bool active = s.active[at + i] >> lane & 1;
        const float activation = active ? s.activations[(at + i) * kPanelColumns + lane] : 0;
        const float gradient = active ? s.activation_gradients[(at + i) * kPanelColumns + lane] : 0;
        scratch.scaled_activations[n_rows * kGroupRows + i] = s.error_scale * activation;
        scratch.gradients[n_rows * kGroupRows + i] = gradient;
        s.activation_sum[first + i] += activation;
        s.activation_gradient_sum[first + i] += gradient;
      }
      scratch.rows[n_rows++] = static_cast<int32_t>(panel * kPanelColumns + lane);
    }
  }
  if (n_rows == 0) return;
  for (int64_t i = 0; i < kGroupRows; i += kTileRows) {
    const int64_t at = (first + i) * s.pitch;
    add_outer_products(s.encoder.gradient + at, scratch.gradients + i, s.x, scratch.rows, n_rows, s.pitch);
    add_outer_products(
        s.decoder.gradient + at, scratch.scaled_activations + i, s.residual, scratch.rows, n_rows, s.pitch);
  }
}

// The gradients of some groups of features with respect to encoder.unit, decoder.unit and encoder_bias. The
// sums run over rows in their order, whichever thread has the group.
void learn_groups(const SharedState& s, int64_t begin, int64_t end, const GroupScratch& scratch) {
  for (int64_t f = begin * kGroupRows; f < end * kGroupRows; ++f) {
    s.activation_sum[f] = s.activation_gradient_sum[f] = 0;
  }
  for (int64_t panel = 0; panel < s.panels; panel += kBlockPanels) {
    for (int64_t group = begin; group < end; ++group) learn_block(s, panel, group, scratch);
  }
  for (int64_t f = begin * kGroupRows; f < end * kGroupRows; ++f) {
    const auto sum = static_cast<float>(s.activation_gradient_sum[f]);
    add_scaled(s.encoder.gradient + f * s.pitch, -sum, s.offset.weights, s.pitch);
    s.encoder_bias.gradient[f] = sum;
  }
}

// Brings the decoder's rows of the dimensions [first, first + kPanelColumns), which run over features, to
// unit norm.
void normalize_decoder(const SharedState& s, int64_t first) {
  float* lengths = s.decoder.lengths + first;
  for (int64_t i = 0; i < kPanelColumns; ++i) lengths[i] = 0;
  for (int64_t f = 0; f < s.features; ++f) {
    for (int64_t i = 0; i < kPanelColumns; i += kLanes) {
      const Floats weights = load(s.decoder.weights + f * s.pitch + first + i);
      store(lengths + i, load(lengths + i) + weights * weights);
    }
  }
  for (int64_t i = 0; i < kPanelColumns; ++i) {
    const float norm = __builtin_sqrtf(lengths[i]);
    lengths[i] = norm > kSmallestLength ? norm : kSmallestLength;
  }
  for (int64_t f = 0; f < s.features; ++f) {
    const int64_t at = f * s.pitch + first;
    for (int64_t i = 0; i < kPanelColumns; i += kLanes) {
      store(s.decoder.unit + at + i, load(s.decoder.weights + at + i) / load(lengths + i));
    }
  }
}

// Brings a feature's encoder to unit norm and updates what depends on it.
void normalize_encoder(const SharedState& s, int64_t f) {
  const float* weights = s.encoder.weights + f * s.pitch;
  float* unit = s.encoder.unit + f * s.pitch;
  const float norm = __builtin_sqrtf(dot(weights, weights, s.pitch));
  const float length = norm > kSmallestLength ? norm : kSmallestLength;
  Floats moved{};
  for (int64_t i = 0; i < s.pitch; i += kLanes) {
    const Floats now = load(weights + i) / length, way = now - load(unit + i);
    moved += way * way;
    store(unit + i, now);
  }
  s.encoder.lengths[f] = length;
  s.path[f] += (1 + 1e-5) * __builtin_sqrtf(sum_of_lanes(moved));
  s.shift[f] = s.encoder_bias.weights[f] - dot(unit, s.offset.weights, s.pitch);
}

// One step of the decoder and the offset in the dimensions [first, first + kPanelColumns). The decoder's
// rows, which have unit norm, run over features.
void step_decoder(const SharedState& s, int64_t first, AdamStep step) {
  float along[kPanelColumns] = {}, offset_gradient[kPanelColumns];
  for (int64_t i = 0; i < kPanelColumns; ++i) {
    const double errors = static_cast<double>(s.rows) * s.offset.weights[first + i] - s.x_sum[first + i];
    offset_gradient[i] = static_cast<float>(errors) * s.error_scale;
  }
  for (int64_t f = 0; f < s.features; ++f) {
    const int64_t at = f * s.pitch + first;
    const float activations = static_cast<float>(s.activation_sum[f]) * s.error_scale;
    const auto gradients = static_cast<float>(s.activation_gradient_sum[f]);
    for (int64_t i = 0; i < kPanelColumns; i += kLanes) {
      const Floats unit = load(s.decoder.unit + at + i);
      store(along + i, load(along + i) + unit * load(s.decoder.gradient + at + i));
      store(
          offset_gradient + i,
          load(offset_gradient + i) + activations * unit - gradients * load(s.encoder.unit + at + i));
    }
  }
  for (int64_t f = 0; f < s.features; ++f) {
    const int64_t at = f * s.pitch + first;
    for (int64_t i = 0; i < kPanelColumns; i += kLanes) {
      const Floats across =
          load(s.decoder.gradient + at + i) - load(along + i) * load(s.decoder.unit + at + i);
      store(s.decoder.gradient + at + i, across / load(s.decoder.lengths + first + i));
    }
    adam(
        s.decoder.weights + at, s.decoder.gradient + at, s.decoder.mean + at, s.decoder.square + at,
        kPanelColumns, step);
  }
  adam(
      s.offset.weights + first, offset_gradient, s.offset.mean + first, s.offset.square + first,
      kPanelColumns, step);
  normalize_decoder(s, first);
}

// One step of a feature's encoder and bias; after the offset's, on which the feature's shift depends.
void step_encoder(const SharedState& s, int64_t f, AdamStep step) {
  const int64_t at = f * s.pitch;
  const float* unit = s.encoder.unit + at;
  float* gradient = s.encoder.gradient + at;
  const float along = dot(unit, gradient, s.pitch);
  for (int64_t i = 0; i < s.pitch; i += kLanes) {
    store(gradient + i, (load(gradient + i) - along * load(unit + i)) / s.encoder.lengths[f]);
  }
  adam(s.encoder.weights + at, gradient, s.encoder.mean + at, s.encoder.square + at, s.pitch, step);
  const SharedVector& bias = s.encoder_bias;
  adam(bias.weights + f, bias.gradient + f, bias.mean + f, bias.square + f, 1, step);
  normalize_encoder(s, f);
}
