// How the operators were built. Both dsae_core._native and, for a wheel that has only the operators, dsae_core._C have it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cpu/isa.h"

namespace dsae {

constexpr const char* kCompiler =
#if defined(__clang__)
    "clang";
#elif defined(__GNUC__)
    "gcc";
#else
    "unknown";
#endif

constexpr const char* kBuildType =
#if defined(__OPTIMIZE__)
    "release";
#else
    "debug";
#endif

inline const char* isa_name() {
  switch (best_isa()) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

// Names are the keys of BuildInfo in dsae_core/_native.pyi; an empty value stands for None or an empty list.
inline std::vector<std::pair<const char*, std::string>> build_facts() {
  return {
      {"compiler", kCompiler},
      {"compiler_version", __VERSION__},
      {"cxx_standard", std::to_string(__cplusplus / 100 % 100)},
      {"cxx_flags", DSAE_CXX_FLAGS},
      {"build_type", kBuildType},
      {"isa", isa_name()},
      {"torch_version", DSAE_TORCH_VERSION},
      {"cuda_version", DSAE_CUDA_VERSION},
      {"cuda_archs", DSAE_CUDA_ARCHS},
      {"nvcc_flags", DSAE_NVCC_FLAGS},
  };
}

}  // namespace dsae
