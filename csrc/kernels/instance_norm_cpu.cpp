// Instance norm on the CPU: cuts the tensors into pieces that fit a cache, shares them among threads, and merges the
// pieces' sums in double and in a fixed order, so the result does not depend on the number of threads. The arithmetic
// of a piece is in cpu/instance_norm.inl and cpu/instance_norm_rows.inl.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "cpu/parallel.h"
#include "instance_norm.h"
#define JDM_LEVEL_BODY "instance_norm.inl"
#include "cpu/for_each_level.h"

namespace jdm_fast {
namespace {

constexpr int64_t kSpan = 4096;  // elements of a plane whose sums are taken at once; no more, see span_moments

// Mean and sum of squared deviations of `count` values.
struct Moments {
  double count = 0, mean = 0, m2 = 0;

  void merge(double other_count, double other_mean, double other_m2) {  // Chan, Golub and LeVeque
    const double total = count + other_count, delta = other_mean - mean;
    mean += delta * (other_count / total);
    m2 += other_m2 + delta * delta * (count * other_count / total);
    count = total;
  }
  double rstd(double eps) const { return 1.0 / std::sqrt(std::max(m2, 0.0) / count + eps); }
};

// Whether handing out whole items keeps `threads` threads about equally busy.
bool balanced(int64_t items, int threads) { return threads == 1 || items % threads == 0 || items >= 8 * threads; }

// The tensors of one call, with their types; `Args` is InstanceNormForward or InstanceNormBackward.
template <typename T>
struct Problem {
  using A = Accumulator<T>;
  const InstanceNormShape& shape;
  const A* weight;  // [C] or [N, C], or nullptr
  const A* bias;    // [C] or [N, C], or nullptr
  int threads;

  int64_t planes() const { return shape.batch * shape.channels; }
  // `at`: plane % affine_planes.
  A weight_at(int64_t at) const { return weight != nullptr ? weight[at] : A(1); }
  A bias_at(int64_t at) const { return bias != nullptr ? bias[at] : A(0); }
  A slope() const { return static_cast<A>(shape.negative_slope); }
  // channels_last: pixels per piece, of which there are 32 where that makes its partial sums a small part of its size
  // and the float sums over it precise enough.
  int64_t rows_per_piece() const { return std::clamp<int64_t>((shape.pixels / 32 + 3) / 4 * 4, 64, 256); }
};

template <typename T>
Problem<T> make_problem(const InstanceNormShape& shape, const void* weight, const void* bias, int num_threads) {
  using A = Accumulator<T>;
  const int64_t elements = shape.batch * shape.channels * shape.pixels;
  return {shape, static_cast<const A*>(weight), static_cast<const A*>(bias), useful_threads(elements, num_threads)};
}

//------------------------------------------------------------------------ NCHW

template <typename T>
void forward_planes(const Problem<T>& problem, const InstanceNormForward& args) {
  using A = Accumulator<T>;
  const auto moments_of = JDM_FOR_CURRENT_LEVEL(span_moments<T>);
  const auto apply = JDM_FOR_CURRENT_LEVEL(apply_span<T>);
  const InstanceNormShape& shape = problem.shape;
  const int64_t pixels = shape.pixels, spans = (pixels + kSpan - 1) / kSpan, affine = affine_planes(shape);
  const T* x = static_cast<const T*>(args.x);
  const T* residual = static_cast<const T*>(args.residual);
  T* y = static_cast<T*>(args.y);
  A* mean = static_cast<A*>(args.mean);
  A* rstd = static_cast<A*>(args.rstd);

  const auto span_size = [&](int64_t span) { return std::min(kSpan, pixels - span * kSpan); };
  const auto finish = [&](int64_t plane, const Moments& moments) {
    mean[plane] = static_cast<A>(moments.mean);
    rstd[plane] = static_cast<A>(moments.rstd(args.eps));
  };
  const auto apply_piece = [&](int64_t plane, int64_t begin, int64_t count) {
    const int64_t at = plane * pixels + begin, affine_at = plane % affine;
    apply(x + at, residual != nullptr ? residual + at : nullptr, y + at, count, mean[plane],
          rstd[plane] * problem.weight_at(affine_at), problem.bias_at(affine_at), shape.activation, problem.slope());
  };

  if (spans == 1 || balanced(problem.planes(), problem.threads)) {
    parallel_ranges(problem.planes(), problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        Moments moments;
        for (int64_t span = 0; span < spans; ++span) {
          double span_mean, span_m2;
          moments_of(x + plane * pixels + span * kSpan, span_size(span), &span_mean, &span_m2);
          moments.merge(static_cast<double>(span_size(span)), span_mean, span_m2);
        }
        finish(plane, moments);
        apply_piece(plane, 0, pixels);
      }
    });
    return;
  }

