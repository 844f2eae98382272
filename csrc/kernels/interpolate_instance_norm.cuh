// Instance norm of in-between frames on the device: what both memory layouts share. The kernels are in
// cuda/interpolate_instance_norm_planes.cuh ([T, C, h*w]) and cuda/interpolate_instance_norm_channels.cuh ([T, h*w,
// C]).
#pragma once

#include "cuda/reductions.cuh"

namespace jdm_fast::cuda {

template <typename T>
struct Between {
  using A = Accumulator<T>;
  const T* u;               // [T, C, h*w] or [T, h*w, C]
  const double* positions;  // [F]
  const A* weight;          // [C], or nullptr
  const A* bias;            // [C], or nullptr
  T* y;                     // [F, C, h*w] or [F, h*w, C]
  int64_t pairs;            // of neighbouring keys; one, of the key with itself, if there is one key
  int64_t next;             // elements from a key map to the next; 0 if there is one key
  int64_t frames;
  int64_t channels;
  int64_t pixels;
  A eps;
  A slope;  // of the activation below zero: 1 for none, 0 for ReLU
};

// Of two planes a and b: means, sums of squared distances from them and of the products of both distances.
template <typename A>
struct PairMoments {
  A count;
  A mean_a;
  A mean_b;
  A aa;
  A bb;
  A ab;
};

// As the merge of Moments in device.cuh.
template <typename A>
__device__ __forceinline__ PairMoments<A> merge(const PairMoments<A>& x, const PairMoments<A>& y) {
  const A count = x.count + y.count;
  const A share = count > A(0) ? quick_divide(y.count, count) : A(0);
  const A delta_a = y.mean_a - x.mean_a, delta_b = y.mean_b - x.mean_b, both = x.count * share;
  return {count,
          x.mean_a + delta_a * share,
          x.mean_b + delta_b * share,
          x.aa + y.aa + delta_a * delta_a * both,
          x.bb + y.bb + delta_b * delta_b * both,
          x.ab + y.ab + delta_a * delta_b * both};
}

template <typename A>
__device__ __forceinline__ PairMoments<A> from_lane(const PairMoments<A>& own, int lane_mask) {
  return {__shfl_xor_sync(kFullWarp, own.count, lane_mask),  __shfl_xor_sync(kFullWarp, own.mean_a, lane_mask),
          __shfl_xor_sync(kFullWarp, own.mean_b, lane_mask), __shfl_xor_sync(kFullWarp, own.aa, lane_mask),
          __shfl_xor_sync(kFullWarp, own.bb, lane_mask),     __shfl_xor_sync(kFullWarp, own.ab, lane_mask)};
}

template <typename A>
__device__ __forceinline__ PairMoments<A> choose(bool yes, const PairMoments<A>& x, const PairMoments<A>& y) {
  return {yes ? x.count : y.count, yes ? x.mean_a : y.mean_a, yes ? x.mean_b : y.mean_b,
          yes ? x.aa : y.aa,       yes ? x.bb : y.bb,         yes ? x.ab : y.ab};
}

// 1 / sqrt(variance + eps) of the frame at t between a and b.
template <typename A>
__device__ __forceinline__ A rstd_between(const PairMoments<A>& moments, A from, A to, A eps) {
  const A m2 = from * from * moments.aa + to * to * moments.bb + A(2) * from * to * moments.ab;
  return reciprocal_root((m2 < A(0) ? A(0) : m2) / moments.count + eps);  // NaN stays NaN
}

// The first of the frames, which are in time order, that is at `key` or after it. For all lanes of a warp together,
// which try 32 places at a time.
__device__ __forceinline__ int64_t first_frame_from(const double* positions, int64_t frames, double key) {
  const int64_t lane = threadIdx.x % 32;
  int64_t low = 0, length = frames;  // it is between low and low + length
  while (length > 0) {
    const int64_t step = ceil_divide(length, 32), probe = (lane + 1) * step - 1;
    const bool before = probe < length && positions[low + probe] < key;
    const int64_t passed = __popc(__ballot_sync(kFullWarp, before)) * step;
    low += passed;
    length = length - passed < step - 1 ? length - passed : step - 1;
  }
  return low;
}

struct FrameRange {
  int64_t first;
  int64_t last;
};

// The frames between the keys of a pair, for all lanes of a warp together.
template <typename T>
__device__ __forceinline__ FrameRange frames_of_pair(const Between<T>& args, int64_t pair) {
  return {pair == 0 ? 0 : first_frame_from(args.positions, args.frames, static_cast<double>(pair)),
          pair + 1 == args.pairs ? args.frames
                                 : first_frame_from(args.positions, args.frames, static_cast<double>(pair + 1))};
}

template <typename A>
__device__ __forceinline__ A activated(A t, A slope) {
  return t > A(0) ? t : slope * t;
}

}  // namespace jdm_fast::cuda
