// Sizes that the plan of instance norm and its kernels share. Knows nothing of CUDA, so that the plan can be asked for
// where there is no GPU.
#pragma once

#include <cstdint>

namespace jdm_fast::cuda {

constexpr int kVectorBytes = 16;

constexpr int kStreamThreads = 256;  // of a block that passes over planes
constexpr int kTileThreads = 256;    // of a block of a tile
constexpr int kMaxScalarLanes = 32;  // with vectors of one element
constexpr int kMaxVectorLanes = 8;   // with vectors of 16 bytes: a row of a tile is a cache line

// Of a cluster that holds a tile: vectors of each tensor that a thread of 256 or 512 holds in registers; and threads of
// a block that holds more of them in shared memory, of which forward two share a multiprocessor.
constexpr int kHeldRows = 8;
constexpr int held_threads_with_more(bool backward) { return backward ? 512 : 256; }

// Of a cluster that holds a plane: threads of a block; blocks of a multiprocessor, which bounds their registers;
// vectors of each tensor that a thread holds where a part is held in registers: backward keeps x and dy.
constexpr int kPlaneClusterThreads = 256;
constexpr int kPlaneClusterBlocks = 4;
constexpr int kPlaneVectorsForward = 8;
constexpr int kPlaneVectorsBackward = 4;

constexpr int kPortableCluster = 8;  // blocks of a cluster that every GPU with clusters has
constexpr int kMaxCluster = 16;

constexpr int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of one of `threads` threads, of a part of at most `chunk` rows.
inline int held_rows(int64_t chunk, int lanes_log2, int threads) {
  return static_cast<int>(ceil_divide(chunk, threads >> lanes_log2));
}

}  // namespace jdm_fast::cuda
