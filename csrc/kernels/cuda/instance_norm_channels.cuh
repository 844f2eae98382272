// Instance norm of [N, H*W, C]: the channels of a pixel are contiguous.
//
// A block of kTileThreads threads takes a tile of neighbouring channels of one sample: `lanes` threads side by side
// cover its channels, kVector each, and the rest of the block stacks rows of pixels. Few tiles: several blocks share
// one (`splits` parts of its rows), a first kernel leaves partial results, a second combines them, a third applies.
#pragma once

#include "../instance_norm.cuh"

namespace jdm_fast::cuda {

constexpr int kTileThreads = 256;
constexpr int kTileWarps = kTileThreads / 32;
constexpr int kTileUnroll = 4;       // rows in flight a thread
constexpr int kMaxScalarLanes = 32;  // with vectors of one element
constexpr int kMaxVectorLanes = 8;   // with vectors of 16 bytes: a row of a tile is a cache line
template <typename T, int kVector>
constexpr int kMaxTileChannels = kVector == 1 ? kMaxScalarLanes : kMaxVectorLanes * kVector;

// How the threads of a launch are laid over channels and rows; the same for all blocks.
struct TileLayout {
  int lanes_log2;
  int tiles;  // per sample
  int splits;
  int64_t chunk;  // rows of a part, at most
};

// The part of a tile that a block has, and the place of the thread in it.
template <int kVector>
struct Tile {
  int lanes;
  int rows;     // of threads
  int row;      // of this thread
  int channel;  // first of this thread's, within the tile
  int64_t sample;
  int split;
  int64_t first_channel;  // of the tile
  int channels;           // of the tile
  int64_t begin, end;     // pixels of the part
  bool active;            // whether this thread has channels

  __device__ __forceinline__ Tile(const TileLayout& layout, int64_t all_channels, int64_t pixels, bool reversed) {
    lanes = 1 << layout.lanes_log2;
    rows = kTileThreads >> layout.lanes_log2;
    row = threadIdx.x >> layout.lanes_log2;
    channel = (threadIdx.x & (lanes - 1)) * kVector;
    const unsigned block = reversed ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    split = static_cast<int>(block % static_cast<unsigned>(layout.splits));
    const unsigned unit = block / static_cast<unsigned>(layout.splits);
    sample = unit / static_cast<unsigned>(layout.tiles);
    first_channel = static_cast<int64_t>(unit % static_cast<unsigned>(layout.tiles)) * lanes * kVector;
    channels = static_cast<int>(all_channels - first_channel < lanes * kVector ? all_channels - first_channel
                                                                               : lanes * kVector);
    begin = split * layout.chunk;
    end = begin + layout.chunk < pixels ? begin + layout.chunk : pixels;
    active = channel < channels;
  }

  // Offset of this thread's channels at pixel 0.
  __device__ __forceinline__ int64_t offset(int64_t all_channels, int64_t pixels) const {
    return sample * pixels * all_channels + first_channel + channel;
  }
};

// Combines the values that the rows of threads hold for each channel: result[c] for channel c of the tile, in shared
// memory.
template <typename T, int kVector, typename Value>
__device__ __forceinline__ const Value* tile_merge(const Tile<kVector>& tile, Value (&own)[kVector]) {
  constexpr int kChannels = kMaxTileChannels<T, kVector>;
  JDM_SHARED_ARRAY(Value, partial, kTileWarps * kChannels);
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    own[e] = warp_merge(own[e], tile.lanes);
    if (static_cast<int>(threadIdx.x % 32) < tile.lanes) partial[warp * kChannels + tile.channel + e] = own[e];
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < tile.channels) {
    Value total = partial[threadIdx.x];
#pragma unroll
    for (int w = 1; w < kTileWarps; ++w) total = merge(total, partial[w * kChannels + threadIdx.x]);
    partial[threadIdx.x] = total;
  }
  __syncthreads();
  return partial;
}

// This thread's entries of a row of numbers, one for each channel. With vectors rows lie on 16-byte boundaries.
template <int kVector, typename A>
__device__ __forceinline__ void load_row(const A* row, A (&value)[kVector]) {
  if constexpr (kVector == 1) {
    value[0] = load_one(row);
  } else {
    constexpr int kWide = kVectorElements<A>;
#pragma unroll
    for (int i = 0; i < kVector; i += kWide) unpack(load<kWide>(row + i), value + i);
  }
}

// This thread's channels, from their statistics.
template <int kVector, typename Args, typename A>
__device__ __forceinline__ void make_channels(const Args& args, const Tile<kVector>& tile, const A (&mean)[kVector],
                                              const A (&rstd)[kVector], Channel<A> (&channel)[kVector]) {
  // Of the sample's first plane, modulo affine_planes; the operator would make registers spill.
  const int64_t sample_at = args.affine_planes == args.channels ? 0 : tile.sample * args.channels;
  const int64_t first = sample_at + tile.first_channel + tile.channel;
  A weight[kVector], bias[kVector] = {};
#pragma unroll
  for (int e = 0; e < kVector; ++e) weight[e] = A(1);
  if (args.weight != nullptr) load_row(args.weight + first, weight);
  if (args.bias != nullptr) load_row(args.bias + first, bias);
#pragma unroll
  for (int e = 0; e < kVector; ++e) channel[e] = {mean[e], rstd[e] * weight[e], bias[e]};
}

