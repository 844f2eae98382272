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

// Sizes and grid for threads of `vector` elements.
InterpolateSizes make_sizes(const InterpolateLatentsShape& shape, int vector) {
  const int64_t blocks = ceil_divide(shape.elements, int64_t{kInterpolateThreads} * vector);
  const int64_t wanted_chunks = std::min(shape.keys, ceil_divide(kEnoughBlocks, shape.sequences * blocks));
  const int64_t chunk = ceil_divide(shape.keys, wanted_chunks);
  return {shape.keys, shape.steps, shape.elements, chunk, ceil_divide(shape.keys, chunk), blocks};
}

template <typename T, int kVector>
void launch_forward(const InterpolateLatentsShape& shape, const T* z, const Accumulator<T>* coefficients, T* y,
                    void* stream) {
  const InterpolateSizes sizes = make_sizes(shape, kVector);
  JDM_LAUNCH((interpolate_forward<T, kVector>), grid_size(shape.sequences * sizes.chunks * sizes.blocks),
             kInterpolateThreads, 0, stream)
  (z, coefficients, y, sizes);
}

template <typename T, int kVector>
void launch_backward(const InterpolateLatentsShape& shape, const T* dy, const Accumulator<T>* coefficients, T* dz,
                     void* stream) {
  const InterpolateSizes sizes = make_sizes(shape, kVector);
  JDM_LAUNCH((interpolate_backward<T, kVector>), grid_size(shape.sequences * sizes.chunks * sizes.blocks),
             kInterpolateThreads, 0, stream)
  (dy, coefficients, dz, sizes);
}

bool is_empty(const InterpolateLatentsShape& shape) {
  return shape.sequences == 0 || shape.keys == 0 || shape.elements == 0;
}

// Calls visit(T, vector width) with the element type and the widest vector that shape and pointers allow.
template <typename Visitor>
void visit(const InterpolateLatentsShape& shape, const void* a, const void* b, Visitor&& visitor) {
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (!std::is_same_v<T, double>) {  // double is for checking gradients, not for speed
      if (shape.elements % kVectorElements<T> == 0 && vector_aligned(a, b)) {
        return visitor(tag, std::integral_constant<int, kVectorElements<T>>());
      }
    }
    visitor(tag, std::integral_constant<int, 1>());
  });
}

}  // namespace
}  // namespace cuda

void interpolate_latents_forward_cuda(const InterpolateLatentsShape& shape, const void* z, const void* coefficients,
                                      void* y, void* stream) {
  if (cuda::is_empty(shape)) return;
  cuda::visit(shape, z, y, [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    cuda::launch_forward<T, decltype(vector)::value>(
        shape, static_cast<const T*>(z), static_cast<const Accumulator<T>*>(coefficients), static_cast<T*>(y), stream);
  });
}

void interpolate_latents_backward_cuda(const InterpolateLatentsShape& shape, const void* dy, const void* coefficients,
                                       void* dz, void* stream) {
  if (cuda::is_empty(shape)) return;
  cuda::visit(shape, dy, dz, [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    cuda::launch_backward<T, decltype(vector)::value>(shape, static_cast<const T*>(dy),
                                                      static_cast<const Accumulator<T>*>(coefficients),
                                                      static_cast<T*>(dz), stream);
  });
}

}  // namespace jdm_fast
