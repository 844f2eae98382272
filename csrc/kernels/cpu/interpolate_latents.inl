// Rows of frames from two key rows, and key rows from the gradients of frames. A row is a contiguous piece of one
// latent; frames that follow each other in time lie `stride` elements apart. Row k of a gap's weights begins at
// weights[4 * k], see interpolate_latents.h.

constexpr int kWeights = 4;

// y[k] = weights[k][0] * begin + weights[k][1] * end for k = 1 .. steps-1, and y[0] = begin.
template <typename T>
void rows_between(const T* begin, const T* end, const Accumulator<T>* weights, T* y, int64_t steps, int64_t stride,
                  int64_t count) {
  using A = Accumulator<T>;
  constexpr int kSize = Vec<A>::kSize;
  const int64_t whole = count - count % kSize, rest = count - whole;
  __builtin_memcpy(y, begin, static_cast<size_t>(count) * sizeof(T));
  for (int64_t k = 1; k < steps; ++k) {
    T* row = y + k * stride;
    const Vec<A> a(weights[kWeights * k]), c(weights[kWeights * k + 1]);
    for (int64_t i = 0; i < whole; i += kSize) store(row + i, multiply_add(a, load(begin + i), c * load(end + i)));
    if (rest > 0) {
      const Vec<A> value = multiply_add(a, load_partial(begin + whole, rest), c * load_partial(end + whole, rest));
      store_partial(row + whole, value, rest);
    }
  }
}

// sum over k = 1 .. steps-1 of weights[k][side] * dy[k * stride], added to the kRegisters registers of `sum`.
template <int kRegisters, typename T, typename A>
JDM_INLINE void add_weighted_rows(Vec<A>* sum, const T* dy, const A* weights, int side, int64_t steps, int64_t stride) {
  for (int64_t k = 1; k < steps; ++k) {
    const Vec<A> weight(weights[kWeights * k + side]);
    const T* row = dy + k * stride;
#pragma GCC unroll 4
    for (int j = 0; j < kRegisters; ++j) sum[j] = multiply_add(weight, load(row + j * Vec<A>::kSize), sum[j]);
  }
}

// dz = dy, plus what the frames of the gaps before and after this key owe to it. dy points at the key's own frame;
// `before` and `after` are the gaps' weights, or nullptr where there is no gap. dz is in T or in the accumulation type.
template <typename T, typename Out>
void key_row_gradient(const T* dy, const Accumulator<T>* before, const Accumulator<T>* after, Out* dz, int64_t steps,
                      int64_t stride, int64_t count) {
  using A = Accumulator<T>;
  constexpr int kSize = Vec<A>::kSize, kRegisters = 4;  // together whole cache lines: rows may all share one cache set
  int64_t i = 0;
  for (; i + kRegisters * kSize <= count; i += kRegisters * kSize) {
    Vec<A> sum[kRegisters];
#pragma GCC unroll 4
    for (int j = 0; j < kRegisters; ++j) sum[j] = load(dy + i + j * kSize);
    if (after != nullptr) add_weighted_rows<kRegisters>(sum, dy + i, after, 0, steps, stride);
    if (before != nullptr) add_weighted_rows<kRegisters>(sum, dy + i - steps * stride, before, 1, steps, stride);
#pragma GCC unroll 4
    for (int j = 0; j < kRegisters; ++j) store(dz + i + j * kSize, sum[j]);
  }
  for (; i < count; i += kSize) {
    const int64_t lanes = count - i < kSize ? count - i : kSize;
    Vec<A> sum = load_partial(dy + i, lanes);
    for (int64_t k = 1; k < steps; ++k) {
      const T* row = dy + i + k * stride;
      if (after != nullptr) sum = multiply_add(Vec<A>(after[kWeights * k]), load_partial(row, lanes), sum);
    }
    for (int64_t k = 1; k < steps; ++k) {
      const T* row = dy + i + (k - steps) * stride;
      if (before != nullptr) sum = multiply_add(Vec<A>(before[kWeights * k + 1]), load_partial(row, lanes), sum);
    }
    store_partial(dz + i, sum, lanes);
  }
}

// ---- slerp: inner products over rows, and what the angles add to dz

JDM_INLINE void add_product(Vec<double> p, Vec<double> q, Vec<double>* sum) { *sum = multiply_add(p, q, *sum); }

// In double, which holds the products exactly.
JDM_INLINE void add_product(Vec<float> p, Vec<float> q, Vec<double>* sum) {
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  Half left[2], right[2];
  __builtin_memcpy(left, &p.v, sizeof(left));
  __builtin_memcpy(right, &q.v, sizeof(right));
  for (int i = 0; i < 2; ++i) {
    sum->v = __builtin_convertvector(left[i], Doubles) * __builtin_convertvector(right[i], Doubles) + sum->v;
  }
}

