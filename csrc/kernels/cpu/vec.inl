// One register of accumulators, for the level that includes this file (see for_each_level.h). Arithmetic uses the
// compiler's vector extensions; only conversions and partial accesses need intrinsics. Sums of products are written `a
// * b + c`, which the compiler contracts to a fused multiply-add where the level has one.

#if JDM_CPU_LEVEL == 2
constexpr int kVectorBytes = 64;
#elif JDM_CPU_LEVEL == 1
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#ifndef JDM_INLINE
#define JDM_INLINE inline __attribute__((always_inline))
#endif

typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef double Doubles __attribute__((vector_size(kVectorBytes)));

template <typename A>
struct NativeOf;
template <>
struct NativeOf<float> {
  typedef Floats type;
};
template <>
struct NativeOf<double> {
  typedef Doubles type;
};

// A is float or double.
template <typename A>
struct Vec {
  static constexpr int kSize = kVectorBytes / static_cast<int>(sizeof(A));
  typedef typename NativeOf<A>::type Native;
  Native v;

  JDM_INLINE Vec() : v{} {}
  JDM_INLINE Vec(Native value) : v(value) {}
  JDM_INLINE explicit Vec(A value) : v(value - Native{}) {}  // every lane
};

// clang-format off
template <typename A> JDM_INLINE Vec<A> operator+(Vec<A> a, Vec<A> b) { return a.v + b.v; }
template <typename A> JDM_INLINE Vec<A> operator-(Vec<A> a, Vec<A> b) { return a.v - b.v; }
template <typename A> JDM_INLINE Vec<A> operator*(Vec<A> a, Vec<A> b) { return a.v * b.v; }
// a * b + c, in one rounding where the level has FMA.
template <typename A> JDM_INLINE Vec<A> multiply_add(Vec<A> a, Vec<A> b, Vec<A> c) { return a.v * b.v + c.v; }
// Lanes of `yes` where t > 0, else of `no` (also where t is NaN).
template <typename A> JDM_INLINE Vec<A> where_positive(Vec<A> t, Vec<A> yes, Vec<A> no) {
  return t.v > typename Vec<A>::Native{} ? yes.v : no.v;
}
// max(t, 0) that keeps NaN, as torch.relu does.
template <typename A> JDM_INLINE Vec<A> clamp_negative(Vec<A> t) {
  return t.v <= typename Vec<A>::Native{} ? typename Vec<A>::Native{} : t.v;
}
// clang-format on

// Sum of the lanes, by halves.
template <typename A>
JDM_INLINE A horizontal_sum(Vec<A> a) {
  A lanes[Vec<A>::kSize];
  __builtin_memcpy(lanes, &a.v, sizeof(lanes));
  for (int width = Vec<A>::kSize / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// `count` lanes of ones followed by zeros; 0 <= count <= kSize.
template <typename A>
JDM_INLINE Vec<A> first_lanes(int64_t count) {
  A lanes[Vec<A>::kSize];
  for (int i = 0; i < Vec<A>::kSize; ++i) lanes[i] = i < count ? A(1) : A(0);
  Vec<A> result;
  __builtin_memcpy(&result.v, lanes, sizeof(lanes));
  return result;
}

//------------------------------------------------------------------------ float16 <-> float32 without F16C

#if JDM_CPU_LEVEL == 0
JDM_INLINE float float16_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  float value;
  if (magnitude >= 0x7c00u) {  // infinity, NaN
    const uint32_t bits = sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13);
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
  }
  // Exponent and mantissa moved into place read as value * 2^-112, also for subnormals; the product is exact.
  const uint32_t bits = magnitude << 13;
  __builtin_memcpy(&value, &bits, sizeof(value));
  value *= 0x1p+112f;
  return sign ? -value : value;
}

JDM_INLINE uint16_t float_to_float16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more: infinity
  if (bits < 0x38800000u) {
    // Subnormal result: adding 0.5 aligns the float's last mantissa bit with that of a float16 subnormal, and rounds.
    float shifted;
    __builtin_memcpy(&shifted, &bits, sizeof(shifted));
    shifted += 0.5f;
    __builtin_memcpy(&bits, &shifted, sizeof(bits));
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  bits += 0xfffu + ((bits >> 13) & 1u);  // round to nearest, ties to even
  return static_cast<uint16_t>(sign | ((bits - 0x38000000u) >> 13));
}
#endif

//------------------------------------------------------------------------ loads and stores (unaligned), with conversion
// (AVX-512 conversions take their masked form, since GCC 12 warns of an uninitialised value inside the other's
// definition.)

