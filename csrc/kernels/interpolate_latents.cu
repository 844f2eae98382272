// Launchers of interpolate_latents.
#include <algorithm>

#include "interpolate_latents.cuh"
#include "interpolate_latents.h"

namespace jdm_fast {
namespace cuda {
namespace {

// Blocks beyond which longer ranges, which read less, are worth more than more blocks: several for each multiprocessor
// of the largest GPUs.
constexpr int64_t kEnoughBlocks = 2048;
// Backward a range also reads the frames before its first key, and a thread has several frames under way: ranges of at
// least so many keys, where that leaves so many blocks.
constexpr int64_t kBackwardKeys = 4;
constexpr int64_t kEnoughBackwardBlocks = 256;

// Sizes and grid for threads of `vector` elements.
InterpolateSizes make_sizes(const InterpolateLatentsShape& shape, int vector, bool backward) {
  const int64_t blocks = ceil_divide(shape.elements, int64_t{kInterpolateThreads} * vector);
  const int64_t wanted_chunks = std::min(shape.keys, ceil_divide(kEnoughBlocks, shape.sequences * blocks));
  int64_t chunk = ceil_divide(shape.keys, wanted_chunks);
  if (backward && chunk < kBackwardKeys &&
      shape.sequences * blocks * ceil_divide(shape.keys, kBackwardKeys) >= kEnoughBackwardBlocks) {
    chunk = std::min(shape.keys, kBackwardKeys);
  }
  return {shape.keys, shape.steps, shape.elements, chunk, ceil_divide(shape.keys, chunk), blocks};
}

unsigned grid_of(const InterpolateLatentsShape& shape, const InterpolateSizes& sizes) {
  return grid_size(shape.sequences * sizes.chunks * sizes.blocks);
}

// Upper limit of the pieces of a latent.
int64_t most_pieces(const InterpolateLatentsShape& shape, int64_t step) {
  return std::min(ceil_divide(shape.elements, step), ceil_divide(kEnoughBlocks, shape.sequences * shape.keys));
}

SlerpPieces make_pieces(const InterpolateLatentsShape& shape, int vector) {
  const int64_t step = int64_t{kSlerpThreads} * vector;
  const int64_t piece = ceil_divide(ceil_divide(shape.elements, step), most_pieces(shape, step)) * step;
  return {shape.keys, shape.elements, piece, ceil_divide(shape.elements, piece)};
}

bool is_empty(const InterpolateLatentsShape& shape) {
  return shape.sequences == 0 || shape.keys == 0 || shape.elements == 0;
}

// Calls visit(T, vector width) with the element type and the widest vector that shape and pointers allow.
template <typename Visitor, typename... Pointers>
void visit(const InterpolateLatentsShape& shape, Visitor&& visitor, Pointers... pointers) {
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (!std::is_same_v<T, double>) {  // double is for checking gradients, not for speed
      if (shape.elements % kVectorElements<T> == 0 && vector_aligned(pointers...)) {
        return visitor(tag, std::integral_constant<int, kVectorElements<T>>());
      }
    }
    visitor(tag, std::integral_constant<int, 1>());
  });
}

// Bytes in front of the partial results of slerp_backward: dz in the accumulation type, where that is another.
size_t linear_bytes(const InterpolateLatentsShape& shape) {
  if (dtype_size(shape.dtype) == accumulator_size(shape.dtype)) return 0;
  const int64_t bytes = shape.sequences * shape.keys * shape.elements * accumulator_size(shape.dtype);
  return static_cast<size_t>(ceil_divide(bytes, kVectorBytes) * kVectorBytes);
}

template <typename T, int kVector>
void launch_slerp_backward(const InterpolateLatentsShape& shape, const T* dy, const T* z, const Accumulator<T>* weights,
                           void* workspace, T* dz, void* stream) {
  using A = Accumulator<T>;
  const InterpolateSizes sizes = make_sizes(shape, kVector, /*backward=*/true);
  A* const partials = reinterpret_cast<A*>(static_cast<char*>(workspace) + linear_bytes(shape));
  A* linear = static_cast<A*>(workspace);
  if constexpr (std::is_same_v<T, A>) linear = dz;
  JDM_LAUNCH((interpolate_backward<T, kVector, true>), grid_of(shape, sizes), kInterpolateThreads, 0, stream)
  (dy, linear, SlerpGradient<T>{z, weights, partials}, sizes);
  const int64_t blocks = ceil_divide(shape.elements, int64_t{kSlerpThreads} * kSlerpVectors * kVector);
  JDM_LAUNCH_WITH((slerp_finish<T, kVector>), (LaunchOptions{1, true}),
                  grid_size(shape.sequences * shape.keys * blocks), kSlerpThreads, 0, stream)
  (linear, z, weights, partials, dz, SlerpFinishSizes{shape.keys, shape.steps, shape.elements, sizes.blocks, blocks});
}

}  // namespace
}  // namespace cuda

