// The plan of instance norm as Python sees it. Repeats what the launchers (kernels/instance_norm*.cu) make of the plan:
// which kernels, how many blocks.
#include "instance_norm_plan.h"

#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "kernels/cuda/instance_norm_plan.h"

namespace jdm_fast {
namespace {

struct Description {
  std::string path;
  std::vector<std::string> kernels;
  int64_t blocks;  // of each
  int threads;
  int cluster;           // blocks of a cluster
  int64_t shared_bytes;  // dynamic, of a block
  int reads;             // times that x (and dy) are read
};

Description describe(const InstanceNormShape& shape, bool backward, const cuda::Device& device) {
  const std::string direction = backward ? "backward" : "forward";
  const std::string partial = backward ? "partial_gradient_sums" : "partial_moments";
  const cuda::ClusterPlan cluster = cuda::cluster_plan(shape, backward, device, {});
  // Planes, or tiles of channels, of which a kernel for tiles of 2^lanes_log2 lanes has so many.
  const auto units = [&](int lanes_log2) {
    return shape.batch *
           (shape.channels_last ? cuda::tiles_of(shape, cuda::channels_vector(shape), lanes_log2) : shape.channels);
  };
  if (cluster.blocks > 0) {
    return {"cluster",
            {shape.channels_last ? "channels_" + direction + "_held" : "planes_" + direction + "_cluster"},
            units(cluster.lanes_log2) * cluster.blocks,
            cluster.threads,
            cluster.blocks,
            static_cast<int64_t>(cluster.shared_bytes),
            1};
  }
  const cuda::NormPlan plan = cuda::norm_plan(shape, backward, device, {});
  if (plan.resident) {
    const int64_t vectors = shape.pixels / (cuda::kVectorBytes / dtype_size(shape.dtype));
    const int group = cuda::norm_threads(vectors, backward), threads = group == 32 ? 128 : group;
    return {"resident",
            {"planes_" + direction + "_resident"},
            cuda::ceil_divide(shape.batch * shape.channels, threads / group),
            threads,
            1,
            0,
            1};
  }
  const std::string layout = shape.channels_last ? "channels_" : "planes_";
  const int64_t blocks = units(plan.lanes_log2) * plan.splits;
  const int threads = shape.channels_last ? cuda::kTileThreads : cuda::kStreamThreads;
  if (plan.splits == 1) return {"streamed", {layout + direction}, blocks, threads, 1, 0, 2};
  return {"split", {layout + partial, layout + direction}, blocks, threads, 1, 0, 2};
}

}  // namespace

pybind11::dict instance_norm_plan(int64_t batch, int64_t channels, int64_t pixels, bool channels_last, int dtype,
                                  bool backward, int multiprocessors, int capability, int64_t cache_bytes) {
  const InstanceNormShape shape{batch, channels, pixels, channels_last, static_cast<DType>(dtype), Activation::kNone,
                                0};
  const Description plan = describe(shape, backward, {multiprocessors, capability, cache_bytes});
  pybind11::dict result;
  result["path"] = plan.path;
  result["kernels"] = plan.kernels;
  result["blocks"] = plan.blocks;
  result["threads"] = plan.threads;
  result["cluster"] = plan.cluster;
  result["shared_bytes"] = plan.shared_bytes;
  result["reads"] = plan.reads;
  return result;
}

}  // namespace jdm_fast
