// Instance norm of [N, H*W, C] in tiles (instance_norm_tile.cuh), for every architecture.
//
// Many tiles: a block each, which reads its tile twice. Few: several blocks share one (`splits` parts of its rows).
// Then a first kernel leaves the partial results of each part, and in a second one every block combines those of its
// own tile before it applies them; narrower tiles keep the number of parts, and so that work, small.
#pragma once

#include "instance_norm_tile.cuh"

namespace jdm_fast::cuda {

constexpr int kTileUnroll = 8;  // vectors in flight a thread: with 16 warps a multiprocessor, 64 KiB

// Combines what the blocks of a tile left, [N, splits, C]: result[c] for channel c of the tile, in shared memory. A
// fixed order: the blocks of a tile, which all do this, get the same bits.
template <typename T, int kVector, typename Value>
__device__ __forceinline__ const Value* combine_parts(const Tile<kVector>& tile, const Value* partials, int splits,
                                                      int64_t all_channels) {
  JDM_SHARED_ARRAY(Value, partial, kTileThreads);
  const int width = tile.lanes * kVector;  // a power of two, at most 64
  const int channel = threadIdx.x & (width - 1), stack = threadIdx.x / width, stacks = kTileThreads / width;
  Value own{};
  if (channel < tile.channels) {
    const Value* const first = partials + tile.sample * splits * all_channels + tile.first_channel + channel;
#pragma unroll 4
    for (int s = stack; s < splits; s += stacks) own = merge(own, first[s * all_channels]);
  }
  partial[threadIdx.x] = own;
  for (int half = stacks / 2; half > 0; half /= 2) {
    __syncthreads();
    if (stack < half) partial[threadIdx.x] = own = merge(own, partial[threadIdx.x + half * width]);
  }
  __syncthreads();
  return partial;
}

// ---------------------------------------------------------------------------------------------------------------------
// Passes over the rows of a part.

// Moments of x minus the channel's value at the sample's first pixel, which keeps their digits when the mean is large.
template <typename T, int kVector>
__device__ __forceinline__ void tile_moments(const NormForward<T>& args, const Tile<kVector>& tile,
                                             Moments<Accumulator<T>> (&own)[kVector]) {
  using A = Accumulator<T>;
#pragma unroll
  for (int e = 0; e < kVector; ++e) own[e] = Moments<A>{};
  if (!tile.active) return;
  const ThreadRows rows(tile, args.channels, args.pixels);
  A count = A(0);  // of every channel
  A shift[kVector];
  unpack(load<kVector>(args.x + tile.offset(args.channels, args.pixels)), shift);
  for (int first = 0; first < rows.count; first += kRunRows) {
    Run<kVector, A> run{};
    const int end = first + kRunRows < rows.count ? first + kRunRows : rows.count;
    for (int r = first; r < end; r += kTileUnroll) {
      Packed<T, kVector> packed[kTileUnroll];
      const T* const at = args.x + rows.start + r * rows.step;
#pragma unroll
      for (int u = 0; u < kTileUnroll; ++u) {
        if (r + u < end) packed[u] = load_once<kVector>(at + u * rows.step);
      }
#pragma unroll
      for (int u = 0; u < kTileUnroll; ++u) {
        if (r + u < end) {
          A value[kVector];
          unpack(packed[u], value);
          if (u == 0 && r == first) run.begin(value);
          run.add(value);
        }
      }
    }
    const A share = A(1) / static_cast<A>(run.count);
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      own[e].count = count;
      own[e] = merge(own[e], run.moments(e, shift[e], share));
    }
    count += static_cast<A>(run.count);
  }
#pragma unroll
  for (int e = 0; e < kVector; ++e) own[e].count = count;
}

