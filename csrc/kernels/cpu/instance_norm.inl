// The arithmetic of instance norm on contiguous pieces of memory; instance_norm_cpu.cpp cuts the tensors into them.
// t = (x - mean) * scale + shift with scale = weight * rstd, shift = bias; backward evaluates the same expression, so
// its mask is the forward's. x - mean comes first because x * scale + (shift - mean * scale) cancels when |mean| is
// large.

#include "activation.inl"

// dy * act'(t)
template <Activation kActivation, typename A>
JDM_INLINE Vec<A> masked_gradient(Vec<A> dy, Vec<A> t, Vec<A> slope) {
  if (kActivation == Activation::kRelu) return where_positive(t, dy, Vec<A>());
  if (kActivation == Activation::kLeakyRelu) return where_positive(t, dy, dy * slope);
  return dy;
}

// Independent accumulators, to hide the latency of additions.
constexpr int kUnroll = 4;

//------------------------------------------------------------------------ NCHW: a span is part of one plane

// Mean of x[0..count-1] and sum of squared deviations from it. One pass over x - pivot, where the pivot is the mean of
// the first kPivotSpan elements: (pivot - mean)^2 <= variance * count / kPivotSpan whatever the data, so with spans of
// at most 16 times that the subtraction below loses at most four bits.
template <typename T>
void span_moments(const T* x, int64_t count, double* mean, double* m2) {
  using A = Accumulator<T>;
  constexpr int kSize = Vec<A>::kSize;
  constexpr int64_t kPivotSpan = 256;
  const int64_t whole = count - count % kSize, unrolled = count - count % (kUnroll * kSize), rest = count - whole;

  Vec<A> head;
  const int64_t pivot_span = whole < kPivotSpan ? whole : kPivotSpan;
  for (int64_t i = 0; i < pivot_span; i += kSize) head = head + load(x + i);
  if (whole == 0) head = load_partial(x, rest);
  const A pivot = horizontal_sum(head) / static_cast<A>(whole == 0 ? rest : pivot_span);

  const Vec<A> vpivot(pivot);
  Vec<A> sums[kUnroll], squares[kUnroll];
  int64_t i = 0;
  for (; i < unrolled; i += kUnroll * kSize) {
#pragma GCC unroll 4
    for (int j = 0; j < kUnroll; ++j) {
      const Vec<A> d = load(x + i + j * kSize) - vpivot;
      sums[j] = sums[j] + d;
      squares[j] = multiply_add(d, d, squares[j]);
    }
  }
  for (; i < whole; i += kSize) {
    const Vec<A> d = load(x + i) - vpivot;
    sums[0] = sums[0] + d;
    squares[0] = multiply_add(d, d, squares[0]);
  }
  if (rest > 0) {
    const Vec<A> d = load_partial(x + i, rest) - vpivot * first_lanes<A>(rest);
    sums[1] = sums[1] + d;
    squares[1] = multiply_add(d, d, squares[1]);
  }
  const double sum = horizontal_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  const double shift = sum / static_cast<double>(count);
  *mean = pivot + shift;
  *m2 = horizontal_sum((squares[0] + squares[1]) + (squares[2] + squares[3])) - sum * shift;
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void apply_span_as(const T* x, const T* residual, T* y, int64_t count, A mean, A scale, A shift, A slope) {
  constexpr int kSize = Vec<A>::kSize;
  const Vec<A> vmean(mean), vscale(scale), vshift(shift), vslope(slope);
  const int64_t whole = count - count % kSize, rest = count - whole;
  if (residual == nullptr) {
    for (int64_t i = 0; i < whole; i += kSize) {
      store(y + i, activate<kActivation>(multiply_add(load(x + i) - vmean, vscale, vshift), vslope));
    }
  } else {
    for (int64_t i = 0; i < whole; i += kSize) {
      const Vec<A> t = multiply_add(load(x + i) - vmean, vscale, vshift);
      store(y + i, activate<kActivation>(t, vslope) + load(residual + i));
    }
  }
  if (rest > 0) {
    Vec<A> t = multiply_add(load_partial(x + whole, rest) - vmean, vscale, vshift);
    t = activate<kActivation>(t, vslope);
    if (residual != nullptr) t = t + load_partial(residual + whole, rest);
    store_partial(y + whole, t, rest);
  }
}

// y = act((x - mean) * scale + shift) + residual
template <typename T>
void apply_span(const T* x, const T* residual, T* y, int64_t count, Accumulator<T> mean, Accumulator<T> scale,
                Accumulator<T> shift, Activation activation, Accumulator<T> slope) {
  JDM_WITH_ACTIVATION(activation, apply_span_as, x, residual, y, count, mean, scale, shift, slope)
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void span_gradient_sums_as(const T* dy, const T* x, int64_t count, A mean, A scale, A shift, A slope,
                                      A* sum_g, A* sum_gd) {
  constexpr int kSize = Vec<A>::kSize;
  const Vec<A> vmean(mean), vscale(scale), vshift(shift), vslope(slope);
  const int64_t whole = count - count % kSize, unrolled = count - count % (kUnroll * kSize), rest = count - whole;
  Vec<A> sums[kUnroll], products[kUnroll];
  int64_t i = 0;
  for (; i < unrolled; i += kUnroll * kSize) {
#pragma GCC unroll 4
    for (int j = 0; j < kUnroll; ++j) {
      const Vec<A> d = load(x + i + j * kSize) - vmean;
      const Vec<A> g = masked_gradient<kActivation>(load(dy + i + j * kSize), multiply_add(d, vscale, vshift), vslope);
      sums[j] = sums[j] + g;
      products[j] = multiply_add(g, d, products[j]);
    }
  }
  for (; i < whole; i += kSize) {
    const Vec<A> d = load(x + i) - vmean;
    const Vec<A> g = masked_gradient<kActivation>(load(dy + i), multiply_add(d, vscale, vshift), vslope);
    sums[0] = sums[0] + g;
    products[0] = multiply_add(g, d, products[0]);
  }
  if (rest > 0) {  // dy is 0 in the lanes beyond the end, so both sums are untouched by them
    const Vec<A> d = load_partial(x + i, rest) - vmean;
    const Vec<A> g = masked_gradient<kActivation>(load_partial(dy + i, rest), multiply_add(d, vscale, vshift), vslope);
    sums[1] = sums[1] + g;
    products[1] = multiply_add(g, d, products[1]);
  }
  *sum_g = horizontal_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  *sum_gd = horizontal_sum((products[0] + products[1]) + (products[2] + products[3]));
}

// Sums of g and g * (x - mean), g = dy * act'(t).
template <typename T>
void span_gradient_sums(const T* dy, const T* x, int64_t count, Accumulator<T> mean, Accumulator<T> scale,
                        Accumulator<T> shift, Activation activation, Accumulator<T> slope, Accumulator<T>* sum_g,
                        Accumulator<T>* sum_gd) {
  JDM_WITH_ACTIVATION(activation, span_gradient_sums_as, dy, x, count, mean, scale, shift, slope, sum_g, sum_gd)
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void apply_span_gradient_as(const T* dy, const T* x, T* dx, int64_t count, A mean, A scale, A shift, A slope,
                                       A offset, A tilt) {
  constexpr int kSize = Vec<A>::kSize;
  const Vec<A> vmean(mean), vscale(scale), vshift(shift), vslope(slope), voffset(offset), vtilt(tilt);
  const int64_t whole = count - count % kSize, rest = count - whole;
  for (int64_t i = 0; i < whole; i += kSize) {
    const Vec<A> d = load(x + i) - vmean;
    const Vec<A> g = masked_gradient<kActivation>(load(dy + i), multiply_add(d, vscale, vshift), vslope);
    store(dx + i, (g + multiply_add(d, vtilt, voffset)) * vscale);
  }
  if (rest > 0) {
    const Vec<A> d = load_partial(x + whole, rest) - vmean;
    const Vec<A> g =
        masked_gradient<kActivation>(load_partial(dy + whole, rest), multiply_add(d, vscale, vshift), vslope);
    store_partial(dx + whole, (g + multiply_add(d, vtilt, voffset)) * vscale, rest);
  }
}

// dx = scale * (g + (x - mean) * tilt + offset)
template <typename T>
void apply_span_gradient(const T* dy, const T* x, T* dx, int64_t count, Accumulator<T> mean, Accumulator<T> scale,
                         Accumulator<T> shift, Activation activation, Accumulator<T> slope, Accumulator<T> offset,
                         Accumulator<T> tilt) {
  JDM_WITH_ACTIVATION(activation, apply_span_gradient_as, dy, x, dx, count, mean, scale, shift, slope, offset, tilt)
}

//------------------------------------------------------------------------ channels_last: rows of C channels

// Sums over the rows are taken a tile of rows at a time, a vector of channels after the other, with the sums so far in
// memory (the first cache): so the tensor is read about in the order of its addresses, whatever C.
constexpr int kTileUnroll = 4;
constexpr int64_t kPrefetchBytes = 8192;
constexpr int64_t kStreamBytes = 256;  // rows up to here the processor streams by itself

struct Tiles {
  int64_t rows;   // of a tile
  int64_t ahead;  // elements from a tile to what is loaded meanwhile, or 0
};

template <typename T>
JDM_INLINE Tiles tiles(int64_t channels) {
  const int64_t narrow = 256 / channels / kTileUnroll * kTileUnroll, rows = narrow < kTileUnroll ? kTileUnroll : narrow;
  const int64_t tile = rows * channels, wanted = kPrefetchBytes / static_cast<int64_t>(sizeof(T));
  return {rows, channels * static_cast<int64_t>(sizeof(T)) > kStreamBytes ? (wanted + tile - 1) / tile * tile : 0};
}

// Starts loading, of the memory `ahead` elements further, as much as one vector of each row of a tile: in the order of
// addresses, not of the rows.
template <typename T>
JDM_INLINE void prefetch(const T* tile, int64_t ahead, int64_t c) {
  constexpr int kBytes = kTileUnroll * Vec<Accumulator<T>>::kSize * static_cast<int>(sizeof(T));
  const char* from = reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(tile) +
                                                   static_cast<uintptr_t>(ahead + c * kTileUnroll) * sizeof(T));
#pragma GCC unroll 4
  for (int byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(from + byte);
}

#define JDM_LOAD(kPartial, at, lanes) (kPartial ? load_partial(at, lanes) : load(at))

template <bool kPartial, typename T, typename A>
JDM_INLINE void tile_moments(const T* x, int64_t rows, int64_t channels, int64_t lanes, const A* pivot, A* sum,
                             A* squares) {
  const Vec<A> vpivot = JDM_LOAD(kPartial, pivot, lanes);
  Vec<A> sums[2] = {JDM_LOAD(kPartial, sum, lanes), Vec<A>()},
         products[2] = {JDM_LOAD(kPartial, squares, lanes), Vec<A>()};
  const auto add = [&](int j, const T* at) __attribute__((always_inline)) {
    const Vec<A> d = JDM_LOAD(kPartial, at, lanes) - vpivot;
    sums[j] = sums[j] + d;
    products[j] = multiply_add(d, d, products[j]);
  };
  int64_t row = 0;
  for (; row + kTileUnroll <= rows; row += kTileUnroll) {
#pragma GCC unroll 4
    for (int j = 0; j < kTileUnroll; ++j) add(j % 2, x + (row + j) * channels);
  }
  for (; row < rows; ++row) add(0, x + row * channels);
  if (kPartial) {
    store_partial(sum, sums[0] + sums[1], lanes);
    store_partial(squares, products[0] + products[1], lanes);
  } else {
    store(sum, sums[0] + sums[1]);
    store(squares, products[0] + products[1]);
  }
}

// For every channel a pivot, the mean of the first sixteenth of the rows, and the sums over the rows of x - pivot and
// of its square, as in span_moments: partial is [3, channels].
template <typename T>
void row_moments(const T* x, int64_t rows, int64_t channels, Accumulator<T>* partial) {
  using A = Accumulator<T>;
  constexpr int kSize = Vec<A>::kSize;
  A *pivot = partial, *sum = partial + channels, *squares = partial + 2 * channels;
  const int64_t pivot_rows = (rows + 15) / 16, whole = channels - channels % kSize, rest = channels - whole;
  const Vec<A> share(A(1) / static_cast<A>(pivot_rows));
  for (int64_t c = 0; c < whole; c += kSize) {
    Vec<A> head;
    for (int64_t row = 0; row < pivot_rows; ++row) head = head + load(x + row * channels + c);
    store(pivot + c, head * share);
    store(sum + c, Vec<A>());
    store(squares + c, Vec<A>());
  }
  if (rest > 0) {
    Vec<A> head;
    for (int64_t row = 0; row < pivot_rows; ++row) head = head + load_partial(x + row * channels + whole, rest);
    store_partial(pivot + whole, head * share, rest);
    store_partial(sum + whole, Vec<A>(), rest);
    store_partial(squares + whole, Vec<A>(), rest);
  }
  const Tiles tile = tiles<T>(channels);
  for (int64_t row = 0; row < rows; row += tile.rows) {
    const T* at = x + row * channels;
    const int64_t here = rows - row < tile.rows ? rows - row : tile.rows;
    for (int64_t c = 0; c < whole; c += kSize) {
      if (tile.ahead > 0) prefetch(at, tile.ahead, c);
      tile_moments<false>(at + c, here, channels, kSize, pivot + c, sum + c, squares + c);
    }
    if (rest > 0) tile_moments<true>(at + whole, here, channels, rest, pivot + whole, sum + whole, squares + whole);
  }
}

JDM_INLINE Vec<double> load_as_double(const double* p) { return load(p); }
JDM_INLINE Vec<double> load_as_double(const float* p) {
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  Half half;
  __builtin_memcpy(&half, p, sizeof(half));
  return __builtin_convertvector(half, Doubles);
}

// Merges what row_moments found in the pieces of a sample, in their order (Chan, Golub and LeVeque): partial is
// [pieces, 3, channels], every piece has `rows` rows but the last, which has what remains of `pixels`. Writes mean and
// sum of squared deviations of `count` channels.
template <typename A>
void merge_row_moments(const A* partial, int64_t rows, int64_t pixels, int64_t channels, int64_t count, double* mean,
                       double* m2) {
  constexpr int kSize = Vec<double>::kSize;
  for (int64_t c = 0; c < count; c += kSize) {
    const int64_t lanes = count - c < kSize ? count - c : kSize;
    Vec<double> total_mean, total_m2;
    for (int64_t done = 0; done < pixels; done += rows) {
      const A* piece = partial + done / rows * 3 * channels + c;
      A copy[3][kSize] = {};
      int64_t stride = channels;
      if (lanes < kSize) {
        for (int i = 0; i < 3; ++i)
          __builtin_memcpy(copy[i], piece + i * channels, static_cast<size_t>(lanes) * sizeof(A));
        piece = copy[0];
        stride = kSize;
      }
      const double here = static_cast<double>(pixels - done < rows ? pixels - done : rows);
      const double share = here / (static_cast<double>(done) + here);
      const Vec<double> sum = load_as_double(piece + stride), shift = sum * Vec<double>(1.0 / here);
      const Vec<double> delta = load_as_double(piece) + shift - total_mean;
      total_mean = multiply_add(delta, Vec<double>(share), total_mean);
      total_m2 = total_m2 + (load_as_double(piece + 2 * stride) - sum * shift) +
                 delta * delta * Vec<double>(share * static_cast<double>(done));
    }
    store_partial(mean + c, total_mean, lanes);
    store_partial(m2 + c, total_m2, lanes);
  }
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void apply_rows_as(const T* x, const T* residual, T* y, int64_t rows, int64_t channels, const A* mean,
                              const A* scale, const A* shift, A slope) {
  constexpr int kSize = Vec<A>::kSize;
  const Vec<A> vslope(slope);
  const int64_t whole = channels - channels % kSize, rest = channels - whole;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * channels;
    if (residual == nullptr) {
      for (int64_t c = 0; c < whole; c += kSize) {
        const Vec<A> t = multiply_add(load(x + at + c) - load(mean + c), load(scale + c), load(shift + c));
        store(y + at + c, activate<kActivation>(t, vslope));
      }
    } else {
      for (int64_t c = 0; c < whole; c += kSize) {
        const Vec<A> t = multiply_add(load(x + at + c) - load(mean + c), load(scale + c), load(shift + c));
        store(y + at + c, activate<kActivation>(t, vslope) + load(residual + at + c));
      }
    }
    if (rest > 0) {
      Vec<A> t = load_partial(x + at + whole, rest) - load_partial(mean + whole, rest);
      t = multiply_add(t, load_partial(scale + whole, rest), load_partial(shift + whole, rest));
      t = activate<kActivation>(t, vslope);
      if (residual != nullptr) t = t + load_partial(residual + at + whole, rest);
      store_partial(y + at + whole, t, rest);
    }
  }
}

// apply_span with the constants of every channel.
template <typename T>
void apply_rows(const T* x, const T* residual, T* y, int64_t rows, int64_t channels, const Accumulator<T>* mean,
                const Accumulator<T>* scale, const Accumulator<T>* shift, Activation activation, Accumulator<T> slope) {
  JDM_WITH_ACTIVATION(activation, apply_rows_as, x, residual, y, rows, channels, mean, scale, shift, slope)
}

template <Activation kActivation, bool kPartial, typename T, typename A>
JDM_INLINE void tile_gradient_sums(const T* dy, const T* x, int64_t rows, int64_t channels, int64_t lanes,
                                   const A* mean, const A* scale, const A* shift, Vec<A> vslope, A* sum_g, A* sum_gd) {
  const Vec<A> vmean = JDM_LOAD(kPartial, mean, lanes), vscale = JDM_LOAD(kPartial, scale, lanes);
  const Vec<A> vshift = JDM_LOAD(kPartial, shift, lanes);
  Vec<A> sums[2] = {JDM_LOAD(kPartial, sum_g, lanes), Vec<A>()};
  Vec<A> products[2] = {JDM_LOAD(kPartial, sum_gd, lanes), Vec<A>()};
  const auto add = [&](int j, int64_t at) __attribute__((always_inline)) {
    const Vec<A> d = JDM_LOAD(kPartial, x + at, lanes) - vmean, t = multiply_add(d, vscale, vshift);
    const Vec<A> g = masked_gradient<kActivation>(JDM_LOAD(kPartial, dy + at, lanes), t, vslope);
    sums[j] = sums[j] + g;
    products[j] = multiply_add(g, d, products[j]);
  };
  int64_t row = 0;
  for (; row + kTileUnroll <= rows; row += kTileUnroll) {
#pragma GCC unroll 4
    for (int j = 0; j < kTileUnroll; ++j) add(j % 2, (row + j) * channels);
  }
  for (; row < rows; ++row) add(0, row * channels);
  if (kPartial) {
    store_partial(sum_g, sums[0] + sums[1], lanes);
    store_partial(sum_gd, products[0] + products[1], lanes);
  } else {
    store(sum_g, sums[0] + sums[1]);
    store(sum_gd, products[0] + products[1]);
  }
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void row_gradient_sums_as(const T* dy, const T* x, int64_t rows, int64_t channels, const A* mean,
                                     const A* scale, const A* shift, A slope, A* sum_g, A* sum_gd) {
  constexpr int kSize = Vec<A>::kSize;
  const Tiles tile = tiles<T>(channels);
  const int64_t whole = channels - channels % kSize, rest = channels - whole;
  const Vec<A> vslope(slope);
  for (int64_t c = 0; c < channels; ++c) sum_g[c] = sum_gd[c] = A(0);
  for (int64_t row = 0; row < rows; row += tile.rows) {
    const T *x_at = x + row * channels, *dy_at = dy + row * channels;
    const int64_t here = rows - row < tile.rows ? rows - row : tile.rows;
    for (int64_t c = 0; c < whole; c += kSize) {
      if (tile.ahead > 0) {
        prefetch(x_at, tile.ahead, c);
        prefetch(dy_at, tile.ahead, c);
      }
      tile_gradient_sums<kActivation, false>(dy_at + c, x_at + c, here, channels, kSize, mean + c, scale + c, shift + c,
                                             vslope, sum_g + c, sum_gd + c);
    }
    if (rest > 0) {
      tile_gradient_sums<kActivation, true>(dy_at + whole, x_at + whole, here, channels, rest, mean + whole,
                                            scale + whole, shift + whole, vslope, sum_g + whole, sum_gd + whole);
    }
  }
}

// span_gradient_sums for every channel.
template <typename T>
void row_gradient_sums(const T* dy, const T* x, int64_t rows, int64_t channels, const Accumulator<T>* mean,
                       const Accumulator<T>* scale, const Accumulator<T>* shift, Activation activation,
                       Accumulator<T> slope, Accumulator<T>* sum_g, Accumulator<T>* sum_gd) {
  JDM_WITH_ACTIVATION(activation, row_gradient_sums_as, dy, x, rows, channels, mean, scale, shift, slope, sum_g, sum_gd)
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void apply_rows_gradient_as(const T* dy, const T* x, T* dx, int64_t rows, int64_t channels, const A* mean,
                                       const A* scale, const A* shift, A slope, const A* offset, const A* tilt) {
  constexpr int kSize = Vec<A>::kSize;
  const Vec<A> vslope(slope);
  const int64_t whole = channels - channels % kSize, rest = channels - whole;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * channels;
    for (int64_t c = 0; c < whole; c += kSize) {
      const Vec<A> d = load(x + at + c) - load(mean + c), vscale = load(scale + c);
      const Vec<A> g =
          masked_gradient<kActivation>(load(dy + at + c), multiply_add(d, vscale, load(shift + c)), vslope);
      store(dx + at + c, (g + multiply_add(d, load(tilt + c), load(offset + c))) * vscale);
    }
    if (rest > 0) {
      const Vec<A> d = load_partial(x + at + whole, rest) - load_partial(mean + whole, rest);
      const Vec<A> vscale = load_partial(scale + whole, rest);
      const Vec<A> t = multiply_add(d, vscale, load_partial(shift + whole, rest));
      const Vec<A> g = masked_gradient<kActivation>(load_partial(dy + at + whole, rest), t, vslope);
      const Vec<A> h = multiply_add(d, load_partial(tilt + whole, rest), load_partial(offset + whole, rest));
      store_partial(dx + at + whole, (g + h) * vscale, rest);
    }
  }
}

// apply_span_gradient with the constants of every channel.
template <typename T>
void apply_rows_gradient(const T* dy, const T* x, T* dx, int64_t rows, int64_t channels, const Accumulator<T>* mean,
                         const Accumulator<T>* scale, const Accumulator<T>* shift, Activation activation,
                         Accumulator<T> slope, const Accumulator<T>* offset, const Accumulator<T>* tilt) {
  JDM_WITH_ACTIVATION(activation, apply_rows_gradient_as, dy, x, dx, rows, channels, mean, scale, shift, slope, offset,
                      tilt)
}

#undef JDM_LOAD
#undef JDM_WITH_ACTIVATION
