// Loss, hits and gradient of one piece of one sample: pixels that all belong to class `target`. A register holds one
// logit of as many pixels as it has lanes; all logits of these pixels are read once, and everything else happens on the
// copies.
#include "vec_math.inl"

constexpr int kMaxClasses = 64;
constexpr int kBlock = 64;  // pixels that channels-last pieces transpose at once: whole registers at every level

// Per-lane sums over pixels.
template <typename A>
struct LaneSums {
  Vec<A> loss, hits;

  JDM_INLINE LaneSums() {}  // the implicit constructor would be compiled for the default level
};

// `value` holds `classes` logits of a register of pixels on entry, their gradients on return if kGradient. `valid`:
// ones in the lanes that count.
template <bool kGradient, typename A>
JDM_INLINE void softmax_of_register(Vec<A>* value, int classes, int target, A weight, Vec<A> valid, LaneSums<A>* sums) {
  using Native = typename Vec<A>::Native;
  const Native chosen = value[target].v;
  // Ties go to the lowest class: the target must beat those before it, and equal the largest of all.
  Native largest_before = Vec<A>(-__builtin_huge_val()).v;
  for (int k = 0; k < target; ++k) largest_before = value[k].v > largest_before ? value[k].v : largest_before;
  Native largest = chosen > largest_before ? chosen : largest_before;
  for (int k = target + 1; k < classes; ++k) largest = value[k].v > largest ? value[k].v : largest;
  const Native hit = (chosen == largest) & ((chosen > largest_before) | (target == 0)) ? valid.v : Native{};

  Vec<A> total;
  for (int k = 0; k < classes; ++k) {
    value[k] = exp_nonpositive(Vec<A>(value[k].v - largest));
    total = total + value[k];
  }
  const Vec<A> loss = log_positive(total) - Vec<A>(chosen - largest);
  sums->loss = multiply_add(loss, valid, sums->loss);
  sums->hits = sums->hits + Vec<A>(hit);
  if (kGradient) {
    const Vec<A> scale(weight / total.v);
    for (int k = 0; k < classes; ++k) value[k] = value[k] * scale;
    value[target] = value[target] - Vec<A>(weight);
  }
}

// `count` pixels whose classes are rows `stride` elements apart; `count` may be any number.
template <bool kGradient, typename T, typename A>
JDM_INLINE void softmax_of_rows(const T* logits, T* dlogits, int64_t stride, int64_t count, int classes, int target,
                                A weight, LaneSums<A>* sums) {
  constexpr int kSize = Vec<A>::kSize;
  const int64_t whole = count - count % kSize, rest = count - whole;
  Vec<A> value[kMaxClasses];
  for (int64_t i = 0; i < whole; i += kSize) {
    for (int k = 0; k < classes; ++k) value[k] = load(logits + k * stride + i);
    softmax_of_register<kGradient>(value, classes, target, weight, Vec<A>(A(1)), sums);
    if (kGradient) {
      for (int k = 0; k < classes; ++k) store(dlogits + k * stride + i, value[k]);
    }
  }
  if (rest > 0) {
    for (int k = 0; k < classes; ++k) value[k] = load_partial(logits + k * stride + whole, rest);
    softmax_of_register<kGradient>(value, classes, target, weight, first_lanes<A>(rest), sums);
    if (kGradient) {
      for (int k = 0; k < classes; ++k) store_partial(dlogits + k * stride + whole, value[k], rest);
    }
  }
}

// out[0..count-1] = in[0..count-1], converted.
template <typename In, typename Out>
JDM_INLINE void convert(const In* in, Out* out, int64_t count) {
  constexpr int kSize = Vec<Accumulator<In>>::kSize;
  const int64_t whole = count - count % kSize;
  for (int64_t i = 0; i < whole; i += kSize) store(out + i, load(in + i));
  if (whole < count) store_partial(out + whole, load_partial(in + whole, count - whole), count - whole);
}

// to [columns, rows] of from [rows, columns]; rows of `from` and `to` lie from_stride and to_stride apart.
template <typename A>
JDM_INLINE void transpose(const A* from, int64_t from_stride, int64_t rows, int64_t columns, A* to, int64_t to_stride) {
  for (int64_t column = 0; column < columns; ++column) {
    for (int64_t row = 0; row < rows; ++row) to[column * to_stride + row] = from[row * from_stride + column];
  }
}

// `count` pixels of `classes` numbers each, one after the other.
template <bool kGradient, typename T, typename A>
JDM_INLINE void softmax_of_pixels(const T* logits, T* dlogits, int64_t count, int classes, int target, A weight,
                                  LaneSums<A>* sums) {
  A rows[kMaxClasses * kBlock], pixels[kMaxClasses * kBlock];
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t block = count - i < kBlock ? count - i : kBlock;
    convert(logits + i * classes, pixels, block * classes);
    transpose(pixels, classes, block, classes, rows, kBlock);
    softmax_of_rows<kGradient>(rows, rows, kBlock, block, classes, target, weight, sums);
    if (kGradient) {
      transpose(rows, kBlock, classes, block, pixels, classes);
      convert(pixels, dlogits + i * classes, block * classes);
    }
  }
}

// Adds up the loss and the hits of `count` pixels. channels_last: logits and dlogits are [count, classes]; else
// [classes, count], the classes `stride` elements apart. dlogits may be nullptr. `count` is at most a few thousand,
// which keeps lane sums accurate.
template <typename T>
void piece_loss(const T* logits, T* dlogits, bool channels_last, int64_t stride, int64_t count, int classes, int target,
                Accumulator<T> weight, double* loss, double* hits) {
  using A = Accumulator<T>;
  LaneSums<A> sums;
  if (channels_last && dlogits != nullptr) {
    softmax_of_pixels<true>(logits, dlogits, count, classes, target, weight, &sums);
  } else if (channels_last) {
    softmax_of_pixels<false>(logits, dlogits, count, classes, target, weight, &sums);
  } else if (dlogits != nullptr) {
    softmax_of_rows<true>(logits, dlogits, stride, count, classes, target, weight, &sums);
  } else {
    softmax_of_rows<false>(logits, dlogits, stride, count, classes, target, weight, &sums);
  }
  *loss = 0;
  for (int lane = 0; lane < Vec<A>::kSize; ++lane) *loss += static_cast<double>(sums.loss.v[lane]);
  *hits = static_cast<double>(horizontal_sum(sums.hits));
}

// to[i] = scale * from[i], i < count.
template <typename T>
void scale_piece(const T* from, T* to, int64_t count, Accumulator<T> scale) {
  using V = Vec<Accumulator<T>>;
  constexpr int kSize = V::kSize;
  const V factor(scale);
  const int64_t whole = count - count % kSize;
  for (int64_t i = 0; i < whole; i += kSize) store(to + i, load(from + i) * factor);
  if (whole < count) store_partial(to + whole, load_partial(from + whole, count - whole) * factor, count - whole);
}
