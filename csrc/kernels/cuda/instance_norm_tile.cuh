// Tiles of [N, H*W, C], where the channels of a pixel are contiguous, and what instance norm does with a thread's
// share.
//
// A block takes a tile of neighbouring channels of one sample, or a part of its rows: `lanes` threads side by side
// cover the channels, kVector each, and the rest of the block stacks rows of pixels.
#pragma once

#include "../instance_norm.cuh"
#include "cluster.cuh"

namespace jdm_fast::cuda {

constexpr int kRunRows = 32;  // rows of a thread that are summed about one of them
template <typename T, int kVector>
constexpr int kMaxTileChannels = kVector == 1 ? kMaxScalarLanes : kMaxVectorLanes * kVector;

// How the threads of a launch are laid over channels and rows; the same for all blocks.
struct TileLayout {
  int lanes_log2;
  int tiles;  // per sample
  int splits;
  int64_t chunk;         // rows of a part, at most
  int64_t first_sample;  // of the launch
  bool streaming;        // more data than the cache holds: what is written is not read from there
};

__host__ __device__ constexpr int log2_of(int power) { return power <= 1 ? 0 : 1 + log2_of(power / 2); }

// The part of a tile that a block of kThreads threads has, and the place of the thread in it.
template <int kVector, int kThreads = kTileThreads>
struct Tile {
  int lanes;
  int rows;  // of threads
  int rows_log2;
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
    rows = kThreads >> layout.lanes_log2;
    rows_log2 = log2_of(kThreads) - layout.lanes_log2;
    row = threadIdx.x >> layout.lanes_log2;
    channel = (threadIdx.x & (lanes - 1)) * kVector;
    const unsigned block = reversed ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    split = static_cast<int>(block % static_cast<unsigned>(layout.splits));
    const unsigned unit = block / static_cast<unsigned>(layout.splits);
    sample = layout.first_sample + unit / static_cast<unsigned>(layout.tiles);
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

// The rows of one thread: row r, for r < count, begins at offset start + r * step of a tensor.
struct ThreadRows {
  int count;
  int64_t start, step;

