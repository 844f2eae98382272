// Instance norm of in-between frames on the CPU: pair by pair of key maps, in pieces that fit a cache, shared among
// threads. Sums are merged in double and in a fixed order, so the result does not depend on the number of threads. The
// arithmetic of a piece is in cpu/interpolate_instance_norm.inl.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/parallel.h"
#include "interpolate_instance_norm.h"
#define JDM_LEVEL_BODY "interpolate_instance_norm.inl"
#include "cpu/for_each_level.h"

namespace jdm_fast {
namespace {

constexpr int64_t kSpan = 4096;  // elements of a plane whose sums are taken at once; no more, see span_pair_moments

// Means of a and b, sums of squared deviations, and of the products of both deviations.
struct PairMoments {
  double count = 0, mean_a = 0, mean_b = 0, aa = 0, bb = 0, ab = 0;

  void merge(double other_count, const double* other, int64_t stride) {  // Chan, Golub and LeVeque
    const double total = count + other_count, share = other_count / total;
    const double delta_a = other[0] - mean_a, delta_b = other[stride] - mean_b, both = count * share;
    mean_a += delta_a * share;
    mean_b += delta_b * share;
    aa += other[2 * stride] + delta_a * delta_a * both;
    bb += other[3 * stride] + delta_b * delta_b * both;
    ab += other[4 * stride] + delta_a * delta_b * both;
    count = total;
  }
  // Of the frame at t between a and b.
  double rstd(double t, double eps) const {
    const double m2 = (1 - t) * (1 - t) * aa + t * t * bb + 2 * t * (1 - t) * ab;
    return 1.0 / std::sqrt((m2 <= 0 ? 0.0 : m2) / count + eps);  // NaN stays NaN
  }
};

// Where the keys and the frames of one pair are.
struct Pair {
  int64_t a, b;         // keys
  int64_t first, last;  // frames
};

Pair pair_of(const InterpolateInstanceNormShape& shape, const double* positions, int64_t pair) {
  const auto first_from = [&](int64_t key) {
    return std::lower_bound(positions, positions + shape.frames, static_cast<double>(key)) - positions;
  };
  return {pair, std::min(pair + 1, shape.keys - 1), pair == 0 ? 0 : first_from(pair),
          pair + 1 == key_pairs(shape) ? shape.frames : first_from(pair + 1)};
}

template <typename T>
void between_planes(const InterpolateInstanceNormShape& shape, const InterpolateInstanceNormArgs& args, int threads) {
  using A = Accumulator<T>;
  const auto moments_of = JDM_FOR_CURRENT_LEVEL(span_pair_moments<T>);
  const auto apply = JDM_FOR_CURRENT_LEVEL(apply_span_between<T>);
  const int64_t pixels = shape.pixels, frame_size = shape.channels * pixels;
  const A* const weight = static_cast<const A*>(args.weight);
  const A* const bias = static_cast<const A*>(args.bias);
  parallel_ranges(key_pairs(shape) * shape.channels, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Pair pair = pair_of(shape, args.positions, i / shape.channels);
      if (pair.first == pair.last) continue;
      const int64_t channel = i % shape.channels;
      const T* const a = static_cast<const T*>(args.u) + pair.a * frame_size + channel * pixels;
      const T* const b = static_cast<const T*>(args.u) + pair.b * frame_size + channel * pixels;
      T* const y = static_cast<T*>(args.y) + channel * pixels;
      PairMoments moments;
      for (int64_t at = 0; at < pixels; at += kSpan) {
        const int64_t count = std::min(kSpan, pixels - at);
        double span[5];
        moments_of(a + at, b + at, count, span);
        moments.merge(static_cast<double>(count), span, 1);
      }
      const double channel_weight = weight != nullptr ? weight[channel] : 1;
      const A shift = bias != nullptr ? bias[channel] : A(0);
      for (int64_t at = 0; at < pixels; at += kSpan) {  // all frames of a span: its keys are in the first cache
        for (int64_t frame = pair.first; frame < pair.last; ++frame) {
          const double t = args.positions[frame] - static_cast<double>(pair.a);
          const double scale = moments.rstd(t, shape.eps) * channel_weight;
          apply(a + at, b + at, y + frame * frame_size + at, std::min(kSpan, pixels - at),
                static_cast<A>(moments.mean_a), static_cast<A>(moments.mean_b), static_cast<A>((1 - t) * scale),
                static_cast<A>(t * scale), shift, shape.activation, static_cast<A>(shape.negative_slope));
        }
      }
    }
  });
}

// One pair of key maps [H*W, C] and its frames. The memory is kept for the next pair.
template <typename T>
class RowPair {
 public:
  using A = Accumulator<T>;

