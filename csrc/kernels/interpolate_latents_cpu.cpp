// Interpolation of latents on the CPU: cuts the tensors into small pieces and shares them among threads. The arithmetic
// is in cpu/interpolate_latents.inl.
#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "cpu/parallel.h"
#include "interpolate_latents.h"
#include "slerp.h"
#define JDM_LEVEL_BODY "interpolate_latents.inl"
#include "cpu/for_each_level.h"

namespace jdm_fast {
namespace {

constexpr int64_t kPiece = 2048;  // elements of a latent that are worked on at once

int64_t pieces_of(const InterpolateLatentsShape& shape) { return (shape.elements + kPiece - 1) / kPiece; }

// Calls body(b, t, begin, count) for every key t of every sequence b and every piece [begin, begin + count) of its
// elements, on several threads. Time is the innermost of the three, and a piece is small: a row that two neighbouring
// keys read is still in the cache when the second one comes.
template <typename Body>
void for_each_key_piece(const InterpolateLatentsShape& shape, int num_threads, const Body& body) {
  const int64_t pieces = pieces_of(shape);
  const int64_t frames = (shape.keys - 1) * shape.steps + 1;
  const int threads = useful_threads(shape.sequences * frames * shape.elements, num_threads);
  parallel_ranges(shape.sequences * pieces * shape.keys, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t t = i % shape.keys, piece = i / shape.keys % pieces, b = i / shape.keys / pieces;
      body(b, t, piece * kPiece, std::min(kPiece, shape.elements - piece * kPiece));
    }
  });
}

// The weights of every gap: those given, or lerp's, the same for all.
template <typename A>
class GapWeights {
 public:
  GapWeights(const InterpolateLatentsShape& shape, const void* weights)
      : gaps_(shape.keys - 1), stride_((shape.steps + 1) * kSlerpRow), weights_(static_cast<const A*>(weights)) {
    if (weights_ != nullptr) return;
    lerp_.resize(static_cast<size_t>(stride_));
    for (int64_t k = 0; k <= shape.steps; ++k) {
      const A after = static_cast<A>(k) / static_cast<A>(shape.steps);
      lerp_[static_cast<size_t>(k * kSlerpRow)] = 1 - after;
      lerp_[static_cast<size_t>(k * kSlerpRow + 1)] = after;
    }
  }
  // Of the gap after key t of sequence b; nullptr where there is none.
  const A* of(int64_t b, int64_t t) const {
    if (t < 0 || t >= gaps_) return nullptr;
    return weights_ == nullptr ? lerp_.data() : weights_ + (b * gaps_ + t) * stride_;
  }

 private:
  int64_t gaps_, stride_;
  const A* weights_;
  std::vector<A> lerp_;
};

}  // namespace

void interpolate_latents_forward_cpu(const InterpolateLatentsShape& shape, const void* z, const void* weights, void* y,
                                     int num_threads) {
  const int64_t gaps = shape.keys - 1, frames = gaps * shape.steps + 1;
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const GapWeights<Accumulator<T>> gap_weights(shape, weights);
    const auto rows_between = JDM_FOR_CURRENT_LEVEL(rows_between<T>);
    for_each_key_piece(shape, num_threads, [&](int64_t b, int64_t t, int64_t first, int64_t count) {
      const T* key = static_cast<const T*>(z) + (b * shape.keys + t) * shape.elements + first;
      T* frame = static_cast<T*>(y) + (b * frames + t * shape.steps) * shape.elements + first;
      if (t == gaps) {
        std::copy_n(key, count, frame);
      } else {
        rows_between(key, key + shape.elements, gap_weights.of(b, t), frame, shape.steps, shape.elements, count);
      }
    });
  });
}

void interpolate_latents_backward_cpu(const InterpolateLatentsShape& shape, const void* dy, void* dz, int num_threads) {
  const int64_t frames = (shape.keys - 1) * shape.steps + 1;
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const GapWeights<Accumulator<T>> weights(shape, nullptr);
    const auto key_row_gradient = JDM_FOR_CURRENT_LEVEL(key_row_gradient<T, T>);
    for_each_key_piece(shape, num_threads, [&](int64_t b, int64_t t, int64_t first, int64_t count) {
      const T* frame = static_cast<const T*>(dy) + (b * frames + t * shape.steps) * shape.elements + first;
      T* key = static_cast<T*>(dz) + (b * shape.keys + t) * shape.elements + first;
      key_row_gradient(frame, weights.of(b, t - 1), weights.of(b, t), key, shape.steps, shape.elements, count);
    });
  });
}