// The same from args.mean and args.rstd, which a kernel before has written; leaves rstd.
template <int kVector, typename Args, typename A>
__device__ __forceinline__ void load_channels(const Args& args, const Tile<kVector>& tile, A (&rstd)[kVector],
                                              Channel<A> (&channel)[kVector]) {
  const int64_t at = tile.sample * args.channels + tile.first_channel + tile.channel;
  A mean[kVector];
  load_row(static_cast<const A*>(args.mean) + at, mean);
  load_row(static_cast<const A*>(args.rstd) + at, rstd);
  make_channels(args, tile, mean, rstd, channel);
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
  const T* const x = args.x + tile.offset(args.channels, args.pixels);
  A shift[kVector];
  unpack(load<kVector>(x), shift);
  int64_t pixel = tile.begin + tile.row;
  for (; pixel + (kTileUnroll - 1) * tile.rows < tile.end; pixel += kTileUnroll * tile.rows) {
    Packed<T, kVector> packed[kTileUnroll];
#pragma unroll
    for (int u = 0; u < kTileUnroll; ++u) packed[u] = load<kVector>(x + (pixel + u * tile.rows) * args.channels);
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      A value[kTileUnroll];
#pragma unroll
      for (int u = 0; u < kTileUnroll; ++u) value[u] = to_accumulator(packed[u].element[e]);
      own[e] = merge(own[e], moments_of(value, shift[e]));
    }
  }
  for (; pixel < tile.end; pixel += tile.rows) {
    A value[kVector];
    unpack(load<kVector>(x + pixel * args.channels), value);
#pragma unroll
    for (int e = 0; e < kVector; ++e) own[e] = merge(own[e], Moments<A>{A(1), value[e] - shift[e], A(0)});
  }
}