void interpolate_latents_forward_cuda(const InterpolateLatentsShape& shape, const void* z, const void* weights, void* y,
                                      void* stream) {
  if (cuda::is_empty(shape)) return;
  const auto launch = [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    constexpr int kVector = decltype(vector)::value;
    const cuda::InterpolateSizes sizes = cuda::make_sizes(shape, kVector, /*backward=*/false);
    JDM_LAUNCH_WITH((cuda::interpolate_forward<T, kVector>), (cuda::LaunchOptions{1, weights != nullptr}),
                    cuda::grid_of(shape, sizes), cuda::kInterpolateThreads, 0, stream)
    (static_cast<const T*>(z), static_cast<const Accumulator<T>*>(weights), static_cast<T*>(y), sizes);
  };
  cuda::visit(shape, launch, z, y);
}

void interpolate_latents_backward_cuda(const InterpolateLatentsShape& shape, const void* dy, void* dz, void* stream) {
  if (cuda::is_empty(shape)) return;
  const auto launch = [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    constexpr int kVector = decltype(vector)::value;
    const cuda::InterpolateSizes sizes = cuda::make_sizes(shape, kVector, /*backward=*/true);
    JDM_LAUNCH((cuda::interpolate_backward<T, kVector, false>), cuda::grid_of(shape, sizes), cuda::kInterpolateThreads,
               0, stream)
    (static_cast<const T*>(dy), static_cast<T*>(dz), cuda::SlerpGradient<T>{}, sizes);
  };
  cuda::visit(shape, launch, dy, dz);
}

size_t slerp_weights_workspace_cuda(const InterpolateLatentsShape& shape) {
  if (cuda::is_empty(shape)) return 0;
  const int64_t pieces = cuda::most_pieces(shape, cuda::kSlerpThreads);  // of threads of one element: the most
  return static_cast<size_t>(shape.sequences * shape.keys * pieces) * sizeof(cuda::Sums<double>);
}

void slerp_weights_cuda(const InterpolateLatentsShape& shape, const void* z, void* workspace, void* weights,
                        void* stream) {
  if (cuda::is_empty(shape) || shape.keys == 1) return;
  auto* const partials = static_cast<cuda::Sums<double>*>(workspace);
  const auto launch = [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    constexpr int kVector = decltype(vector)::value;
    const cuda::SlerpPieces sizes = cuda::make_pieces(shape, kVector);
    JDM_LAUNCH((cuda::slerp_products<T, kVector>), cuda::grid_size(shape.sequences * shape.keys * sizes.pieces),
               cuda::kSlerpThreads, 0, stream)
    (static_cast<const T*>(z), partials, sizes);
    JDM_LAUNCH_WITH((cuda::slerp_weights<A>), (cuda::LaunchOptions{1, true}),
                    cuda::grid_size(shape.sequences * (shape.keys - 1)), cuda::kSlerpThreads, 0, stream)
    (partials, static_cast<A*>(weights), shape.keys, shape.steps, sizes.pieces);
  };
  cuda::visit(shape, launch, z);
}

size_t slerp_backward_workspace_cuda(const InterpolateLatentsShape& shape) {
  if (cuda::is_empty(shape)) return 0;
  const int64_t partials = shape.sequences * (shape.keys - 1) * cuda::make_sizes(shape, 1, /*backward=*/true).blocks;
  return cuda::linear_bytes(shape) + static_cast<size_t>(partials * accumulator_size(shape.dtype));
}

void slerp_backward_cuda(const InterpolateLatentsShape& shape, const void* dy, const void* z, const void* weights,
                         void* workspace, void* dz, void* stream) {
  if (cuda::is_empty(shape)) return;
  const auto launch = [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    cuda::launch_slerp_backward<T, decltype(vector)::value>(shape, static_cast<const T*>(dy), static_cast<const T*>(z),
                                                            static_cast<const Accumulator<T>*>(weights), workspace,
                                                            static_cast<T*>(dz), stream);
  };
  cuda::visit(shape, launch, dy, z, dz);
}

}  // namespace jdm_fast
