// Instance norm of [N, C, H*W]: a plane is contiguous.
//
// - resident: the plane is held in the registers of one group of threads (a warp or a block), read once, written once
// - streamed: one block reads the plane twice, the second time from cache
// - split: few large planes, so several blocks share one; a first kernel leaves partial results, a second one applies
// - a cluster of blocks holds the plane: instance_norm_planes_cluster.cuh
#pragma once

#include "instance_norm_span.cuh"

namespace jdm_fast::cuda {

// ---------------------------------------------------------------------------------------------------------------------
// Sharing a plane.

// The partial results of a plane, combined by every warp for itself: no barrier.
template <typename Value>
__device__ __forceinline__ Value merge_partials(const Value* partials, int splits) {
  Value own{};
  for (int i = threadIdx.x % 32; i < splits; i += 32) own = merge(own, partials[i]);
  return warp_merge(own);
}

// Which plane, and which of its elements, a block of a split launch has. kReversed: the second kernel begins with what
// the first one read last, which is still in cache.
template <bool kReversed>
struct PlanePart {
  int64_t plane;
  int split;
  int64_t begin;  // within the plane
  int64_t count;  // 0 for a block of a cluster that has nothing left

  __device__ __forceinline__ PlanePart(int64_t pixels, int splits, int64_t chunk) {
    const unsigned block = kReversed ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    plane = block / static_cast<unsigned>(splits);
    split = static_cast<int>(block % static_cast<unsigned>(splits));
    begin = split * chunk;
    const int64_t left = pixels > begin ? pixels - begin : 0;
    count = left < chunk ? left : chunk;
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Forward.

// Group of kThreads threads per plane; at most kThreads * kVectors vectors of it are held.
template <typename T, int kThreads, int kVectors>
__global__ void __launch_bounds__(kThreads == 32 ? 128 : kThreads, 1)
    planes_forward_resident(NormForward<T> args, int64_t planes) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorElements<T>;
  const int thread = threadIdx.x % kThreads;
  const int64_t plane = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kThreads) + threadIdx.x / kThreads;
  if (plane >= planes) return;  // a whole warp of a kernel without barriers
  const T* const x = args.x + plane * args.pixels;
  const Span<kVector> span(x, args.pixels);
  const int vectors = static_cast<int>(span.vectors);
  const bool has_loose = thread < span.loose;

  Packed<T, kVector> data[kVectors];
  A sum = A(0), loose = A(0);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (v * kThreads + thread < vectors) data[v] = load<kVector>(x + span.vector_offset(v * kThreads + thread));
  }
  if (has_loose) sum = loose = load_one(x + span.loose_offset(thread));
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (v * kThreads + thread < vectors) {
      A value[kVector];
      forget_unpacked(data[v]);
      unpack(data[v], value);
      A part = A(0);
#pragma unroll
      for (int e = 0; e < kVector; ++e) part += value[e];
      sum += part;
    }
  }
  const A count = static_cast<A>(args.pixels);
  A mean = group_merge<kThreads>(Sums<A>{sum, A(0)}).first / count;

  Sums<A> spread{};  // of x - mean, whose sum corrects the rounding of the mean, and of its square
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (v * kThreads + thread < vectors) {
      A value[kVector];
      forget_unpacked(data[v]);
      unpack(data[v], value);
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const A distance = value[e] - mean;
        spread.first += distance;
        spread.second += distance * distance;
      }
    }
  }
  if (has_loose) spread = merge(spread, Sums<A>{loose - mean, (loose - mean) * (loose - mean)});
  spread = group_merge<kThreads>(spread);
  const A shift = spread.first / count;
  mean += shift;
  const A rstd = rstd_of(Moments<A>{count, mean, maximum(spread.second - shift * spread.first, A(0))}, args.eps);
  if (thread == 0) {
    args.mean[plane] = mean;
    args.rstd[plane] = rstd;
  }

  const Channel<A> channel = make_channel(args, plane % args.affine_planes, mean, rstd);
  const T* const residual = args.residual != nullptr ? args.residual + plane * args.pixels : nullptr;
  T* const y = args.y + plane * args.pixels;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (v * kThreads + thread < vectors) {
      const int64_t offset = span.vector_offset(v * kThreads + thread);
      A value[kVector];
      unpack(data[v], value);
#pragma unroll
      for (int e = 0; e < kVector; ++e) value[e] = forward_value(channel, args.slope, value[e]);
      if (residual != nullptr) {
        A extra[kVector];
        unpack(load<kVector>(residual + offset), extra);
#pragma unroll
        for (int e = 0; e < kVector; ++e) value[e] += extra[e];
      }
      store(y + offset, pack<T>(value));
    }
  }
  if (has_loose) {
    const int64_t offset = span.loose_offset(thread);
    const A extra = residual != nullptr ? load_one(residual + offset) : A(0);
    store_one(y + offset, forward_value(channel, args.slope, loose) + extra);
  }
}

