#pragma once

/// @file
/// What marks a function that is compiled for the host and, by nvcc, for a CUDA device.

#if defined(__CUDACC__)
/// Before a function: for the host and for the device.
#define CONTRAFLOW_HOST_DEVICE __host__ __device__
#else
/// Before a function: for the host and for the device.
#define CONTRAFLOW_HOST_DEVICE
#endif
