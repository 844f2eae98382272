// Reductions over threads of one-dimensional blocks of whole warps. All are deterministic: the same values are combined
// in the same order in every run.
//
// What is combined is a struct Value with `Value merge(Value, Value)` and `Value from_lane(Value, int lane_mask)`.
#pragma once

#include "device.cuh"

namespace jdm_fast::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

// Two sums at once. (These structs have no initialisers, because shared memory must not; `Sums<A>{}` is zero.)
template <typename A>
struct Sums {
  A first;
  A second;
};

template <typename A>
__device__ __forceinline__ Sums<A> merge(const Sums<A>& a, const Sums<A>& b) {
  return {a.first + b.first, a.second + b.second};
}

template <typename A>
__device__ __forceinline__ Sums<A> from_lane(const Sums<A>& own, int lane_mask) {
  return {__shfl_xor_sync(kFullWarp, own.first, lane_mask), __shfl_xor_sync(kFullWarp, own.second, lane_mask)};
}

// yes ? a : b, in registers: of whole structs the compiler chooses by address.
template <typename A>
__device__ __forceinline__ Sums<A> choose(bool yes, const Sums<A>& a, const Sums<A>& b) {
  return {yes ? a.first : b.first, yes ? a.second : b.second};
}

// Count, mean and sum of squared distances from the mean. No sum of squares is ever formed, so that a mean far larger
// than the spread does no harm.
template <typename A>
struct Moments {
  A count;
  A mean;
  A m2;
};

// Moments of the union of two disjoint sets (Chan, Golub and LeVeque, 1979). An empty set changes nothing.
template <typename A>
__device__ __forceinline__ Moments<A> merge(const Moments<A>& a, const Moments<A>& b) {
  const A count = a.count + b.count;
  const A share = count > A(0) ? quick_divide(b.count, count) : A(0);
  const A delta = b.mean - a.mean;
  return {count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.count * share};
}

template <typename A>
__device__ __forceinline__ Moments<A> choose(bool yes, const Moments<A>& a, const Moments<A>& b) {
  return {yes ? a.count : b.count, yes ? a.mean : b.mean, yes ? a.m2 : b.m2};
}

template <typename A>
__device__ __forceinline__ Moments<A> from_lane(const Moments<A>& own, int lane_mask) {
  return {__shfl_xor_sync(kFullWarp, own.count, lane_mask), __shfl_xor_sync(kFullWarp, own.mean, lane_mask),
          __shfl_xor_sync(kFullWarp, own.m2, lane_mask)};
}

// Moments of kCount values minus `shift`, by two passes over the registers.
template <int kCount, typename A>
__device__ __forceinline__ Moments<A> moments_of(const A (&value)[kCount], A shift) {
  A sum = A(0);
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum += value[i] - shift;
  const A mean = sum * (A(1) / kCount);
  A m2 = A(0);
#pragma unroll
  for (int i = 0; i < kCount; ++i) m2 += (value[i] - shift - mean) * (value[i] - shift - mean);
  return {A(kCount), mean, m2};
}

// Combines the lanes whose numbers differ in the bits from `first` (a power of two) up; each of them gets the result.
template <typename Value>
__device__ __forceinline__ Value warp_merge(Value own, int first = 1) {
#pragma unroll
  for (int offset = 16; offset >= first; offset >>= 1) {
    const Value other = from_lane(own, offset);
    own = threadIdx.x & offset ? merge(other, own) : merge(own, other);  // both sides compute the same bits
  }
  return own;
}

// Combines the kThreads threads of a group, a warp or a whole block; every thread gets the result. The first barrier
// protects the shared array from a later call: nobody writes it before all have read it.
template <int kThreads, typename Value>
__device__ __forceinline__ Value group_merge(Value own) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024, "whole warps");
  constexpr int kWarps = kThreads / 32;
  own = warp_merge(own);
  if constexpr (kWarps > 1) {
    JDM_SHARED_ARRAY(Value, partial, kWarps);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = own;
    __syncthreads();
    own = partial[0];
#pragma unroll
    for (int i = 1; i < kWarps; ++i) own = merge(own, partial[i]);
  }
  return own;
}

}  // namespace jdm_fast::cuda