  RowPair(const InterpolateInstanceNormShape& shape, const InterpolateInstanceNormArgs& args)
      : shape_(shape),
        args_(args),
        // Enough to make the piece's partial sums a small part of its size, and no more than row_pair_moments takes.
        rows_(std::clamp<int64_t>(16384 / shape.channels, 64, 256)),
        pieces_((shape.pixels + rows_ - 1) / rows_),
        partial_(static_cast<size_t>(pieces_ * 5 * shape.channels)),
        means_(static_cast<size_t>(2 * shape.channels)),
        shift_(static_cast<size_t>(shape.channels)) {
    if (args.bias != nullptr) std::copy_n(static_cast<const A*>(args.bias), shape.channels, shift_.data());
  }

  void make_frames(int64_t number, int threads) {
    const Pair pair = pair_of(shape_, args_.positions, number);
    if (pair.first == pair.last) return;
    const int64_t frame_size = shape_.channels * shape_.pixels;
    const T* const a = static_cast<const T*>(args_.u) + pair.a * frame_size;
    const T* const b = static_cast<const T*>(args_.u) + pair.b * frame_size;
    take_sums(a, b, threads);
    merge_sums(pair, threads);
    apply(pair, a, b, static_cast<T*>(args_.y) + pair.first * frame_size, threads);
  }

 private:
  int64_t rows_in(int64_t piece) const { return std::min(rows_, shape_.pixels - piece * rows_); }

  void take_sums(const T* a, const T* b, int threads) {
    const auto moments_of = JDM_FOR_CURRENT_LEVEL(row_pair_moments<T>);
    parallel_ranges(pieces_, threads, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        const int64_t at = piece * rows_ * shape_.channels;
        moments_of(a + at, b + at, rows_in(piece), shape_.channels, &partial_[piece * 5 * shape_.channels]);
      }
    });
  }

  void merge_sums(const Pair& pair, int threads) {
    const int64_t channels = shape_.channels, frames = pair.last - pair.first;
    const A* const weight = static_cast<const A*>(args_.weight);
    scales_.resize(std::max(scales_.size(), static_cast<size_t>(frames * 2 * channels)));  // [frames, 2, C]
    parallel_ranges(channels, threads, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        PairMoments moments;
        for (int64_t piece = 0; piece < pieces_; ++piece) {
          moments.merge(static_cast<double>(rows_in(piece)), &partial_[piece * 5 * channels + c], channels);
        }
        means_[c] = static_cast<A>(moments.mean_a);
        means_[channels + c] = static_cast<A>(moments.mean_b);
        for (int64_t frame = 0; frame < frames; ++frame) {
          const double t = args_.positions[pair.first + frame] - static_cast<double>(pair.a);
          const double scale = moments.rstd(t, shape_.eps) * (weight != nullptr ? weight[c] : 1);
          scales_[2 * frame * channels + c] = static_cast<A>((1 - t) * scale);
          scales_[(2 * frame + 1) * channels + c] = static_cast<A>(t * scale);
        }
      }
    });
  }

  void apply(const Pair& pair, const T* a, const T* b, T* y, int threads) const {
    const auto apply_to = JDM_FOR_CURRENT_LEVEL(apply_rows_between<T>);
    const int64_t channels = shape_.channels, frame_size = channels * shape_.pixels;
    parallel_ranges(pieces_, threads, [&](int64_t begin, int64_t end) {
      for (int64_t piece = end - 1; piece >= begin; --piece) {  // backwards: the last ones are still in the cache
        const int64_t at = piece * rows_ * channels;
        for (int64_t frame = 0; frame < pair.last - pair.first; ++frame) {
          const A* const scale = &scales_[2 * frame * channels];
          apply_to(a + at, b + at, y + frame * frame_size + at, rows_in(piece), channels, means_.data(),
                   means_.data() + channels, scale, scale + channels, shift_.data(), shape_.activation,
                   static_cast<A>(shape_.negative_slope));
        }
      }
    });
  }

  const InterpolateInstanceNormShape& shape_;
  const InterpolateInstanceNormArgs& args_;
  const int64_t rows_, pieces_;
  std::vector<double> partial_;
  std::vector<A> means_, shift_, scales_;
};

template <typename T>
void between_rows(const InterpolateInstanceNormShape& shape, const InterpolateInstanceNormArgs& args, int threads) {
  const int64_t pairs = key_pairs(shape);
  // A pair a thread where that keeps all of them busy: threads that wait for each other three times a pair wait for
  // whoever else uses the machine too.
  const bool alone = pairs % threads == 0 || pairs >= 4 * threads;
  parallel_ranges(alone ? pairs : 1, threads, [&](int64_t begin, int64_t end) {
    RowPair<T> work(shape, args);
    for (int64_t pair = begin; pair < (alone ? end : pairs); ++pair) work.make_frames(pair, alone ? 1 : threads);
  });
}

}  // namespace

void interpolate_instance_norm_cpu(const InterpolateInstanceNormShape& shape, const InterpolateInstanceNormArgs& args,
                                   int num_threads) {
  if (shape.frames * shape.channels * shape.pixels == 0) return;
  const int threads = useful_threads(shape.frames * shape.channels * shape.pixels, num_threads);
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    shape.channels_last ? between_rows<T>(shape, args, threads) : between_planes<T>(shape, args, threads);
  });
}

}  // namespace jdm_fast
