// What the kernels of instance_norm_held.cuh are made of: where the threads of a block that holds a part of a tile are,
// rows of theirs in shared memory, and how the blocks of a cluster and the threads of a block tell each other what they
// have found.
#pragma once

#include "copied_rows.cuh"
#include "instance_norm_tile.cuh"

namespace jdm_fast::cuda {

// How the threads of a launch are laid over channels and rows; the same for all blocks. Offsets within a sample fit 32
// bits.
struct HeldLayout {
  int lanes_log2;
  int blocks_log2;  // of a cluster, which has one tile
  int tiles;        // per sample
  int chunk;        // rows of a block, at most
  float share;      // 1 / pixels
  bool streaming;   // more data than the cache holds: what is written is not read from there
};

// The part of a tile that a block of kThreads threads has, and the place of the thread in it: as a holder of vectors
// (`lane_channel`, `count`, `at`, `step`), and as one of the kSharing neighbours that care for one channel of the tile
// (`channel`, `turn`, `cares`).
template <typename T, int kThreads>
struct HeldTile {
  static constexpr int kVector = kVectorElements<T>, kChannels = kMaxTileChannels<T, kVector>;
  static constexpr int kSharing = kThreads / kChannels;

  int lanes;
  int rank;           // of the block in its cluster
  int64_t sample_at;  // offset of the sample in x
  int64_t plane;      // number of the tile's first channel among all samples' ones
  int first_channel;  // of the tile
  bool active;        // whether the thread has channels as a holder
  int rows;           // of the block, 0 if others have all
  int first_row;      // of the block, 0 if it has none
  int lane_channel;   // the thread's first one, within the tile
  int count;          // vectors of the thread
  int at, step;       // offset in the sample of the thread's vector 0, and of each from the one before
  int channel, turn;
  bool cares;

  __device__ __forceinline__ HeldTile(const HeldLayout& layout, int all_channels, int pixels) {
    const int thread = static_cast<int>(threadIdx.x), rows_log2 = log2_of(kThreads) - layout.lanes_log2;
    const int row = thread >> layout.lanes_log2;
    lanes = 1 << layout.lanes_log2;
    rank = static_cast<int>(blockIdx.x & ((1u << layout.blocks_log2) - 1));
    const unsigned unit = blockIdx.x >> layout.blocks_log2, sample = unit / static_cast<unsigned>(layout.tiles);
    first_channel = static_cast<int>(unit - sample * static_cast<unsigned>(layout.tiles)) * lanes * kVector;
    sample_at = static_cast<int64_t>(sample) * (pixels * all_channels);
    plane = static_cast<int64_t>(sample) * all_channels + first_channel;
    lane_channel = (thread & (lanes - 1)) * kVector;
    active = first_channel + lane_channel < all_channels;
    const int begin = rank * layout.chunk;
    rows = rows_of(layout, rank, pixels);
    first_row = rows > 0 ? begin : 0;
    count = active && row < rows ? (rows - row + (1 << rows_log2) - 1) >> rows_log2 : 0;
    at = (begin + row) * all_channels + first_channel + lane_channel;
    step = all_channels << rows_log2;
    channel = thread / kSharing;
    turn = thread % kSharing;
    cares = channel < lanes * kVector && first_channel + channel < all_channels;  // the same in all threads of a warp
  }

  // Of block `of` of the cluster.
  __device__ __forceinline__ static int rows_of(const HeldLayout& layout, int of, int pixels) {
    const int left = pixels - of * layout.chunk;
    return left < 0 ? 0 : left < layout.chunk ? left : layout.chunk;
  }
};

// The rows of a thread beyond kHeldRows, in dynamic shared memory.
template <typename T, int kThreads, int kTensors>
class MoreRows {
 public:
  static constexpr int kUnroll = kTensors == 1 ? 2 : 1;  // of two tensors more rows at a time do not fit the registers
  using Rows = CopiedRows<T, kThreads, kTensors, kUnroll>;
  using Vector = typename Rows::Vector;

  // `from`: the sample in each tensor.
  __device__ __forceinline__ MoreRows(const HeldTile<T, kThreads>& tile, const T* const (&from)[kTensors])
      : rows_(tile.count > kHeldRows ? tile.count - kHeldRows : 0, from,
              [&](int r) { return tile.at + (kHeldRows + r) * tile.step; }) {}

  // Calls use(data) for every row as it arrives, data[t] being that of tensor t.
  template <typename Use>
  __device__ __forceinline__ void each_as_it_arrives(Use use) const {
    rows_.each_as_it_arrives(use);
  }

  // Afterwards, for every row again: use(row of the thread, data).
  template <typename Use>
  __device__ __forceinline__ void each(Use use) const {
#pragma unroll(kUnroll)
    for (int r = 0; r < rows_.count(); ++r) {
      rows_.use_row(r, [&](const Vector(&data)[kTensors]) { use(kHeldRows + r, data); });
    }
  }

