// Launchers of interpolate_instance_norm.
#include <algorithm>

#include "cuda/instance_norm_launch.h"
#include "cuda/interpolate_instance_norm_channels.cuh"
#include "cuda/interpolate_instance_norm_planes.cuh"
#include "interpolate_instance_norm.h"

namespace jdm_fast {
namespace cuda {
namespace {

constexpr int kPartThreads = 256;  // of a part, where several blocks share a plane

// The shape of the instance norm of one frame for each pair, whose plan the channels_last kernels take over.
InstanceNormShape pair_shape(const InterpolateInstanceNormShape& shape) {
  return {key_pairs(shape), shape.channels,   shape.pixels,        shape.channels_last,
          shape.dtype,      shape.activation, shape.negative_slope};
}

bool nothing_to_do(const InterpolateInstanceNormShape& shape) {
  return shape.frames == 0 || shape.channels == 0 || shape.pixels == 0;
}

// Blocks that share a plane, and pixels of each of them. 1 and all pixels: a group of threads holds it.
struct PartPlan {
  int splits;
  int64_t chunk;
};

// Threads of the group that holds a whole plane of this many vectors, or 0 if none does.
int resident_threads(int64_t vectors, int vector) {
  if (vector == 1) {
    for (const int threads : {32, 256}) {
      if (vectors <= threads * kBetweenVectors<1>) return threads;
    }
    return 0;
  }
  for (const int threads : {32, 128, 256, 512}) {
    if (vectors <= threads * kBetweenVectors<8>) return threads;
  }
  return 0;
}

PartPlan part_plan(const InterpolateInstanceNormShape& shape, int vector, int multiprocessors) {
  const int64_t vectors = shape.pixels / vector, units = key_pairs(shape) * shape.channels;
  const bool fits = resident_threads(vectors, vector) != 0;
  if (fits && (units >= multiprocessors || vectors <= 2 * kPartThreads)) return {1, shape.pixels};
  // Full parts, unless that leaves multiprocessors idle.
  int64_t passes = vector == 1 ? kBetweenVectors<1> : kBetweenVectors<8>;
  while (passes > 1 && units * ceil_divide(vectors, passes * kPartThreads) < 2 * multiprocessors) passes /= 2;
  const int64_t chunk = passes * kPartThreads * vector;
  return {static_cast<int>(ceil_divide(shape.pixels, chunk)), chunk};
}

template <typename T>
Between<T> make_between(const InterpolateInstanceNormShape& shape, const InterpolateInstanceNormArgs& args) {
  using A = Accumulator<T>;
  return {static_cast<const T*>(args.u),
          args.positions,
          static_cast<const A*>(args.weight),
          static_cast<const A*>(args.bias),
          static_cast<T*>(args.y),
          key_pairs(shape),
          shape.keys > 1 ? shape.channels * shape.pixels : 0,
          shape.frames,
          shape.channels,
          shape.pixels,
          static_cast<A>(shape.eps),
          static_cast<A>(slope_of(pair_shape(shape)))};
}

template <typename T, int kThreads, int kVector>
void launch_resident(const Between<T>& args, void* stream) {
  constexpr int kBlock = kThreads == 32 ? 128 : kThreads;
  JDM_LAUNCH((planes_between<T, kThreads, kVector>),
             grid_size(ceil_divide(args.pairs * args.channels, kBlock / kThreads)), kBlock, 0, stream)
  (args);
}

template <typename T, int kVector>
void launch_planes(const Between<T>& args, const PartPlan& plan, void* workspace, void* stream) {
  if (plan.splits == 1 && plan.chunk == args.pixels) {
    const int threads = resident_threads(args.pixels / kVector, kVector);
    if (threads == 32) return launch_resident<T, 32, kVector>(args, stream);
    if constexpr (kVector > 1) {
      if (threads == 128) return launch_resident<T, 128, kVector>(args, stream);
      if (threads == 512) return launch_resident<T, 512, kVector>(args, stream);
    }
    return launch_resident<T, 256, kVector>(args, stream);
  }
  auto* const partials = static_cast<PairMoments<Accumulator<T>>*>(workspace);
  const unsigned grid = grid_size(args.pairs * args.channels * plan.splits);
  JDM_LAUNCH((planes_pair_moments<T, kPartThreads, kVector>), grid, kPartThreads, 0, stream)
  (args, partials, plan.splits, plan.chunk);
  JDM_LAUNCH_WITH((planes_between_parts<T, kPartThreads, kVector>), (LaunchOptions{1, true}), grid, kPartThreads, 0,
                  stream)
  (args, partials, plan.splits, plan.chunk);
}

// The workspace holds the partial moments [pairs, splits, C], the means [pairs, 2, C] and the scales [F, C].
template <typename T, int kVector>
void launch_channels(const Between<T>& args, const TileLayout& layout, void* workspace, void* stream) {
  using A = Accumulator<T>;
  auto* const partials = static_cast<PairMoments<A>*>(workspace);
  A* const means = reinterpret_cast<A*>(partials + args.pairs * layout.splits * args.channels);
  const BetweenConstants<A> constants{means, means + 2 * args.pairs * args.channels};
  const unsigned grid = grid_size(args.pairs * layout.tiles * layout.splits);
  JDM_LAUNCH((channels_pair_moments<T, kVector>), grid, kTileThreads, 0, stream)(args, partials, layout);
  JDM_LAUNCH_WITH((channels_between_scales<T>), (LaunchOptions{1, true}),
                  grid_size(args.pairs * ceil_divide(args.channels, 32)), kScaleThreads, 0, stream)
  (args, partials, layout.splits, constants);
  JDM_LAUNCH_WITH((channels_between<T, kVector>), (LaunchOptions{1, true}), grid, kTileThreads, 0, stream)
  (args, constants, layout);
}

template <typename T>
void launch(const InterpolateInstanceNormShape& shape, const Between<T>& args, void* workspace, int multiprocessors,
            void* stream) {
  constexpr bool kVectorised = !std::is_same_v<T, double>;  // double is for checking, not for speed
  constexpr int kVector = kVectorised ? kVectorElements<T> : 1;
  if (shape.channels_last) {
    const InstanceNormShape pairs = pair_shape(shape);
    const NormPlan plan =
        norm_plan(pairs, /*backward=*/false, current_device(multiprocessors), instance_norm_override_cuda());
    if constexpr (kVectorised) {
      if (channels_vector(pairs) == kVector && vector_aligned(args.u, args.y, args.weight, args.bias, workspace)) {
        return launch_channels<T, kVector>(args, tile_layout(pairs, kVector, plan), workspace, stream);
      }
    }
    return launch_channels<T, 1>(args, tile_layout(pairs, 1, plan), workspace, stream);
  }
  if constexpr (kVectorised) {
    if (shape.pixels % kVector == 0 && vector_aligned(args.u, args.y)) {
      return launch_planes<T, kVector>(args, part_plan(shape, kVector, multiprocessors), workspace, stream);
    }
  }
  launch_planes<T, 1>(args, part_plan(shape, 1, multiprocessors), workspace, stream);
}

}  // namespace
}  // namespace cuda

size_t interpolate_instance_norm_workspace_cuda(const InterpolateInstanceNormShape& shape, int multiprocessors) {
  if (cuda::nothing_to_do(shape)) return 0;
  constexpr int64_t kMoments = 6;  // numbers of PairMoments
  const int64_t units = key_pairs(shape) * shape.channels, number = accumulator_size(shape.dtype);
  if (shape.channels_last) {
    const cuda::NormPlan plan = cuda::norm_plan(cuda::pair_shape(shape), /*backward=*/false,
                                                cuda::current_device(multiprocessors), instance_norm_override_cuda());
    return static_cast<size_t>((units * (plan.splits * kMoments + 2) + shape.frames * shape.channels) * number);
  }
  // Whether vectors can be used shows with the pointers; without, there are more parts.
  const cuda::PartPlan plan = cuda::part_plan(shape, 1, multiprocessors);
  return static_cast<size_t>(units * plan.splits * kMoments * number);
}

void interpolate_instance_norm_cuda(const InterpolateInstanceNormShape& shape, const InterpolateInstanceNormArgs& args,
                                    void* workspace, int multiprocessors, void* stream) {
  if (cuda::nothing_to_do(shape)) return;
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    cuda::launch<T>(shape, cuda::make_between<T>(shape, args), workspace, multiprocessors, stream);
  });
}

}  // namespace jdm_fast
