// Instance norm with activation of every frame between key feature maps:
//   frame f = (1-t) u[k] + t u[k+1],  k = floor(p[f]), t = p[f] - k,
//   y[f] = act((frame - mean) * rstd * weight + bias),
// mean and biased variance over the pixels of every (frame, channel), rstd = 1/sqrt(var + eps). From sums of the keys:
//   mean = (1-t) mean_a + t mean_b,  var = (1-t)^2 var_a + t^2 var_b + 2 t (1-t) cov_ab.
// The last frame of all may lie at p = T-1: k is then T-2 and t is 1. With T = 1 the one key is paired with itself.
#pragma once

#include "types.h"

namespace jdm_fast {

struct InterpolateInstanceNormShape {
  int64_t keys;        // T >= 1
  int64_t frames;      // F
  int64_t channels;    // C
  int64_t pixels;      // h * w
  bool channels_last;  // memory order of u and y: [T or F, h*w, C] if set, else [T or F, C, h*w]
  DType dtype;         // of u and y
  Activation activation;
  double negative_slope;  // of kLeakyRelu
  double eps;
};

struct InterpolateInstanceNormArgs {
  const void* u;            // [T, C, h*w] or [T, h*w, C], dtype
  const double* positions;  // [F], in [0, T-1], never decreasing
  const void* weight;       // [C] accumulator type, or nullptr (= 1)
  const void* bias;         // [C] accumulator type, or nullptr (= 0)
  void* y;                  // [F, C, h*w] or [F, h*w, C], dtype
};

// Pairs of neighbouring keys that frames lie between.
inline int64_t key_pairs(const InterpolateInstanceNormShape& shape) { return shape.keys > 1 ? shape.keys - 1 : 1; }

// Any of F, C, h*w may be 0: then nothing is read or written.
void interpolate_instance_norm_cpu(const InterpolateInstanceNormShape& shape, const InterpolateInstanceNormArgs& args,
                                   int num_threads);

// Bytes of device scratch the CUDA launcher needs; `multiprocessors` is the device's SM count.
size_t interpolate_instance_norm_workspace_cuda(const InterpolateInstanceNormShape& shape, int multiprocessors);

// `stream` is a cudaStream_t; positions are in device memory. Asynchronous; the caller checks cudaGetLastError.
void interpolate_instance_norm_cuda(const InterpolateInstanceNormShape& shape, const InterpolateInstanceNormArgs& args,
                                    void* workspace, int multiprocessors, void* stream);

}  // namespace jdm_fast