  template <int kVector, int kThreads>
  __device__ __forceinline__ ThreadRows(const Tile<kVector, kThreads>& tile, int64_t channels, int64_t pixels) {
    const int64_t first = tile.begin + tile.row;
    count =
        tile.active && first < tile.end ? static_cast<int>((tile.end - first + tile.rows - 1) >> tile.rows_log2) : 0;
    start = tile.offset(channels, pixels) + first * channels;
    step = tile.rows * channels;
  }
};

// The steps of warp_scatter_merge with partners `kOffset` lanes away and nearer; each lane has 2 * kHalf channels, or
// one. By recursion: of loops that are too long, the compiler leaves some rolled up, and `own` in local memory.
template <int kOffset, int kHalf, int kVector, typename Value>
__device__ __forceinline__ void scatter_merge_from(Value (&own)[kVector], int lanes, int& first, int& count,
                                                   int& copies) {
  if (kOffset < lanes) return;
  const bool upper = (threadIdx.x & kOffset) != 0;
  if constexpr (kHalf > 0) {
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const Value kept = choose(upper, own[kHalf + i], own[i]);
      const Value taken = from_lane(choose(upper, own[i], own[kHalf + i]), kOffset);
      own[i] = merge(choose(upper, taken, kept), choose(upper, kept, taken));
    }
    if (upper) first += kHalf;
    count = kHalf;
  } else {
    const Value taken = from_lane(own[0], kOffset);
    own[0] = merge(choose(upper, taken, own[0]), choose(upper, own[0], taken));
    copies |= kOffset;
  }
  if constexpr (kOffset > 1) scatter_merge_from<kOffset / 2, kHalf / 2>(own, lanes, first, count, copies);
}

// Combines the kVector channels that the lanes of a warp hold, over the lanes that are neighbours of `lanes` others. At
// each step a lane hands half of its channels to its partner and takes over the other half, so that every channel is
// combined in one lane only. Returns the number of the first of the channels that `own` begins with afterwards; `count`
// is how many there are, 0 in a lane that has the same as another.
template <int kVector, typename Value>
__device__ __forceinline__ int warp_scatter_merge(Value (&own)[kVector], int lanes, int& count) {
  int first = 0, copies = 0;  // lane bits in which lanes with the same channels differ
  count = kVector;
  scatter_merge_from<16, kVector / 2>(own, lanes, first, count, copies);
  if ((threadIdx.x & copies) != 0) count = 0;
  return first;
}

// Combines the values that the rows of threads hold for each channel: result[c] for channel c of the tile, in shared
// memory.
template <typename T, int kVector, int kThreads, typename Value>
__device__ __forceinline__ const Value* tile_merge(const Tile<kVector, kThreads>& tile, Value (&own)[kVector]) {
  constexpr int kChannels = kMaxTileChannels<T, kVector>;
  constexpr int kWarps = kThreads / 32;
  JDM_SHARED_ARRAY(Value, partial, kWarps * kChannels);
  const int warp = threadIdx.x / 32;
  int count;
  const int first = tile.channel + warp_scatter_merge(own, tile.lanes, count);
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    if (e < count) partial[warp * kChannels + first + e] = own[e];
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < tile.channels) {
    Value total = partial[threadIdx.x];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) total = merge(total, partial[w * kChannels + threadIdx.x]);
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
template <int kVector, int kThreads, typename Args, typename A>
__device__ __forceinline__ void make_channels(const Args& args, const Tile<kVector, kThreads>& tile,
                                              const A (&mean)[kVector], const A (&rstd)[kVector],
                                              Channel<A> (&channel)[kVector]) {
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
template <int kVector, int kThreads, typename Args, typename A>
__device__ __forceinline__ void load_channels(const Args& args, const Tile<kVector, kThreads>& tile, A (&rstd)[kVector],
                                              Channel<A> (&channel)[kVector]) {
  const int64_t at = tile.sample * args.channels + tile.first_channel + tile.channel;
  A mean[kVector];
  load_row(static_cast<const A*>(args.mean) + at, mean);
  load_row(static_cast<const A*>(args.rstd) + at, rstd);
  make_channels(args, tile, mean, rstd, channel);
}

// Channels of the tile from their moments about the channels' values at the sample's first pixel. `writes`: the block
// is the one that leaves mean and rstd in memory.
template <typename T, int kVector, int kThreads, typename A>
__device__ __forceinline__ void finish_moments(const NormForward<T>& args, const Tile<kVector, kThreads>& tile,
                                               const Moments<A>* total, bool writes, Channel<A> (&channel)[kVector]) {
  const A share = A(1) / static_cast<A>(args.pixels);
  const auto rstd_at = [&](int c) { return reciprocal_root(total[c].m2 * share + args.eps); };
  if (writes && static_cast<int>(threadIdx.x) < tile.channels) {
    const int64_t at = tile.sample * args.channels + tile.first_channel + threadIdx.x;
    const A shift = load_one(args.x + tile.sample * args.pixels * args.channels + tile.first_channel + threadIdx.x);
    args.mean[at] = shift + total[threadIdx.x].mean;
    args.rstd[at] = rstd_at(threadIdx.x);
  }
  if (!tile.active) return;
  A mean[kVector], rstd[kVector];
  unpack(load<kVector>(args.x + tile.offset(args.channels, args.pixels)), mean);
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    mean[e] += total[tile.channel + e].mean;
    rstd[e] = rstd_at(tile.channel + e);
  }
  make_channels(args, tile, mean, rstd, channel);
}

// The two means of dx from the sums over the tile. `writes`: the block leaves d_weight and d_bias in memory.
template <typename T, int kVector, int kThreads, typename A>
__device__ __forceinline__ void finish_gradient_sums(const NormBackward<T>& args, const Tile<kVector, kThreads>& tile,
                                                     const Sums<A>* total, bool writes, const A (&rstd)[kVector],
                                                     A (&mean_g)[kVector], A (&tilt)[kVector]) {
  if (writes && static_cast<int>(threadIdx.x) < tile.channels) {
    const int64_t at = tile.sample * args.channels + tile.first_channel + threadIdx.x;
    args.d_bias[at] = total[threadIdx.x].first;
    args.d_weight[at] = total[threadIdx.x].second * args.rstd[at];
  }
  if (!tile.active) return;
  const A share = A(1) / static_cast<A>(args.pixels);
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    mean_g[e] = total[tile.channel + e].first * share;
    tilt[e] = total[tile.channel + e].second * share * rstd[e] * rstd[e];
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Sums of one thread.

// Sums of a few values about the first of them. With one of n values as the reference, the sum of squares loses at most
// log2(n) bits to cancellation, however large the mean: the reference is within sqrt(n) spreads of it. That holds for n
// up to kRunRows; the results of several runs are merged as moments.
template <int kVector, typename A>
struct Run {
  A reference[kVector];
  A sum[kVector];
  A squares[kVector];
  int count;

  __device__ __forceinline__ void begin(const A (&value)[kVector]) {
    count = 0;
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      reference[e] = value[e];
      sum[e] = squares[e] = A(0);
    }
  }
  __device__ __forceinline__ void add(const A (&value)[kVector]) {
    ++count;
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const A distance = value[e] - reference[e];
      sum[e] += distance;
      squares[e] += distance * distance;
    }
  }
  // Of the values minus `shift`, `share` is 1 / count; for a run that has begun.
  __device__ __forceinline__ Moments<A> moments(int e, A shift, A share) const {
    const A mean = sum[e] * share;
    return {static_cast<A>(count), reference[e] - shift + mean, not_negative(squares[e] - sum[e] * mean)};
  }
};

template <int kVector, typename A, typename T>
__device__ __forceinline__ void add_gradients(const Packed<T, kVector>& packed_x, const Packed<T, kVector>& packed_dy,
                                              const Channel<A> (&channel)[kVector], A slope, Sums<A> (&own)[kVector]) {
  A value[kVector], gradient[kVector];
  unpack(packed_x, value);
  unpack(packed_dy, gradient);
#pragma unroll
  for (int e = 0; e < kVector; ++e) add_gradient(own[e], channel[e], slope, value[e], gradient[e]);
}

template <int kVector, typename A, typename T>
__device__ __forceinline__ Packed<T, kVector> forward_vector(const Packed<T, kVector>& packed_x,
                                                             const Packed<T, kVector>& packed_residual,
                                                             const Channel<A> (&channel)[kVector], A slope) {
  A value[kVector], residual[kVector];
  unpack(packed_x, value);
  unpack(packed_residual, residual);
#pragma unroll
  for (int e = 0; e < kVector; ++e) value[e] = forward_value(channel[e], slope, value[e]) + residual[e];
  return pack<T>(value);
}

template <int kVector, typename A, typename T>
__device__ __forceinline__ Packed<T, kVector> backward_vector(const Packed<T, kVector>& packed_x,
                                                              const Packed<T, kVector>& packed_dy,
                                                              const Channel<A> (&channel)[kVector], A slope,
                                                              const A (&mean_g)[kVector], const A (&tilt)[kVector]) {
  A value[kVector], gradient[kVector];
  unpack(packed_x, value);
  unpack(packed_dy, gradient);
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    value[e] = backward_value(channel[e], slope, mean_g[e], tilt[e], value[e], gradient[e]);
  }
  return pack<T>(value);
}

}  // namespace jdm_fast::cuda
