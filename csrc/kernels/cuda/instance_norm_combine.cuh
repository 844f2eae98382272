// Instance norm of [N, H*W, C] whose tiles are shared by several blocks: combines what the blocks found, [N, splits,
// C]. A block has 32 neighbouring channels of one sample, its warps share the parts.
#pragma once

#include "../instance_norm.cuh"

namespace jdm_fast::cuda {

constexpr int kCombineThreads = 1024;

// True in the one thread that then has the channel numbered `at` (of [N, C]) and its total.
template <typename Value>
__device__ __forceinline__ bool combine_parts(const Value* partials, int splits, int64_t channels, int64_t& at,
                                              Value& total) {
  JDM_SHARED_ARRAY(Value, partial, kCombineThreads);
  const int64_t groups = ceil_divide(channels, 32);
  const int64_t sample = blockIdx.x / groups;
  const int64_t channel = blockIdx.x % groups * 32 + threadIdx.x % 32;
  total = Value{};
  if (channel < channels) {
#pragma unroll 4
    for (int s = threadIdx.x / 32; s < splits; s += kCombineThreads / 32) {
      total = merge(total, partials[(sample * splits + s) * channels + channel]);
    }
  }
  partial[threadIdx.x] = total;
#pragma unroll
  for (int half = kCombineThreads / 2; half >= 32; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) {
      total = merge(total, partial[threadIdx.x + half]);
      partial[threadIdx.x] = total;
    }
  }
  at = sample * channels + channel;
  return threadIdx.x < 32 && channel < channels;
}

template <typename T>
__global__ void __launch_bounds__(kCombineThreads)
    channels_combine_moments(NormForward<T> args, const Moments<Accumulator<T>>* partials, int splits) {
  int64_t at;
  Moments<Accumulator<T>> total;
  if (!combine_parts(partials, splits, args.channels, at, total)) return;
  const int64_t sample = at / args.channels, channel = at % args.channels;
  args.mean[at] = load_one(args.x + sample * args.pixels * args.channels + channel) + total.mean;
  args.rstd[at] = rstd_of(total, args.eps);
}

template <typename A>
__global__ void __launch_bounds__(kCombineThreads)
    channels_combine_gradient_sums(const Sums<A>* partials,  // [N, splits, C]
                                   int splits, int64_t channels,
                                   const A* rstd,  // [N, C]
                                   A* d_weight,    // [N, C]
                                   A* d_bias) {    // [N, C]
  int64_t at;
  Sums<A> total;
  if (!combine_parts(partials, splits, channels, at, total)) return;
  d_bias[at] = total.first;
  d_weight[at] = total.second * rstd[at];
}

}  // namespace jdm_fast::cuda
