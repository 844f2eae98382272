// Linear combination of neighbouring key latents, for all in-between frames of B sequences at once:
//   y[b, t*n + k] = a[b, t, k] * z[b, t] + c[b, t, k] * z[b, t + 1],   k = 0 .. n-1,  t = 0 .. T-2,
//   y[b, (T-1)*n] = z[b, T-1],
// with (a, c) = coefficients[b, t, k]. The end points k = 0 are copied, never multiplied, so they are exact.
// One element = one number of a latent in memory order, so any dense layout of [C, h, w] works.
#pragma once

#include "types.h"

namespace jdm_fast {

struct InterpolateLatentsShape {
  int64_t sequences;  // B
  int64_t keys;       // T >= 1
  int64_t steps;      // n >= 1
  int64_t elements;   // C * h * w
  DType dtype;        // of z, y, dy, dz
};

// z [B, T, E], coefficients [B, T-1, n, 2] accumulator type, y [B, (T-1)*n + 1, E].
void interpolate_latents_forward_cpu(const InterpolateLatentsShape& shape, const void* z, const void* coefficients,
                                     void* y, int num_threads);
// dz[b, t] = sum of coefficient * dy over the frames that read z[b, t]. dy like y, dz like z.
void interpolate_latents_backward_cpu(const InterpolateLatentsShape& shape, const void* dy, const void* coefficients,
                                      void* dz, int num_threads);

void interpolate_latents_forward_cuda(const InterpolateLatentsShape& shape, const void* z, const void* coefficients,
                                      void* y, void* stream);
void interpolate_latents_backward_cuda(const InterpolateLatentsShape& shape, const void* dy, const void* coefficients,
                                       void* dz, void* stream);

}  // namespace jdm_fast