 private:
  Rows rows_;
};

// Where a thread has no more rows.
struct NoMoreRows {
  template <typename... From>
  __device__ __forceinline__ explicit NoMoreRows(const From&...) {}
  template <typename Use>
  __device__ __forceinline__ void each_as_it_arrives(Use) const {}
  template <typename Use>
  __device__ __forceinline__ void each(Use) const {}
};

// Combines a channel's values in the threads that care for it; each of them gets the result.
template <int kSharing, typename Value>
__device__ __forceinline__ Value merge_sharing(Value own) {
#pragma unroll
  for (int offset = kSharing / 2; offset > 0; offset >>= 1) own = merge(own, from_lane(own, offset));
  return own;
}

// From the holders' sums to results of the cluster, which has `layout`. Made at the beginning of a kernel, so that no
// block waits long for the others to have begun.
template <typename T, int kThreads>
class ClusterSums {
 public:
  using A = Accumulator<T>;
  using Tile = HeldTile<T, kThreads>;
  static constexpr int kVector = Tile::kVector, kSharing = Tile::kSharing, kChannels = Tile::kChannels;
  static_assert(kThreads / 32 % kSharing == 0, "a turn for every warp");

  __device__ __forceinline__ ClusterSums() {
    JDM_SHARED_ARRAY(Pair, parts, kMaxCluster * kChannels);
    parts_ = parts;
    cluster_arrive_unfenced();
  }

  // In the threads that care for a channel: part_of(sums of the block) makes what the block tells the others, and
  // finish(result) takes the sum of weighted(part, first) over the blocks, `first` being what the first one told. Ends
  // with a barrier of the block.
  template <typename PartOf, typename Weighted, typename Finish>
  __device__ __forceinline__ void operator()(const Tile& tile, const HeldLayout& layout, Sums<A> (&own)[kVector],
                                             PartOf part_of, Weighted weighted, Finish finish) const {
    constexpr int kWarps = kThreads / 32, kPitch = kChannels + 16 / kSharing;  // no bank conflicts in reading
    JDM_SHARED_ARRAY(Pair, partial, kWarps * kPitch);
    int count;
    const int first = tile.lane_channel + warp_scatter_merge(own, tile.lanes, count);
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      if (e < count) partial[static_cast<int>(threadIdx.x) / 32 * kPitch + first + e] = {own[e].first, own[e].second};
    }
    cluster_wait();  // all blocks have begun
    __syncthreads();
    const int blocks = 1 << layout.blocks_log2;
    if (tile.cares) {
      Sums<A> sums{};
#pragma unroll
      for (int w = 0; w < kWarps; w += kSharing) {
        sums = merge(sums, sums_of(partial[(w + tile.turn) * kPitch + tile.channel]));
      }
      const Sums<A> part = part_of(merge_sharing<kSharing>(sums));
      Pair* const slot = parts_ + tile.rank * kChannels + tile.channel;
#pragma unroll
      for (int i = 0; i < kMaxCluster; i += kSharing) {
        if (i + tile.turn < blocks) store_to_rank(slot, i + tile.turn, Pair{part.first, part.second});
      }
      cluster_arrive();
    } else {
      cluster_arrive_unfenced();
    }
    cluster_wait();
    if (tile.cares) {
      const Sums<A> first_part = sums_of(parts_[tile.channel]);
      Sums<A> sums{};
#pragma unroll
      for (int i = 0; i < kMaxCluster; i += kSharing) {
        const int rank = i + tile.turn;
        if (rank < blocks) {
          sums = merge(sums, weighted(rank, sums_of(parts_[rank * kChannels + tile.channel]), first_part));
        }
      }
      finish(merge_sharing<kSharing>(sums), first_part);
    }
    __syncthreads();
  }

 private:
  using Pair = Packed<A, 2>;  // read and written at once
  __device__ __forceinline__ static Sums<A> sums_of(const Pair& pair) { return {pair.element[0], pair.element[1]}; }

  Pair* parts_;  // [rank][channel]
};

// Numbers of the tile's channels, kNumbers each, that those who care for a channel leave for the holders.
template <typename T, int kThreads, int kNumbers>
class ChannelTable {
 public:
  using A = Accumulator<T>;
  static constexpr int kVector = kVectorElements<T>, kWide = kVectorElements<A>;

  __device__ __forceinline__ ChannelTable() {
    JDM_SHARED_ARRAY(Wide, table, (HeldTile<T, kThreads>::kChannels * kNumbers / kWide));
    table_ = table;
  }
  __device__ __forceinline__ void put(int channel, const A (&number)[kNumbers]) const {
    A* const to = table_->element + channel * kNumbers;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) to[i] = number[i];
  }
  // The first one of a channel, after a barrier.
  __device__ __forceinline__ A one(int channel) const { return table_->element[channel * kNumbers]; }
  // Those of a holder's channels, after a barrier; 16 bytes at once.
  __device__ __forceinline__ void get(int first_channel, A (&number)[kVector * kNumbers]) const {
#pragma unroll
    for (int i = 0; i < kVector * kNumbers / kWide; ++i) {
      unpack(load_shared(table_ + first_channel * kNumbers / kWide + i), number + i * kWide);
    }
  }

 private:
  using Wide = Packed<A, kWide>;
  Wide* table_;
};

}  // namespace jdm_fast::cuda
