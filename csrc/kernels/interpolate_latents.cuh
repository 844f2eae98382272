// Latents between key latents on the device. A thread has kVector neighbouring elements of a latent and walks along a
// range of intervals of one sequence, so that inside the range every key latent (forward) or frame (backward) is read
// once. The kernels of slerp's angles are in cuda/slerp.cuh.
#pragma once

#include "cuda/reductions.cuh"
#include "cuda/slerp.cuh"

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

// A frame's weights of the key before and the key after it.
template <typename A>
struct FrameWeights {
  A before, after;

  // `gap`: the rows of its gap, or nullptr for lerp, whose weights cost less to compute than to read.
  __device__ __forceinline__ FrameWeights(const A* gap, int64_t k, int64_t steps) {
    after = gap == nullptr ? static_cast<A>(k) / static_cast<A>(steps) : gap[k * kSlerpRow + 1];
    before = gap == nullptr ? A(1) - after : gap[k * kSlerpRow];
  }
};

// The rows of a gap, or nullptr.
template <typename A>
__device__ __forceinline__ const A* rows_of_gap(const A* weights, const InterpolateSizes& sizes, int64_t sequence,
                                                int64_t gap) {
  return weights == nullptr ? nullptr : weights + (sequence * (sizes.keys - 1) + gap) * (sizes.steps + 1) * kSlerpRow;
}

// Writes the frames from each key of the range up to, not including, the next key.
template <typename T, int kVector>
__global__ void __launch_bounds__(kInterpolateThreads)
    interpolate_forward(const T* z,                     // [B, T, E]
                        const Accumulator<T>* weights,  // [B, T-1, n + 1, 4] or nullptr
                        T* y,                           // [B, (T-1)*n + 1, E]
                        InterpolateSizes sizes) {
  using A = Accumulator<T>;
  if (weights != nullptr) wait_for_predecessor();  // which writes them
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
    const A* const gap = rows_of_gap(weights, sizes, range.sequence, key);
    for (int64_t k = 1; k < sizes.steps; ++k) {
      const FrameWeights<A> weight(gap, k, sizes.steps);
#pragma unroll
      for (int e = 0; e < kVector; ++e) value[e] = weight.before * from[e] + weight.after * to[e];
      frame += sizes.elements;
      store(frame, pack<T>(value));
    }
    begin = end;
  }
}

// What a slerp's backward pass has beyond that of lerp.
template <typename T>
struct SlerpGradient {
  const T* z;                     // [B, T, E]
  const Accumulator<T>* weights;  // [B, T-1, n + 1, 4]
  Accumulator<T>* partials;       // [B, T-1, blocks of a latent]: what each block adds to <dy, dy/dw> of a gap
};

// dz of each key of the range, from the frames around it. The frames before the first key are read by its neighbour
// too. With kSlerp, the part of dz that goes through the angles is left to slerp_finish, and dz is in the accumulation
// type, so that it is rounded once.
template <typename T, int kVector, bool kSlerp>
__global__ void __launch_bounds__(kInterpolateThreads)
    interpolate_backward(const T* dy,                                        // [B, (T-1)*n + 1, E]
                         std::conditional_t<kSlerp, Accumulator<T>, T>* dz,  // [B, T, E]
                         SlerpGradient<T> slerp, InterpolateSizes sizes) {
  using A = Accumulator<T>;
  constexpr int kAhead = kSlerp && kVector > 1 ? 2 : 4;  // frames under way at once
  if constexpr (kSlerp) release_dependents();
  const InterpolateRange<kVector> range(sizes);
  if (!kSlerp && !range.active) return;
  const int64_t intervals = sizes.keys - 1;
  const T* const frames = dy + range.sequence * (intervals * sizes.steps + 1) * sizes.elements + range.element;
  const int64_t first_key = range.sequence * sizes.keys * sizes.elements + range.element;
  A before[kVector] = {};  // what the frames between the previous key and this one give to this one
  for (int64_t key = range.first == 0 ? 0 : range.first - 1; key < range.last; ++key) {
    const bool owned = key >= range.first;
    A dot = A(0);  // this thread's part of <dy, dy/dw>
    if (range.active) {
      const int64_t count = key < intervals ? sizes.steps : 1;  // the key's own frame and those up to the next key
      const A* const gap = kSlerp && key < intervals ? rows_of_gap(slerp.weights, sizes, range.sequence, key) : nullptr;
      A own[kVector], after[kVector] = {}, from[kVector] = {}, to[kVector] = {};
      if constexpr (kSlerp) {
        if (key < intervals) {
          unpack(load<kVector>(slerp.z + first_key + key * sizes.elements), from);
          unpack(load<kVector>(slerp.z + first_key + (key + 1) * sizes.elements), to);
        }
      }
#pragma unroll
      for (int e = 0; e < kVector; ++e) own[e] = before[e];
      const T* frame = frames + key * sizes.steps * sizes.elements;
      for (int64_t first = 0; first < count; first += kAhead) {
        Packed<T, kVector> ahead[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i, frame += sizes.elements) {
          if (first + i < count) ahead[i] = load<kVector>(frame);
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          const int64_t k = first + i;
          if (k >= count) break;
          A gradient[kVector];
          unpack(ahead[i], gradient);
          if (k == 0) {  // a copy
#pragma unroll
            for (int e = 0; e < kVector; ++e) own[e] += gradient[e];
            continue;
          }
          const FrameWeights<A> weight(gap, k, sizes.steps);
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
            own[e] += weight.before * gradient[e];
            after[e] += weight.after * gradient[e];
          }
          if constexpr (kSlerp) {
            const A slope_before = gap[k * kSlerpRow + 2], slope_after = gap[k * kSlerpRow + 3];
#pragma unroll
            for (int e = 0; e < kVector; ++e) dot += gradient[e] * (slope_before * from[e] + slope_after * to[e]);
          }
        }
      }
      if (owned) {
        auto* const target = dz + first_key + key * sizes.elements;
        if constexpr (kSlerp) {
          store_accumulators(target, own);
        } else {
          store(target, pack<T>(own));
        }
      }
#pragma unroll
      for (int e = 0; e < kVector; ++e) before[e] = after[e];
    }
    if constexpr (kSlerp) {
      if (owned && key < intervals) {  // the same for all threads of the block
        dot = group_merge<kInterpolateThreads>(Sums<A>{dot, A(0)}).first;
        if (threadIdx.x == 0) {
          slerp.partials[(range.sequence * intervals + key) * sizes.blocks + blockIdx.x % sizes.blocks] = dot;
        }
      }
    }
  }
}

}  // namespace jdm_fast::cuda
