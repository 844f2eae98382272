// Softmax critic loss on the CPU: cuts the samples into pieces, shares them among threads, and adds up the pieces' sums
// in double and in a fixed order, so the result does not depend on the number of threads. The arithmetic of a piece is
// in cpu/softmax_critic_loss.inl.
#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/parallel.h"
#include "softmax_critic_loss.h"
#define JDM_LEVEL_BODY "softmax_critic_loss.inl"
#include "cpu/for_each_level.h"

namespace jdm_fast {
namespace {

constexpr int64_t kPiece = 1024;  // pixels

struct PieceSums {
  double loss, hits;
};

template <typename T>
void softmax_critic_loss_as(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossArgs& args, int num_threads) {
  using A = Accumulator<T>;
  const auto piece_loss = JDM_FOR_CURRENT_LEVEL(piece_loss<T>);
  const int64_t pieces = (shape.pixels + kPiece - 1) / kPiece, sample_size = shape.classes * shape.pixels;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto valid = [&](int64_t source) { return 0 <= source && source < shape.sources; };

  std::vector<double> pixels_of(static_cast<size_t>(shape.sources));  // pixels that a source's mean is over
  for (int64_t m = 0; m < shape.samples; ++m) {
    if (valid(args.source[m])) pixels_of[args.source[m]] += static_cast<double>(shape.pixels);
  }

  std::vector<PieceSums> sums(static_cast<size_t>(shape.samples * pieces));
  const auto run_piece = [&](int64_t i) {
    const int64_t m = i / pieces, first = i % pieces * kPiece, source = args.source[m];
    const int64_t at = m * sample_size + first * (shape.channels_last ? shape.classes : 1);
    // A bad index takes its sample through the arithmetic as class 0 with the weight NaN.
    const A weight = static_cast<A>(valid(source) ? 1.0 / pixels_of[source] : nan);
    piece_loss(static_cast<const T*>(args.logits) + at,
               args.dlogits != nullptr ? static_cast<T*>(args.dlogits) + at : nullptr, shape.channels_last,
               shape.pixels, std::min(kPiece, shape.pixels - first), static_cast<int>(shape.classes),
               valid(source) ? static_cast<int>(source) : 0, weight, &sums[i].loss, &sums[i].hits);
  };
  const int threads = useful_threads(shape.samples * sample_size, num_threads);
  parallel_ranges(shape.samples * pieces, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run_piece(i);
  });

  std::vector<PieceSums> of_source(static_cast<size_t>(shape.sources));
  double loss = 0;
  for (int64_t m = 0; m < shape.samples; ++m) {
    if (!valid(args.source[m])) {
      loss = nan;
      continue;
    }
    PieceSums& total = of_source[args.source[m]];
    for (int64_t i = m * pieces; i < (m + 1) * pieces; ++i) {
      total.loss += sums[i].loss;
      total.hits += sums[i].hits;
    }
  }
  for (int64_t s = 0; s < shape.sources; ++s) {
    const double count = std::max(pixels_of[s], 1.0);
    static_cast<A*>(args.source_loss)[s] = static_cast<A>(of_source[s].loss / count);
    static_cast<A*>(args.source_accuracy)[s] = static_cast<A>(of_source[s].hits / count);
    loss += of_source[s].loss / count;
  }
  *static_cast<A*>(args.loss) = static_cast<A>(loss);
}

template <typename T>
void softmax_critic_loss_backward_as(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossBackwardArgs& args,
                                     int num_threads) {
  using A = Accumulator<T>;
  constexpr int64_t kElements = 8 * kPiece;
  const auto scale_piece = JDM_FOR_CURRENT_LEVEL(scale_piece<T>);
  const auto* const d_loss = static_cast<const A*>(args.d_loss);
  const auto* const d_source_loss = static_cast<const A*>(args.d_source_loss);
  const int64_t size = shape.classes * shape.pixels, pieces = (size + kElements - 1) / kElements;
  const auto factor = [&](int64_t m) {
    A scale = d_loss != nullptr ? *d_loss : A(0);
    if (d_source_loss == nullptr) return scale;
    const int64_t source = args.source[m];
    const bool valid = 0 <= source && source < shape.sources;
    return scale + (valid ? d_source_loss[source] : std::numeric_limits<A>::quiet_NaN());
  };
  parallel_ranges(shape.samples * pieces, useful_threads(shape.samples * size, num_threads),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) {
                      const int64_t m = i / pieces, first = i % pieces * kElements, at = m * size + first;
                      scale_piece(static_cast<const T*>(args.dlogits) + at, static_cast<T*>(args.result) + at,
                                  std::min(kElements, size - first), factor(m));
                    }
                  });
}

}  // namespace

void softmax_critic_loss_cpu(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossArgs& args, int num_threads) {
  visit_dtype(shape.dtype,
              [&](auto tag) { softmax_critic_loss_as<typename decltype(tag)::type>(shape, args, num_threads); });
}

void softmax_critic_loss_backward_cpu(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossBackwardArgs& args,
                                      int num_threads) {
  visit_dtype(shape.dtype, [&](auto tag) {
    softmax_critic_loss_backward_as<typename decltype(tag)::type>(shape, args, num_threads);
  });
}

}  // namespace jdm_fast