  // Few, large planes: threads share each of them.
  std::vector<double> partial(static_cast<size_t>(problem.planes() * spans * 2));
  parallel_ranges(problem.planes() * spans, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i / spans, span = i % spans;
      moments_of(x + plane * pixels + span * kSpan, span_size(span), &partial[2 * i], &partial[2 * i + 1]);
    }
  });
  for (int64_t plane = 0; plane < problem.planes(); ++plane) {
    Moments moments;
    for (int64_t span = 0; span < spans; ++span) {
      const double* sums = &partial[2 * (plane * spans + span)];
      moments.merge(static_cast<double>(span_size(span)), sums[0], sums[1]);
    }
    finish(plane, moments);
  }
  parallel_ranges(problem.planes() * spans, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = end - 1; i >= begin; --i) apply_piece(i / spans, i % spans * kSpan, span_size(i % spans));
  });
}

// What dx needs of a plane's sums: dx = scale * (g + (x - mean) * tilt + offset).
template <typename A>
struct GradientTerms {
  A offset, tilt;

  GradientTerms(double sum_g, double sum_gd, double rstd, int64_t pixels)
      : offset(static_cast<A>(-sum_g / static_cast<double>(pixels))),
        tilt(static_cast<A>(-rstd * rstd * sum_gd / static_cast<double>(pixels))) {}
};

template <typename T>
void backward_planes(const Problem<T>& problem, const InstanceNormBackward& args) {
  using A = Accumulator<T>;
  const auto sums_of = JDM_FOR_CURRENT_LEVEL(span_gradient_sums<T>);
  const auto apply = JDM_FOR_CURRENT_LEVEL(apply_span_gradient<T>);
  const InstanceNormShape& shape = problem.shape;
  const int64_t pixels = shape.pixels, spans = (pixels + kSpan - 1) / kSpan, affine = affine_planes(shape);
  const T* dy = static_cast<const T*>(args.dy);
  const T* x = static_cast<const T*>(args.x);
  T* dx = static_cast<T*>(args.dx);
  const A* mean = static_cast<const A*>(args.mean);
  const A* rstd = static_cast<const A*>(args.rstd);
  A* d_weight = static_cast<A*>(args.d_weight);
  A* d_bias = static_cast<A*>(args.d_bias);

  const auto span_size = [&](int64_t span) { return std::min(kSpan, pixels - span * kSpan); };
  const auto scale_of = [&](int64_t plane) { return rstd[plane] * problem.weight_at(plane % affine); };
  const auto shift_of = [&](int64_t plane) { return problem.bias_at(plane % affine); };
  const auto sums_of_span = [&](int64_t plane, int64_t span, A* sum_g, A* sum_gd) {
    const int64_t at = plane * pixels + span * kSpan;
    sums_of(dy + at, x + at, span_size(span), mean[plane], scale_of(plane), shift_of(plane), shape.activation,
            problem.slope(), sum_g, sum_gd);
  };
  const auto finish = [&](int64_t plane, double sum_g, double sum_gd) {
    d_bias[plane] = static_cast<A>(sum_g);
    d_weight[plane] = static_cast<A>(sum_gd * rstd[plane]);
    return GradientTerms<A>(sum_g, sum_gd, rstd[plane], pixels);
  };
  const auto apply_piece = [&](int64_t plane, int64_t begin, int64_t count, const GradientTerms<A>& terms) {
    const int64_t at = plane * pixels + begin;
    apply(dy + at, x + at, dx + at, count, mean[plane], scale_of(plane), shift_of(plane), shape.activation,
          problem.slope(), terms.offset, terms.tilt);
  };

  if (spans == 1 || balanced(problem.planes(), problem.threads)) {
    parallel_ranges(problem.planes(), problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        double sum_g = 0, sum_gd = 0;
        for (int64_t span = 0; span < spans; ++span) {
          A span_g, span_gd;
          sums_of_span(plane, span, &span_g, &span_gd);
          sum_g += span_g;
          sum_gd += span_gd;
        }
        apply_piece(plane, 0, pixels, finish(plane, sum_g, sum_gd));
      }
    });
    return;
  }

  std::vector<A> partial(static_cast<size_t>(problem.planes() * spans * 2));
  parallel_ranges(problem.planes() * spans, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sums_of_span(i / spans, i % spans, &partial[2 * i], &partial[2 * i + 1]);
  });
  std::vector<GradientTerms<A>> terms;
  for (int64_t plane = 0; plane < problem.planes(); ++plane) {
    double sum_g = 0, sum_gd = 0;
    for (int64_t i = plane * spans; i < (plane + 1) * spans; ++i) {
      sum_g += partial[2 * i];
      sum_gd += partial[2 * i + 1];
    }
    terms.push_back(finish(plane, sum_g, sum_gd));
  }
  parallel_ranges(problem.planes() * spans, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = end - 1; i >= begin; --i) {
      apply_piece(i / spans, i % spans * kSpan, span_size(i % spans), terms[i / spans]);
    }
  });
}

