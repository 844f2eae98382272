// Instance norm of in-between frames of [T, h*w, C]: the channels of a pixel are contiguous.
//
// Threads are laid over channels and rows as in instance_norm_channels.cuh, a pair of keys in place of a sample. A
// first kernel leaves the moments of every part of a tile, a second merges them and finds the scale of every frame and
// channel, a third holds rows of two keys in registers and writes those rows of every frame between them.
#pragma once

#include "../interpolate_instance_norm.cuh"
#include "instance_norm_channels.cuh"

namespace jdm_fast::cuda {

constexpr int kScaleThreads = 256;
constexpr int kScaleWarps = kScaleThreads / 32;

// What the second kernel leaves for the third.
template <typename A>
struct BetweenConstants {
  A* means;   // [pairs, 2, C]: of a, of b
  A* scales;  // [F, C]: weight * rstd
};

// Of kCount values of each key, by two passes over the registers.
template <int kCount, typename A>
__device__ __forceinline__ PairMoments<A> pair_moments_of(const A (&a)[kCount], const A (&b)[kCount]) {
  A sum_a = A(0), sum_b = A(0);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    sum_a += a[i];
    sum_b += b[i];
  }
  PairMoments<A> own{A(kCount), sum_a * (A(1) / kCount), sum_b * (A(1) / kCount), A(0), A(0), A(0)};
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const A da = a[i] - own.mean_a, db = b[i] - own.mean_b;
    own.aa += da * da;
    own.bb += db * db;
    own.ab += da * db;
  }
  return own;
}

// partials: [pairs, splits, C]. Moments of the keys minus their values at the pair's first pixel, which keeps digits.
template <typename T, int kVector>
__global__ void __launch_bounds__(kTileThreads, 2)
    channels_pair_moments(Between<T> args, PairMoments<Accumulator<T>>* partials, TileLayout layout) {
  using A = Accumulator<T>;
  release_dependents();
  const Tile<kVector> tile(layout, args.channels, args.pixels, /*reversed=*/false);
  PairMoments<A> own[kVector] = {};
  if (tile.active) {
    const T* const a = args.u + tile.offset(args.channels, args.pixels);
    const T* const b = a + args.next;
    // Packed, as registers are what there is too little of.
    Packed<T, kVector> shift_a = load<kVector>(a), shift_b = load<kVector>(b);
    constexpr int kRows = kVector == 8 ? kTileUnroll / 2 : kTileUnroll;  // of each key
    int64_t pixel = tile.begin + tile.row;
    for (; pixel + (kRows - 1) * tile.rows < tile.end; pixel += kRows * tile.rows) {
      Packed<T, kVector> packed_a[kRows], packed_b[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        packed_a[r] = load<kVector>(a + (pixel + r * tile.rows) * args.channels);
        packed_b[r] = load<kVector>(b + (pixel + r * tile.rows) * args.channels);
      }
      // Else the compiler unpacks them before the loop and spills. bfloat16 it unpacks in place, by a shift.
      if constexpr (std::is_same_v<T, Float16> && kVector > 1) {
        forget_unpacked(shift_a);
        forget_unpacked(shift_b);
      }
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const A zero_a = to_accumulator(shift_a.element[e]), zero_b = to_accumulator(shift_b.element[e]);
        A value_a[kRows], value_b[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          value_a[r] = to_accumulator(packed_a[r].element[e]) - zero_a;
          value_b[r] = to_accumulator(packed_b[r].element[e]) - zero_b;
        }
        own[e] = merge(own[e], pair_moments_of(value_a, value_b));
      }
    }
    for (; pixel < tile.end; pixel += tile.rows) {
      A value_a[kVector], value_b[kVector];
      unpack(load<kVector>(a + pixel * args.channels), value_a);
      unpack(load<kVector>(b + pixel * args.channels), value_b);
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const A distance_a = value_a[e] - to_accumulator(shift_a.element[e]);
        const A distance_b = value_b[e] - to_accumulator(shift_b.element[e]);
        const PairMoments<A> one{A(1), distance_a, distance_b, A(0), A(0), A(0)};
        own[e] = merge(own[e], one);
      }
    }
  }
  const PairMoments<A>* const total = tile_merge<T>(tile, own);
  if (static_cast<int>(threadIdx.x) < tile.channels) {
    partials[(tile.sample * layout.splits + tile.split) * args.channels + tile.first_channel + threadIdx.x] =
        total[threadIdx.x];
  }
}

