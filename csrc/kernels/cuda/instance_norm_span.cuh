// Passes of instance norm over neighbouring elements in memory, by the kStreamThreads threads of a block.
//
// A plane (or a part of it) need not start on a 16-byte boundary: vectors cover what lies between two boundaries, and
// the loose ends, fewer than two vectors, go element by element. That asks for the tensors of a launch to lie alike
// relative to 16 bytes; if they do not, the launcher takes vectors of one element.
#pragma once

#include "../instance_norm.cuh"

namespace jdm_fast::cuda {

constexpr int kStreamUnroll = 4;  // vectors in flight a thread

// `count` neighbouring elements as `vectors` whole vectors from `head` on, and `loose` single elements around them.
template <int kVector>
struct Span {
  int head;
  int loose;
  int64_t vectors;

  template <typename T>
  __device__ __forceinline__ Span(const T* begin, int64_t count) {
    if constexpr (kVector == 1) {
      head = loose = 0;
      vectors = count;
    } else {
      const int misaligned = static_cast<int>(reinterpret_cast<uintptr_t>(begin) % kVectorBytes / sizeof(T));
      const int wanted = (kVector - misaligned) % kVector;
      head = wanted < count ? wanted : static_cast<int>(count);
      vectors = (count - head) / kVector;
      loose = static_cast<int>(count - vectors * kVector);
    }
  }

  __device__ __forceinline__ int64_t vector_offset(int64_t i) const { return head + i * kVector; }
  __device__ __forceinline__ int64_t loose_offset(int i) const { return i < head ? i : i + vectors * kVector; }
};

// ---------------------------------------------------------------------------------------------------------------------
// Passes over a span in memory by the kStreamThreads threads of a block.

// Moments of x - shift.
template <int kVector, typename T>
__device__ __forceinline__ Moments<Accumulator<T>> span_moments(const T* x, int64_t count, Accumulator<T> shift) {
  using A = Accumulator<T>;
  const Span<kVector> span(x, count);
  Moments<A> own{};
  int64_t i = threadIdx.x;
  for (; i + (kStreamUnroll - 1) * kStreamThreads < span.vectors; i += kStreamUnroll * kStreamThreads) {
    Packed<T, kVector> packed[kStreamUnroll];
#pragma unroll
    for (int u = 0; u < kStreamUnroll; ++u) {
      packed[u] = load<kVector>(x + span.vector_offset(i + u * kStreamThreads));
    }
    A value[kStreamUnroll * kVector];
#pragma unroll
    for (int u = 0; u < kStreamUnroll; ++u) unpack(packed[u], value + u * kVector);
    own = merge(own, moments_of(value, shift));
  }
  for (; i < span.vectors; i += kStreamThreads) {
    A value[kVector];
    unpack(load<kVector>(x + span.vector_offset(i)), value);
    own = merge(own, moments_of(value, shift));
  }
  if (static_cast<int>(threadIdx.x) < span.loose) {
    own = merge(own, Moments<A>{A(1), load_one(x + span.loose_offset(threadIdx.x)) - shift, A(0)});
  }
  return own;
}

template <int kVector, typename T>
__device__ __forceinline__ Sums<Accumulator<T>> span_gradient_sums(const T* x, const T* dy, int64_t count,
                                                                   const Channel<Accumulator<T>>& channel,
                                                                   Accumulator<T> slope) {
  using A = Accumulator<T>;
  const Span<kVector> span(x, count);
  Sums<A> own{};
  const auto add_vector = [&](const Packed<T, kVector>& packed_x, const Packed<T, kVector>& packed_dy) {
    A value[kVector], gradient[kVector];
    unpack(packed_x, value);
    unpack(packed_dy, gradient);
#pragma unroll
    for (int e = 0; e < kVector; ++e) add_gradient(own, channel, slope, value[e], gradient[e]);
  };
  constexpr int kUnroll = kStreamUnroll / 2;  // two tensors are read
  int64_t i = threadIdx.x;
  for (; i + (kUnroll - 1) * kStreamThreads < span.vectors; i += kUnroll * kStreamThreads) {
    Packed<T, kVector> packed_x[kUnroll], packed_dy[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      packed_x[u] = load<kVector>(x + span.vector_offset(i + u * kStreamThreads));
      packed_dy[u] = load<kVector>(dy + span.vector_offset(i + u * kStreamThreads));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) add_vector(packed_x[u], packed_dy[u]);
  }
  for (; i < span.vectors; i += kStreamThreads) {
    add_vector(load<kVector>(x + span.vector_offset(i)), load<kVector>(dy + span.vector_offset(i)));
  }
  if (static_cast<int>(threadIdx.x) < span.loose) {
    const int64_t offset = span.loose_offset(threadIdx.x);
    add_gradient(own, channel, slope, load_one(x + offset), load_one(dy + offset));
  }
  return own;
}

// out[i] = value(a[i], b[i]), b possibly nullptr (then b[i] counts as 0).
template <int kVector, typename T, typename Value>
__device__ __forceinline__ void span_apply(const T* a, const T* b, T* out, int64_t count, Value value) {
  using A = Accumulator<T>;
  const Span<kVector> span(a, count);
  const bool with_b = b != nullptr;
  const auto apply_vector = [&](const Packed<T, kVector>& packed_a, const Packed<T, kVector>& packed_b,
                                int64_t offset) {
    A first[kVector], second[kVector], result[kVector];
    unpack(packed_a, first);
    unpack(packed_b, second);
#pragma unroll
    for (int e = 0; e < kVector; ++e) result[e] = value(first[e], second[e]);
    store(out + offset, pack<T>(result));
  };
  constexpr int kUnroll = kStreamUnroll / 2;
  int64_t i = threadIdx.x;
  for (; i + (kUnroll - 1) * kStreamThreads < span.vectors; i += kUnroll * kStreamThreads) {
    Packed<T, kVector> packed_a[kUnroll], packed_b[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      packed_a[u] = load<kVector>(a + span.vector_offset(i + u * kStreamThreads));
      if (with_b) packed_b[u] = load<kVector>(b + span.vector_offset(i + u * kStreamThreads));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      apply_vector(packed_a[u], packed_b[u], span.vector_offset(i + u * kStreamThreads));
    }
  }
  for (; i < span.vectors; i += kStreamThreads) {
    Packed<T, kVector> packed_b = {};
    if (with_b) packed_b = load<kVector>(b + span.vector_offset(i));
    apply_vector(load<kVector>(a + span.vector_offset(i)), packed_b, span.vector_offset(i));
  }
  if (static_cast<int>(threadIdx.x) < span.loose) {
    const int64_t offset = span.loose_offset(threadIdx.x);
    store_one(out + offset, value(load_one(a + offset), with_b ? load_one(b + offset) : A(0)));
  }
}

}  // namespace jdm_fast::cuda
