// Instance norm on the device: what both memory layouts and both directions share. The kernels are in
// cuda/instance_norm_planes.cuh ([N, C, H*W]) and cuda/instance_norm_channels.cuh ([N, H*W, C]).
#pragma once

#include "cuda/reductions.cuh"

namespace jdm_fast::cuda {

template <typename T>
struct NormForward {
  using A = Accumulator<T>;
  const T* x;         // [N, C, H*W] or [N, H*W, C]
  const T* residual;  // like x, or nullptr
  const A* weight;    // [C] or [N, C], or nullptr
  const A* bias;      // [C] or [N, C], or nullptr
  T* y;               // like x
  A* mean;            // [N, C]
  A* rstd;            // [N, C]
  int64_t channels;
  int64_t pixels;
  int64_t affine_planes;  // C or N*C
  A eps;
  A slope;  // of the activation below zero: 1 for none, 0 for ReLU
};

template <typename T>
struct NormBackward {
  using A = Accumulator<T>;
  const T* dy;      // [N, C, H*W] or [N, H*W, C]
  const T* x;       // like dy
  const A* mean;    // [N, C]
  const A* rstd;    // [N, C]
  const A* weight;  // [C] or [N, C], or nullptr
  const A* bias;    // [C] or [N, C], or nullptr
  T* dx;            // like dy
  A* d_weight;      // [N, C]
  A* d_bias;        // [N, C]
  int64_t channels;
  int64_t pixels;
  int64_t affine_planes;  // C or N*C
  A slope;
};

// One channel of one sample: t = (x - mean) * scale + bias with scale = rstd * weight. The mean is subtracted first:
// folding it into the bias would cancel when it is large.
template <typename A>
struct Channel {
  A mean;
  A scale;
  A bias;
};

// `at`: plane % affine_planes.
template <typename Args, typename A>
__device__ __forceinline__ Channel<A> make_channel(const Args& args, int64_t at, A mean, A rstd) {
  return {mean, args.weight != nullptr ? rstd * args.weight[at] : rstd, args.bias != nullptr ? args.bias[at] : A(0)};
}

template <typename A>
__device__ __forceinline__ A rstd_of(const Moments<A>& moments, A eps) {
  return reciprocal_root(moments.m2 / moments.count + eps);
}

template <typename A>
__device__ __forceinline__ A forward_value(const Channel<A>& channel, A slope, A x) {
  const A t = (x - channel.mean) * channel.scale + channel.bias;
  return t > A(0) ? t : slope * t + A(0);  // ReLU of a negative number is 0, not -0
}

// g = dy * act'(t), with t recomputed from x.
template <typename A>
__device__ __forceinline__ A masked_gradient(const Channel<A>& channel, A slope, A x, A dy) {
  const A t = (x - channel.mean) * channel.scale + channel.bias;
  return t > A(0) ? dy : slope * dy;
}

// The sums the backward pass needs of each plane are (sum of g, sum of g * (x - mean)); times rstd, the second is
// d_weight.
template <typename A>
__device__ __forceinline__ void add_gradient(Sums<A>& sums, const Channel<A>& channel, A slope, A x, A dy) {
  const A g = masked_gradient(channel, slope, x, dy);
  sums.first += g;
  sums.second += g * (x - channel.mean);
}

// dx = scale * (g - mean(g) - xhat * mean(g * xhat)); `tilt` is rstd * mean(g * xhat), so that xhat need not be formed.
template <typename A>
__device__ __forceinline__ A backward_value(const Channel<A>& channel, A slope, A mean_g, A tilt, A x, A dy) {
  const A g = masked_gradient(channel, slope, x, dy);
  return channel.scale * (g - mean_g - (x - channel.mean) * tilt);
}

}  // namespace jdm_fast::cuda