// One block per part of a plane. kSplit: `partials` [N*C, splits] hold the moments of all parts; else the part is the
// plane. Moments are those of x minus the first element of the plane, which keeps their digits when the mean is large.
template <typename T, int kVector, bool kSplit>
__global__ void __launch_bounds__(kStreamThreads, 1)
    planes_forward(NormForward<T> args, const Moments<Accumulator<T>>* partials, int splits, int64_t chunk) {
  using A = Accumulator<T>;
  const PlanePart<kSplit> part(args.pixels, splits, chunk);
  const int64_t start = part.plane * args.pixels + part.begin;
  const A shift = load_one(args.x + part.plane * args.pixels);
  Moments<A> moments;
  if constexpr (kSplit) {
    moments = merge_partials(partials + part.plane * splits, splits);
  } else {
    moments = group_merge<kStreamThreads>(span_moments<kVector>(args.x + start, part.count, shift));
  }
  moments.mean += shift;
  const A rstd = rstd_of(moments, args.eps);
  if (part.split == 0 && threadIdx.x == 0) {
    args.mean[part.plane] = moments.mean;
    args.rstd[part.plane] = rstd;
  }
  const Channel<A> channel = make_channel(args, part.plane % args.affine_planes, moments.mean, rstd);
  const A slope = args.slope;
  span_apply<kVector>(args.x + start, args.residual != nullptr ? args.residual + start : nullptr, args.y + start,
                      part.count, [=](A x, A residual) { return forward_value(channel, slope, x) + residual; });
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kStreamThreads, 1)
    planes_partial_moments(NormForward<T> args, Moments<Accumulator<T>>* partials, int splits, int64_t chunk) {
  const PlanePart<false> part(args.pixels, splits, chunk);
  const T* const plane = args.x + part.plane * args.pixels;
  const auto moments =
      group_merge<kStreamThreads>(span_moments<kVector>(plane + part.begin, part.count, load_one(plane)));
  if (threadIdx.x == 0) partials[blockIdx.x] = moments;
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward.

// Stores the parameter gradients of a plane in the thread that `writes`, and makes what backward_value wants; `sums`
// are the same in every thread.
template <typename T, typename A = Accumulator<T>>
__device__ __forceinline__ void finish_gradient_sums(const NormBackward<T>& args, int64_t plane, const Sums<A>& sums,
                                                     bool writes, A rstd, A& mean_g, A& tilt) {
  if (writes) {
    args.d_bias[plane] = sums.first;
    args.d_weight[plane] = sums.second * rstd;
  }
  const A count = static_cast<A>(args.pixels);
  mean_g = sums.first / count;
  tilt = sums.second / count * rstd * rstd;
}

template <typename T, int kThreads, int kVectors>
__global__ void __launch_bounds__(kThreads == 32 ? 128 : kThreads, 1)
    planes_backward_resident(NormBackward<T> args, int64_t planes) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorElements<T>;
  const int thread = threadIdx.x % kThreads;
  const int64_t plane = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kThreads) + threadIdx.x / kThreads;
  if (plane >= planes) return;  // a whole warp of a kernel without barriers
  const T* const x = args.x + plane * args.pixels;
  const T* const dy = args.dy + plane * args.pixels;
  const Span<kVector> span(x, args.pixels);
  const int vectors = static_cast<int>(span.vectors);
  const bool has_loose = thread < span.loose;

  Packed<T, kVector> data_x[kVectors], data_dy[kVectors];
  A loose_x = A(0), loose_dy = A(0);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (v * kThreads + thread < vectors) {
      data_x[v] = load<kVector>(x + span.vector_offset(v * kThreads + thread));
      data_dy[v] = load<kVector>(dy + span.vector_offset(v * kThreads + thread));
    }
  }
  if (has_loose) {
    loose_x = load_one(x + span.loose_offset(thread));
    loose_dy = load_one(dy + span.loose_offset(thread));
  }
  const A rstd = args.rstd[plane];
  const Channel<A> channel = make_channel(args, plane % args.affine_planes, args.mean[plane], rstd);

  Sums<A> sums{};
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (v * kThreads + thread < vectors) {
      A value[kVector], gradient[kVector];
      forget_unpacked(data_x[v]);
      forget_unpacked(data_dy[v]);
      unpack(data_x[v], value);
      unpack(data_dy[v], gradient);
#pragma unroll
      for (int e = 0; e < kVector; ++e) add_gradient(sums, channel, args.slope, value[e], gradient[e]);
    }
  }
  if (has_loose) add_gradient(sums, channel, args.slope, loose_x, loose_dy);
  sums = group_merge<kThreads>(sums);
  A mean_g, tilt;
  finish_gradient_sums(args, plane, sums, thread == 0, rstd, mean_g, tilt);

  T* const dx = args.dx + plane * args.pixels;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (v * kThreads + thread < vectors) {
      A value[kVector], gradient[kVector];
      forget_unpacked(data_x[v]);
      forget_unpacked(data_dy[v]);
      unpack(data_x[v], value);
      unpack(data_dy[v], gradient);
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        value[e] = backward_value(channel, args.slope, mean_g, tilt, value[e], gradient[e]);
      }
      store(dx + span.vector_offset(v * kThreads + thread), pack<T>(value));
    }
  }
  if (has_loose) {
    store_one(dx + span.loose_offset(thread), backward_value(channel, args.slope, mean_g, tilt, loose_x, loose_dy));
  }
}