typedef uint32_t Bits32 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Bits16 __attribute__((vector_size(kVectorBytes / 2)));

JDM_INLINE Vec<float> load(const float* p) {
  Vec<float> a;
  __builtin_memcpy(&a.v, p, kVectorBytes);
  return a;
}

JDM_INLINE Vec<double> load(const double* p) {
  Vec<double> a;
  __builtin_memcpy(&a.v, p, kVectorBytes);
  return a;
}

JDM_INLINE Vec<float> load(const BFloat16* p) {
  Bits16 half;
  __builtin_memcpy(&half, p, sizeof(half));
  return (Floats)(__builtin_convertvector(half, Bits32) << 16);
}

JDM_INLINE Vec<float> load(const Float16* p) {
#if JDM_CPU_LEVEL == 2
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif JDM_CPU_LEVEL == 1
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Vec<float> a;
  for (int i = 0; i < Vec<float>::kSize; ++i) a.v[i] = float16_to_float(p[i].bits);
  return a;
#endif
}

JDM_INLINE void store(float* p, Vec<float> a) { __builtin_memcpy(p, &a.v, kVectorBytes); }

JDM_INLINE void store(double* p, Vec<double> a) { __builtin_memcpy(p, &a.v, kVectorBytes); }

JDM_INLINE void store(BFloat16* p, Vec<float> a) {
  const Bits32 bits = (Bits32)a.v;
  const Bits32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const Bits32 nan = (bits >> 16) | 0x40u;                              // rounding could carry a NaN into infinity
  const Bits16 half = __builtin_convertvector(a.v != a.v ? nan : rounded, Bits16);
  __builtin_memcpy(p, &half, sizeof(half));
}

JDM_INLINE void store(Float16* p, Vec<float> a) {
#if JDM_CPU_LEVEL == 2
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, (__m512)a.v, _MM_FROUND_TO_NEAREST_INT));
#elif JDM_CPU_LEVEL == 1
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)a.v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < Vec<float>::kSize; ++i) p[i].bits = float_to_float16(a.v[i]);
#endif
}

// load_partial: the first `count` elements at p, 0 <= count <= kSize, and zeros. store_partial: the first `count`
// lanes. Neither touches memory beyond them.
#if JDM_CPU_LEVEL == 2
JDM_INLINE uint32_t lane_mask(int64_t count) { return (1u << count) - 1u; }  // count <= 16

JDM_INLINE Vec<float> load_partial(const float* p, int64_t count) {
  return (Floats)_mm512_maskz_loadu_ps(static_cast<__mmask16>(lane_mask(count)), p);
}

JDM_INLINE Vec<double> load_partial(const double* p, int64_t count) {
  return (Doubles)_mm512_maskz_loadu_pd(static_cast<__mmask8>(lane_mask(count)), p);
}

JDM_INLINE Vec<float> load_partial(const BFloat16* p, int64_t count) {
  const Bits16 half = (Bits16)_mm256_maskz_loadu_epi16(static_cast<__mmask16>(lane_mask(count)), p);
  return (Floats)(__builtin_convertvector(half, Bits32) << 16);
}

JDM_INLINE Vec<float> load_partial(const Float16* p, int64_t count) {
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, _mm256_maskz_loadu_epi16(static_cast<__mmask16>(lane_mask(count)), p));
}

JDM_INLINE void store_partial(float* p, Vec<float> a, int64_t count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(lane_mask(count)), (__m512)a.v);
}

JDM_INLINE void store_partial(double* p, Vec<double> a, int64_t count) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(lane_mask(count)), (__m512d)a.v);
}

template <typename T>  // Float16, BFloat16
JDM_INLINE void store_partial(T* p, Vec<float> a, int64_t count) {
  T lanes[Vec<float>::kSize];
  store(lanes, a);
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes));
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(lane_mask(count)), half);
}
#else
template <typename T>
JDM_INLINE Vec<Accumulator<T> > load_partial(const T* p, int64_t count) {
  T lanes[Vec<Accumulator<T> >::kSize] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(count) * sizeof(T));
  return load(lanes);
}

template <typename T>
JDM_INLINE void store_partial(T* p, Vec<Accumulator<T> > a, int64_t count) {
  T lanes[Vec<Accumulator<T> >::kSize];
  store(lanes, a);
  __builtin_memcpy(p, lanes, static_cast<size_t>(count) * sizeof(T));
}
#endif
