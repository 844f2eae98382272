// Everything the CUDA kernels share: the switch between nvcc and the host emulation, element types, arithmetic,
// vector accesses. Under nvcc this is CUDA; under a host compiler the same source runs on `csrc/emulation`.
//
// Rules for kernels, so that both builds work: launch with JDM_LAUNCH, declare shared memory with JDM_SHARED_ARRAY or
// JDM_DYNAMIC_SHARED, keep inline PTX inside this file and cluster.cuh, let no thread return before a barrier that
// others reach.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../cpu/storage.h"
#include "../types.h"
#include "instance_norm_sizes.h"

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// JDM_LAUNCH((kernel<T, 4>), grid, block, dynamic shared bytes, stream)(arguments...);
#define JDM_LAUNCH(kernel, grid, block, shared_bytes, stream) \
  (kernel)<<<(grid), (block), (shared_bytes), static_cast<cudaStream_t>(stream)>>>
#define JDM_SHARED_ARRAY(type, name, count) __shared__ type name[count]
#define JDM_DYNAMIC_SHARED(type, name)                                       \
  extern __shared__ __align__(16) unsigned char jdm_dynamic_shared_memory[]; \
  type* const name = reinterpret_cast<type*>(jdm_dynamic_shared_memory)

#else

#include "../../emulation/cuda_emulation.h"
#include "../../emulation/float16.h"
#include "../../emulation/touched.h"

#define JDM_LAUNCH(kernel, grid, block, shared_bytes, stream) \
  ::cuda_emulation::detail::launch<(kernel)>((grid), (block), (shared_bytes), (stream))