//------------------------------------------------------------------------ channels_last

// Runs `sample(n, threads, sums, constants)` for every sample: whole samples on a thread each where that keeps all
// threads busy, else one sample after the other with all threads on it. `sums` and `constants` are scratch of the sizes
// asked for.
template <typename A, typename Sample>
void for_each_sample(const InstanceNormShape& shape, int threads, int64_t sums_size, int64_t constants_size,
                     const Sample& sample) {
  const bool by_sample = balanced(shape.batch, threads);
  const int64_t slots = by_sample ? std::min<int64_t>(threads, shape.batch) : 1;
  const std::unique_ptr<A[]> sums(new A[static_cast<size_t>(slots * sums_size)]);
  std::vector<A> constants(static_cast<size_t>(slots * constants_size));
  parallel_ranges(slots, static_cast<int>(slots), [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      const int64_t first = shape.batch * slot / slots, last = shape.batch * (slot + 1) / slots;
      for (int64_t n = first; n < last; ++n) {
        sample(n, by_sample ? 1 : threads, sums.get() + slot * sums_size, constants.data() + slot * constants_size);
      }
    }
  });
}

constexpr int64_t kMergeChannels = 64;    // channels whose partial sums a thread merges at once
constexpr int64_t kSerialMerges = 32768;  // partial sums up to which waking threads takes longer than merging

// Calls body(first channel, how many) for blocks of channels whose partial sums are merged.
template <typename Body>
void for_each_merge(int64_t channels, int64_t pieces, int threads, const Body& body) {
  const int64_t blocks = (channels + kMergeChannels - 1) / kMergeChannels;
  parallel_ranges(blocks, pieces * channels < kSerialMerges ? 1 : threads, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kMergeChannels; first < std::min(end * kMergeChannels, channels);
         first += kMergeChannels) {
      body(first, std::min(kMergeChannels, channels - first));
    }
  });
}

template <typename T>
void forward_rows(const Problem<T>& problem, const InstanceNormForward& args) {
  using A = Accumulator<T>;
  const auto moments_of = JDM_FOR_CURRENT_LEVEL(row_moments<T>);
  const auto merge = JDM_FOR_CURRENT_LEVEL(merge_row_moments<A>);
  const auto apply = JDM_FOR_CURRENT_LEVEL(apply_rows<T>);
  const InstanceNormShape& shape = problem.shape;
  const int64_t channels = shape.channels, pixels = shape.pixels, rows = problem.rows_per_piece();
  const int64_t pieces = (pixels + rows - 1) / rows;
  const auto rows_in = [&](int64_t piece) { return std::min(rows, pixels - piece * rows); };

  // sums: what row_moments writes [pieces, 3, C]. constants: scale, shift [C].
  const auto sample = [&](int64_t n, int threads, A* sums, A* constants) {
    const int64_t at = n * pixels * channels, affine_at = n * channels % affine_planes(shape);
    const T* x = static_cast<const T*>(args.x) + at;
    const T* residual = args.residual != nullptr ? static_cast<const T*>(args.residual) + at : nullptr;
    T* y = static_cast<T*>(args.y) + at;
    A* mean = static_cast<A*>(args.mean) + n * channels;
    A* rstd = static_cast<A*>(args.rstd) + n * channels;
    A* scale = constants;
    A* shift = scale + channels;

    parallel_ranges(pieces, threads, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        moments_of(x + piece * rows * channels, rows_in(piece), channels, sums + piece * 3 * channels);
      }
    });
    for_each_merge(channels, pieces, threads, [&](int64_t first, int64_t count) {
      double means[kMergeChannels], m2[kMergeChannels];
      merge(sums + first, rows, pixels, channels, count, means, m2);
      for (int64_t c = 0; c < count; ++c) {
        mean[first + c] = static_cast<A>(means[c]);
        rstd[first + c] = static_cast<A>(Moments{static_cast<double>(pixels), 0, m2[c]}.rstd(args.eps));
        scale[first + c] = rstd[first + c] * problem.weight_at(affine_at + first + c);
        shift[first + c] = problem.bias_at(affine_at + first + c);
      }
    });
    parallel_ranges(pieces, threads, [&](int64_t begin, int64_t end) {
      // Forwards, for one stream of addresses: the last piece first took up to 7 % longer.
      for (int64_t piece = begin; piece < end; ++piece) {
        const int64_t first = piece * rows * channels;
        apply(x + first, residual != nullptr ? residual + first : nullptr, y + first, rows_in(piece), channels, mean,
              scale, shift, shape.activation, problem.slope());
      }
    });
  };
  for_each_sample<A>(shape, problem.threads, pieces * 3 * channels, 2 * channels, sample);
}

