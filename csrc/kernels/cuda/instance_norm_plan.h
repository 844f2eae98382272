// Which kernels an instance norm takes, decided from the shape and the number of multiprocessors alone, so that the
// size of the workspace is known before any pointer is.
#pragma once

#include <algorithm>

#include "../instance_norm.h"
#include "instance_norm_channels.cuh"
#include "instance_norm_combine.cuh"
#include "instance_norm_planes.cuh"

namespace jdm_fast::cuda {

struct NormPlan {
  bool resident;  // a plane is held in registers
  int splits;     // blocks that share a plane, or a tile of channels; 1: no workspace
  int64_t chunk;  // pixels of each of them
};

// Blocks an H200 multiprocessor holds of the streaming kernels at once (256 threads, 64 registers), about.
constexpr int kBlocksPerMultiprocessor = 4;

// Vectors of a plane that the largest resident kernel holds: 512 threads, 8 vectors each forward; backward keeps x and
// dy.
constexpr int64_t kResidentVectorsForward = 512 * 8;
constexpr int64_t kResidentVectorsBackward = 512 * 4;

constexpr int64_t kMinPlaneChunk = 8192;  // pixels; below, a second kernel costs more than it gains
constexpr int64_t kMinTilePasses = 2;     // rows of a part, in rows of threads
constexpr int64_t kMaxSplits = 512;

// Elements of a vector that channels_last tensors of this shape allow, if their pointers do.
inline int channels_vector(const InstanceNormShape& shape) {
  const int64_t elements = kVectorBytes / dtype_size(shape.dtype);
  return shape.dtype != DType::kFloat64 && shape.channels % elements == 0 ? static_cast<int>(elements) : 1;
}

// Lanes and tiles that cover the channels with vectors of `vector` elements.
inline TileLayout tile_layout(const InstanceNormShape& shape, int vector, const NormPlan& plan) {
  const int64_t wanted = ceil_divide(shape.channels, vector);
  const int max_lanes = vector == 1 ? kMaxScalarLanes : kMaxVectorLanes;
  int lanes_log2 = 0;
  while ((1 << lanes_log2) < std::min<int64_t>(wanted, max_lanes)) ++lanes_log2;
  return {lanes_log2, static_cast<int>(ceil_divide(wanted, int64_t{1} << lanes_log2)), plan.splits, plan.chunk};
}

// `units` pieces of work of `pixels` each, cut so that about every multiprocessor has its share; parts are a multiple
// of `granularity` pixels.
inline NormPlan split_plan(int64_t units, int64_t pixels, int64_t granularity, int64_t min_chunk, int multiprocessors) {
  const int64_t blocks = int64_t{kBlocksPerMultiprocessor} * multiprocessors;
  if (2 * units >= blocks || pixels < 2 * min_chunk) return {false, 1, pixels};
  const int64_t wanted = std::min({ceil_divide(blocks, units), ceil_divide(pixels, min_chunk), kMaxSplits});
  const int64_t chunk = ceil_divide(ceil_divide(pixels, wanted), granularity) * granularity;
  return {false, static_cast<int>(ceil_divide(pixels, chunk)), chunk};
}

// For a shape that is not empty.
inline NormPlan norm_plan(const InstanceNormShape& shape, bool backward, int multiprocessors) {
  if (shape.channels_last) {
    const TileLayout layout = tile_layout(shape, channels_vector(shape), {false, 1, shape.pixels});
    const int64_t rows = kTileThreads >> layout.lanes_log2;
    return split_plan(shape.batch * layout.tiles, shape.pixels, rows, kMinTilePasses * rows, multiprocessors);
  }
  const int64_t vectors = shape.pixels / (kVectorBytes / dtype_size(shape.dtype));
  if (shape.dtype != DType::kFloat64 && vectors <= (backward ? kResidentVectorsBackward : kResidentVectorsForward)) {
    return {true, 1, shape.pixels};
  }
  constexpr int64_t kGranularity = kStreamThreads * kVectorElements<Float16>;
  return split_plan(shape.batch * shape.channels, shape.pixels, kGranularity, kMinPlaneChunk, multiprocessors);
}

inline bool is_empty(const InstanceNormShape& shape) {
  return shape.batch == 0 || shape.channels == 0 || shape.pixels == 0;
}

// Slope of the activation below zero.
inline double slope_of(const InstanceNormShape& shape) {
  switch (shape.activation) {
    case Activation::kRelu:
      return 0.0;
    case Activation::kLeakyRelu:
      return shape.negative_slope;
    case Activation::kNone:
      break;
  }
  return 1.0;
}

// Whether vectors cover the same elements of both tensors: they lie alike relative to a vector's bytes. nullptr counts
// as yes.
inline bool lie_alike(const void* a, const void* b) {
  return b == nullptr || (reinterpret_cast<uintptr_t>(a) - reinterpret_cast<uintptr_t>(b)) % kVectorBytes == 0;
}

}  // namespace jdm_fast::cuda
