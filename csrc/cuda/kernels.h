// What is known of the compiled kernels and of a device, for csrc/native.cpp, which finds these functions in
// the operators' library by their names. Plain C++, without torch and without CUDA.
#pragma once

#include <cstdint>

extern "C" {

struct DsaeKernel {
  const char* name;
  int32_t threads;               // of a block
  int32_t registers;             // of a thread
  int32_t local_bytes;           // of a thread: spilled registers and arrays
  int32_t blocks_per_processor;  // that fit at once, 0 where the device has too little shared memory for one
  int64_t shared_bytes;          // of a block, at d = F = 64, k = 2 and 17 positions
};

struct DsaeDevice {
  char name[256];
  int32_t major, minor;  // compute capability
  int32_t processors;
  int32_t clock_khz, memory_clock_khz, memory_bus_bits;
  int64_t shared_bytes_per_block, shared_bytes_per_processor, l2_bytes, memory_bytes;
};

// Each returns nullptr, or what went wrong.
const char* dsae_kernel(int32_t number, DsaeKernel* kernel);
const char* dsae_device(int32_t number, DsaeDevice* device);
int32_t dsae_kernel_count();

// From now on, encode_codes and discover_heads add to this number on the current device the rows for which the
// tensor cores left several possible winners. nullptr: they count nowhere, as at first.
void dsae_count_rechecked(int32_t* counter);
}
