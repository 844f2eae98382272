// What the launchers of instance norm share beside the plan: the device they are on, and plans as kernels take them.
#pragma once

#include "instance_norm_channels.cuh"
#include "instance_norm_held.cuh"
#include "instance_norm_plan.h"
#include "instance_norm_planes.cuh"
#include "instance_norm_planes_cluster.cuh"

namespace jdm_fast::cuda {

inline Device current_device(int multiprocessors) { return {multiprocessors, compute_capability(), cache_bytes()}; }

// The plan as the kernels with vectors of `vector` elements take it, where the plan may have been made for longer ones.
inline TileLayout tile_layout(const InstanceNormShape& shape, int vector, const NormPlan& plan) {
  const int lanes_log2 = vector == channels_vector(shape) ? plan.lanes_log2 : widest_tile(shape, vector);
  return {lanes_log2,    static_cast<int>(tiles_of(shape, vector, lanes_log2)), plan.splits, plan.chunk, 0,
          plan.streaming};
}

// The plan as the kernels of instance_norm_held.cuh take it.
inline HeldLayout held_layout(const ClusterPlan& plan, int64_t tiles, int64_t pixels) {
  return {plan.lanes_log2,
          log2_of(plan.blocks),
          static_cast<int>(tiles),
          static_cast<int>(plan.chunk),
          1.0f / static_cast<float>(pixels),
          plan.streaming};
}

// A kernel for the clusters of a plan. False: this device does not do it.
template <auto kKernel, typename... Parameters>
bool launch_clusters(int64_t clusters, const ClusterPlan& plan, void* stream, const Parameters&... parameters) {
  const auto blocks = static_cast<unsigned>(plan.blocks), threads = static_cast<unsigned>(plan.threads);
  if (!prepare_cluster(kKernel, blocks, threads, plan.shared_bytes)) return false;
  JDM_LAUNCH_WITH((kKernel), (LaunchOptions{blocks, false}), grid_size(clusters * blocks), threads, plan.shared_bytes,
                  stream)
  (parameters...);
  return true;
}

// Slope of the activation below zero.
inline double slope_of(const InstanceNormShape& shape) {
  switch (shape.activation) {
    case Activation::kRelu:
      return 0.0;
    case Activation::kLeakyRelu:
      return shape.negative_slope;
    case Activation::kNone:
      break;
  }
  return 1.0;
}

// Whether vectors cover the same elements of both tensors: they lie alike relative to a vector's bytes. nullptr counts
// as yes.
inline bool lie_alike(const void* a, const void* b) {
  return b == nullptr || (reinterpret_cast<uintptr_t>(a) - reinterpret_cast<uintptr_t>(b)) % kVectorBytes == 0;
}

}  // namespace jdm_fast::cuda
