// Marks functions that nvcc compiles for the CPU and the GPU.
#pragma once

#ifdef __CUDACC__
#define DSAE_HOST_DEVICE __host__ __device__
#else
#define DSAE_HOST_DEVICE
#endif
