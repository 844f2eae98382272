// Which kernels an instance norm takes, decided from the shape and the device alone, so that the size of the workspace
// is known before any pointer is. Knows nothing of CUDA: bindings/instance_norm_plan.cpp asks it for any device.
//
// [N, C, H*W]: see instance_norm_planes.cuh and, for clusters, instance_norm_planes_cluster.cuh. [N, H*W, C], see
// instance_norm_channels.cuh and instance_norm_held.cuh: on compute capability 9.0 a cluster of blocks that holds
// the tile, if one can and there are enough of them; else two kernels over tiles cut into parts, or one where there are
// many tiles.
#pragma once

#include <algorithm>

#include "../instance_norm.h"
#include "instance_norm_sizes.h"

namespace jdm_fast::cuda {

struct Device {
  int multiprocessors;
  int capability;       // ten times the compute capability
  int64_t cache_bytes;  // of L2
};

struct NormPlan {
  bool resident = false;  // a plane is held in registers
  int splits = 1;         // blocks that share a plane, or a tile of channels; 1: no workspace
  int64_t chunk = 0;      // pixels of each of them
  int lanes_log2 = 0;     // channels_last: of a tile
  int64_t group = 0;      // channels_last: samples of a launch
  bool streaming = false;
};

// In one touch, by clusters.
struct ClusterPlan {
  int blocks = 0;           // of a cluster; 0: not this way
  int lanes_log2 = 0;       // channels_last: of a tile
  int64_t chunk = 0;        // pixels of each block
  int threads = 0;          // of a block
  size_t shared_bytes = 0;  // 0: held in registers
  bool streaming = false;
};

// Blocks an H200 multiprocessor holds of the streaming kernels of planes at once (256 threads, 64 registers), about.
constexpr int kBlocksPerMultiprocessor = 4;
constexpr int kTileBlocksPerMultiprocessor = 2;  // of the kernels of tiles (256 threads, up to 128 registers)

// Vectors of a plane that the largest resident kernel holds: 512 threads, 8 vectors each forward; backward keeps x and
// dy.
constexpr int64_t kResidentVectorsForward = 512 * 8;
constexpr int64_t kResidentVectorsBackward = 512 * 4;

// Threads of the group that holds a plane of so many vectors; 32: four planes a block.
inline int norm_threads(int64_t vectors, bool backward) {
  if (vectors <= 32 * 4) return 32;
  if (vectors <= 128 * 4) return 128;
  return vectors <= 256 * (backward ? 4 : 8) ? 256 : 512;
}

constexpr int64_t kMinPlaneChunk = 8192;  // pixels; below, a second kernel costs more than it gains
constexpr int64_t kMinTilePasses = 4;     // rows of a part, in rows of threads
constexpr int64_t kMaxSplits = 512;
constexpr int kMinVectorLanes = 4;  // 64 bytes: rows of 32 were slower on an H200 in nearly all shapes
constexpr int kMinScalarLanes = 4;
constexpr int64_t kWantedParts =
    16;  // of a tile: with more, narrower tiles; every block combines all parts of its tile

// Shared memory of a block on Hopper: the most there is, less what the kernels keep for sums; and what lets a
// multiprocessor hold two blocks, one of which copies while the other computes.
constexpr int64_t kMaxHeldBytes = 208 * 1024;
constexpr int64_t kGoodHeldBytes = 96 * 1024;
constexpr int64_t kMinHeldBytes = 16 * 1024;         // of one block of several
constexpr int64_t kMaxMoreBytesForward = 96 * 1024;  // of a block that holds rows beside its registers
constexpr int64_t kMaxMoreBytesBackward = 192 * 1024;
constexpr int64_t kMaxNarrowBytes = 8 * 1024 * 1024;  // of x, up to which rows of 32 bytes are read
constexpr int64_t kManyMoreBytes = 64 * 1024;         // of a block, see tile_cluster_plan

// Planes of more vectors than this are held by clusters where there are any; those of up to kFewPlanesVectors only if
// there are two planes a multiprocessor. On an H200, with 2048 planes, clusters were 1.02 times as quick as resident
// blocks for 1024 vectors backward, 1.04 and 1.25 times for 2048 (forward, backward); resident blocks were 1.04 times
// as quick with 128 planes of 2048 vectors, and 1.1 to 1.7 times with 4096 planes of 512. Forward of 1024 vectors is
// resident for the kernel of 256 threads with 4 vectors each, of which a multiprocessor holds as many bytes at once as
// of the one of 128 threads, 1.7 times those that clusters or 8 vectors left half empty hold; not timed.
constexpr int64_t cluster_above_vectors(bool backward) { return backward ? 1023 : 1024; }
constexpr int64_t kFewPlanesVectors = 2048;

// Elements of a vector that channels_last tensors of this shape allow, if their pointers do.
inline int channels_vector(const InstanceNormShape& shape) {
  const int64_t elements = kVectorBytes / dtype_size(shape.dtype);
  return shape.dtype != DType::kFloat64 && shape.channels % elements == 0 ? static_cast<int>(elements) : 1;
}

// Of the smallest power of two that is not less than `lanes`.
inline int lanes_log2_of(int64_t lanes) {
  int result = 0;
  while ((int64_t{1} << result) < lanes) ++result;
  return result;
}

// Of lanes that cover the channels with vectors of `vector` elements, if need be in several tiles: 2^result lanes.
inline int widest_tile(const InstanceNormShape& shape, int vector) {
  const int64_t wanted = ceil_divide(shape.channels, vector);
  return lanes_log2_of(std::min<int64_t>(wanted, vector == 1 ? kMaxScalarLanes : kMaxVectorLanes));
}

inline int64_t tiles_of(const InstanceNormShape& shape, int vector, int lanes_log2) {
  return ceil_divide(shape.channels, int64_t{vector} << lanes_log2);
}

// Bytes that the second of two passes over all pixels reads again.
inline int64_t held_bytes(const InstanceNormShape& shape, int64_t samples, bool backward) {
  return samples * shape.pixels * shape.channels * dtype_size(shape.dtype) * (backward ? 2 : 1);
}

// Whether what an instance norm reads and writes is more than the cache can hold.
inline bool is_streaming(const InstanceNormShape& shape, bool backward, const Device& device) {
  return held_bytes(shape, shape.batch, false) * (backward ? 3 : 2) > device.cache_bytes;
}

// `pixels` of a plane, cut so that about every multiprocessor has its share; parts are a multiple of 256 vectors.
inline NormPlan split_planes(const InstanceNormShape& shape, const Device& device) {
  constexpr int64_t kGranularity = kStreamThreads * (kVectorBytes / dtype_size(DType::kFloat16));
  const int64_t units = shape.batch * shape.channels, pixels = shape.pixels;
  const int64_t blocks = int64_t{kBlocksPerMultiprocessor} * device.multiprocessors;
  NormPlan plan;
  plan.chunk = pixels;
  if (2 * units >= blocks || pixels < 2 * kMinPlaneChunk) return plan;
  const int64_t wanted = std::min({ceil_divide(blocks, units), ceil_divide(pixels, kMinPlaneChunk), kMaxSplits});
  plan.chunk = ceil_divide(ceil_divide(pixels, wanted), kGranularity) * kGranularity;
  plan.splits = static_cast<int>(ceil_divide(pixels, plan.chunk));
  return plan;
}

// Tiles for the kernels of every architecture. The parts of all tiles are one wave of blocks. Groups of samples that
// the cache holds between the two passes were slower on an H200, at every size of group, than the whole batch at once.
inline NormPlan split_tiles(const InstanceNormShape& shape, bool backward, const Device& device,
                            const InstanceNormOverride& wish) {
  const int vector = channels_vector(shape);
  NormPlan plan;
  plan.streaming = is_streaming(shape, backward, device);
  plan.group = shape.batch;
  if (wish.group > 0) plan.group = std::min(shape.batch, wish.group);
  const int64_t blocks = int64_t{kTileBlocksPerMultiprocessor} * device.multiprocessors;
  const int min_lanes = vector == 1 ? kMinScalarLanes : kMinVectorLanes;
  const auto cut = [&](int lanes_log2) {
    plan.lanes_log2 = lanes_log2;
    const int64_t units = plan.group * tiles_of(shape, vector, lanes_log2);
    const int64_t rows = kTileThreads >> lanes_log2;
    const int64_t wanted =
        std::max<int64_t>(1, std::min({blocks / units, shape.pixels / (kMinTilePasses * rows), kMaxSplits}));
    plan.chunk = ceil_divide(ceil_divide(shape.pixels, wanted), rows) * rows;
    plan.splits = static_cast<int>(ceil_divide(shape.pixels, plan.chunk));
  };
  if (wish.lanes > 0 && vector > 1) {
    cut(std::min(lanes_log2_of(wish.lanes), widest_tile(shape, vector)));
    return plan;
  }
  for (int lanes_log2 = widest_tile(shape, vector);; --lanes_log2) {
    cut(lanes_log2);
    if (plan.splits <= kWantedParts || (1 << lanes_log2) <= min_lanes) return plan;
  }
}

// Whole planes for clusters: the smallest cluster that holds one in registers, and if none does, in shared memory of
// which a multiprocessor has two blocks' worth; where that gives less than every second multiprocessor a block, the
// largest that leaves each something to hold. `wish` overrules all but what is impossible.
inline ClusterPlan plane_cluster_plan(const InstanceNormShape& shape, bool backward, const Device& device,
                                      const InstanceNormOverride& wish) {
  using Path = InstanceNormOverride::Path;
  using Hold = InstanceNormOverride::Hold;
  ClusterPlan best;
  if (shape.dtype == DType::kFloat64 || device.capability < 90) return best;
  const bool forced = wish.path == Path::kCluster;
  const int64_t elements = kVectorBytes / dtype_size(shape.dtype), tensors = backward ? 2 : 1;
  const int64_t vectors = ceil_divide(shape.pixels, elements);
  const bool few = shape.batch * shape.channels < 2 * device.multiprocessors;
  if (!forced && (vectors <= cluster_above_vectors(backward) || (few && vectors <= kFewPlanesVectors))) return best;
  constexpr int64_t kGranularity = 8;  // parts of whole cache lines, if the plane begins with one
  for (const Hold hold : {Hold::kRegisters, Hold::kShared}) {
    if (best.blocks > 0 || (wish.hold != Hold::kPlan && hold != wish.hold)) continue;
    for (int blocks = 1; blocks <= (forced ? kMaxCluster : kPortableCluster); blocks *= 2) {
      if (wish.cluster > 0 && blocks != wish.cluster) continue;
      const int64_t part = ceil_divide(ceil_divide(vectors, blocks), kGranularity) * kGranularity;
      const int64_t rows = ceil_divide(part, kPlaneClusterThreads);
      const int64_t bytes = rows * kPlaneClusterThreads * kVectorBytes * tensors;
      if (hold == Hold::kRegisters && rows > (backward ? kPlaneVectorsBackward : kPlaneVectorsForward)) continue;
      if (hold == Hold::kShared && bytes > (forced ? kMaxHeldBytes : kGoodHeldBytes)) continue;
      if (best.blocks > 0 && part * kVectorBytes * tensors < kMinHeldBytes) continue;
      best = {blocks,
              0,
              part * elements,
              kPlaneClusterThreads,
              hold == Hold::kShared ? static_cast<size_t>(bytes) : 0,
              is_streaming(shape, backward, device)};
      if (20 * shape.batch * shape.channels * blocks >= 9 * device.multiprocessors) return best;
    }
  }
  return best;
}

// Tiles for clusters: rows of 64 bytes in registers, and where no cluster holds them so or gives about every second
// multiprocessor a block, rows of 32 in registers; of these 256 threads before 512, and the smallest cluster. Rows of
// 32 bytes only of batches that leave most of the multiprocessors' time to latencies: of more, wider rows took less
// time on an H200. Rows of 64 bytes partly in shared memory where no cluster holds them in registers; forward also
// where nearly two blocks a multiprocessor have much to hold so: the fewer, larger parts were 1.14 times as quick there
// (16x256x64x64). Left to the kernels above: what no cluster holds at all. `wish` overrules all but what is impossible.
inline ClusterPlan tile_cluster_plan(const InstanceNormShape& shape, bool backward, const Device& device,
                                     const InstanceNormOverride& wish) {
  using Hold = InstanceNormOverride::Hold;
  const bool forced = wish.path == InstanceNormOverride::Path::kCluster;
  const int vector = channels_vector(shape), widest = widest_tile(shape, vector);
  constexpr int kWanted = 2;  // 64 bytes
  static_assert(1 << kWanted == kMinVectorLanes);
  int first = std::min(widest, kWanted), last = std::min(widest, kWanted - 1);
  if (wish.lanes > 0) first = last = lanes_log2_of(wish.lanes);
  ClusterPlan best;
  if (vector == 1 || first > widest || device.capability < 90) return best;
  if (shape.pixels * shape.channels > INT32_MAX) return best;  // offsets in a sample have 32 bits
  int64_t most = 0;                                            // blocks of all clusters
  // True: enough blocks.
  const auto consider = [&](int lanes_log2, int threads, bool more) {
    for (int blocks = 1; blocks <= (forced ? kMaxCluster : kPortableCluster); blocks *= 2) {
      if (wish.cluster > 0 && blocks != wish.cluster) continue;
      const int64_t tensors = backward ? 2 : 1, chunk = ceil_divide(shape.pixels, blocks);
      const int64_t rows = held_rows(chunk, lanes_log2, threads);
      const int64_t shared = std::max<int64_t>(0, rows - kHeldRows) * threads * kVectorBytes * tensors;
      if (shared > (more ? (backward ? kMaxMoreBytesBackward : kMaxMoreBytesForward) : 0)) continue;
      if (!forced && blocks > 1 && (chunk << lanes_log2) * kVectorBytes * tensors < kMinHeldBytes) continue;
      if (more && shared == 0 && wish.hold == Hold::kShared) continue;
      const int64_t all = shape.batch * tiles_of(shape, vector, lanes_log2) * blocks;
      if (all <= most) continue;
      most = all;
      best = {blocks, lanes_log2, chunk, threads, static_cast<size_t>(shared), is_streaming(shape, backward, device)};
      if (20 * all >= 9 * device.multiprocessors) return true;
    }
    return false;
  };
  if (!forced && !backward) {
    consider(first, held_threads_with_more(backward), true);
    if (static_cast<int64_t>(best.shared_bytes) >= kManyMoreBytes && 4 * most >= 7 * device.multiprocessors)
      return best;
    best = {};
    most = 0;
  }
  for (int lanes_log2 = first; lanes_log2 >= last && wish.hold != Hold::kShared; --lanes_log2) {
    const bool narrow = lanes_log2 < widest && lanes_log2 < kWanted;
    if (!forced && narrow && held_bytes(shape, shape.batch, false) > kMaxNarrowBytes) continue;
    for (const int threads : {256, 512}) {
      if (consider(lanes_log2, threads, false)) return best;
    }
  }
  if (best.blocks == 0 && wish.hold != Hold::kRegisters) consider(first, held_threads_with_more(backward), true);
  return best;
}

// The plan for clusters of either memory layout.
inline ClusterPlan cluster_plan(const InstanceNormShape& shape, bool backward, const Device& device,
                                const InstanceNormOverride& wish) {
  if (wish.path == InstanceNormOverride::Path::kTwoKernels) return {};
  return shape.channels_last ? tile_cluster_plan(shape, backward, device, wish)
                             : plane_cluster_plan(shape, backward, device, wish);
}

// For a shape that is not empty: what is done where clusters are not.
inline NormPlan norm_plan(const InstanceNormShape& shape, bool backward, const Device& device,
                          const InstanceNormOverride& wish) {
  if (shape.channels_last) return split_tiles(shape, backward, device, wish);
  const int64_t vectors = shape.pixels / (kVectorBytes / dtype_size(shape.dtype));
  if (shape.dtype != DType::kFloat64 && vectors <= (backward ? kResidentVectorsBackward : kResidentVectorsForward)) {
    NormPlan plan;
    plan.resident = true;
    plan.chunk = shape.pixels;
    return plan;
  }
  return split_planes(shape, device);
}

inline bool is_empty(const InstanceNormShape& shape) {
  return shape.batch == 0 || shape.channels == 0 || shape.pixels == 0;
}

}  // namespace jdm_fast::cuda
