// Instance norm of in-between frames of [T, C, h*w]: a plane is contiguous.
//
// A group of threads (a warp or a block) holds the same part of two neighbouring keys' planes in registers and writes
// that part of every frame between them. Planes that fit are a group's own: it finds the sums as well, so the keys are
// read once a pair. Of larger ones, or where there are few, a first kernel finds the sums of every part.
#pragma once

#include "../interpolate_instance_norm.cuh"
#include "cluster.cuh"

namespace jdm_fast::cuda {

// Vectors of each key that a thread holds; of single elements, for planes whose ends are no whole vectors, more.
template <int kVector>
constexpr int kBetweenVectors = kVector == 1 ? 16 : 4;

// Where a group is: `part` of the planes of one channel of one pair.
struct BetweenPart {
  int64_t pair;
  int64_t channel;
  int64_t begin;  // within the plane
  int64_t count;
};

template <typename T>
__device__ __forceinline__ BetweenPart part_of(const Between<T>& args, int64_t group, int splits, int64_t chunk) {
  const int64_t unit = group / splits, begin = group % splits * chunk;
  return {unit / args.channels, unit % args.channels, begin, args.pixels - begin < chunk ? args.pixels - begin : chunk};
}

// The vectors of a part that a thread holds, of both keys.
template <typename T, int kVector>
struct Held {
  Packed<T, kVector> a[kBetweenVectors<kVector>];
  Packed<T, kVector> b[kBetweenVectors<kVector>];
};

// Vector v of both, every time from the packed form: whole vectors would not all fit in registers unpacked.
template <typename T, int kVector>
__device__ __forceinline__ void unpack_held(Held<T, kVector>& held, int v, Accumulator<T>* a, Accumulator<T>* b) {
  if constexpr (sizeof(T) == 2 && kVector > 1) {
    forget_unpacked(held.a[v]);
    forget_unpacked(held.b[v]);
  }
  unpack(held.a[v], a);
  unpack(held.b[v], b);
}

template <int kThreads, int kVector, typename T>
__device__ __forceinline__ Held<T, kVector> load_part(const Between<T>& args, const BetweenPart& part) {
  const T* const a = args.u + (part.pair * args.channels + part.channel) * args.pixels + part.begin;
  const int thread = threadIdx.x % kThreads, vectors = static_cast<int>(part.count / kVector);
  Held<T, kVector> held{};
#pragma unroll
  for (int v = 0; v < kBetweenVectors<kVector>; ++v) {
    const int i = v * kThreads + thread;
    if (i < vectors) {
      held.a[v] = load<kVector>(a + i * kVector);
      held.b[v] = load<kVector>(a + args.next + i * kVector);
    }
  }
  return held;
}

template <typename A>
struct PairSums {
  A a;
  A b;
  A aa;
  A bb;
  A ab;
};

template <typename A>
__device__ __forceinline__ PairSums<A> merge(const PairSums<A>& x, const PairSums<A>& y) {
  return {x.a + y.a, x.b + y.b, x.aa + y.aa, x.bb + y.bb, x.ab + y.ab};
}

template <typename A>
__device__ __forceinline__ PairSums<A> from_lane(const PairSums<A>& own, int lane_mask) {
  return {__shfl_xor_sync(kFullWarp, own.a, lane_mask), __shfl_xor_sync(kFullWarp, own.b, lane_mask),
          __shfl_xor_sync(kFullWarp, own.aa, lane_mask), __shfl_xor_sync(kFullWarp, own.bb, lane_mask),
          __shfl_xor_sync(kFullWarp, own.ab, lane_mask)};
}

// Moments of what a group holds, by two passes over the registers. The sums of the distances, zero but for rounding,
// correct the means.
template <int kThreads, typename T, int kVector>
__device__ __forceinline__ PairMoments<Accumulator<T>> held_moments(Held<T, kVector>& held, int64_t elements) {
  using A = Accumulator<T>;
  const int thread = threadIdx.x % kThreads, vectors = static_cast<int>(elements / kVector);
  Sums<A> sums{};
#pragma unroll
  for (int v = 0; v < kBetweenVectors<kVector>; ++v) {  // what is not held is zero
    A a[kVector], b[kVector];
    unpack_held(held, v, a, b);
    Sums<A> part{};
#pragma unroll
    for (int e = 0; e < kVector; ++e) part = merge(part, Sums<A>{a[e], b[e]});
    sums = merge(sums, part);
  }
  const A count = static_cast<A>(elements);
  sums = group_merge<kThreads>(sums);
  const A mean_a = sums.first / count, mean_b = sums.second / count;
  PairSums<A> spread{};
#pragma unroll
  for (int v = 0; v < kBetweenVectors<kVector>; ++v) {
    if (v * kThreads + thread < vectors) {
      A a[kVector], b[kVector];
      unpack_held(held, v, a, b);
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const A da = a[e] - mean_a, db = b[e] - mean_b;
        spread = {spread.a + da, spread.b + db, spread.aa + da * da, spread.bb + db * db, spread.ab + da * db};
      }
    }
  }
  spread = group_merge<kThreads>(spread);
  const A shift_a = spread.a / count, shift_b = spread.b / count;
  return {count,
          mean_a + shift_a,
          mean_b + shift_b,
          spread.aa - shift_a * spread.a,
          spread.bb - shift_b * spread.b,
          spread.ab - shift_a * spread.b};
}

