// Launchers of softmax_critic_loss.
#include <algorithm>

#include "softmax_critic_loss.cuh"
#include "softmax_critic_loss.h"

namespace jdm_fast {
namespace cuda {
namespace {

struct CriticPlan {
  int chunks;     // blocks of a sample
  int64_t chunk;  // pixels of each of them
};

constexpr int64_t kMinCriticChunk = 512;  // pixels; a multiple of every vector and every tile
constexpr int64_t kCriticBlocksPerMultiprocessor = 4;

CriticPlan critic_plan(const SoftmaxCriticLossShape& shape, int multiprocessors) {
  if (shape.samples == 0 || shape.pixels == 0) return {0, 0};
  // Of a tile that passes through shared memory nothing overlaps within its block: rather more blocks.
  const int64_t least = shape.channels_last ? kMinCriticChunk / 2 : kMinCriticChunk;
  const int64_t wanted = std::min(ceil_divide(shape.pixels, least),
                                  ceil_divide(kCriticBlocksPerMultiprocessor * multiprocessors, shape.samples));
  const int64_t chunk = ceil_divide(ceil_divide(shape.pixels, wanted), least) * least;
  return {static_cast<int>(ceil_divide(shape.pixels, chunk)), chunk};
}

template <typename T, int kVector, int kClasses>
void launch_tiles(const SoftmaxCriticLossShape& shape, const CriticLoss<T>& args, void* stream) {
  const size_t tile_bytes = kCriticTilePixels<T, kClasses> * sizeof(T) * static_cast<size_t>(shape.classes);
  JDM_LAUNCH((critic_loss_channels<T, kVector, kClasses>), grid_size(shape.samples * args.chunks),
             kCriticTileThreads<kClasses>, tile_bytes, stream)
  (args);
}

template <typename T, int kVector>
void launch_channels(const SoftmaxCriticLossShape& shape, const CriticLoss<T>& args, void* stream) {
  shape.classes > kRegisterClasses ? launch_tiles<T, kVector, 0>(shape, args, stream)
                                   : launch_tiles<T, kVector, kRegisterClasses>(shape, args, stream);
}

template <typename T, int kVector, int kClasses>
void launch_planes(const SoftmaxCriticLossShape& shape, const CriticLoss<T>& args, void* stream) {
  JDM_LAUNCH((critic_loss_planes<T, kVector, kClasses>), grid_size(shape.samples * args.chunks), kCriticThreads, 0,
             stream)
  (args);
}

template <typename T>
void launch_loss(const SoftmaxCriticLossShape& shape, const CriticLoss<T>& args, void* stream) {
  const bool aligned = vector_aligned(args.logits, args.dlogits);
  if constexpr (std::is_same_v<T, double>) {  // for checking gradients, not for speed
    if (shape.channels_last) return launch_channels<T, 1>(shape, args, stream);
    launch_planes<T, 1, 0>(shape, args, stream);
  } else if (shape.channels_last) {
    if (aligned && shape.pixels * shape.classes % kVectorElements<T> == 0) {
      return launch_channels<T, kVectorElements<T>>(shape, args, stream);
    }
    launch_channels<T, 1>(shape, args, stream);
  } else {
    const bool vectors = aligned && shape.pixels % kCriticVector == 0;
    if (shape.classes > kRegisterClasses) {
      return vectors ? launch_planes<T, kCriticVector, 0>(shape, args, stream)
                     : launch_planes<T, 1, 0>(shape, args, stream);
    }
    vectors ? launch_planes<T, kCriticVector, kRegisterClasses>(shape, args, stream)
            : launch_planes<T, 1, kRegisterClasses>(shape, args, stream);
  }
}

template <typename T>
void launch_all(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossArgs& args, const CriticPlan& plan,
                void* workspace, void* stream) {
  using A = Accumulator<T>;
  const CriticLoss<T> device_args = {static_cast<const T*>(args.logits),
                                     args.source,
                                     static_cast<T*>(args.dlogits),
                                     static_cast<Sums<A>*>(workspace),
                                     shape.samples,
                                     shape.pixels,
                                     plan.chunk,
                                     plan.chunks,
                                     static_cast<int>(shape.classes),
                                     static_cast<int>(shape.sources)};
  if (plan.chunks > 0) launch_loss<T>(shape, device_args, stream);
  JDM_LAUNCH_WITH((critic_loss_finish<A>), (LaunchOptions{1, plan.chunks > 0}), 1, kFinishThreads, 0, stream)
  (device_args.partials, args.source, shape.samples, plan.chunks, device_args.sources, shape.pixels,
   static_cast<A*>(args.loss), static_cast<A*>(args.source_loss), static_cast<A*>(args.source_accuracy));
}

template <typename T, int kVector>
void launch_scale(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossBackwardArgs& args, int64_t samples,
                  int64_t size, void* stream) {
  using A = Accumulator<T>;
  const int64_t chunks = ceil_divide(size, int64_t{kScaleVectors} * kCriticThreads * kVector);
  JDM_LAUNCH((critic_loss_scale<T, kVector>), grid_size(samples * chunks), kCriticThreads, 0, stream)
  (static_cast<const T*>(args.dlogits), args.source, static_cast<const A*>(args.d_loss),
   static_cast<const A*>(args.d_source_loss), static_cast<T*>(args.result), size, static_cast<unsigned>(chunks),
   static_cast<int>(shape.sources));
}

template <typename T>
void launch_backward(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossBackwardArgs& args, void* stream) {
  const int64_t size = shape.classes * shape.pixels;
  const bool aligned = vector_aligned(args.dlogits, args.result);
  constexpr int kVector = std::is_same_v<T, double> ? 1 : kVectorElements<T>;
  if (args.d_source_loss == nullptr) {  // one factor for all: as one sample, whose end alone may be no whole vector
    return aligned ? launch_scale<T, kVector>(shape, args, 1, shape.samples * size, stream)
                   : launch_scale<T, 1>(shape, args, 1, shape.samples * size, stream);
  }
  aligned&& size % kVector == 0 ? launch_scale<T, kVector>(shape, args, shape.samples, size, stream)
                                : launch_scale<T, 1>(shape, args, shape.samples, size, stream);
}

}  // namespace
}  // namespace cuda

size_t softmax_critic_loss_workspace_cuda(const SoftmaxCriticLossShape& shape, int multiprocessors) {
  const int64_t blocks = shape.samples * cuda::critic_plan(shape, multiprocessors).chunks;
  return static_cast<size_t>(blocks * 2 * accumulator_size(shape.dtype));
}

void softmax_critic_loss_cuda(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossArgs& args, void* workspace,
                              int multiprocessors, void* stream) {
  const cuda::CriticPlan plan = cuda::critic_plan(shape, multiprocessors);
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    cuda::launch_all<T>(shape, args, plan, workspace, stream);
  });
}

void softmax_critic_loss_backward_cuda(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossBackwardArgs& args,
                                       void* stream) {
  if (shape.samples == 0 || shape.pixels == 0) return;
  visit_dtype(shape.dtype, [&](auto tag) { cuda::launch_backward<typename decltype(tag)::type>(shape, args, stream); });
}

}  // namespace jdm_fast
