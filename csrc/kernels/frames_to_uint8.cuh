// Network output to picture bytes on the device. A thread turns kPixels neighbouring pixels into kPixels * C
// neighbouring bytes, so the planes of [N, C, H*W] are read along themselves and the interleaved picture is written
// along itself.
#pragma once

#include "cuda/device.cuh"

namespace jdm_fast::cuda {

constexpr int kFrameThreads = 256;

// The nearest of 0..255, of two the even one; NaN becomes 0, as maximum() takes the number of (NaN, 0).
__device__ __forceinline__ unsigned nearest_byte(float value) {
  return __float2uint_rn(minimum(maximum(value, 0.0f), 255.0f));
}
__device__ __forceinline__ unsigned nearest_byte(double value) {
  return __double2uint_rn(minimum(maximum(value, 0.0), 255.0));
}

// Places -1..1 on 0..255.
template <typename A>
__device__ __forceinline__ unsigned to_byte(A value) {
  return nearest_byte((value + A(1)) * A(127.5));
}

// The same of tanh(value), which is 2 / (1 + exp(-2 value)) - 1.
template <typename A>
__device__ __forceinline__ unsigned tanh_to_byte(A value) {
  return nearest_byte(quick_divide(A(255), A(1) + quick_exponential(A(-2) * value)));
}

__device__ __forceinline__ void store_byte(uint8_t* address, unsigned byte) {
  store(address, Packed<uint8_t, 1>{{static_cast<uint8_t>(byte)}});
}

// kCount bytes that lie on a multiple of what one store takes.
template <int kCount>
__device__ __forceinline__ void store_bytes(uint8_t* address, const unsigned (&byte)[kCount]) {
  constexpr int kStored = kCount % 16 == 0 ? 16 : kCount % 8 == 0 ? 8 : 4;
  static_assert(kCount % 4 == 0, "whole words");
#pragma unroll
  for (int i = 0; i < kCount; i += kStored) {
    unsigned word[kStored / 4];
#pragma unroll
    for (int w = 0; w < kStored / 4; ++w) {
      const unsigned* const b = byte + i + 4 * w;
      word[w] = b[0] | b[1] << 8 | b[2] << 16 | b[3] << 24;
    }
    Packed<uint8_t, kStored> packed;
    memcpy(&packed, word, sizeof(packed));
    store(address + i, packed);
  }
}

// byte[p * kStride] of value p.
template <int kStride, int kCount, typename A>
__device__ __forceinline__ void to_bytes(const A (&value)[kCount], bool with_tanh, unsigned* byte) {
  if (with_tanh) {
#pragma unroll
    for (int p = 0; p < kCount; ++p) byte[p * kStride] = tanh_to_byte(value[p]);
  } else {
#pragma unroll
    for (int p = 0; p < kCount; ++p) byte[p * kStride] = to_byte(value[p]);
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
  Packed<T, kPixels> plane[kChannels];  // all under way before the first is used
#pragma unroll
  for (int c = 0; c < kChannels; ++c) plane[c] = load<kPixels>(first + c * groups_per_image * kPixels);
  unsigned byte[kPixels * kChannels];
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    Accumulator<T> value[kPixels];
    unpack(plane[c], value);
    to_bytes<kChannels>(value, with_tanh, byte + c);
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
  for (int c = 0; c < channels; ++c) {
    const Accumulator<T> value = load_one(first + c * pixels);
    store_byte(y + pixel * channels + c, with_tanh ? tanh_to_byte(value) : to_byte(value));
  }
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
      unsigned byte[kVector];
      unpack(load<kVector>(x + first), value);
      to_bytes<1>(value, with_tanh, byte);
      store_bytes(y + first, byte);
      return;
    }
  }
  for (int64_t i = first; i < count && i < first + kVector; ++i) {
    const Accumulator<T> value = load_one(x + i);
    store_byte(y + i, with_tanh ? tanh_to_byte(value) : to_byte(value));
  }
}

}  // namespace jdm_fast::cuda
