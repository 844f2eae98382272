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

#include "instance_norm_rows.inl"

#undef JDM_WITH_ACTIVATION
