// Instance norm of [N, H*W, C] in one touch: a cluster of blocks holds a tile (instance_norm_tile.cuh) in its shared
// memory, so that global memory is read once and written once. The blocks exchange their partial results by reading
// each other's shared memory. Vectors of 16 bytes only.
//
// Every thread copies what it later uses itself, so the copies need no barrier; they come in kCopyGroups groups, and a
// group is summed while the later ones are on their way.
#pragma once

#include "instance_norm_tile.cuh"

namespace jdm_fast::cuda {

constexpr int kCopyGroups = 4;

template <typename T>
using HeldVector = Packed<T, kVectorElements<T>>;

// The rows of a thread, copied in groups.
struct HeldRows : ThreadRows {
  int per_group;

  template <int kVector, int kThreads>
  __device__ __forceinline__ HeldRows(const Tile<kVector, kThreads>& tile, const TileLayout& layout, int64_t channels,
                                      int64_t pixels)
      : ThreadRows(tile, channels, pixels) {
    const int most = static_cast<int>((layout.chunk + tile.rows - 1) >> tile.rows_log2);  // held_rows()
    per_group = (most + kCopyGroups - 1) / kCopyGroups;
  }
  __device__ __forceinline__ int group_end(int group) const {
    const int end = (group + 1) * per_group;
    return end < count ? end : count;
  }
};

// Calls add(r) for every row r, group by group as they arrive.
template <int kGroup = 0, typename Add>
__device__ __forceinline__ void for_each_arrived(const HeldRows& rows, Add add) {
  if constexpr (kGroup < kCopyGroups) {
    wait_for_copies<kCopyGroups - 1 - kGroup>();
    for (int r = kGroup * rows.per_group; r < rows.group_end(kGroup); ++r) add(r);
    for_each_arrived<kGroup + 1>(rows, add);
  }
}

// From the blocks' results, one a channel, that of the cluster: result[c] for channel c of the tile, in shared memory.
// The caller calls cluster_wait() before it returns: others may still be reading `own`.
template <typename T, int kVector, int kThreads, typename Value>
__device__ __forceinline__ const Value* cluster_merge(const Tile<kVector, kThreads>& tile, const Value* own) {
  JDM_SHARED_ARRAY(Value, total, (kMaxTileChannels<T, kVector>));
  cluster_arrive();
  cluster_wait();
  if (static_cast<int>(threadIdx.x) < tile.channels) {
    const unsigned blocks = cluster_size();
    Value sum{};
#pragma unroll 8
    for (unsigned rank = 0; rank < blocks; ++rank) sum = merge(sum, *shared_of_rank(own + threadIdx.x, rank));
    total[threadIdx.x] = sum;
  }
  cluster_arrive();
  __syncthreads();
  return total;
}

template <typename T>
__global__ void __launch_bounds__(kClusterThreadsForward, 2)
    channels_forward_cluster(NormForward<T> args, TileLayout layout) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorElements<T>, kThreads = kClusterThreadsForward;
  JDM_DYNAMIC_SHARED(HeldVector<T>, held);  // [row of the thread][thread]
  const Tile<kVector, kThreads> tile(layout, args.channels, args.pixels, /*reversed=*/false);
  const HeldRows rows(tile, layout, args.channels, args.pixels);
  for (int group = 0, r = 0; group < kCopyGroups; ++group) {
    for (; r < rows.group_end(group); ++r) {
      copy_async(held + r * kThreads + threadIdx.x, args.x + rows.start + r * rows.step);
    }
    end_copy_group();
  }

  Moments<A> own[kVector] = {};
  Run<kVector, A> run{};
  for_each_arrived(rows, [&](int r) {
    A value[kVector];
    unpack(held[r * kThreads + threadIdx.x], value);
    if (r == 0) run.begin(value);
    run.add(value);
  });
  if (rows.count > 0) {
    A shift[kVector];
    unpack(load<kVector>(args.x + tile.offset(args.channels, args.pixels)), shift);
    const A share = A(1) / static_cast<A>(run.count);
#pragma unroll
    for (int e = 0; e < kVector; ++e) own[e] = run.moments(e, shift[e], share);
  }
  const Moments<A>* const total = cluster_merge<T>(tile, tile_merge<T>(tile, own));
  Channel<A> channel[kVector] = {};
  finish_moments(args, tile, total, tile.split == 0, channel);

  constexpr int kUnroll = 2;
  for (int r = 0; r < rows.count; r += kUnroll) {
    HeldVector<T> residual[kUnroll] = {};
    if (args.residual != nullptr) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (r + u < rows.count) residual[u] = load_once<kVector>(args.residual + rows.start + (r + u) * rows.step);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (r + u < rows.count) {
        store(args.y + rows.start + (r + u) * rows.step,
              forward_vector(held[(r + u) * kThreads + threadIdx.x], residual[u], channel, args.slope),
              layout.streaming);
      }
    }
  }
  cluster_wait();
}

template <typename T>
__global__ void __launch_bounds__(kClusterThreadsBackward, 3)
    channels_backward_cluster(NormBackward<T> args, TileLayout layout) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorElements<T>, kThreads = kClusterThreadsBackward;
  JDM_DYNAMIC_SHARED(HeldVector<T>, held);  // [row of the thread][x, dy][thread]
  const Tile<kVector, kThreads> tile(layout, args.channels, args.pixels, /*reversed=*/false);
  const HeldRows rows(tile, layout, args.channels, args.pixels);
  for (int group = 0, r = 0; group < kCopyGroups; ++group) {
    for (; r < rows.group_end(group); ++r) {
      HeldVector<T>* const to = held + 2 * r * kThreads + threadIdx.x;
      copy_async(to, args.x + rows.start + r * rows.step);
      copy_async(to + kThreads, args.dy + rows.start + r * rows.step);
    }
    end_copy_group();
  }

  Channel<A> channel[kVector] = {};
  A rstd[kVector] = {};
  if (tile.active) load_channels(args, tile, rstd, channel);
  Sums<A> own[kVector] = {};
  for_each_arrived(rows, [&](int r) {
    const HeldVector<T>* const at = held + 2 * r * kThreads + threadIdx.x;
    add_gradients(at[0], at[kThreads], channel, args.slope, own);
  });
  const Sums<A>* const total = cluster_merge<T>(tile, tile_merge<T>(tile, own));
  A mean_g[kVector] = {}, tilt[kVector] = {};
  finish_gradient_sums(args, tile, total, tile.split == 0, rstd, mean_g, tilt);

  for (int r = 0; r < rows.count; ++r) {
    const HeldVector<T>* const at = held + 2 * r * kThreads + threadIdx.x;
    store(args.dx + rows.start + r * rows.step, backward_vector(at[0], at[kThreads], channel, args.slope, mean_g, tilt),
          layout.streaming);
  }
  cluster_wait();
}

}  // namespace jdm_fast::cuda