template <typename T, int kVector>
__device__ __forceinline__ void tile_forward(const NormForward<T>& args, const Tile<kVector>& tile,
                                             const Channel<Accumulator<T>> (&channel)[kVector]) {
  using A = Accumulator<T>;
  const int64_t start = tile.offset(args.channels, args.pixels);
  const bool with_residual = args.residual != nullptr;
  constexpr int kUnroll = kTileUnroll / 2;
  for (int64_t first = tile.begin + tile.row; first < tile.end; first += kUnroll * tile.rows) {
    Packed<T, kVector> packed_x[kUnroll], packed_residual[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t pixel = first + u * tile.rows;
      if (pixel < tile.end) packed_x[u] = load<kVector>(args.x + start + pixel * args.channels);
      if (pixel < tile.end && with_residual) {
        packed_residual[u] = load<kVector>(args.residual + start + pixel * args.channels);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t pixel = first + u * tile.rows;
      if (pixel < tile.end) {
        A value[kVector], residual[kVector];
        unpack(packed_x[u], value);
        unpack(packed_residual[u], residual);
#pragma unroll
        for (int e = 0; e < kVector; ++e) value[e] = forward_value(channel[e], args.slope, value[e]) + residual[e];
        store(args.y + start + pixel * args.channels, pack<T>(value));
      }
    }
  }
}

template <typename T, int kVector>
__device__ __forceinline__ void tile_gradient_sums(const NormBackward<T>& args, const Tile<kVector>& tile,
                                                   const Channel<Accumulator<T>> (&channel)[kVector],
                                                   Sums<Accumulator<T>> (&own)[kVector]) {
  using A = Accumulator<T>;
  const int64_t start = tile.offset(args.channels, args.pixels);
  constexpr int kUnroll = kTileUnroll / 2;
  for (int64_t first = tile.begin + tile.row; first < tile.end; first += kUnroll * tile.rows) {
    Packed<T, kVector> packed_x[kUnroll], packed_dy[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t pixel = first + u * tile.rows;
      if (pixel < tile.end) {
        packed_x[u] = load<kVector>(args.x + start + pixel * args.channels);
        packed_dy[u] = load<kVector>(args.dy + start + pixel * args.channels);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * tile.rows < tile.end) {
        A value[kVector], gradient[kVector];
        unpack(packed_x[u], value);
        unpack(packed_dy[u], gradient);
#pragma unroll
        for (int e = 0; e < kVector; ++e) add_gradient(own[e], channel[e], args.slope, value[e], gradient[e]);
      }
    }
  }
}

template <typename T, int kVector>
__device__ __forceinline__ void tile_backward(const NormBackward<T>& args, const Tile<kVector>& tile,
                                              const Channel<Accumulator<T>> (&channel)[kVector],
                                              const Accumulator<T> (&mean_g)[kVector],
                                              const Accumulator<T> (&tilt)[kVector]) {
  using A = Accumulator<T>;
  const int64_t start = tile.offset(args.channels, args.pixels);
  for (int64_t pixel = tile.begin + tile.row; pixel < tile.end; pixel += tile.rows) {
    A value[kVector], gradient[kVector];
    unpack(load<kVector>(args.x + start + pixel * args.channels), value);
    unpack(load<kVector>(args.dy + start + pixel * args.channels), gradient);
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      value[e] = backward_value(channel[e], args.slope, mean_g[e], tilt[e], value[e], gradient[e]);
    }
    store(args.dx + start + pixel * args.channels, pack<T>(value));
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels. Partial results are [N, splits, C].

template <typename T, int kVector>
__global__ void __launch_bounds__(kTileThreads)
    channels_partial_moments(NormForward<T> args, Moments<Accumulator<T>>* partials, TileLayout layout) {
  const Tile<kVector> tile(layout, args.channels, args.pixels, /*reversed=*/false);
  Moments<Accumulator<T>> own[kVector];
  tile_moments(args, tile, own);
  const auto* const total = tile_merge<T>(tile, own);
  if (static_cast<int>(threadIdx.x) < tile.channels) {
    partials[(tile.sample * layout.splits + tile.split) * args.channels + tile.first_channel + threadIdx.x] =
        total[threadIdx.x];
  }
}

// kSplit: mean and rstd are there already; else the part is the whole tile and this kernel finds them.
template <typename T, int kVector, bool kSplit>
__global__ void __launch_bounds__(kTileThreads) channels_forward(NormForward<T> args, TileLayout layout) {
  using A = Accumulator<T>;
  const Tile<kVector> tile(layout, args.channels, args.pixels, kSplit);
  Channel<A> channel[kVector] = {};
  if constexpr (kSplit) {
    A rstd[kVector];
    if (tile.active) load_channels(args, tile, rstd, channel);
  } else {
    Moments<A> own[kVector];
    tile_moments(args, tile, own);
    const Moments<A>* const total = tile_merge<T>(tile, own);
    if (static_cast<int>(threadIdx.x) < tile.channels) {
      const int64_t at = tile.sample * args.channels + tile.first_channel + threadIdx.x;
      const A shift = load_one(args.x + tile.sample * args.pixels * args.channels + tile.first_channel + threadIdx.x);
      args.mean[at] = shift + total[threadIdx.x].mean;
      args.rstd[at] = rstd_of(total[threadIdx.x], args.eps);
    }
    if (tile.active) {
      A mean[kVector], rstd[kVector];
      unpack(load<kVector>(args.x + tile.offset(args.channels, args.pixels)), mean);
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        mean[e] += total[tile.channel + e].mean;
        rstd[e] = rstd_of(total[tile.channel + e], args.eps);
      }
      make_channels(args, tile, mean, rstd, channel);
    }
  }
  if (tile.active) tile_forward(args, tile, channel);
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kTileThreads)
    channels_partial_gradient_sums(NormBackward<T> args, Sums<Accumulator<T>>* partials, TileLayout layout) {
  using A = Accumulator<T>;
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
    partials[(tile.sample * layout.splits + tile.split) * args.channels + tile.first_channel + threadIdx.x] =
        total[threadIdx.x];
  }
}

// kSplit: d_weight and d_bias are there already; else the part is the whole tile and this kernel finds them.
template <typename T, int kVector, bool kSplit>
__global__ void __launch_bounds__(kTileThreads) channels_backward(NormBackward<T> args, TileLayout layout) {
  using A = Accumulator<T>;
  const Tile<kVector> tile(layout, args.channels, args.pixels, kSplit);
  Channel<A> channel[kVector];
  A rstd[kVector];
  Sums<A> own[kVector] = {};
  const Sums<A>* total = nullptr;
  if (tile.active) load_channels(args, tile, rstd, channel);
  if constexpr (!kSplit) {
    if (tile.active) tile_gradient_sums(args, tile, channel, own);
    total = tile_merge<T>(tile, own);
    if (static_cast<int>(threadIdx.x) < tile.channels) {
      const int64_t at = tile.sample * args.channels + tile.first_channel + threadIdx.x;
      args.d_bias[at] = total[threadIdx.x].first;
      args.d_weight[at] = total[threadIdx.x].second * args.rstd[at];
    }
  }
  if (!tile.active) return;  // after the last barrier
  const A count = static_cast<A>(args.pixels);
  A mean_g[kVector], tilt[kVector];  // first the sums of g and of g * xhat
  if constexpr (kSplit) {
    const int64_t at = tile.sample * args.channels + tile.first_channel + tile.channel;
    load_row(static_cast<const A*>(args.d_bias) + at, mean_g);
    load_row(static_cast<const A*>(args.d_weight) + at, tilt);
  } else {
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      mean_g[e] = total[tile.channel + e].first;
      tilt[e] = total[tile.channel + e].second * rstd[e];
    }
  }
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    mean_g[e] = mean_g[e] / count;
    tilt[e] = tilt[e] / count * rstd[e];
  }
  tile_backward(args, tile, channel, mean_g, tilt);
}

}  // namespace jdm_fast::cuda
