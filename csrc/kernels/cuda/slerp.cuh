// The angles between neighbouring key latents and their gradient: reductions over whole latents, which the kernels of
// interpolate_latents.cuh, local in the elements, leave out. Sums that cross blocks go through partial results, added
// up in a fixed order.
#pragma once

#include "../slerp.h"
#include "cluster.cuh"
#include "reductions.cuh"

namespace jdm_fast::cuda {

constexpr int kSlerpThreads = 256;
constexpr int kSlerpVectors = 4;  // vectors of a thread of slerp_finish

// Elements [first, last) of a latent that a block of slerp_products adds up.
struct SlerpPieces {
  int64_t keys;      // T
  int64_t elements;  // E
  int64_t piece;     // elements of a block: a multiple of kSlerpThreads vectors
  int64_t pieces;    // of a latent
};

// |z[t]|^2 and <z[t], z[t + 1]> (0 for the last key) of each piece of each latent. In double, see slerp_angle.
template <typename T, int kVector>
__global__ void __launch_bounds__(kSlerpThreads) slerp_products(const T* z,              // [B, T, E]
                                                                Sums<double>* partials,  // [B, T, pieces]
                                                                SlerpPieces sizes) {
  release_dependents();
  const int64_t key = blockIdx.x / sizes.pieces;  // of B * T
  const int64_t first = blockIdx.x % sizes.pieces * sizes.piece;
  const int64_t last = first + sizes.piece < sizes.elements ? first + sizes.piece : sizes.elements;
  const bool has_next = key % sizes.keys < sizes.keys - 1;
  const T* const own_key = z + key * sizes.elements;
  Sums<double> own{};
  for (int64_t i = first + threadIdx.x * kVector; i < last; i += kSlerpThreads * kVector) {
    Accumulator<T> p[kVector], q[kVector] = {};
    unpack(load<kVector>(own_key + i), p);
    if (has_next) unpack(load<kVector>(own_key + sizes.elements + i), q);
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const double value = static_cast<double>(p[e]);
      own.first += value * value;
      own.second += value * static_cast<double>(q[e]);
    }
  }
  own = group_merge<kSlerpThreads>(own);
  if (threadIdx.x == 0) partials[blockIdx.x] = own;
}

// Sum of `count` partial results, by all threads of the block; every thread gets it.
template <typename Value, typename Partial>
__device__ __forceinline__ Sums<double> sum_of_partials(const Partial* partials, int64_t count, const Value& value_of) {
  Sums<double> own{};
  for (int64_t i = threadIdx.x; i < count; i += kSlerpThreads) own = merge(own, value_of(partials[i]));
  return group_merge<kSlerpThreads>(own);
}

// The weights of one gap a block.
template <typename A>
__global__ void __launch_bounds__(kSlerpThreads) slerp_weights(const Sums<double>* partials,  // [B, T, pieces]
                                                               A* weights,                    // [B, T-1, n + 1, 4]
                                                               int64_t keys, int64_t steps, int64_t pieces) {
  release_dependents();
  wait_for_predecessor();
  const int64_t gap = blockIdx.x;  // of B * (T-1)
  const Sums<double>* const begin = partials + (gap / (keys - 1) * keys + gap % (keys - 1)) * pieces;
  const auto same = [](const Sums<double>& value) { return value; };
  const Sums<double> p = sum_of_partials(begin, pieces, same), q = sum_of_partials(begin + pieces, pieces, same);
  const SlerpAngle angle = slerp_angle(p.first, q.first, p.second);
  for (int64_t k = threadIdx.x; k <= steps; k += kSlerpThreads) {
    slerp_row(angle, k, steps, weights + (gap * (steps + 1) + k) * kSlerpRow);
  }
}

struct SlerpFinishSizes {
  int64_t keys, steps, elements;
  int64_t partials;  // of a gap
  int64_t blocks;    // that cover the elements of a latent
};

// dz = linear + D[t] dw[t]/dz[t] + D[t-1] dw[t-1]/dz[t], a part of one key a block. `dz` may be `linear`.
template <typename T, int kVector>
__global__ void __launch_bounds__(kSlerpThreads)
    slerp_finish(const Accumulator<T>* linear,    // [B, T, E]: written by interpolate_backward
                 const T* z,                      // [B, T, E]
                 const Accumulator<T>* weights,   // [B, T-1, n + 1, 4]
                 const Accumulator<T>* partials,  // [B, T-1, partials]
                 T* dz,                           // [B, T, E]
                 SlerpFinishSizes sizes) {
  using A = Accumulator<T>;
  wait_for_predecessor();
  const int64_t key = blockIdx.x / sizes.blocks, t = key % sizes.keys;  // key: of B * T
  const int64_t gap = key / sizes.keys * (sizes.keys - 1) + t;          // the gap after it
  const int64_t row = sizes.steps * kSlerpRow, rows = row + kSlerpRow;
  A own = A(0), previous = A(0), next = A(0);  // factors of z[t], z[t - 1], z[t + 1]
  const auto widened = [](A value) { return Sums<double>{static_cast<double>(value), 0.0}; };
  if (t > 0) {
    const double d = sum_of_partials(partials + (gap - 1) * sizes.partials, sizes.partials, widened).first;
    const A* const turn = weights + (gap - 1) * rows + row;
    previous = static_cast<A>(d * static_cast<double>(turn[1]));
    own = static_cast<A>(d * static_cast<double>(turn[2]));
  }
  if (t < sizes.keys - 1) {
    const double d = sum_of_partials(partials + gap * sizes.partials, sizes.partials, widened).first;
    const A* const turn = weights + gap * rows + row;
    own += static_cast<A>(d * static_cast<double>(turn[0]));
    next = static_cast<A>(d * static_cast<double>(turn[1]));
  }
  const int64_t latent = key * sizes.elements;
  int64_t i = (blockIdx.x % sizes.blocks * kSlerpVectors * kSlerpThreads + threadIdx.x) * kVector;
#pragma unroll
  for (int v = 0; v < kSlerpVectors; ++v, i += kSlerpThreads * kVector) {
    if (i >= sizes.elements) break;
    A value[kVector], other[kVector];
    load_accumulators(linear + latent + i, value);
    unpack(load<kVector>(z + latent + i), other);
#pragma unroll
    for (int e = 0; e < kVector; ++e) value[e] += own * other[e];
    if (previous != A(0)) {  // not 0 * infinity
      unpack(load<kVector>(z + latent - sizes.elements + i), other);
#pragma unroll
      for (int e = 0; e < kVector; ++e) value[e] += previous * other[e];
    }
    if (next != A(0)) {
      unpack(load<kVector>(z + latent + sizes.elements + i), other);
#pragma unroll
      for (int e = 0; e < kVector; ++e) value[e] += next * other[e];
    }
    store(dz + latent + i, pack<T>(value));
  }
}

}  // namespace jdm_fast::cuda