#define JDM_SHARED_ARRAY(type, name, count)    \
  static const char name##_declaration = '\0'; \
  auto& name = ::cuda_emulation::detail::shared_array<type, (count)>(&name##_declaration)
#define JDM_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::cuda_emulation::detail::dynamic_shared())

#endif

namespace jdm_fast::cuda {

// ---------------------------------------------------------------------------------------------------------------------
// Numbers. Every kernel computes in Accumulator<T>: float, or double for double.

__device__ __forceinline__ float to_accumulator(float value) { return value; }
__device__ __forceinline__ double to_accumulator(double value) { return value; }

template <typename T>
__device__ __forceinline__ T from_accumulator(Accumulator<T> value);
template <>
__device__ __forceinline__ float from_accumulator<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ double from_accumulator<double>(double value) {
  return value;
}

#if defined(__CUDACC__)

__device__ __forceinline__ float to_accumulator(Float16 value) {
  __half_raw raw;
  raw.x = value.bits;
  return __half2float(__half(raw));
}
__device__ __forceinline__ float to_accumulator(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
template <>
__device__ __forceinline__ Float16 from_accumulator<Float16>(float value) {
  return {static_cast<__half_raw>(__float2half_rn(value)).x};
}
template <>
__device__ __forceinline__ BFloat16 from_accumulator<BFloat16>(float value) {
  return {static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(value)).x};
}

// Bits of the 16-bit T nearest to each value, `first` at the lower address.
template <typename T>
__device__ __forceinline__ unsigned pair_of(float first, float second) {
  unsigned bits;
  if constexpr (std::is_same_v<T, BFloat16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    memcpy(&bits, &pair, sizeof(bits));
  } else {
    const __half2 pair = __floats2half2_rn(first, second);
    memcpy(&bits, &pair, sizeof(bits));
  }
  return bits;
}

#else

inline float to_accumulator(Float16 value) { return cuda_emulation::half_to_float(value.bits); }
inline float to_accumulator(BFloat16 value) { return cuda_emulation::bfloat16_to_float(value.bits); }
template <>
inline Float16 from_accumulator<Float16>(float value) {
  return {cuda_emulation::float_to_half(value)};
}
template <>
inline BFloat16 from_accumulator<BFloat16>(float value) {
  return {cuda_emulation::float_to_bfloat16(value)};
}

template <typename T>
unsigned pair_of(float first, float second) {
  return from_accumulator<T>(first).bits | static_cast<unsigned>(from_accumulator<T>(second).bits) << 16;
}

#endif

// One name for both accumulation types (the float versions are not found by overloading under every compiler).
__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return ::exp(x); }
// exp(x) in two instructions, to a few units in the last place and as many more as |x|: where it is small, so is its
// error against 1. 0 below the normal numbers.
__device__ __forceinline__ float quick_exponential(float x) {
#if defined(__CUDACC__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * 1.4426950408889634f));
  return result;
#else
  return std::exp(x);
#endif
}
__device__ __forceinline__ double quick_exponential(double x) { return ::exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return ::log(x); }
__device__ __forceinline__ float maximum(float a, float b) { return fmaxf(a, b); }  // of a number and NaN: the number
__device__ __forceinline__ double maximum(double a, double b) { return ::fmax(a, b); }
__device__ __forceinline__ float minimum(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ double minimum(double a, double b) { return ::fmin(a, b); }
template <typename A>
__device__ __forceinline__ A not_negative(A x) {  // 0 where rounding made x negative; NaN stays
  return x < A(0) ? A(0) : x;
}
__device__ __forceinline__ float reciprocal_root(float x) { return rsqrtf(x); }
__device__ __forceinline__ double reciprocal_root(double x) { return rsqrt(x); }
// a / b to two units in the last place, without the slow path that exact float division carries along.
__device__ __forceinline__ float quick_divide(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ double quick_divide(double a, double b) { return a / b; }

// ---------------------------------------------------------------------------------------------------------------------
// Vector accesses.

template <typename T>
constexpr int kVectorElements = kVectorBytes / static_cast<int>(sizeof(T));

// kCount neighbours in memory, read and written at once. Kept in this packed form: 16-bit data take half the registers.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Packed {
  T element[kCount];
};

#if defined(__CUDACC__)
// What one instruction moves.
template <size_t kBytes>
using WordOf = std::conditional_t<
    kBytes == 16, uint4,
    std::conditional_t<
        kBytes == 8, uint2,
        std::conditional_t<kBytes == 4, unsigned, std::conditional_t<kBytes == 2, unsigned short, unsigned char>>>>;
#endif

// Through the read-only path: the kernel must not write what it loads.
template <int kCount, typename T>
__device__ __forceinline__ Packed<T, kCount> load(const T* address) {
  Packed<T, kCount> value;
#if defined(__CUDACC__)
  using Word = WordOf<sizeof(value)>;
  const Word word = __ldg(reinterpret_cast<const Word*>(address));
  memcpy(&value, &word, sizeof(value));
#else
  cuda_emulation::check_aligned(address, sizeof(value));
  cuda_emulation::touch(address, sizeof(value));
  std::memcpy(&value, address, sizeof(value));
#endif
  return value;
}

// The same of 16 bytes that the kernel reads only once: they take no place in the first-level cache.
template <int kCount, typename T>
__device__ __forceinline__ Packed<T, kCount> load_once(const T* address) {
#if defined(__CUDACC__)
  if constexpr (sizeof(Packed<T, kCount>) == sizeof(uint4)) {
    uint4 word;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "l"(__cvta_generic_to_global(address)));
    Packed<T, kCount> value;
    memcpy(&value, &word, sizeof(value));
    return value;
  }
#endif
  return load<kCount>(address);
}

// To global memory that the kernel does not read. `streaming`: nor does anybody while it could still be in a cache.
template <int kCount, typename T>
__device__ __forceinline__ void store(T* address, const Packed<T, kCount>& value, bool streaming = false) {
#if defined(__CUDACC__)
  using Word = WordOf<sizeof(value)>;
  Word word;
  memcpy(&word, &value, sizeof(value));
  if constexpr (sizeof(value) == sizeof(uint4)) {  // the compiler splits an assignment into four stores now and then
    if (streaming) {
      asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)), "r"(word.x),
                   "r"(word.y), "r"(word.z), "r"(word.w));
    } else {
      asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)), "r"(word.x),
                   "r"(word.y), "r"(word.z), "r"(word.w));
    }
  } else {
    *reinterpret_cast<Word*>(address) = word;
  }
#else
  (void)streaming;
  cuda_emulation::check_aligned(address, sizeof(value));
  cuda_emulation::touch(address, sizeof(value));
  std::memcpy(address, &value, sizeof(value));
#endif
}

