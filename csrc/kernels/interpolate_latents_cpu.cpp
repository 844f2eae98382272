// Interpolation of latents on the CPU: cuts the tensors into small pieces and shares them among threads. The arithmetic
// is in cpu/interpolate_latents.inl.
#include <algorithm>

#include "cpu/parallel.h"
#include "interpolate_latents.h"
#define JDM_LEVEL_BODY "interpolate_latents.inl"
#include "cpu/for_each_level.h"

namespace jdm_fast {
namespace {

// Calls body(b, t, begin, count) for every key t of every sequence b and every piece [begin, begin + count) of its
// elements, on several threads. Time is the innermost of the three, and a piece is small: a row that two neighbouring
// keys read is still in the cache when the second one comes.
template <typename Body>
void for_each_key_piece(const InterpolateLatentsShape& shape, int num_threads, const Body& body) {
  constexpr int64_t kPiece = 2048;
  const int64_t pieces = (shape.elements + kPiece - 1) / kPiece;
  const int64_t frames = (shape.keys - 1) * shape.steps + 1;
  const int threads = useful_threads(shape.sequences * frames * shape.elements, num_threads);
  parallel_ranges(shape.sequences * pieces * shape.keys, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t t = i % shape.keys, piece = i / shape.keys % pieces, b = i / shape.keys / pieces;
      body(b, t, piece * kPiece, std::min(kPiece, shape.elements - piece * kPiece));
    }
  });
}

}  // namespace

void interpolate_latents_forward_cpu(const InterpolateLatentsShape& shape, const void* z, const void* coefficients,
                                     void* y, int num_threads) {
  const int64_t gaps = shape.keys - 1, frames = gaps * shape.steps + 1;
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const auto rows_between = JDM_FOR_CURRENT_LEVEL(rows_between<T>);
    for_each_key_piece(shape, num_threads, [&](int64_t b, int64_t t, int64_t first, int64_t count) {
      const T* key = static_cast<const T*>(z) + (b * shape.keys + t) * shape.elements + first;
      T* frame = static_cast<T*>(y) + (b * frames + t * shape.steps) * shape.elements + first;
      if (t == gaps) {
        std::copy_n(key, count, frame);
      } else {
        const A* gap_coefficients = static_cast<const A*>(coefficients) + (b * gaps + t) * shape.steps * 2;
        rows_between(key, key + shape.elements, gap_coefficients, frame, shape.steps, shape.elements, count);
      }
    });
  });
}

void interpolate_latents_backward_cpu(const InterpolateLatentsShape& shape, const void* dy, const void* coefficients,
                                      void* dz, int num_threads) {
  const int64_t gaps = shape.keys - 1, frames = gaps * shape.steps + 1;
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const auto key_row_gradient = JDM_FOR_CURRENT_LEVEL(key_row_gradient<T>);
    for_each_key_piece(shape, num_threads, [&](int64_t b, int64_t t, int64_t first, int64_t count) {
      const T* frame = static_cast<const T*>(dy) + (b * frames + t * shape.steps) * shape.elements + first;
      T* key = static_cast<T*>(dz) + (b * shape.keys + t) * shape.elements + first;
      const A* after = static_cast<const A*>(coefficients) + (b * gaps + t) * shape.steps * 2;
      key_row_gradient(frame, t > 0 ? after - shape.steps * 2 : nullptr, t < gaps ? after : nullptr, key, shape.steps,
                       shape.elements, count);
    });
  });
}

}  // namespace jdm_fast
