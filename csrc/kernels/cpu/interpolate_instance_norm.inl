// Arithmetic of interpolate_instance_norm on contiguous pieces of two key maps a and b; the loops around it are in
// interpolate_instance_norm_cpu.cpp. A frame is (a - mean_a) * scale_a + (b - mean_b) * scale_b + shift with scale_a =
// (1-t) * weight * rstd, scale_b = t * weight * rstd, shift = bias; each mean comes off first, because the terms cancel
// when the means are large.

#include "activation.inl"

//------------------------------------------------------------------------ NCHW: a span is part of one plane

// moments = {mean a, mean b, sums of (a - mean a)^2, (b - mean b)^2 and (a - mean a) (b - mean b)}. One pass over both
// minus a pivot of each, as in span_moments of instance_norm.inl, for spans of at most 16 times kPivotSpan elements.
template <typename T>
void span_pair_moments(const T* a, const T* b, int64_t count, double* moments) {
  using A = Accumulator<T>;
  constexpr int kSize = Vec<A>::kSize, kUnroll = 2;
  constexpr int64_t kPivotSpan = 256;
  const int64_t whole = count - count % kSize, unrolled = count - count % (kUnroll * kSize), rest = count - whole;

  Vec<A> head_a, head_b;
  const int64_t pivot_span = whole < kPivotSpan ? whole : kPivotSpan;
  for (int64_t i = 0; i < pivot_span; i += kSize) {
    head_a = head_a + load(a + i);
    head_b = head_b + load(b + i);
  }
  if (whole == 0) {
    head_a = load_partial(a, rest);
    head_b = load_partial(b, rest);
  }
  const A share = A(1) / static_cast<A>(whole == 0 ? rest : pivot_span);
  const A pivot_a = horizontal_sum(head_a) * share, pivot_b = horizontal_sum(head_b) * share;

  const Vec<A> va(pivot_a), vb(pivot_b);
  Vec<A> sum_a[kUnroll], sum_b[kUnroll], aa[kUnroll], bb[kUnroll], ab[kUnroll];
  int64_t i = 0;
  for (; i < unrolled; i += kUnroll * kSize) {
#pragma GCC unroll 2
    for (int j = 0; j < kUnroll; ++j) {
      const Vec<A> da = load(a + i + j * kSize) - va, db = load(b + i + j * kSize) - vb;
      sum_a[j] = sum_a[j] + da;
      sum_b[j] = sum_b[j] + db;
      aa[j] = multiply_add(da, da, aa[j]);
      bb[j] = multiply_add(db, db, bb[j]);
      ab[j] = multiply_add(da, db, ab[j]);
    }
  }
  for (; i < count; i += kSize) {
    const int64_t lanes = count - i < kSize ? count - i : kSize;
    const Vec<A> mask = first_lanes<A>(lanes);
    const Vec<A> da = load_partial(a + i, lanes) - va * mask, db = load_partial(b + i, lanes) - vb * mask;
    sum_a[0] = sum_a[0] + da;
    sum_b[0] = sum_b[0] + db;
    aa[0] = multiply_add(da, da, aa[0]);
    bb[0] = multiply_add(db, db, bb[0]);
    ab[0] = multiply_add(da, db, ab[0]);
  }
  const double total_a = horizontal_sum(sum_a[0] + sum_a[1]), total_b = horizontal_sum(sum_b[0] + sum_b[1]);
  const double shift_a = total_a / static_cast<double>(count), shift_b = total_b / static_cast<double>(count);
  moments[0] = pivot_a + shift_a;
  moments[1] = pivot_b + shift_b;
  moments[2] = horizontal_sum(aa[0] + aa[1]) - total_a * shift_a;
  moments[3] = horizontal_sum(bb[0] + bb[1]) - total_b * shift_b;
  moments[4] = horizontal_sum(ab[0] + ab[1]) - total_a * shift_b;
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void apply_span_between_as(const T* a, const T* b, T* y, int64_t count, A mean_a, A mean_b, A scale_a,
                                      A scale_b, A shift, A slope) {
  constexpr int kSize = Vec<A>::kSize;
  const Vec<A> ma(mean_a), mb(mean_b), sa(scale_a), sb(scale_b), vshift(shift), vslope(slope);
  const int64_t whole = count - count % kSize, rest = count - whole;
  for (int64_t i = 0; i < whole; i += kSize) {
    const Vec<A> t = multiply_add(load(a + i) - ma, sa, multiply_add(load(b + i) - mb, sb, vshift));
    store(y + i, activate<kActivation>(t, vslope));
  }
  if (rest > 0) {
    const Vec<A> t = multiply_add(load_partial(a + whole, rest) - ma, sa,
                                  multiply_add(load_partial(b + whole, rest) - mb, sb, vshift));
    store_partial(y + whole, activate<kActivation>(t, vslope), rest);
  }
}

// y = act((a - mean_a) * scale_a + (b - mean_b) * scale_b + shift)
template <typename T>
void apply_span_between(const T* a, const T* b, T* y, int64_t count, Accumulator<T> mean_a, Accumulator<T> mean_b,
                        Accumulator<T> scale_a, Accumulator<T> scale_b, Accumulator<T> shift, Activation activation,
                        Accumulator<T> slope) {
  JDM_WITH_ACTIVATION(activation, apply_span_between_as, a, b, y, count, mean_a, mean_b, scale_a, scale_b, shift, slope)
}

//------------------------------------------------------------------------ channels_last: rows of C channels

// `lanes` <= kSize neighbouring channels of all rows; moments + i * channels for the i-th of the five.
template <typename T>
JDM_INLINE void row_pair_moments_block(const T* a, const T* b, int64_t rows, int64_t channels, int64_t lanes,
                                       double* moments) {
  using A = Accumulator<T>;
  constexpr int kSize = Vec<A>::kSize;
  constexpr int64_t kPivotRows = 16;
  const int64_t pivot_rows = rows < kPivotRows ? rows : kPivotRows;
  Vec<A> pivot_a, pivot_b, sum_a, sum_b, aa, bb, ab;
  for (int64_t row = 0; row < pivot_rows; ++row) {
    pivot_a = pivot_a + load_partial(a + row * channels, lanes);
    pivot_b = pivot_b + load_partial(b + row * channels, lanes);
  }
  const Vec<A> share(A(1) / static_cast<A>(pivot_rows));
  pivot_a = pivot_a * share;
  pivot_b = pivot_b * share;
  const auto add = [&](Vec<A> value_a, Vec<A> value_b) __attribute__((always_inline)) {
    const Vec<A> da = value_a - pivot_a, db = value_b - pivot_b;
    sum_a = sum_a + da;
    sum_b = sum_b + db;
    aa = multiply_add(da, da, aa);
    bb = multiply_add(db, db, bb);
    ab = multiply_add(da, db, ab);
  };
  if (lanes == kSize) {
    for (int64_t row = 0; row < rows; ++row) add(load(a + row * channels), load(b + row * channels));
  } else {
    for (int64_t row = 0; row < rows; ++row) {
      add(load_partial(a + row * channels, lanes), load_partial(b + row * channels, lanes));
    }
  }
  A lane[7][kSize];
  const Vec<A> all[7] = {pivot_a, pivot_b, sum_a, sum_b, aa, bb, ab};
  for (int i = 0; i < 7; ++i) store(lane[i], all[i]);
  for (int64_t c = 0; c < lanes; ++c) {
    const double shift_a = lane[2][c] / static_cast<double>(rows), shift_b = lane[3][c] / static_cast<double>(rows);
    moments[c] = lane[0][c] + shift_a;
    moments[channels + c] = lane[1][c] + shift_b;
    moments[2 * channels + c] = lane[4][c] - lane[2][c] * shift_a;
    moments[3 * channels + c] = lane[5][c] - lane[3][c] * shift_b;
    moments[4 * channels + c] = lane[6][c] - lane[2][c] * shift_b;
  }
}

// span_pair_moments of every channel over the rows, at most 16 times kPivotRows of them: moments [5, C].
template <typename T>
void row_pair_moments(const T* a, const T* b, int64_t rows, int64_t channels, double* moments) {
  constexpr int kSize = Vec<Accumulator<T>>::kSize;
  for (int64_t c = 0; c < channels; c += kSize) {
    const int64_t lanes = channels - c < kSize ? channels - c : kSize;
    row_pair_moments_block(a + c, b + c, rows, channels, lanes, moments + c);
  }
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void apply_rows_between_as(const T* a, const T* b, T* y, int64_t rows, int64_t channels, const A* mean_a,
                                      const A* mean_b, const A* scale_a, const A* scale_b, const A* shift, A slope) {
  constexpr int kSize = Vec<A>::kSize;
  const Vec<A> vslope(slope);
  const int64_t whole = channels - channels % kSize, rest = channels - whole;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * channels;
    for (int64_t c = 0; c < whole; c += kSize) {
      Vec<A> t = multiply_add(load(b + at + c) - load(mean_b + c), load(scale_b + c), load(shift + c));
      t = multiply_add(load(a + at + c) - load(mean_a + c), load(scale_a + c), t);
      store(y + at + c, activate<kActivation>(t, vslope));
    }
    if (rest > 0) {
      Vec<A> t = multiply_add(load_partial(b + at + whole, rest) - load_partial(mean_b + whole, rest),
                              load_partial(scale_b + whole, rest), load_partial(shift + whole, rest));
      t = multiply_add(load_partial(a + at + whole, rest) - load_partial(mean_a + whole, rest),
                       load_partial(scale_a + whole, rest), t);
      store_partial(y + at + whole, activate<kActivation>(t, vslope), rest);
    }
  }
}

// apply_span_between with the constants of every channel.
template <typename T>
void apply_rows_between(const T* a, const T* b, T* y, int64_t rows, int64_t channels, const Accumulator<T>* mean_a,
                        const Accumulator<T>* mean_b, const Accumulator<T>* scale_a, const Accumulator<T>* scale_b,
                        const Accumulator<T>* shift, Activation activation, Accumulator<T> slope) {
  JDM_WITH_ACTIVATION(activation, apply_rows_between_as, a, b, y, rows, channels, mean_a, mean_b, scale_a, scale_b,
                      shift, slope)
}

#undef JDM_WITH_ACTIVATION