// `ready` gives the channels; it is called once the first rows are on their way.
template <typename T, int kVector, typename Ready>
__device__ __forceinline__ void tile_forward(const NormForward<T>& args, const Tile<kVector>& tile, bool streaming,
                                             Ready ready) {
  constexpr int kHalf = kTileUnroll / 2;  // residuals in flight, which come on top
  const ThreadRows rows(tile, args.channels, args.pixels);
  Packed<T, kVector> packed_x[kTileUnroll];
  const auto load_rows = [&](int r) {
    const T* const at = args.x + rows.start + r * rows.step;
#pragma unroll
    for (int u = 0; u < kTileUnroll; ++u) {
      if (r + u < rows.count) packed_x[u] = load_once<kVector>(at + u * rows.step);
    }
  };
  load_rows(0);
  Channel<Accumulator<T>> channel[kVector] = {};
  ready(channel);
  for (int r = 0; r < rows.count; r += kTileUnroll) {
    const int64_t at = rows.start + r * rows.step;
#pragma unroll
    for (int half = 0; half < kTileUnroll; half += kHalf) {
      Packed<T, kVector> packed_residual[kHalf] = {};
      if (args.residual != nullptr) {
#pragma unroll
        for (int u = 0; u < kHalf; ++u) {
          if (r + half + u < rows.count) {
            packed_residual[u] = load_once<kVector>(args.residual + at + (half + u) * rows.step);
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kHalf; ++u) {
        if (r + half + u < rows.count) {
          store(args.y + at + (half + u) * rows.step,
                forward_vector(packed_x[half + u], packed_residual[u], channel, args.slope), streaming);
        }
      }
    }
    load_rows(r + kTileUnroll);
  }
}

constexpr int kTileUnrollBackward = kTileUnroll / 2;  // of x and dy each

// Rows r to r + kTileUnrollBackward of a thread, on their way.
template <typename T, int kVector>
struct RowsBackward {
  Packed<T, kVector> x[kTileUnrollBackward], dy[kTileUnrollBackward];

  __device__ __forceinline__ void load_from(const NormBackward<T>& args, const ThreadRows& rows, int r) {
    const int64_t at = rows.start + r * rows.step;
#pragma unroll
    for (int u = 0; u < kTileUnrollBackward; ++u) {
      if (r + u < rows.count) {
        x[u] = load_once<kVector>(args.x + at + u * rows.step);
        dy[u] = load_once<kVector>(args.dy + at + u * rows.step);
      }
    }
  }
};

template <typename T, int kVector>
__device__ __forceinline__ void tile_gradient_sums(const NormBackward<T>& args, const Tile<kVector>& tile,
                                                   const Channel<Accumulator<T>> (&channel)[kVector],
                                                   Sums<Accumulator<T>> (&own)[kVector]) {
  const ThreadRows rows(tile, args.channels, args.pixels);
  for (int r = 0; r < rows.count; r += kTileUnrollBackward) {
    RowsBackward<T, kVector> packed;
    packed.load_from(args, rows, r);
#pragma unroll
    for (int u = 0; u < kTileUnrollBackward; ++u) {
      if (r + u < rows.count) add_gradients(packed.x[u], packed.dy[u], channel, args.slope, own);
    }
  }
}

// `ready` gives the two means; it is called once the first rows are on their way.
template <typename T, int kVector, typename Ready>
__device__ __forceinline__ void tile_backward(const NormBackward<T>& args, const Tile<kVector>& tile, bool streaming,
                                              const Channel<Accumulator<T>> (&channel)[kVector], Ready ready) {
  using A = Accumulator<T>;
  const ThreadRows rows(tile, args.channels, args.pixels);
  RowsBackward<T, kVector> packed;
  packed.load_from(args, rows, 0);
  A mean_g[kVector] = {}, tilt[kVector] = {};
  ready(mean_g, tilt);
  for (int r = 0; r < rows.count; r += kTileUnrollBackward) {
    const int64_t at = rows.start + r * rows.step;
#pragma unroll
    for (int u = 0; u < kTileUnrollBackward; ++u) {
      if (r + u < rows.count) {
        store(args.dx + at + u * rows.step,
              backward_vector(packed.x[u], packed.dy[u], channel, args.slope, mean_g, tilt), streaming);
      }
    }
    packed.load_from(args, rows, r + kTileUnrollBackward);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels. Partial results are [N, splits, C].

// Two blocks a multiprocessor: 128 registers a thread.

template <typename T, int kVector>
__global__ void __launch_bounds__(kTileThreads, 2)
    channels_partial_moments(NormForward<T> args, Moments<Accumulator<T>>* partials, TileLayout layout) {
  release_dependents();
  const Tile<kVector> tile(layout, args.channels, args.pixels, /*reversed=*/false);
  Moments<Accumulator<T>> own[kVector];
  tile_moments(args, tile, own);
  const auto* const total = tile_merge<T>(tile, own);
  if (static_cast<int>(threadIdx.x) < tile.channels) {
    wait_for_predecessor();  // else a kernel after this pair could begin before the pair before it has ended
    partials[(tile.sample * layout.splits + tile.split) * args.channels + tile.first_channel + threadIdx.x] =
        total[threadIdx.x];
  }
}

// kSplit: `partials` hold the moments of all parts; else the part is the whole tile and this kernel finds them.
template <typename T, int kVector, bool kSplit>
__global__ void __launch_bounds__(kTileThreads, 2)
    channels_forward(NormForward<T> args, const Moments<Accumulator<T>>* partials, TileLayout layout) {
  using A = Accumulator<T>;
  release_dependents();
  const Tile<kVector> tile(layout, args.channels, args.pixels, kSplit);
  const Moments<A>* total = nullptr;
  if constexpr (!kSplit) {
    Moments<A> own[kVector];
    tile_moments(args, tile, own);
    total = tile_merge<T>(tile, own);
  }
  tile_forward(args, tile, layout.streaming, [&](Channel<A>(&channel)[kVector]) {
    if constexpr (kSplit) {
      wait_for_predecessor();
      total = combine_parts<T>(tile, partials, layout.splits, args.channels);
    }
    finish_moments(args, tile, total, tile.split == 0, channel);
  });
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kTileThreads, 2)
    channels_partial_gradient_sums(NormBackward<T> args, Sums<Accumulator<T>>* partials, TileLayout layout) {
  using A = Accumulator<T>;
  release_dependents();
  const Tile<kVector> tile(layout, args.channels, args.pixels, /*reversed=*/false);
  Channel<A> channel[kVector];
  A rstd[kVector];
  Sums<A> own[kVector] = {};
  if (tile.active) {
    load_channels(args, tile, rstd, channel);
    tile_gradient_sums(args, tile, channel, own);
  }
  const Sums<A>* const total = tile_merge<T>(tile, own);
  if (static_cast<int>(threadIdx.x) < tile.channels) {
    wait_for_predecessor();  // else a kernel after this pair could begin before the pair before it has ended
    partials[(tile.sample * layout.splits + tile.split) * args.channels + tile.first_channel + threadIdx.x] =
        total[threadIdx.x];
  }
}

// kSplit: `partials` hold the sums of all parts; else the part is the whole tile and this kernel finds them.
template <typename T, int kVector, bool kSplit>
__global__ void __launch_bounds__(kTileThreads, 2)
    channels_backward(NormBackward<T> args, const Sums<Accumulator<T>>* partials, TileLayout layout) {
  using A = Accumulator<T>;
  release_dependents();
  const Tile<kVector> tile(layout, args.channels, args.pixels, kSplit);
  Channel<A> channel[kVector] = {};
  A rstd[kVector] = {};
  const Sums<A>* total = nullptr;
  if (tile.active) load_channels(args, tile, rstd, channel);
  if constexpr (!kSplit) {
    Sums<A> own[kVector] = {};
    if (tile.active) tile_gradient_sums(args, tile, channel, own);
    total = tile_merge<T>(tile, own);
  }
  tile_backward(args, tile, layout.streaming, channel, [&](A(&mean_g)[kVector], A(&tilt)[kVector]) {
    if constexpr (kSplit) {
      wait_for_predecessor();
      total = combine_parts<T>(tile, partials, layout.splits, args.channels);
    }
    finish_gradient_sums(args, tile, total, tile.split == 0, rstd, mean_g, tilt);
  });
}

}  // namespace jdm_fast::cuda
