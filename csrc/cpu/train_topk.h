// The state of one head's TopK dictionary while it is trained on the CPU.
//
// Rows are sorted by length and cut into panels. Features that a panel's rows chose in the last epoch are
// looked at first; that bounds how far each row's k-th largest product, its threshold, has fallen. Another
// feature is looked at only if it may have caught up: since the last look its product has risen by no more
// than its bias did, plus the longest row of the panel times the way the feature's direction has gone. What
// is left out would certainly not have been chosen, so this changes no number.
#pragma once

#include <cstdint>

#include "adam.h"

namespace dsae {

// One matrix of parameters, a feature a row: [padded_features][pitch], zeros beyond the features and the
// depth.
struct Matrix {
  float *weights, *gradient, *mean, *square;  // mean and square: Adam's moments
  float* unit;     // the weights with every feature at length 1, used in all products
  float* lengths;  // [padded_features]: what the weights were divided by
};

// [padded_features], zeros beyond the features.
struct Bias {
  float *weights, *gradient, *mean, *square;
};

struct TopkHead {
  int64_t rows, features, k;
  int64_t depth, pitch;     // pitch: depth rounded up to whole vectors
  int64_t padded_features;  // rounded up to whole groups
  const float* x;           // [rows][pitch], zeros beyond the depth
  const float* x_panels;    // the transpose of x, as packed by panels.h
  const float* radius;      // [panels]: the longest row
  float rounding;           // a product is off by no more than this times the row's length
  Matrix encoder, decoder;  // gradient is that with respect to unit, until through_normalize
  Bias bias;
  float* path;   // [padded_features]: how far the encoder's unit features have moved in all
  float* slack;  // [panels][padded_features]: product - threshold at the last look, at most, less what has
                 // changed of it since: bias + radius * path + fall; infinity where it was chosen
  float* fall;   // [panels]: sum over epochs of how far a row's threshold fell at most
  float* thresholds;    // [panels][kPanelColumns]: 0 where fewer than k features are positive
  float* products;      // [padded_features][kPanelColumns]: of the candidates on one panel
  float* bounds;        // [padded_features]
  int32_t* candidates;  // [padded_features + 1], the last only ever written
  int32_t* chosen;  // [k][kPanelColumns]: the strongest features of a panel's rows, kInactive where too few
  float* chosen_values;  // [k][kPanelColumns]: their activations, 0 where too few
  float* error;          // [pitch]: a reconstruction minus its row
};

}  // namespace dsae
