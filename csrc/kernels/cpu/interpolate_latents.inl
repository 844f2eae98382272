// Rows of frames from two key rows, and key rows from the gradients of frames. A row is a contiguous piece of one
// latent; frames that follow each other in time lie `stride` elements apart.

// y[k] = coefficients[k][0] * begin + coefficients[k][1] * end for k = 1 .. steps-1, and y[0] = begin.
template <typename T>
void rows_between(const T* begin, const T* end, const Accumulator<T>* coefficients, T* y, int64_t steps, int64_t stride,
                  int64_t count) {
  using A = Accumulator<T>;
  constexpr int kSize = Vec<A>::kSize;
  const int64_t whole = count - count % kSize, rest = count - whole;
  __builtin_memcpy(y, begin, static_cast<size_t>(count) * sizeof(T));
  for (int64_t k = 1; k < steps; ++k) {
    T* row = y + k * stride;
    const Vec<A> a(coefficients[2 * k]), c(coefficients[2 * k + 1]);
    for (int64_t i = 0; i < whole; i += kSize) store(row + i, multiply_add(a, load(begin + i), c * load(end + i)));
    if (rest > 0) {
      const Vec<A> value = multiply_add(a, load_partial(begin + whole, rest), c * load_partial(end + whole, rest));
      store_partial(row + whole, value, rest);
    }
  }
}

// sum over k = 1 .. steps-1 of coefficients[k][side] * dy[k * stride], added to the kRegisters registers of `sum`.
template <int kRegisters, typename T, typename A>
JDM_INLINE void add_weighted_rows(Vec<A>* sum, const T* dy, const A* coefficients, int side, int64_t steps,
                                  int64_t stride) {
  for (int64_t k = 1; k < steps; ++k) {
    const Vec<A> weight(coefficients[2 * k + side]);
    const T* row = dy + k * stride;
#pragma GCC unroll 4
    for (int j = 0; j < kRegisters; ++j) sum[j] = multiply_add(weight, load(row + j * Vec<A>::kSize), sum[j]);
  }
}

// dz = dy, plus what the frames of the gaps before and after this key owe to it. dy points at the key's own frame;
// `before` and `after` are the gaps' coefficients [steps, 2], or nullptr where there is no gap.
template <typename T>
void key_row_gradient(const T* dy, const Accumulator<T>* before, const Accumulator<T>* after, T* dz, int64_t steps,
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
      if (after != nullptr) sum = multiply_add(Vec<A>(after[2 * k]), load_partial(row, lanes), sum);
    }
    for (int64_t k = 1; k < steps; ++k) {
      const T* row = dy + i + (k - steps) * stride;
      if (before != nullptr) sum = multiply_add(Vec<A>(before[2 * k + 1]), load_partial(row, lanes), sum);
    }
    store_partial(dz + i, sum, lanes);
  }
}
