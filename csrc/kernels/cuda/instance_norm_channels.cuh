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
  A count = A(0);  // of every channel
  const T* const x = args.x + tile.offset(args.channels, args.pixels);
  const int64_t step = tile.rows * args.channels;
  A shift[kVector];
  unpack(load<kVector>(x), shift);
  for (int64_t first = tile.begin + tile.row; first < tile.end; first += kRunRows * tile.rows) {
    Run<kVector, A> run{};
    const int64_t last = first + kRunRows * tile.rows < tile.end ? first + kRunRows * tile.rows : tile.end;
    for (int64_t pixel = first; pixel < last; pixel += kTileUnroll * tile.rows) {
      Packed<T, kVector> packed[kTileUnroll];
      const T* const at = x + pixel * args.channels;
#pragma unroll
      for (int u = 0; u < kTileUnroll; ++u) {
        if (pixel + u * tile.rows < last) packed[u] = load_once<kVector>(at + u * step);
      }
#pragma unroll
      for (int u = 0; u < kTileUnroll; ++u) {
        if (pixel + u * tile.rows < last) {
          A value[kVector];
          unpack(packed[u], value);
          if (u == 0 && pixel == first) run.begin(value);
          run.add(value);
        }
      }
    }
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      own[e].count = count;
      own[e] = merge(own[e], run.moments(e, shift[e]));
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
  using A = Accumulator<T>;
  constexpr int kHalf = kTileUnroll / 2;  // residuals in flight, which come on top
  const int64_t start = tile.offset(args.channels, args.pixels), step = tile.rows * args.channels;
  const int64_t end = tile.active ? tile.end : tile.begin;
  int64_t first = tile.begin + tile.row;
  Packed<T, kVector> packed_x[kTileUnroll];
  const auto load_rows = [&] {
#pragma unroll
    for (int u = 0; u < kTileUnroll; ++u) {
      if (first + u * tile.rows < end) {
        packed_x[u] = load_once<kVector>(args.x + start + first * args.channels + u * step);
      }
    }
  };
  load_rows();
  Channel<A> channel[kVector] = {};
  ready(channel);
  while (first < end) {
    const int64_t at = start + first * args.channels;
#pragma unroll
    for (int half = 0; half < kTileUnroll; half += kHalf) {
      Packed<T, kVector> packed_residual[kHalf] = {};
      if (args.residual != nullptr) {
#pragma unroll
        for (int u = 0; u < kHalf; ++u) {
          if (first + (half + u) * tile.rows < end) {
            packed_residual[u] = load_once<kVector>(args.residual + at + (half + u) * step);
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kHalf; ++u) {
        if (first + (half + u) * tile.rows < end) {
          store(args.y + at + (half + u) * step,
                forward_vector(packed_x[half + u], packed_residual[u], channel, args.slope), streaming);
        }
      }
    }
    first += kTileUnroll * tile.rows;
    load_rows();
  }
}

constexpr int kTileUnrollBackward = kTileUnroll / 2;  // of x and dy each

template <typename T, int kVector>
__device__ __forceinline__ void load_rows_backward(const NormBackward<T>& args, const Tile<kVector>& tile,
                                                   int64_t first, int64_t end,
                                                   Packed<T, kVector> (&packed_x)[kTileUnrollBackward],
                                                   Packed<T, kVector> (&packed_dy)[kTileUnrollBackward]) {
  const int64_t at = tile.offset(args.channels, args.pixels) + first * args.channels;
  const int64_t step = tile.rows * args.channels;
#pragma unroll
  for (int u = 0; u < kTileUnrollBackward; ++u) {
    if (first + u * tile.rows < end) {
      packed_x[u] = load_once<kVector>(args.x + at + u * step);
      packed_dy[u] = load_once<kVector>(args.dy + at + u * step);
    }
  }
}

template <typename T, int kVector>
__device__ __forceinline__ void tile_gradient_sums(const NormBackward<T>& args, const Tile<kVector>& tile,
                                                   const Channel<Accumulator<T>> (&channel)[kVector],
                                                   Sums<Accumulator<T>> (&own)[kVector]) {
  for (int64_t first = tile.begin + tile.row; first < tile.end; first += kTileUnrollBackward * tile.rows) {
    Packed<T, kVector> packed_x[kTileUnrollBackward], packed_dy[kTileUnrollBackward];
    load_rows_backward(args, tile, first, tile.end, packed_x, packed_dy);
#pragma unroll
    for (int u = 0; u < kTileUnrollBackward; ++u) {
      if (first + u * tile.rows < tile.end) add_gradients(packed_x[u], packed_dy[u], channel, args.slope, own);
    }
  }
}

// `ready` gives the two means; it is called once the first rows are on their way.
template <typename T, int kVector, typename Ready>
__device__ __forceinline__ void tile_backward(const NormBackward<T>& args, const Tile<kVector>& tile, bool streaming,
                                              const Channel<Accumulator<T>> (&channel)[kVector], Ready ready) {
  using A = Accumulator<T>;
  const int64_t start = tile.offset(args.channels, args.pixels), step = tile.rows * args.channels;
  const int64_t end = tile.active ? tile.end : tile.begin;
  int64_t first = tile.begin + tile.row;
  Packed<T, kVector> packed_x[kTileUnrollBackward], packed_dy[kTileUnrollBackward];
  load_rows_backward(args, tile, first, end, packed_x, packed_dy);
  A mean_g[kVector] = {}, tilt[kVector] = {};
  ready(mean_g, tilt);
  while (first < end) {
    const int64_t at = start + first * args.channels;
#pragma unroll
    for (int u = 0; u < kTileUnrollBackward; ++u) {
      if (first + u * tile.rows < end) {
        store(args.dx + at + u * step, backward_vector(packed_x[u], packed_dy[u], channel, args.slope, mean_g, tilt),
              streaming);
      }
    }
    first += kTileUnrollBackward * tile.rows;
    load_rows_backward(args, tile, first, end, packed_x, packed_dy);
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