void slerp_weights_cpu(const InterpolateLatentsShape& shape, const void* z, void* weights, int num_threads) {
  const int64_t gaps = shape.keys - 1, pieces = pieces_of(shape);
  std::vector<double> products(static_cast<size_t>(shape.sequences * shape.keys * pieces * 2));  // [B, T, pieces, 2]
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const auto row_products = JDM_FOR_CURRENT_LEVEL(row_products<T>);
    for_each_key_piece(shape, num_threads, [&](int64_t b, int64_t t, int64_t first, int64_t count) {
      const T* key = static_cast<const T*>(z) + (b * shape.keys + t) * shape.elements + first;
      double* own = products.data() + ((b * shape.keys + t) * pieces + first / kPiece) * 2;
      row_products(key, t < gaps ? key + shape.elements : nullptr, count, own);
    });
    const auto sum = [&](int64_t key, int64_t which) {
      double total = 0;
      for (int64_t i = 0; i < pieces; ++i) total += products[static_cast<size_t>((key * pieces + i) * 2 + which)];
      return total;
    };
    for (int64_t b = 0; b < shape.sequences; ++b) {
      for (int64_t t = 0; t < gaps; ++t) {
        const int64_t key = b * shape.keys + t;
        const SlerpAngle angle = slerp_angle(sum(key, 0), sum(key + 1, 0), sum(key, 1));
        A* rows = static_cast<A*>(weights) + (b * gaps + t) * (shape.steps + 1) * kSlerpRow;
        for (int64_t k = 0; k <= shape.steps; ++k) slerp_row(angle, k, shape.steps, rows + k * kSlerpRow);
      }
    }
  });
}

void slerp_backward_cpu(const InterpolateLatentsShape& shape, const void* dy, const void* z, const void* weights,
                        void* dz, int num_threads) {
  const int64_t gaps = shape.keys - 1, frames = gaps * shape.steps + 1, pieces = pieces_of(shape);
  std::vector<double> turning(static_cast<size_t>(shape.sequences * shape.keys * pieces));  // [B, T, pieces]
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const GapWeights<A> gap_weights(shape, weights);
    // dz without the angles' part, in the accumulation type so that it is rounded once.
    std::unique_ptr<A[]> memory;
    A* linear;
    if constexpr (std::is_same_v<T, A>) {
      linear = static_cast<A*>(dz);
    } else {
      memory.reset(new A[static_cast<size_t>(shape.sequences * shape.keys * shape.elements)]);
      linear = memory.get();
    }
    const auto key_row_gradient = JDM_FOR_CURRENT_LEVEL(key_row_gradient<T, A>);
    const auto row_turning = JDM_FOR_CURRENT_LEVEL(row_turning<T>);
    const auto add_turning = JDM_FOR_CURRENT_LEVEL(add_turning<T>);
    for_each_key_piece(shape, num_threads, [&](int64_t b, int64_t t, int64_t first, int64_t count) {
      const T* frame = static_cast<const T*>(dy) + (b * frames + t * shape.steps) * shape.elements + first;
      const int64_t place = (b * shape.keys + t) * shape.elements + first;
      const A* after = gap_weights.of(b, t);
      key_row_gradient(frame, gap_weights.of(b, t - 1), after, linear + place, shape.steps, shape.elements, count);
      if (after == nullptr) return;
      const T* key = static_cast<const T*>(z) + place;
      turning[static_cast<size_t>((b * shape.keys + t) * pieces + first / kPiece)] =
          row_turning(frame, key, key + shape.elements, after, shape.steps, shape.elements, count);
    });

    std::vector<A> factors(static_cast<size_t>(shape.sequences * shape.keys * 3));  // of z[t - 1], z[t], z[t + 1]
    for (int64_t b = 0; b < shape.sequences; ++b) {
      for (int64_t t = 0; t < gaps; ++t) {
        const auto own = turning.begin() + (b * shape.keys + t) * pieces;
        double d = 0;
        for (int64_t i = 0; i < pieces; ++i) d += own[i];
        const A* turn = gap_weights.of(b, t) + shape.steps * kSlerpRow;
        A* factor = factors.data() + (b * shape.keys + t) * 3;
        factor[1] += static_cast<A>(d * static_cast<double>(turn[0]));
        factor[2] = factor[3] = static_cast<A>(d * static_cast<double>(turn[1]));
        factor[4] = static_cast<A>(d * static_cast<double>(turn[2]));
      }
    }
    for_each_key_piece(shape, num_threads, [&](int64_t b, int64_t t, int64_t first, int64_t count) {
      const int64_t place = (b * shape.keys + t) * shape.elements + first;
      add_turning(linear + place, static_cast<const T*>(z) + place, factors.data() + (b * shape.keys + t) * 3,
                  static_cast<T*>(dz) + place, shape.elements, count);
    });
  });
}

}  // namespace jdm_fast
