// Latents between key latents on the device. A thread has kVector neighbouring elements of a latent and walks along a
// range of intervals of one sequence, so that inside the range every key latent (forward) or frame (backward) is read
// once.
#pragma once

#include "cuda/device.cuh"

namespace jdm_fast::cuda {

constexpr int kInterpolateThreads = 256;

struct InterpolateSizes {
  int64_t keys;      // T
  int64_t steps;     // n
  int64_t elements;  // E
  int64_t chunk;     // keys of a thread's range, at most
  int64_t chunks;    // ranges of a sequence
  int64_t blocks;    // that cover the elements of a latent
};

// The elements and the keys [first, last) of a thread.
template <int kVector>
struct InterpolateRange {
  int64_t sequence, first, last, element;
  bool active;

  __device__ __forceinline__ explicit InterpolateRange(const InterpolateSizes& sizes) {
    const int64_t range = blockIdx.x / sizes.blocks;
    sequence = range / sizes.chunks;
    first = range % sizes.chunks * sizes.chunk;
    last = first + sizes.chunk < sizes.keys ? first + sizes.chunk : sizes.keys;
    element = (blockIdx.x % sizes.blocks * kInterpolateThreads + threadIdx.x) * kVector;
    active = element < sizes.elements;
  }
};

// Writes the frames from each key of the range up to, not including, the next key.
template <typename T, int kVector>
__global__ void __launch_bounds__(kInterpolateThreads)
    interpolate_forward(const T* z,                          // [B, T, E]
                        const Accumulator<T>* coefficients,  // [B, T-1, n, 2]
                        T* y,                                // [B, (T-1)*n + 1, E]
                        InterpolateSizes sizes) {
  using A = Accumulator<T>;
  const InterpolateRange<kVector> range(sizes);
  if (!range.active) return;
  const int64_t intervals = sizes.keys - 1;
  const T* const keys = z + range.sequence * sizes.keys * sizes.elements + range.element;
  T* const frames = y + range.sequence * (intervals * sizes.steps + 1) * sizes.elements + range.element;
  Packed<T, kVector> begin = load<kVector>(keys + range.first * sizes.elements);
  for (int64_t key = range.first; key < range.last; ++key) {
    T* frame = frames + key * sizes.steps * sizes.elements;
    store(frame, begin);  // a key is copied: exact
    if (key == intervals) break;
    const Packed<T, kVector> end = load<kVector>(keys + (key + 1) * sizes.elements);
    A from[kVector], to[kVector], value[kVector];
    unpack(begin, from);
    unpack(end, to);
    const A* const weight = coefficients + (range.sequence * intervals + key) * sizes.steps * 2;
    for (int64_t k = 1; k < sizes.steps; ++k) {
      const A a = weight[2 * k], b = weight[2 * k + 1];
#pragma unroll
      for (int e = 0; e < kVector; ++e) value[e] = a * from[e] + b * to[e];
      frame += sizes.elements;
      store(frame, pack<T>(value));
    }
    begin = end;
  }
}

// dz of each key of the range, from the frames around it. The frames before the first key are read by its neighbour
// too.
template <typename T, int kVector>
__global__ void __launch_bounds__(kInterpolateThreads)
    interpolate_backward(const T* dy,                         // [B, (T-1)*n + 1, E]
                         const Accumulator<T>* coefficients,  // [B, T-1, n, 2]
                         T* dz,                               // [B, T, E]
                         InterpolateSizes sizes) {
  using A = Accumulator<T>;
  const InterpolateRange<kVector> range(sizes);
  if (!range.active) return;
  const int64_t intervals = sizes.keys - 1;
  const T* const frames = dy + range.sequence * (intervals * sizes.steps + 1) * sizes.elements + range.element;
  T* const keys = dz + range.sequence * sizes.keys * sizes.elements + range.element;
  A before[kVector] = {};  // what the frames between the previous key and this one give to this one
  for (int64_t key = range.first == 0 ? 0 : range.first - 1; key < range.last; ++key) {
    const T* frame = frames + key * sizes.steps * sizes.elements;
    A own[kVector], after[kVector] = {};
    unpack(load<kVector>(frame), own);  // the key's own frame is a copy
#pragma unroll
    for (int e = 0; e < kVector; ++e) own[e] += before[e];
    if (key < intervals) {
      const A* const weight = coefficients + (range.sequence * intervals + key) * sizes.steps * 2;
      for (int64_t k = 1; k < sizes.steps; ++k) {
        const A a = weight[2 * k], b = weight[2 * k + 1];
        frame += sizes.elements;
        A gradient[kVector];
        unpack(load<kVector>(frame), gradient);
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          own[e] += a * gradient[e];
          after[e] += b * gradient[e];
        }
      }
    }
    if (key >= range.first) store(keys + key * sizes.elements, pack<T>(own));
#pragma unroll
    for (int e = 0; e < kVector; ++e) before[e] = after[e];
  }
}

}  // namespace jdm_fast::cuda
