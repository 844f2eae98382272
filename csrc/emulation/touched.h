// How often kernels read or write each byte of tensors that a test watches: what they move, counted as they run. The
// vector accesses of kernels/cuda/device.cuh and cluster.cuh report here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cuda_emulation {

struct Watched {
  const char* begin;
  size_t bytes;
  uint32_t* counts;  // one a byte
};

inline std::vector<Watched>& watched() {
  static std::vector<Watched> all;
  return all;
}

// Bytes outside of what is watched are not counted. An access that begins in a tensor ends in it, or fails elsewhere.
inline void touch(const void* address, size_t bytes) {
  for (const Watched& tensor : watched()) {
    const size_t at = static_cast<size_t>(static_cast<const char*>(address) - tensor.begin);  // before it: huge
    if (at >= tensor.bytes) continue;
    for (size_t i = at; i < at + bytes && i < tensor.bytes; ++i) ++tensor.counts[i];
  }
}

}  // namespace cuda_emulation
