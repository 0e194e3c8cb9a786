// The state of the paper's shared dictionary while it is trained on the CPU.
//
// Rows of x are sorted by length and cut into panels of kPanelColumns rows. A product of a row and a feature
// is computed only where it may be positive: since a panel's last look at a feature, the product has moved by
// no more than the feature's shift did, plus the longest row of the panel times the way the feature's
// direction has gone. What is left out is certainly 0 after the relu, so this changes no number.
#pragma once

#include <cstdint>

#include "adam.h"
#include "cpu/panels.h"

namespace dsae {

constexpr int64_t kBlockPanels = 2;  // panels whose rows stay in the cache while all features learn from them
constexpr int64_t kBlockRows = kBlockPanels * kPanelColumns;

// One matrix of parameters, a feature a row: [padded_features][pitch], zeros beyond features and depth.
struct SharedMatrix {
  float *weights, *mean, *square;  // mean and square: Adam's moments
  float* unit;                     // the weights, normalised
  float* gradient;                 // of the loss with respect to unit
  float* lengths;                  // what the weights were divided by: encoder [features], decoder [pitch]
};

// Parameters that are not normalised.
struct SharedVector {
  float *weights, *gradient, *mean, *square;
};

struct SharedState {
  int64_t rows, panels, depth, features;
  int64_t pitch;            // depth rounded up to whole panels' columns
  int64_t padded_features;  // features rounded up to whole groups
  float error_scale;        // 2 / (rows * depth): the loss's derivative by an error is this times the error
  float sparsity;           // l1 / rows: its derivative by an activation, the error left aside
  float rounding;           // a product of two vectors is off by no more than this times their lengths

  const float* x;                  // [panels * kPanelColumns][pitch]
  const float* x_lanes;            // [panels][pitch][kPanelColumns], the same with rows as lanes
  const float* padding;            // [panels * kPanelColumns]: 0 for rows of x, -infinity for those that pad
  const float* radius;             // [panels]: the longest row
  const double *x_sum, *x_square;  // [pitch], over all rows

  SharedMatrix encoder, decoder;
  SharedVector encoder_bias;  // [padded_features]
  SharedVector offset;        // [pitch]
  float* shift;               // [padded_features]: encoder_bias - encoder.unit offset
  double* path;               // [features]: how far the encoder's unit row has moved in all

  float* slack;      // [panels][padded_features]: greatest product - shift - radius * path
  uint32_t* active;  // [panels][padded_features]: bit r: the feature is active on row r
  float *activations, *activation_gradients;  // [panels][padded_features][kPanelColumns], valid where active
  float* residual;     // [panels * kPanelColumns][pitch]: rebuilt - x, valid on active rows
  double* panel_loss;  // [panels]: squared errors, less those of rebuilding with the offset alone
  double *activation_sum, *activation_gradient_sum;  // [padded_features], over rows
};

// What one thread needs besides, while it works on panels.
struct PanelScratch {
  int32_t *candidates, *chosen;  // [padded_features]
  float* residual_lanes;         // [pitch][kPanelColumns]
};

// And while it works on groups of features.
struct GroupScratch {
  float *scaled_activations, *gradients;  // [kBlockRows][kGroupRows]
  int32_t* rows;                          // [kBlockRows]
};

}  // namespace dsae
