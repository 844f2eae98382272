// Network output to picture bytes on the device. A thread turns kPixels neighbouring pixels into kPixels * C
// neighbouring bytes, so the planes of [N, C, H*W] are read along themselves and the interleaved picture is written
// along itself.
#pragma once

#include "cuda/device.cuh"

namespace jdm_fast::cuda {

constexpr int kFrameThreads = 256;

// uint8(rint((v + 1) * 127.5)) clamped to 0..255. maximum() takes the number of (NaN, 0), so NaN becomes 0.
template <typename A>
__device__ __forceinline__ uint8_t to_byte(A value, bool with_tanh) {
  if (with_tanh) value = hyperbolic_tangent(value);
  const A scaled = round_to_even((value + A(1)) * A(127.5));
  return static_cast<uint8_t>(minimum(maximum(scaled, A(0)), A(255)));
}

// kCount bytes that lie on a multiple of 4.
template <int kCount>
__device__ __forceinline__ void store_bytes(uint8_t* address, const uint8_t (&byte)[kCount]) {
  static_assert(kCount % 4 == 0, "whole words");
  unsigned* const word = reinterpret_cast<unsigned*>(address);
#pragma unroll
  for (int i = 0; i < kCount / 4; ++i) {
    word[i] = byte[4 * i] | static_cast<unsigned>(byte[4 * i + 1]) << 8 | static_cast<unsigned>(byte[4 * i + 2]) << 16 |
              static_cast<unsigned>(byte[4 * i + 3]) << 24;
  }
}

// One vector of pixels of all channels a thread. Needs pixels to be a multiple of the vector.
template <typename T, int kChannels>
__global__ void __launch_bounds__(kFrameThreads) interleave_frames_vector(const T* x,                // [N, C, H*W]
                                                                          uint8_t* y,                // [N, H*W, C]
                                                                          int64_t groups,            // N * H*W / vector
                                                                          int64_t groups_per_image,  // H*W / vector
                                                                          bool with_tanh) {
  constexpr int kPixels = kVectorElements<T>;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kFrameThreads + threadIdx.x;
  if (group >= groups) return;
  const int64_t image = group / groups_per_image;
  const T* const first = x + (image * kChannels * groups_per_image + group % groups_per_image) * kPixels;
  uint8_t byte[kPixels * kChannels];
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    Accumulator<T> value[kPixels];
    unpack(load<kPixels>(first + c * groups_per_image * kPixels), value);
#pragma unroll
    for (int p = 0; p < kPixels; ++p) byte[p * kChannels + c] = to_byte(value[p], with_tanh);
  }
  store_bytes(y + group * kPixels * kChannels, byte);
}

// One pixel a thread: any size, any alignment, any C.
template <typename T>
__global__ void __launch_bounds__(kFrameThreads)
    interleave_frames(const T* x,  // [N, C, H*W]
                      uint8_t* y,  // [N, H*W, C]
                      int64_t pixels_of_all, int64_t pixels, int channels, bool with_tanh) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kFrameThreads + threadIdx.x;
  if (pixel >= pixels_of_all) return;
  const T* const first = x + pixel / pixels * pixels * channels + pixel % pixels;
  for (int c = 0; c < channels; ++c) y[pixel * channels + c] = to_byte(load_one(first + c * pixels), with_tanh);
}

// x and y in the same order: kVector elements a thread, the last ones alone.
template <typename T, int kVector>
__global__ void __launch_bounds__(kFrameThreads) convert_frames(const T* x,  // [count]
                                                                uint8_t* y,  // [count]
                                                                int64_t count, bool with_tanh) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kFrameThreads + threadIdx.x) * kVector;
  if constexpr (kVector > 1) {
    if (first + kVector <= count) {
      Accumulator<T> value[kVector];
      uint8_t byte[kVector];
      unpack(load<kVector>(x + first), value);
#pragma unroll
      for (int e = 0; e < kVector; ++e) byte[e] = to_byte(value[e], with_tanh);
      store_bytes(y + first, byte);
      return;
    }
  }
  for (int64_t i = first; i < count && i < first + kVector; ++i) y[i] = to_byte(load_one(x + i), with_tanh);
}

}  // namespace jdm_fast::cuda
