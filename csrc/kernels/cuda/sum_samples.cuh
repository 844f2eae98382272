// The gradients of weight and bias from those of each sample.
#pragma once

#include "device.cuh"

namespace jdm_fast::cuda {

constexpr int kSumThreads = 128;

// sum[0][c] and sum[1][c] become the sums over the samples of each[0] and each[1], [samples, channels], a channel a
// thread. The order of the samples is theirs, so the result has the same bits in every run.
template <typename A>
__global__ void __launch_bounds__(kSumThreads)
    sum_samples(const A* first, const A* second, A* first_sum, A* second_sum, int64_t samples, int64_t channels) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (i >= 2 * channels) return;
  const bool is_second = i >= channels;
  const int64_t channel = is_second ? i - channels : i;
  const A* const from = is_second ? second : first;
  A sum = A(0);
#pragma unroll 8
  for (int64_t n = 0; n < samples; ++n) sum += load_one(from + n * channels + channel);
  store_one((is_second ? second_sum : first_sum) + channel, sum);
}

}  // namespace jdm_fast::cuda
