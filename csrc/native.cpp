// dsae_core._native: what was built, and how. Its signatures are in dsae_core/_native.pyi.
#include <dlfcn.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "build_facts.h"
#include "cuda/kernels.h"

namespace py = pybind11;

namespace {

py::object typed(const std::string& name, const std::string& value) {
  if (name == "cxx_standard") return py::int_(std::stoi(value));
  if (name == "cuda_archs") return py::str(value).attr("split")();
  if (value.empty()) return py::none();
  return py::str(value);
}

py::dict build_info() {
  py::dict info;
  for (const auto& [name, value] : dsae::build_facts()) info[name] = typed(name, value);
  return info;
}

// A function of the operators' library; it has none of these if it was built without CUDA.
template <class Function>
Function* of_operators(const char* name) {
  py::module_::import("torch");
  const auto path = py::module_::import("dsae_core._C").attr("__file__").cast<std::string>();
  void* const library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  auto* const function = library ? reinterpret_cast<Function*>(dlsym(library, name)) : nullptr;
  if (!function) throw std::runtime_error("the operators were built without CUDA");
  return function;
}

void check(const char* error) {
  if (error) throw std::runtime_error(std::string("CUDA: ") + error);
}

py::list kernel_attributes() {
  auto* const describe = of_operators<decltype(dsae_kernel)>("dsae_kernel");
  const int32_t count = of_operators<decltype(dsae_kernel_count)>("dsae_kernel_count")();
  py::list kernels;
  for (int32_t number = 0; number < count; ++number) {
    DsaeKernel kernel{};
    check(describe(number, &kernel));
    py::dict attributes;
    attributes["name"] = kernel.name;
    attributes["threads"] = kernel.threads;
    attributes["registers"] = kernel.registers;
    attributes["local_bytes"] = kernel.local_bytes;
    attributes["shared_bytes"] = kernel.shared_bytes;
    attributes["blocks_per_processor"] = kernel.blocks_per_processor;
    kernels.append(attributes);
  }
  return kernels;
}

py::dict device_limits(int32_t number) {
  DsaeDevice device{};
  check(of_operators<decltype(dsae_device)>("dsae_device")(number, &device));
  py::dict limits;
  limits["name"] = device.name;
  limits["compute_capability"] = py::make_tuple(device.major, device.minor);
  limits["processors"] = device.processors;
  limits["clock_khz"] = device.clock_khz;
  limits["memory_clock_khz"] = device.memory_clock_khz;
  limits["memory_bus_bits"] = device.memory_bus_bits;
  limits["memory_bytes"] = device.memory_bytes;
  limits["l2_bytes"] = device.l2_bytes;
  limits["shared_bytes_per_block"] = device.shared_bytes_per_block;
  limits["shared_bytes_per_processor"] = device.shared_bytes_per_processor;
  return limits;
}

void count_rechecked_rows(uintptr_t counter) {
  of_operators<decltype(dsae_count_rechecked)>("dsae_count_rechecked")(reinterpret_cast<int32_t*>(counter));
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Facts about the compiled operators.";
  module.def("build_info", &build_info, "How the compiled operators were built.");
  module.def("kernel_attributes", &kernel_attributes, "What each CUDA kernel takes of the current device.");
  module.def(
      "count_rechecked_rows", &count_rechecked_rows, py::arg("counter"),
      "Where the tensor cores' kernels count rows of several possible winners.");
  module.def("device_limits", &device_limits, py::arg("device") = 0, "What a CUDA device has.");
}