// products[0] = <p, p>, products[1] = <p, q>, or 0 if q is nullptr.
template <typename T>
void row_products(const T* p, const T* q, int64_t count, double* products) {
  constexpr int kSize = Vec<Accumulator<T>>::kSize;
  Vec<double> own, next;
  for (int64_t i = 0; i < count; i += kSize) {
    const int64_t lanes = count - i;
    const auto value = lanes < kSize ? load_partial(p + i, lanes) : load(p + i);
    add_product(value, value, &own);
    if (q != nullptr) add_product(value, lanes < kSize ? load_partial(q + i, lanes) : load(q + i), &next);
  }
  products[0] = horizontal_sum(own);
  products[1] = horizontal_sum(next);
}

// A whole register, or its first `lanes`.
template <bool kWhole, typename T>
JDM_INLINE Vec<Accumulator<T>> load_some(const T* p, int64_t lanes) {
  return kWhole ? load(p) : load_partial(p, lanes);
}

// kRegisters registers of <dy, dy/dw>: the sums over k = 1 .. steps-1 of weights[k][2] * dy[k] times begin, and of
// weights[k][3] * dy[k] times end. Of a single register only `lanes` are in memory.
template <int kRegisters, typename T, typename A>
JDM_INLINE Vec<A> turning_of_registers(const T* dy, const T* begin, const T* end, const A* weights, int64_t steps,
                                       int64_t stride, int64_t lanes) {
  constexpr int kSize = Vec<A>::kSize;
  Vec<A> first[kRegisters], last[kRegisters], sum;
  for (int64_t k = 1; k < steps; ++k) {
    const Vec<A> a(weights[kWeights * k + 2]), c(weights[kWeights * k + 3]);
    const T* row = dy + k * stride;
#pragma GCC unroll 4
    for (int j = 0; j < kRegisters; ++j) {
      const Vec<A> gradient = load_some<(kRegisters > 1)>(row + j * kSize, lanes);
      first[j] = multiply_add(a, gradient, first[j]);
      last[j] = multiply_add(c, gradient, last[j]);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kRegisters; ++j) {
    sum = multiply_add(first[j], load_some<(kRegisters > 1)>(begin + j * kSize, lanes), sum);
    sum = multiply_add(last[j], load_some<(kRegisters > 1)>(end + j * kSize, lanes), sum);
  }
  return sum;
}

// What a piece adds to <dy, dy/dw> of a gap. dy points at the gap's first frame. A piece has a few thousand numbers at
// most, which keeps lane sums accurate.
template <typename T>
double row_turning(const T* dy, const T* begin, const T* end, const Accumulator<T>* weights, int64_t steps,
                   int64_t stride, int64_t count) {
  using A = Accumulator<T>;
  constexpr int kSize = Vec<A>::kSize, kRegisters = 4;
  Vec<A> sum;
  int64_t i = 0;
  for (; i + kRegisters * kSize <= count; i += kRegisters * kSize) {
    sum = sum + turning_of_registers<kRegisters>(dy + i, begin + i, end + i, weights, steps, stride, kSize);
  }
  for (; i < count; i += kSize) {
    const int64_t lanes = count - i < kSize ? count - i : kSize;
    sum = sum + turning_of_registers<1>(dy + i, begin + i, end + i, weights, steps, stride, lanes);
  }
  return static_cast<double>(horizontal_sum(sum));
}

// dz = linear + factors[0] * z[-stride] + factors[1] * z + factors[2] * z[stride]. A factor of 0: that row is not read.
// dz may be `linear`.
template <typename T>
void add_turning(const Accumulator<T>* linear, const T* z, const Accumulator<T>* factors, T* dz, int64_t stride,
                 int64_t count) {
  using A = Accumulator<T>;
  constexpr int kSize = Vec<A>::kSize;
  const int64_t whole = count - count % kSize, rest = count - whole;
  for (int64_t i = 0; i < whole; i += kSize) {
    Vec<A> sum = load(linear + i);
    for (int side = 0; side < 3; ++side) {
      if (factors[side] == A(0)) continue;
      sum = multiply_add(Vec<A>(factors[side]), load(z + (side - 1) * stride + i), sum);
    }
    store(dz + i, sum);
  }
  if (rest > 0) {
    Vec<A> sum = load_partial(linear + whole, rest);
    for (int side = 0; side < 3; ++side) {
      if (factors[side] == A(0)) continue;
      sum = multiply_add(Vec<A>(factors[side]), load_partial(z + (side - 1) * stride + whole, rest), sum);
    }
    store_partial(dz + whole, sum, rest);
  }
}