template <typename T>
void backward_rows(const Problem<T>& problem, const InstanceNormBackward& args) {
  using A = Accumulator<T>;
  const auto sums_of = JDM_FOR_CURRENT_LEVEL(row_gradient_sums<T>);
  const auto apply = JDM_FOR_CURRENT_LEVEL(apply_rows_gradient<T>);
  const InstanceNormShape& shape = problem.shape;
  const int64_t channels = shape.channels, pixels = shape.pixels, rows = problem.rows_per_piece();
  const int64_t pieces = (pixels + rows - 1) / rows;
  const auto rows_in = [&](int64_t piece) { return std::min(rows, pixels - piece * rows); };

  // sums: of g and of g * (x - mean) [pieces, 2, C]. constants: scale, shift, offset, tilt [C].
  const auto sample = [&](int64_t n, int threads, A* sums, A* constants) {
    const int64_t at = n * pixels * channels, affine_at = n * channels % affine_planes(shape);
    const T* dy = static_cast<const T*>(args.dy) + at;
    const T* x = static_cast<const T*>(args.x) + at;
    T* dx = static_cast<T*>(args.dx) + at;
    const A* mean = static_cast<const A*>(args.mean) + n * channels;
    const A* rstd = static_cast<const A*>(args.rstd) + n * channels;
    A* d_weight = static_cast<A*>(args.d_weight) + n * channels;
    A* d_bias = static_cast<A*>(args.d_bias) + n * channels;
    A* scale = constants;
    A* shift = scale + channels;
    A* offset = shift + channels;
    A* tilt = offset + channels;
    for (int64_t c = 0; c < channels; ++c) {
      scale[c] = rstd[c] * problem.weight_at(affine_at + c);
      shift[c] = problem.bias_at(affine_at + c);
    }

    parallel_ranges(pieces, threads, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        const int64_t first = piece * rows * channels;
        A* partial = sums + piece * 2 * channels;
        sums_of(dy + first, x + first, rows_in(piece), channels, mean, scale, shift, shape.activation, problem.slope(),
                partial, partial + channels);
      }
    });
    for_each_merge(channels, pieces, threads, [&](int64_t first, int64_t count) {
      double sum_g[kMergeChannels] = {}, sum_gd[kMergeChannels] = {};
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const A* partial = sums + piece * 2 * channels + first;
        for (int64_t c = 0; c < count; ++c) {
          sum_g[c] += partial[c];
          sum_gd[c] += partial[channels + c];
        }
      }
      for (int64_t c = 0; c < count; ++c) {
        const GradientTerms<A> terms(sum_g[c], sum_gd[c], rstd[first + c], pixels);
        offset[first + c] = terms.offset;
        tilt[first + c] = terms.tilt;
        d_bias[first + c] = static_cast<A>(sum_g[c]);
        d_weight[first + c] = static_cast<A>(sum_gd[c] * rstd[first + c]);
      }
    });
    parallel_ranges(pieces, threads, [&](int64_t begin, int64_t end) {
      for (int64_t piece = end - 1; piece >= begin; --piece) {  // from what the cache still has: 1 to 8 % quicker
        const int64_t first = piece * rows * channels;
        apply(dy + first, x + first, dx + first, rows_in(piece), channels, mean, scale, shift, shape.activation,
              problem.slope(), offset, tilt);
      }
    });
  };
  for_each_sample<A>(shape, problem.threads, pieces * 2 * channels, 4 * channels, sample);
}

}  // namespace

//------------------------------------------------------------------------ launchers

void instance_norm_forward_cpu(const InstanceNormShape& shape, const InstanceNormForward& args, int num_threads) {
  if (shape.batch * shape.channels * shape.pixels == 0) return;
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Problem<T> problem = make_problem<T>(shape, args.weight, args.bias, num_threads);
    shape.channels_last ? forward_rows(problem, args) : forward_planes(problem, args);
  });
}

void instance_norm_backward_cpu(const InstanceNormShape& shape, const InstanceNormBackward& args, int num_threads) {
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    if (shape.batch * shape.channels * shape.pixels == 0) {
      std::fill_n(static_cast<A*>(args.d_weight), shape.batch * shape.channels, A(0));
      std::fill_n(static_cast<A*>(args.d_bias), shape.batch * shape.channels, A(0));
      return;
    }
    const Problem<T> problem = make_problem<T>(shape, args.weight, args.bias, num_threads);
    shape.channels_last ? backward_rows(problem, args) : backward_planes(problem, args);
  });
}

}  // namespace jdm_fast