// From shared memory in one instruction: of a reference into it the compiler copies byte after byte now and then.
template <typename T, int kCount>
__device__ __forceinline__ Packed<T, kCount> load_shared(const Packed<T, kCount>* address) {
#if defined(__CUDACC__)
  using Word = WordOf<sizeof(*address)>;
  const Word word = *reinterpret_cast<const Word*>(address);
  Packed<T, kCount> value;
  memcpy(&value, &word, sizeof(value));
  return value;
#else
  return *address;
#endif
}

template <typename T>
__device__ __forceinline__ Accumulator<T> load_one(const T* address) {
  return to_accumulator(load<1>(address).element[0]);
}

template <typename T>
__device__ __forceinline__ void store_one(T* address, Accumulator<T> value) {
#if !defined(__CUDACC__)
  cuda_emulation::touch(address, sizeof(T));
#endif
  *address = from_accumulator<T>(value);
}

// Neighbouring accumulators that were written while this kernel ran, by the thread itself or a kernel that it waited
// for: not by the read-only path.
template <int kCount, typename A>
__device__ __forceinline__ void load_accumulators(const A* address, A (&value)[kCount]) {
  constexpr int kWord = kCount * sizeof(A) < kVectorBytes ? kCount : kVectorElements<A>;
#pragma unroll
  for (int i = 0; i < kCount; i += kWord) {
    const auto word = *reinterpret_cast<const Packed<A, kWord>*>(address + i);
#pragma unroll
    for (int e = 0; e < kWord; ++e) value[i + e] = word.element[e];
  }
}

template <int kCount, typename A>
__device__ __forceinline__ void store_accumulators(A* address, const A (&value)[kCount]) {
  constexpr int kWord = kCount * sizeof(A) < kVectorBytes ? kCount : kVectorElements<A>;
#pragma unroll
  for (int i = 0; i < kCount; i += kWord) {
    Packed<A, kWord> word;
#pragma unroll
    for (int e = 0; e < kWord; ++e) word.element[e] = value[i + e];
    store(address + i, word);
  }
}

// value[i] = packed.element[i] for i < kCount.
template <typename T, int kCount>
__device__ __forceinline__ void unpack(const Packed<T, kCount>& packed, Accumulator<T>* value) {
  if constexpr (std::is_same_v<T, BFloat16> && kCount % 2 == 0) {  // one instruction an element
    unsigned pair[kCount / 2];
    memcpy(pair, &packed, sizeof(packed));
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      value[2 * i] = __uint_as_float(pair[i] << 16);
      value[2 * i + 1] = __uint_as_float(pair[i] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) value[i] = to_accumulator(packed.element[i]);
  }
}

template <typename T, int kCount>
__device__ __forceinline__ Packed<T, kCount> pack(const Accumulator<T> (&value)[kCount]) {
  Packed<T, kCount> packed;
  if constexpr (sizeof(T) == 2 && kCount % 2 == 0) {  // one instruction for two elements
    unsigned pair[kCount / 2];
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) pair[i] = pair_of<T>(value[2 * i], value[2 * i + 1]);
    memcpy(&packed, pair, sizeof(packed));
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) packed.element[i] = from_accumulator<T>(value[i]);
  }
  return packed;
}

// Keeps the compiler from holding on to what it unpacked: unpacking again costs less than the registers.
template <typename T, int kCount>
__device__ __forceinline__ void forget_unpacked(Packed<T, kCount>& packed) {
#if defined(__CUDACC__)
  unsigned word[sizeof(packed) / 4];
  memcpy(word, &packed, sizeof(packed));
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(packed) / 4); ++i) asm volatile("" : "+r"(word[i]));
  memcpy(&packed, word, sizeof(packed));
#else
  (void)packed;
#endif
}

// Host: whether every pointer (nullptr counts as yes) is a multiple of a vector.
template <typename... Pointers>
bool vector_aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % kVectorBytes == 0) && ...);
}

// ---------------------------------------------------------------------------------------------------------------------
// Grids.

// Blocks along x. What no grid can hold becomes a size that the launch refuses, instead of wrapping to a small one.
inline unsigned grid_size(int64_t blocks) { return blocks > 0x7fffffff ? 0xffffffffu : static_cast<unsigned>(blocks); }

}  // namespace jdm_fast::cuda
