// Exponential and logarithm of one register, for the bodies that include it (after vec.inl, see for_each_level.h).

typedef int32_t Signed32 __attribute__((vector_size(kVectorBytes)));

// exp(x) for x <= 0, to 2 units in the last place; 0 below -87.3, where results are no longer normal; NaN for NaN.
JDM_INLINE Vec<float> exp_nonpositive(Vec<float> x) {
  constexpr float kLowest = -87.3f;
  constexpr float kShift = 0x1.8p23f;  // adding it rounds to an integer, which the low bits of the sum then hold
  constexpr float kLog2E = 0x1.715476p+0f, kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  const Vec<float>::Native clamped = x.v < kLowest ? Vec<float>(kLowest).v : x.v;
  const Vec<float>::Native shifted = clamped * kLog2E + kShift;
  const Vec<float>::Native n = shifted - kShift;
  const Vec<float>::Native r = (clamped - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2) / 2; n * kLn2High is exact
  // The Taylor series; the next term is below 6e-9.
  Vec<float>::Native p = r * (1.f / 5040) + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  const Signed32 exponent = ((Signed32)shifted + (127 - 0x4b400000)) << 23;  // bits of 2^n
  return x.v < kLowest ? Vec<float>::Native{} : p * (Vec<float>::Native)exponent;
}

// log(x) for normal x > 0, to 2 units in the last place, also close to 1; NaN for NaN.
JDM_INLINE Vec<float> log_positive(Vec<float> x) {
  constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  constexpr int32_t kSqrtHalf = 0x3f3504f3;  // bits of sqrt(1/2): the mantissa is taken from [sqrt(1/2), sqrt(2))
  const Signed32 bits = (Signed32)x.v;
  const Signed32 exponent = (bits - kSqrtHalf) >> 23;
  const Vec<float>::Native m = (Vec<float>::Native)(bits - (exponent << 23));
  const Vec<float>::Native n = __builtin_convertvector(exponent, Vec<float>::Native);
  // log(m) = 2 atanh(s); |s| <= 0.172, so the next term is below 3e-9 of the result.
  const Vec<float>::Native s = (m - 1.f) / (m + 1.f), q = s * s;
  Vec<float>::Native p = q * (2.f / 9) + 2.f / 7;
  p = p * q + 2.f / 5;
  p = p * q + 2.f / 3;
  const Vec<float>::Native log_m = s * q * p + 2.f * s;
  const Vec<float>::Native result = n * kLn2High + (n * kLn2Low + log_m);
  return x.v != x.v ? x.v : result;
}

JDM_INLINE Vec<double> exp_nonpositive(Vec<double> x) {
  for (int i = 0; i < Vec<double>::kSize; ++i) x.v[i] = ::exp(x.v[i]);
  return x;
}

JDM_INLINE Vec<double> log_positive(Vec<double> x) {
  for (int i = 0; i < Vec<double>::kSize; ++i) x.v[i] = ::log(x.v[i]);
  return x;
}
