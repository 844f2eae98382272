// Forward launchers of instance norm: choose the kernels (cuda/instance_norm_plan.h), then launch them.
#include "cuda/instance_norm_launch.h"
#include "instance_norm.h"

namespace jdm_fast {
namespace cuda {
namespace {

template <typename T>
NormForward<T> make_args(const InstanceNormShape& shape, const InstanceNormForward& args) {
  using A = Accumulator<T>;
  return {static_cast<const T*>(args.x),
          static_cast<const T*>(args.residual),
          static_cast<const A*>(args.weight),
          static_cast<const A*>(args.bias),
          static_cast<T*>(args.y),
          static_cast<A*>(args.mean),
          static_cast<A*>(args.rstd),
          shape.channels,
          shape.pixels,
          affine_planes(shape),
          static_cast<A>(args.eps),
          static_cast<A>(slope_of(shape))};
}

template <typename T, int kThreads, int kVectors>
void launch_resident(const NormForward<T>& args, int64_t planes, void* stream) {
  constexpr int kBlock = kThreads == 32 ? 128 : kThreads;
  JDM_LAUNCH((planes_forward_resident<T, kThreads, kVectors>), grid_size(ceil_divide(planes, kBlock / kThreads)),
             kBlock, 0, stream)
  (args, planes);
}

template <typename T, int kVector>
void launch_planes(const NormForward<T>& args, int64_t planes, const NormPlan& plan, void* workspace, void* stream) {
  using A = Accumulator<T>;
  auto* const partials = static_cast<Moments<A>*>(workspace);
  const unsigned grid = grid_size(planes * plan.splits);
  if (plan.splits == 1) {
    JDM_LAUNCH((planes_forward<T, kVector, false>), grid, kStreamThreads, 0, stream)(args, nullptr, 1, plan.chunk);
    return;
  }
  JDM_LAUNCH((planes_partial_moments<T, kVector>), grid, kStreamThreads, 0, stream)
  (args, partials, plan.splits, plan.chunk);
  JDM_LAUNCH((planes_forward<T, kVector, true>), grid, kStreamThreads, 0, stream)
  (args, partials, plan.splits, plan.chunk);
}

template <typename T, int kVector>
void launch_channels(const NormForward<T>& args, int64_t batch, TileLayout layout, int64_t group, void* workspace,
                     void* stream) {
  using A = Accumulator<T>;
  auto* const partials = static_cast<Moments<A>*>(workspace);
  const bool overlap = instance_norm_override_cuda().overlap;
  for (; layout.first_sample < batch; layout.first_sample += group) {
    const unsigned grid = grid_size(std::min(group, batch - layout.first_sample) * layout.tiles * layout.splits);
    if (layout.splits == 1) {
      JDM_LAUNCH((channels_forward<T, kVector, false>), grid, kTileThreads, 0, stream)(args, nullptr, layout);
      continue;
    }
    JDM_LAUNCH_WITH((channels_partial_moments<T, kVector>), (LaunchOptions{1, overlap && layout.first_sample > 0}),
                    grid, kTileThreads, 0, stream)
    (args, partials, layout);
    JDM_LAUNCH_WITH((channels_forward<T, kVector, true>), (LaunchOptions{1, overlap}), grid, kTileThreads, 0, stream)
    (args, partials, layout);
  }
}

// False: this device does not do it.
template <typename T>
bool launch_tile_cluster(const NormForward<T>& args, int64_t batch, const ClusterPlan& plan, int64_t tiles,
                         void* stream) {
  constexpr int kWithMore = held_threads_with_more(/*backward=*/false);
  const int64_t clusters = batch * tiles;
  const HeldLayout layout = held_layout(plan, tiles, args.pixels);
  if (plan.shared_bytes > 0) {
    return launch_clusters<channels_forward_held<T, kWithMore, true>>(clusters, plan, stream, args, layout);
  }
  if (plan.threads == 256) {
    return launch_clusters<channels_forward_held<T, 256, false>>(clusters, plan, stream, args, layout);
  }
  return launch_clusters<channels_forward_held<T, 512, false>>(clusters, plan, stream, args, layout);
}

// The same of whole planes.
template <typename T>
bool launch_plane_cluster(const NormForward<T>& args, int64_t planes, const ClusterPlan& plan, void* stream) {
  if (plan.shared_bytes > 0) {
    return launch_clusters<planes_forward_cluster<T, 0>>(planes, plan, stream, args, plan.chunk, plan.streaming);
  }
  return launch_clusters<planes_forward_cluster<T, kPlaneVectorsForward>>(planes, plan, stream, args, plan.chunk,
                                                                          plan.streaming);
}

template <typename T>
void launch_forward(const InstanceNormShape& shape, const Device& device, const NormForward<T>& args, void* workspace,
                    void* stream) {
  constexpr bool kVectorised = !std::is_same_v<T, double>;  // double is for checking gradients, not for speed
  constexpr int kVector = kVectorised ? kVectorElements<T> : 1;
  const NormPlan plan = norm_plan(shape, /*backward=*/false, device, instance_norm_override_cuda());
  if (shape.channels_last) {
    if constexpr (kVectorised) {
      if (channels_vector(shape) == kVector &&
          vector_aligned(args.x, args.residual, args.y, args.weight, args.bias, args.mean, args.rstd)) {
        InstanceNormOverride& wish = instance_norm_override_cuda();
        const ClusterPlan cluster = cluster_plan(shape, /*backward=*/false, device, wish);
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
    if (lie_alike(args.x, args.y) && lie_alike(args.x, args.residual)) {
      InstanceNormOverride& wish = instance_norm_override_cuda();
      const ClusterPlan cluster = cluster_plan(shape, /*backward=*/false, device, wish);
      if (cluster.blocks > 0) {
        if (launch_plane_cluster(args, planes, cluster, stream)) return;
        if (wish.path == InstanceNormOverride::Path::kCluster) wish.refused = true;
      }
      if (!plan.resident) return launch_planes<T, kVector>(args, planes, plan, workspace, stream);
      const int64_t vectors = shape.pixels / kVector;
      const int threads = norm_threads(vectors, /*backward=*/false);
      if (threads == 32) return launch_resident<T, 32, 4>(args, planes, stream);
      if (threads == 128) return launch_resident<T, 128, 4>(args, planes, stream);
      if (vectors <= 256 * 4) return launch_resident<T, 256, 4>(args, planes, stream);
      if (threads == 256) return launch_resident<T, 256, 8>(args, planes, stream);
      static_assert(kResidentVectorsForward == 512 * 8, "the largest resident kernel");
      return launch_resident<T, 512, 8>(args, planes, stream);
    }
  }
  launch_planes<T, 1>(args, planes, plan, workspace, stream);
}

}  // namespace
}  // namespace cuda

InstanceNormOverride& instance_norm_override_cuda() {
  static InstanceNormOverride wish;
  return wish;
}

std::string instance_norm_plan_cuda(const InstanceNormShape& shape, bool backward, int multiprocessors) {
  const cuda::Device device = cuda::current_device(multiprocessors);
  const InstanceNormOverride& wish = instance_norm_override_cuda();
  const auto text = [](int64_t number) { return std::to_string(number); };
  const cuda::ClusterPlan cluster = cuda::cluster_plan(shape, backward, device, wish);
  if (cluster.blocks > 0 && !shape.channels_last) {
    const int64_t bytes = cluster.chunk * dtype_size(shape.dtype) * (backward ? 2 : 1);
    return "cluster " + text(cluster.blocks) + " x " + text(bytes / 1024) + " KiB in " +
           (cluster.shared_bytes > 0 ? "shared memory" : "registers");
  }
  if (cluster.blocks > 0) {
    const std::string rows = "rows of " + text(cuda::kVectorBytes << cluster.lanes_log2) + " B";
    const std::string more =
        cluster.shared_bytes > 0 ? " and " + text(static_cast<int64_t>(cluster.shared_bytes) / 1024) + " KiB" : "";
    return "cluster " + text(cluster.blocks) + " of " + text(cluster.threads) + " threads, registers" + more + ", " +
           rows;
  }
  if (wish.path == InstanceNormOverride::Path::kCluster) return "";
  const cuda::NormPlan plan = cuda::norm_plan(shape, backward, device, wish);
  if (plan.resident) return "resident planes";
  if (!shape.channels_last) return "planes in " + text(plan.splits);
  return "tiles in " + text(plan.splits) + ", rows of " +
         text((cuda::channels_vector(shape) * dtype_size(shape.dtype)) << plan.lanes_log2) + " B, groups of " +
         text(plan.group) + (wish.overlap ? "" : ", no overlap");
}

size_t instance_norm_workspace_cuda(const InstanceNormShape& shape, bool backward, int multiprocessors) {
  if (cuda::is_empty(shape)) return 0;
  const cuda::NormPlan plan =
      cuda::norm_plan(shape, backward, cuda::current_device(multiprocessors), instance_norm_override_cuda());
  if (plan.splits == 1) return 0;
  const int64_t numbers = backward ? 2 : 3;  // Sums, Moments
  return static_cast<size_t>(shape.batch * shape.channels * plan.splits * numbers * accumulator_size(shape.dtype));
}

void instance_norm_forward_cuda(const InstanceNormShape& shape, const InstanceNormForward& args, void* workspace,
                                int multiprocessors, void* stream) {
  if (cuda::is_empty(shape)) return;
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    cuda::launch_forward<T>(shape, cuda::current_device(multiprocessors), cuda::make_args<T>(shape, args), workspace,
                            stream);
  });
}

}  // namespace jdm_fast