// The part of every frame between the keys.
template <int kThreads, typename T, int kVector>
__device__ __forceinline__ void write_frames(const Between<T>& args, const BetweenPart& part, Held<T, kVector>& held,
                                             const PairMoments<Accumulator<T>>& moments, const FrameRange& range) {
  using A = Accumulator<T>;
  // Held vectors that are unpacked at once: a frame's factors are handed out once for all of them.
  constexpr int kVectors = kBetweenVectors<kVector>, kOpen = kVector == 1 ? kVectors : 1;
  const int lane = threadIdx.x % 32, thread = threadIdx.x % kThreads, vectors = static_cast<int>(part.count / kVector);
  const A weight = args.weight != nullptr ? args.weight[part.channel] : A(1);
  const A bias = args.bias != nullptr ? args.bias[part.channel] : A(0);
  const A slope = args.slope;
  const int64_t frame_size = args.channels * args.pixels;
  T* const y = args.y + part.channel * args.pixels + part.begin;
  for (int64_t base = range.first; base < range.last; base += 32) {
    // Every lane finds the scales of one frame and hands them out.
    const int frames = range.last - base < 32 ? static_cast<int>(range.last - base) : 32;
    A scale_a = A(0), scale_b = A(0);
    if (lane < frames) {
      const double t = args.positions[base + lane] - static_cast<double>(part.pair);
      const A from = static_cast<A>(1.0 - t), to = static_cast<A>(t);
      const A scale = rstd_between(moments, from, to, args.eps) * weight;
      scale_a = from * scale;
      scale_b = to * scale;
    }
#pragma unroll
    for (int v = 0; v < kVectors; v += kOpen) {
      const int first = v * kThreads + thread;
      if (first - lane < vectors) {  // some lane of this warp has a vector; all lanes hand out
        A a[kOpen][kVector], b[kOpen][kVector];
#pragma unroll
        for (int o = 0; o < kOpen; ++o) {
          unpack_held(held, v + o, a[o], b[o]);
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
            a[o][e] -= moments.mean_a;
            b[o][e] -= moments.mean_b;
          }
        }
        T* at = y + base * frame_size + first * kVector;
#pragma unroll 1
        for (int f = 0; f < frames; ++f, at += frame_size) {
          const A from = __shfl_sync(kFullWarp, scale_a, f), to = __shfl_sync(kFullWarp, scale_b, f);
#pragma unroll
          for (int o = 0; o < kOpen; ++o) {
            A value[kVector];
#pragma unroll
            for (int e = 0; e < kVector; ++e) value[e] = activated(a[o][e] * from + (b[o][e] * to + bias), slope);
            if (first + o * kThreads < vectors) store(at + o * kThreads * kVector, pack<T>(value));
          }
        }
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels.

// A group per pair and channel, which holds the whole planes.
template <typename T, int kThreads, int kVector>
__global__ void __launch_bounds__(kThreads == 32 ? 128 : kThreads, 1) planes_between(Between<T> args) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kThreads) + threadIdx.x / kThreads;
  if (group >= args.pairs * args.channels) return;  // a whole warp of a kernel without barriers
  const BetweenPart part = part_of(args, group, 1, args.pixels);
  Held<T, kVector> held = load_part<kThreads, kVector>(args, part);  // under way while the frames are looked for
  const FrameRange range = frames_of_pair(args, part.pair);
  if (range.first == range.last) return;  // the whole group
  const auto moments = held_moments<kThreads>(held, part.count);
  write_frames<kThreads>(args, part, held, moments, range);
}

// partials: [pairs, C, splits].
template <typename T, int kThreads, int kVector>
__global__ void __launch_bounds__(kThreads, 1)
    planes_pair_moments(Between<T> args, PairMoments<Accumulator<T>>* partials, int splits, int64_t chunk) {
  release_dependents();
  const BetweenPart part = part_of(args, blockIdx.x, splits, chunk);
  Held<T, kVector> held = load_part<kThreads, kVector>(args, part);
  const auto moments = held_moments<kThreads>(held, part.count);
  if (threadIdx.x == 0) partials[blockIdx.x] = moments;
}

template <typename T, int kThreads, int kVector>
__global__ void __launch_bounds__(kThreads, 1)
    planes_between_parts(Between<T> args, const PairMoments<Accumulator<T>>* partials, int splits, int64_t chunk) {
  using A = Accumulator<T>;
  const unsigned group = gridDim.x - 1 - blockIdx.x;  // first what was read last, which is still in cache
  const BetweenPart part = part_of(args, group, splits, chunk);
  Held<T, kVector> held = load_part<kThreads, kVector>(args, part);
  const FrameRange range = frames_of_pair(args, part.pair);
  wait_for_predecessor();
  if (range.first == range.last) return;
  const PairMoments<A>* const parts = partials + (part.pair * args.channels + part.channel) * splits;
  PairMoments<A> moments{};
  for (int i = threadIdx.x % 32; i < splits; i += 32) moments = merge(moments, parts[i]);  // every warp for itself
  write_frames<kThreads>(args, part, held, warp_merge(moments), range);
}

}  // namespace jdm_fast::cuda
