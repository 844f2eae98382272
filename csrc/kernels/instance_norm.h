// Instance norm with the activation and the residual fused, forward and backward:
//   xhat = (x - mean) * rstd,  t = weight * xhat + bias,  y = act(t) + residual,
// mean and biased variance over the H*W pixels of every (sample, channel), rstd = 1/sqrt(var + eps).
// Backward, with g = dy * act'(t) and means over the plane:
//   dx = weight * rstd * (g - mean(g) - xhat * mean(g * xhat)),  d_bias = sum g,  d_weight = sum g * xhat.
// Weight and bias have one value a channel, or one a plane (affine_per_sample).
// The residual's gradient is dy itself, so no kernel computes it.
#pragma once

#include <string>

#include "types.h"

namespace jdm_fast {

struct InstanceNormShape {
  int64_t batch;       // N
  int64_t channels;    // C
  int64_t pixels;      // H * W
  bool channels_last;  // memory order of x, residual, y, dy, dx: [N, H*W, C] if set, else [N, C, H*W]
  DType dtype;         // of x, residual, y, dy, dx
  Activation activation;
  double negative_slope;           // of kLeakyRelu
  bool affine_per_sample = false;  // weight and bias are [N, C], not [C]
};

// Planes with a weight and a bias of their own, C or N*C: those of plane p (of N*C) are at p % affine_planes.
inline int64_t affine_planes(const InstanceNormShape& shape) {
  return shape.affine_per_sample ? shape.batch * shape.channels : shape.channels;
}

struct InstanceNormForward {
  const void* x;         // [N, C, H*W] or [N, H*W, C], dtype
  const void* residual;  // like x, or nullptr
  const void* weight;    // [C] or [N, C] accumulator type, or nullptr (= 1)
  const void* bias;      // [C] or [N, C] accumulator type, or nullptr (= 0)
  void* y;               // like x
  void* mean;            // [N, C] accumulator type
  void* rstd;            // [N, C] accumulator type
  double eps;
};

struct InstanceNormBackward {
  const void* dy;      // like x
  const void* x;       // [N, C, H*W] or [N, H*W, C], dtype
  const void* mean;    // [N, C] accumulator type
  const void* rstd;    // [N, C] accumulator type
  const void* weight;  // [C] or [N, C] accumulator type, or nullptr (= 1)
  const void* bias;    // [C] or [N, C] accumulator type, or nullptr (= 0)
  void* dx;            // like x
  void* d_weight;      // [N, C] accumulator type: per-sample sums; for weights [C] the caller sums them over N
  void* d_bias;        // [N, C] accumulator type: per-sample sums; for weights [C] the caller sums them over N
};

// Any of N, C, H*W may be 0: then nothing is read or written except that d_weight and d_bias become 0 where N*C > 0.
void instance_norm_forward_cpu(const InstanceNormShape& shape, const InstanceNormForward& args, int num_threads);
void instance_norm_backward_cpu(const InstanceNormShape& shape, const InstanceNormBackward& args, int num_threads);

// Bytes of device scratch the CUDA launchers need (0 if none). `backward` selects the direction;
// `multiprocessors` is the device's SM count, which the plan uses to decide how far a plane is split.
size_t instance_norm_workspace_cuda(const InstanceNormShape& shape, bool backward, int multiprocessors);

// What measurements and tests may ask of the CUDA launchers instead of the plan's choice (cuda/instance_norm_plan.h),
// for [N, C, H*W] and for channels_last shapes whose channels are whole vectors. One a process; not for use while other
// threads launch.
struct InstanceNormOverride {
  enum class Path : int { kPlan, kTwoKernels, kCluster };  // kTwoKernels: for [N, C, H*W] all that needs no cluster
  enum class Hold : int { kPlan, kRegisters, kShared };
  Path path = Path::kPlan;
  int lanes = 0;            // channels_last: 16-byte vectors side by side in a tile, 2, 4 or 8; 0: the plan's
  int cluster = 0;          // kCluster: blocks of a cluster, 1 to 16, a power of two; 0: the plan's
  int64_t group = 0;        // channels_last, kTwoKernels: samples of a pair of launches; 0: the plan's
  bool overlap = true;      // channels_last, kTwoKernels: let the second kernel begin before the first has ended
  bool refused = false;     // set by a launch when kCluster was asked for and the device cannot: others ran instead
  Hold hold = Hold::kPlan;  // kCluster: where blocks hold their parts; channels_last, kShared: partly there
};
InstanceNormOverride& instance_norm_override_cuda();

// The kernels that a launch of such a shape takes, in words, for reports: "cluster 8 x 64 KiB, rows of 128 B". With an
// override that does not fit the shape: "".
std::string instance_norm_plan_cuda(const InstanceNormShape& shape, bool backward, int multiprocessors);

// `stream` is a cudaStream_t. Asynchronous; the caller checks cudaGetLastError (the bindings do).
void instance_norm_forward_cuda(const InstanceNormShape& shape, const InstanceNormForward& args, void* workspace,
                                int multiprocessors, void* stream);
void instance_norm_backward_cuda(const InstanceNormShape& shape, const InstanceNormBackward& args, void* workspace,
                                 int multiprocessors, void* stream);

// The sums over samples of d_weight and d_bias as the backward leaves them, [N, C] to [C] of the accumulator type, in
// one launch. For batches: a thread adds up all samples of a channel.
void instance_norm_sum_samples_cuda(const InstanceNormShape& shape, const void* d_weight_each, const void* d_bias_each,
                                    void* d_weight, void* d_bias, void* stream);

}  // namespace jdm_fast