// One block per part of a plane. kSplit: `partials` [N*C, splits] hold the sums of all parts; else the part is the
// plane.
template <typename T, int kVector, bool kSplit>
__global__ void __launch_bounds__(kStreamThreads, 1)
    planes_backward(NormBackward<T> args, const Sums<Accumulator<T>>* partials, int splits, int64_t chunk) {
  using A = Accumulator<T>;
  const PlanePart<kSplit> part(args.pixels, splits, chunk);
  const int64_t start = part.plane * args.pixels + part.begin;
  const A rstd = args.rstd[part.plane];
  const Channel<A> channel = make_channel(args, part.plane % args.affine_planes, args.mean[part.plane], rstd);
  const A slope = args.slope;
  Sums<A> sums;
  if constexpr (kSplit) {
    sums = merge_partials(partials + part.plane * splits, splits);
  } else {
    sums = group_merge<kStreamThreads>(
        span_gradient_sums<kVector>(args.x + start, args.dy + start, part.count, channel, slope));
  }
  A mean_g, tilt;
  finish_gradient_sums(args, part.plane, sums, part.split == 0 && threadIdx.x == 0, rstd, mean_g, tilt);
  span_apply<kVector>(args.x + start, args.dy + start, args.dx + start, part.count,
                      [=](A x, A dy) { return backward_value(channel, slope, mean_g, tilt, x, dy); });
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kStreamThreads, 1)
    planes_partial_gradient_sums(NormBackward<T> args, Sums<Accumulator<T>>* partials, int splits, int64_t chunk) {
  using A = Accumulator<T>;
  const PlanePart<false> part(args.pixels, splits, chunk);
  const int64_t start = part.plane * args.pixels + part.begin;
  const Channel<A> channel =
      make_channel(args, part.plane % args.affine_planes, args.mean[part.plane], args.rstd[part.plane]);
  const Sums<A> sums = group_merge<kStreamThreads>(
      span_gradient_sums<kVector>(args.x + start, args.dy + start, part.count, channel, args.slope));
  if (threadIdx.x == 0) partials[blockIdx.x] = sums;
}

}  // namespace jdm_fast::cuda
