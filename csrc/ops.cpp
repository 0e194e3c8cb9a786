// The schemas of the operators in namespace dsae. Their implementations register themselves, one file each,
// under cpu/ and cuda/; dsae_core/ops.py documents them.
#include <Python.h>

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(dsae, library) {
  library.def(
      "encode_codes(Tensor z, Tensor dictionary, Tensor bias, float threshold) -> (Tensor codes, Tensor "
      "values)");
  library.def(
      "unique_scores(Tensor codes, Tensor values, int n_positive, int n_features) -> (Tensor counts, Tensor "
      "mass)");
  library.def(
      "discover_heads(Tensor z, Tensor dictionary, Tensor bias, float threshold, int n_positive, Tensor? "
      "mask=None) -> (Tensor codes, Tensor values, Tensor counts, Tensor mass)");
  library.def("pair_scores(Tensor codes, int n_positive, int n_features) -> Tensor");
  library.def(
      "train_topk(Tensor x, Tensor encoder, Tensor decoder, Tensor bias, int k, int epochs, float lr)"
      " -> (Tensor encoder, Tensor decoder, Tensor bias, Tensor loss)");
  library.def(
      "train_shared(Tensor x, Tensor state, int n_features, int step, int epochs, float l1, float lr)"
      " -> (Tensor state, Tensor loss)");
}

// Importing dsae_core._C runs the registrations above; the module itself is empty.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
