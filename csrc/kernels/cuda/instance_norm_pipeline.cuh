// Instance norm of [N, H*W, C] that reads from memory once what no cluster holds: one kernel does both passes, the
// second so soon after the first that what it reads again is still in the cache.
//
// The work is cut into units, a part of a tile (instance_norm_tile.cuh) each, and every unit is done twice: first it is
// summed, then it is applied. Blocks take tickets, and the order of the tickets lets every unit's second turn come
// `lag` units after its first. The block that sums the last part of a tile combines all of them, in a fixed order, and
// then raises the tile's flag, which second turns wait for. They wait for smaller tickets only, whose blocks have
// begun: no block waits for one that has not been scheduled, so nothing need be resident together.
#pragma once

#include "instance_norm_channels.cuh"

namespace jdm_fast::cuda {

// In device memory, zero when the kernel begins.
struct PipelineState {
  unsigned* ticket;
  unsigned* summed;  // parts of each tile
  unsigned* ready;   // flag of each tile
};

struct PipelineLayout : TileLayout {
  unsigned units;
  unsigned lag;  // at least `splits`, at most `units`
};

constexpr int kZeroThreads = 256;

template <typename Word>
__global__ void __launch_bounds__(kZeroThreads) zero_pipeline_state(Word* state, unsigned count) {
  release_dependents();
  for (unsigned i = threadIdx.x; i < count; i += kZeroThreads) state[i] = 0;
}

struct Turn {
  unsigned unit;
  bool second;
};

// The first `lag` tickets are first turns; then both kinds take turns; the last `lag` are second ones.
__device__ __forceinline__ Turn turn_of(unsigned ticket, const PipelineLayout& layout) {
  if (ticket < layout.lag) return {ticket, false};
  const unsigned after = ticket - layout.lag, both = 2 * (layout.units - layout.lag);
  if (after >= both) return {after - both / 2, true};
  return after % 2 == 0 ? Turn{after / 2, true} : Turn{layout.lag + after / 2, false};
}

// Calls first(unit) and second(unit) until there are no tickets left. Both contain a barrier.
template <typename First, typename Second>
__device__ __forceinline__ void take_turns(const PipelineLayout& layout, const PipelineState& state, First first,
                                           Second second) {
  JDM_SHARED_ARRAY(unsigned, tickets, 2);
  wait_for_predecessor();
  if (threadIdx.x == 0) tickets[0] = atomicAdd(state.ticket, 1u);
  for (unsigned turns = 0;; ++turns) {
    __syncthreads();
    const unsigned ticket = tickets[turns % 2];
    if (ticket >= 2 * layout.units) return;
    // Taken early, so that nobody waits for the answer. A block may hold a ticket while it waits, since it waits for
    // smaller ones.
    if (threadIdx.x == 0) tickets[(turns + 1) % 2] = atomicAdd(state.ticket, 1u);
    const Turn turn = turn_of(ticket, layout);
    if (turn.second) {
      second(turn.unit);
    } else {
      first(turn.unit);
    }
  }
}

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
  JDM_SHARED_ARRAY(unsigned, shared_is_last, 1);
  const unsigned at = tile_number(tile, layout);
  if (static_cast<int>(threadIdx.x) < tile.channels) {
    partials[(tile.sample * layout.splits + tile.split) * channels + tile.first_channel + threadIdx.x] =
        own[threadIdx.x];
    device_fence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    shared_is_last[0] = atomicAdd(state.summed + at, 1u) + 1 == static_cast<unsigned>(layout.splits);
  }
  __syncthreads();
  if (shared_is_last[0] == 0) return;
  device_fence();
  finish(combine_parts<T>(tile, partials, layout.splits, channels));
  device_fence();
  __syncthreads();
  if (threadIdx.x == 0) store_release(state.ready + at, 1u);
}

template <int kVector>
__device__ __forceinline__ void wait_for_tile(const Tile<kVector>& tile, const PipelineLayout& layout,
                                              const PipelineState& state) {
  if (threadIdx.x == 0) {
    while (load_acquire(state.ready + tile_number(tile, layout)) == 0) rest();
  }
  __syncthreads();
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
      layout, state,
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
          wait_for_tile(tile, layout, state);
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
      layout, state,
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
          wait_for_tile(tile, layout, state);
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
