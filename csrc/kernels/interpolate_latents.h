// All in-between latents of B sequences of key latents at once, and their gradient:
//   y[b, t*n + k] = a[k] * z[b, t] + c[k] * z[b, t + 1],   k = 0 .. n-1,  t = 0 .. T-2,
//   y[b, (T-1)*n] = z[b, T-1].
// The end points k = 0 are copied, never multiplied, so they are exact. lerp: a[k] = 1 - k/n, c[k] = k/n. slerp: with w
// the angle between z[b, t] and z[b, t + 1], a[k] = sin((1 - k/n) w) / sin(w), c[k] = sin(k/n w) / sin(w), and where
// sin(w) is below 1e-4 the same as lerp.
//
// slerp's `weights` [B, T-1, n + 1, 4], accumulation type, hold a gap's a[k], c[k], da[k]/dw, dc[k]/dw in row k, and in
// row n the numbers p2, pq, q2, 0 of dw/dz[t] = p2 z[t] + pq z[t+1] and dw/dz[t+1] = pq z[t] + q2 z[t+1].
//
// One element = one number of a latent in memory order, so any dense layout of [C, h, w] works.
#pragma once

#include <cstddef>

#include "types.h"

namespace jdm_fast {

struct InterpolateLatentsShape {
  int64_t sequences;  // B
  int64_t keys;       // T >= 1
  int64_t steps;      // n >= 1
  int64_t elements;   // E = C * h * w
  DType dtype;        // of z, y, dy, dz
};

// z [B, T, E], y [B, (T-1)*n + 1, E]. weights: nullptr for lerp. Of a slerp only a and c are read.
void interpolate_latents_forward_cpu(const InterpolateLatentsShape& shape, const void* z, const void* weights, void* y,
                                     int num_threads);
// dz[b, t] = sum of weight * dy over the frames that read z[b, t]. lerp only. dy like y, dz like z.
void interpolate_latents_backward_cpu(const InterpolateLatentsShape& shape, const void* dy, void* dz, int num_threads);
// The weights of z.
void slerp_weights_cpu(const InterpolateLatentsShape& shape, const void* z, void* weights, int num_threads);
// dz of a slerp: as lerp's, plus what dy owes to the angles, D[t] = <dy, dy/dw> of a gap times dw/dz.
void slerp_backward_cpu(const InterpolateLatentsShape& shape, const void* dy, const void* z, const void* weights,
                        void* dz, int num_threads);

void interpolate_latents_forward_cuda(const InterpolateLatentsShape& shape, const void* z, const void* weights, void* y,
                                      void* stream);
void interpolate_latents_backward_cuda(const InterpolateLatentsShape& shape, const void* dy, void* dz, void* stream);
// Workspaces: bytes, aligned like a tensor; they need no content.
size_t slerp_weights_workspace_cuda(const InterpolateLatentsShape& shape);
void slerp_weights_cuda(const InterpolateLatentsShape& shape, const void* z, void* workspace, void* weights,
                        void* stream);
size_t slerp_backward_workspace_cuda(const InterpolateLatentsShape& shape);
void slerp_backward_cuda(const InterpolateLatentsShape& shape, const void* dy, const void* z, const void* weights,
                         void* workspace, void* dz, void* stream);

}  // namespace jdm_fast
