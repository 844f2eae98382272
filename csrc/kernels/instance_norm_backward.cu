// Backward launchers of instance norm; the forward ones are in instance_norm.cu. Two files because they compile side by
// side.
#include "cuda/instance_norm_launch.h"
#include "cuda/sum_samples.cuh"
#include "instance_norm.h"

namespace jdm_fast {
namespace cuda {
namespace {

template <typename T>
NormBackward<T> make_args(const InstanceNormShape& shape, const InstanceNormBackward& args) {
  using A = Accumulator<T>;
  return {static_cast<const T*>(args.dy),
          static_cast<const T*>(args.x),
          static_cast<const A*>(args.mean),
          static_cast<const A*>(args.rstd),
          static_cast<const A*>(args.weight),
          static_cast<const A*>(args.bias),
          static_cast<T*>(args.dx),
          static_cast<A*>(args.d_weight),
          static_cast<A*>(args.d_bias),
          shape.channels,
          shape.pixels,
          affine_planes(shape),
          static_cast<A>(slope_of(shape))};
}

template <typename A>
__global__ void __launch_bounds__(kStreamThreads) zero_parameter_gradients(A* d_weight, A* d_bias, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStreamThreads + threadIdx.x;
  if (i < count) d_weight[i] = d_bias[i] = A(0);
}

template <typename T, int kThreads, int kVectors>
void launch_resident(const NormBackward<T>& args, int64_t planes, void* stream) {
  constexpr int kBlock = kThreads == 32 ? 128 : kThreads;
  JDM_LAUNCH((planes_backward_resident<T, kThreads, kVectors>), grid_size(ceil_divide(planes, kBlock / kThreads)),
             kBlock, 0, stream)
  (args, planes);
}

template <typename T, int kVector>
void launch_planes(const NormBackward<T>& args, int64_t planes, const NormPlan& plan, void* workspace, void* stream) {
  using A = Accumulator<T>;
  auto* const partials = static_cast<Sums<A>*>(workspace);
  const unsigned grid = grid_size(planes * plan.splits);
  if (plan.splits == 1) {
    JDM_LAUNCH((planes_backward<T, kVector, false>), grid, kStreamThreads, 0, stream)(args, nullptr, 1, plan.chunk);
    return;
  }
  JDM_LAUNCH((planes_partial_gradient_sums<T, kVector>), grid, kStreamThreads, 0, stream)
  (args, partials, plan.splits, plan.chunk);
  JDM_LAUNCH((planes_backward<T, kVector, true>), grid, kStreamThreads, 0, stream)
  (args, partials, plan.splits, plan.chunk);
}

template <typename T, int kVector>
void launch_channels(const NormBackward<T>& args, int64_t batch, TileLayout layout, int64_t group, void* workspace,
                     void* stream) {
  using A = Accumulator<T>;
  auto* const partials = static_cast<Sums<A>*>(workspace);
  const bool overlap = instance_norm_override_cuda().overlap;
  for (; layout.first_sample < batch; layout.first_sample += group) {
    const unsigned grid = grid_size(std::min(group, batch - layout.first_sample) * layout.tiles * layout.splits);
    if (layout.splits == 1) {
      JDM_LAUNCH((channels_backward<T, kVector, false>), grid, kTileThreads, 0, stream)(args, nullptr, layout);
      continue;
    }
    JDM_LAUNCH_WITH((channels_partial_gradient_sums<T, kVector>),
                    (LaunchOptions{1, overlap && layout.first_sample > 0}), grid, kTileThreads, 0, stream)
    (args, partials, layout);
    JDM_LAUNCH_WITH((channels_backward<T, kVector, true>), (LaunchOptions{1, overlap}), grid, kTileThreads, 0, stream)
    (args, partials, layout);
  }
}

// False: this device does not do it.
template <typename T>
bool launch_tile_cluster(const NormBackward<T>& args, int64_t batch, const ClusterPlan& plan, int64_t tiles,
                         void* stream) {
  constexpr int kWithMore = held_threads_with_more(/*backward=*/true);
  const int64_t clusters = batch * tiles;
  const HeldLayout layout = held_layout(plan, tiles, args.pixels);
  if (plan.shared_bytes > 0) {
    return launch_clusters<channels_backward_held<T, kWithMore, true>>(clusters, plan, stream, args, layout);
  }
  if (plan.threads == 256) {
    return launch_clusters<channels_backward_held<T, 256, false>>(clusters, plan, stream, args, layout);
  }
  return launch_clusters<channels_backward_held<T, 512, false>>(clusters, plan, stream, args, layout);
}

// The same of whole planes.
template <typename T>
bool launch_plane_cluster(const NormBackward<T>& args, int64_t planes, const ClusterPlan& plan, void* stream) {
  if (plan.shared_bytes > 0) {
    return launch_clusters<planes_backward_cluster<T, 0>>(planes, plan, stream, args, plan.chunk, plan.streaming);
  }
  return launch_clusters<planes_backward_cluster<T, kPlaneVectorsBackward>>(planes, plan, stream, args, plan.chunk,
                                                                            plan.streaming);
}

template <typename T>
void launch_backward(const InstanceNormShape& shape, const Device& device, const NormBackward<T>& args, void* workspace,
                     void* stream) {
  constexpr bool kVectorised = !std::is_same_v<T, double>;  // double is for checking gradients, not for speed
  constexpr int kVector = kVectorised ? kVectorElements<T> : 1;
  const NormPlan plan = norm_plan(shape, /*backward=*/true, device, instance_norm_override_cuda());
  if (shape.channels_last) {
    if constexpr (kVectorised) {
      if (channels_vector(shape) == kVector && vector_aligned(args.x, args.dy, args.dx, args.weight, args.bias,
                                                              args.mean, args.rstd, args.d_weight, args.d_bias)) {
        InstanceNormOverride& wish = instance_norm_override_cuda();
        const ClusterPlan cluster = cluster_plan(shape, /*backward=*/true, device, wish);
        const int64_t tiles = tiles_of(shape, kVector, cluster.lanes_log2);
        if (cluster.blocks > 0) {
          if (launch_tile_cluster(args, shape.batch, cluster, tiles, stream)) return;
          if (wish.path == InstanceNormOverride::Path::kCluster) wish.refused = true;
        }
        return launch_channels<T, kVector>(args, shape.batch, tile_layout(shape, kVector, plan), plan.group, workspace,
                                           stream);
      }
    }
    return launch_channels<T, 1>(args, shape.batch, tile_layout(shape, 1, plan), plan.group, workspace, stream);
  }
  const int64_t planes = shape.batch * shape.channels;
  if constexpr (kVectorised) {
    if (lie_alike(args.x, args.dy) && lie_alike(args.x, args.dx)) {
      InstanceNormOverride& wish = instance_norm_override_cuda();
      const ClusterPlan cluster = cluster_plan(shape, /*backward=*/true, device, wish);
      if (cluster.blocks > 0) {
        if (launch_plane_cluster(args, planes, cluster, stream)) return;
        if (wish.path == InstanceNormOverride::Path::kCluster) wish.refused = true;
      }
      if (!plan.resident) return launch_planes<T, kVector>(args, planes, plan, workspace, stream);
      const int64_t vectors = shape.pixels / kVector;
      const int threads = norm_threads(vectors, /*backward=*/true);
      if (threads == 32) return launch_resident<T, 32, 4>(args, planes, stream);
      if (threads == 128) return launch_resident<T, 128, 4>(args, planes, stream);
      if (threads == 256) return launch_resident<T, 256, 4>(args, planes, stream);
      static_assert(kResidentVectorsBackward == 512 * 4, "the largest resident kernel");
      return launch_resident<T, 512, 4>(args, planes, stream);
    }
  }
  launch_planes<T, 1>(args, planes, plan, workspace, stream);
}

}  // namespace
}  // namespace cuda

void instance_norm_backward_cuda(const InstanceNormShape& shape, const InstanceNormBackward& args, void* workspace,
                                 int multiprocessors, void* stream) {
  if (shape.batch == 0 || shape.channels == 0) return;
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const cuda::NormBackward<T> device_args = cuda::make_args<T>(shape, args);
    if (shape.pixels == 0) {
      const int64_t count = shape.batch * shape.channels;
      JDM_LAUNCH((cuda::zero_parameter_gradients<Accumulator<T>>),
                 cuda::grid_size(cuda::ceil_divide(count, cuda::kStreamThreads)), cuda::kStreamThreads, 0, stream)
      (device_args.d_weight, device_args.d_bias, count);
      return;
    }
    cuda::launch_backward<T>(shape, cuda::current_device(multiprocessors), device_args, workspace, stream);
  });
}

void instance_norm_sum_samples_cuda(const InstanceNormShape& shape, const void* d_weight_each, const void* d_bias_each,
                                    void* d_weight, void* d_bias, void* stream) {
  if (shape.channels == 0) return;
  visit_dtype(shape.dtype, [&](auto tag) {
    using A = Accumulator<typename decltype(tag)::type>;
    JDM_LAUNCH((cuda::sum_samples<A>), cuda::grid_size(cuda::ceil_divide(2 * shape.channels, cuda::kSumThreads)),
               cuda::kSumThreads, 0, stream)
    (static_cast<const A*>(d_weight_each), static_cast<const A*>(d_bias_each), static_cast<A*>(d_weight),
     static_cast<A*>(d_bias), shape.batch, shape.channels);
  });
}

}  // namespace jdm_fast