// A block has 32 neighbouring channels of one pair; its warps share the parts, then the frames.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 1)
    channels_between_scales(Between<T> args, const PairMoments<Accumulator<T>>* partials, int splits,
                            BetweenConstants<Accumulator<T>> constants) {
  using A = Accumulator<T>;
  JDM_SHARED_ARRAY(PairMoments<A>, partial, kScaleThreads);
  release_dependents();
  const int64_t groups = ceil_divide(args.channels, 32);
  const int64_t pair = blockIdx.x / groups;
  const int64_t channel = blockIdx.x % groups * 32 + threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const FrameRange range = frames_of_pair(args, pair);
  wait_for_predecessor();
  PairMoments<A> total{};
  if (channel < args.channels) {
    for (int s = warp; s < splits; s += kScaleWarps) {
      total = merge(total, partials[(pair * splits + s) * args.channels + channel]);
    }
  }
  partial[threadIdx.x] = total;
  __syncthreads();
  if (channel >= args.channels) return;  // after the last barrier
  total = partial[threadIdx.x % 32];
#pragma unroll
  for (int w = 1; w < kScaleWarps; ++w) total = merge(total, partial[w * 32 + threadIdx.x % 32]);
  if (warp == 0) {
    const T* const first = args.u + pair * args.pixels * args.channels + channel;
    constants.means[2 * pair * args.channels + channel] = load_one(first) + total.mean_a;
    constants.means[(2 * pair + 1) * args.channels + channel] = load_one(first + args.next) + total.mean_b;
  }
  const A weight = args.weight != nullptr ? args.weight[channel] : A(1);
  for (int64_t frame = range.first + warp; frame < range.last; frame += kScaleWarps) {
    const double t = args.positions[frame] - static_cast<double>(pair);
    const A rstd = rstd_between(total, static_cast<A>(1.0 - t), static_cast<A>(t), args.eps);
    constants.scales[frame * args.channels + channel] = rstd * weight;
  }
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kTileThreads, 1)
    channels_between(Between<T> args, BetweenConstants<Accumulator<T>> constants, TileLayout layout) {
  using A = Accumulator<T>;
  constexpr int kRows = 2;  // held by a thread
  const Tile<kVector> tile(layout, args.channels, args.pixels, /*reversed=*/true);
  const FrameRange range = frames_of_pair(args, tile.sample);
  const int lane = threadIdx.x % 32;
  const int64_t channel = tile.first_channel + tile.channel, frame_size = args.channels * args.pixels;
  const T* const a = args.u + tile.offset(args.channels, args.pixels);
  const A slope = args.slope;
  A bias[kVector] = {};
  if (tile.active && args.bias != nullptr) load_row(args.bias + channel, bias);
  // Every thread of a warp stays to the end: they hand each other the times of the frames.
  for (int64_t first = tile.begin; first < tile.end; first += kRows * tile.rows) {
    A held_a[kRows][kVector], held_b[kRows][kVector];
    bool has[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t pixel = first + r * tile.rows + tile.row;
      has[r] = tile.active && pixel < tile.end;
      Packed<T, kVector> packed_a = {}, packed_b = {};
      if (has[r]) {
        packed_a = load<kVector>(a + pixel * args.channels);
        packed_b = load<kVector>(a + args.next + pixel * args.channels);
      }
      unpack(packed_a, held_a[r]);
      unpack(packed_b, held_b[r]);
    }
    if (first == tile.begin) wait_for_predecessor();  // with the first rows under way
    if (tile.active) {
      A mean_a[kVector], mean_b[kVector];
      load_accumulators(constants.means + 2 * tile.sample * args.channels + channel, mean_a);
      load_accumulators(constants.means + (2 * tile.sample + 1) * args.channels + channel, mean_b);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          held_a[r][e] -= mean_a[e];
          held_b[r][e] -= mean_b[e];
        }
      }
    }
    for (int64_t base = range.first; base < range.last; base += 32) {
      const int frames = range.last - base < 32 ? static_cast<int>(range.last - base) : 32;
      A own_from = A(0), own_to = A(0);
      if (lane < frames) {
        const double t = args.positions[base + lane] - static_cast<double>(tile.sample);
        own_from = static_cast<A>(1.0 - t);
        own_to = static_cast<A>(t);
      }
      const A* scales = constants.scales + base * args.channels + channel;
      T* y = args.y + base * frame_size + (first + tile.row) * args.channels + channel;
      A next_scale[kVector] = {};
      if (tile.active) load_accumulators(scales, next_scale);
      for (int f = 0; f < frames; ++f, y += frame_size) {
        const A from = __shfl_sync(kFullWarp, own_from, f), to = __shfl_sync(kFullWarp, own_to, f);
        if (tile.active) {
          A scale[kVector];
#pragma unroll
          for (int e = 0; e < kVector; ++e) scale[e] = next_scale[e];
          scales += args.channels;
          if (f + 1 < frames) load_accumulators(scales, next_scale);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            A value[kVector];
#pragma unroll
            for (int e = 0; e < kVector; ++e) {
              value[e] = activated((held_a[r][e] * from + held_b[r][e] * to) * scale[e] + bias[e], slope);
            }
            if (has[r]) store(y + r * tile.rows * args.channels, pack<T>(value));
          }
        }
      }
    }
  }
}

}  // namespace jdm_fast::cuda
