// Instance norm of [N, H*W, C] that reads from memory once what no cluster holds (pipeline.cuh): the unit is a part of
// a tile (instance_norm_tile.cuh), which is summed, then applied; the whole is the tile.
#pragma once

#include "instance_norm_channels.cuh"
#include "pipeline.cuh"

namespace jdm_fast::cuda {

struct PipelineLayout : TileLayout {
  PipelineUnits order;
};

// Which of all tiles it is, without a division.
template <int kVector>
__device__ __forceinline__ unsigned tile_number(const Tile<kVector>& tile, const PipelineLayout& layout) {
  return static_cast<unsigned>(tile.sample) * static_cast<unsigned>(layout.tiles) +
         (static_cast<unsigned>(tile.first_channel) >> (layout.lanes_log2 + log2_of(kVector)));
}

// Leaves the block's result of each channel. In the last block of the tile: calls finish(total) with the result of all
// parts, then raises the flag.
template <typename T, int kVector, typename Value, typename Finish>
__device__ __forceinline__ void publish_part(const Tile<kVector>& tile, const Value* own, Value* partials,
                                             const PipelineLayout& layout, const PipelineState& state, int64_t channels,
                                             Finish finish) {
  if (static_cast<int>(threadIdx.x) < tile.channels) {
    partials[(tile.sample * layout.splits + tile.split) * channels + tile.first_channel + threadIdx.x] =
        own[threadIdx.x];
  }
  const unsigned whole = tile_number(tile, layout);
  if (!is_last_of(state, whole, static_cast<unsigned>(layout.splits))) return;
  finish(combine_parts<T>(tile, partials, layout.splits, channels));
  raise_flag(state, whole);
}

// This thread's entries of a row of numbers that another block has written in this kernel.
template <int kVector, typename A>
__device__ __forceinline__ void load_fresh_row(const A* row, A (&value)[kVector]) {
#pragma unroll
  for (int e = 0; e < kVector; ++e) value[e] = load_fresh(row + e);
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads, 2)
    channels_forward_pipeline(NormForward<T> args, Moments<Accumulator<T>>* partials, PipelineLayout layout,
                              PipelineState state) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorElements<T>;
  release_dependents();
  take_turns(
      layout.order, state,
      [&](unsigned unit) {
        const Tile<kVector> tile(layout, args.channels, args.pixels, unit);
        Moments<A> own[kVector];
        tile_moments(args, tile, own);
        publish_part<T>(tile, tile_merge<T>(tile, own), partials, layout, state, args.channels,
                        [&](const Moments<A>* total) { write_moments(args, tile, total); });
      },
      [&](unsigned unit) {
        const Tile<kVector> tile(layout, args.channels, args.pixels, unit);
        tile_forward(args, tile, layout.streaming, [&](Channel<A>(&channel)[kVector]) {
          wait_for_flag(state, tile_number(tile, layout));
          if (!tile.active) return;
          const int64_t at = tile.sample * args.channels + tile.first_channel + tile.channel;
          A mean[kVector], rstd[kVector];
          load_fresh_row(args.mean + at, mean);
          load_fresh_row(args.rstd + at, rstd);
          make_channels(args, tile, mean, rstd, channel);
        });
      });
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads, 2)
    channels_backward_pipeline(NormBackward<T> args, Sums<Accumulator<T>>* partials, PipelineLayout layout,
                               PipelineState state) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorElements<T>;
  release_dependents();
  take_turns(
      layout.order, state,
      [&](unsigned unit) {
        const Tile<kVector> tile(layout, args.channels, args.pixels, unit);
        Channel<A> channel[kVector];
        A rstd[kVector] = {};
        Sums<A> own[kVector] = {};
        if (tile.active) {
          load_channels(args, tile, rstd, channel);
          tile_gradient_sums(args, tile, channel, own);
        }
        publish_part<T>(tile, tile_merge<T>(tile, own), partials, layout, state, args.channels,
                        [&](const Sums<A>* total) { write_gradient_sums(args, tile, total); });
      },
      [&](unsigned unit) {
        const Tile<kVector> tile(layout, args.channels, args.pixels, unit);
        Channel<A> channel[kVector] = {};
        if (tile.active) {
          A rstd[kVector];
          load_channels(args, tile, rstd, channel);
        }
        tile_backward(args, tile, layout.streaming, channel, [&](A(&mean_g)[kVector], A(&tilt)[kVector]) {
          wait_for_flag(state, tile_number(tile, layout));
          if (!tile.active) return;
          const int64_t at = tile.sample * args.channels + tile.first_channel + tile.channel;
          const A share = A(1) / static_cast<A>(args.pixels);
          A rstd[kVector];  // loaded again, as registers are what there is too little of
          load_row(args.rstd + at, rstd);
          load_fresh_row(args.d_bias + at, mean_g);
          load_fresh_row(args.d_weight + at, tilt);
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
            mean_g[e] *= share;
            tilt[e] *= share * rstd[e];
          }
        });
      });
}

}  // namespace jdm_fast::cuda
