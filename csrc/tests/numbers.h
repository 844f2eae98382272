// Elements of any dtype as doubles, and repeatable random numbers: what the naive loops of the tests compute with.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../kernels/types.h"

namespace jdm_fast::test {

constexpr DType kAllDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64};

inline const char* name(DType dtype) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "float64"};
  return kNames[static_cast<int>(dtype)];
}

// The dtype of statistics and coefficients.
inline DType accumulator(DType dtype) { return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }

// Twice the rounding error of `dtype` relative to the value, plus what sums in the accumulator may lose.
inline double tolerance(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 1e-5;
    case DType::kFloat16:
      return 1.0 / 1024;
    case DType::kBFloat16:
      return 1.0 / 128;
    case DType::kFloat64:
      return 1e-12;
  }
  return 0;
}

// `value` rounded to `bits` significant bits (ties to even) on a grid no finer than `smallest`; overflow is not
// handled.
inline double round_to(double value, int bits, double smallest) {
  if (value == 0 || !std::isfinite(value)) return value;
  int exponent = 0;
  std::frexp(value, &exponent);
  const double grid = std::fmax(std::ldexp(1.0, exponent - bits), smallest);
  return std::nearbyint(value / grid) * grid;
}

inline uint16_t to_float16_bits(double value) {
  if (std::isnan(value)) return 0x7e00;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double rounded = std::fabs(round_to(value, 11, std::ldexp(1.0, -24)));
  if (rounded >= 65536) return sign | 0x7c00;
  if (rounded < std::ldexp(1.0, -14)) return sign | static_cast<uint16_t>(std::ldexp(rounded, 24));
  int exponent = 0;
  const double mantissa = std::frexp(rounded, &exponent);  // in [0.5, 1)
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) + (std::ldexp(mantissa, 11) - 1024));
}

inline double from_float16_bits(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25));
}

inline uint16_t to_bfloat16_bits(double value) {
  if (std::isnan(value)) return 0x7fc0;
  const float rounded = static_cast<float>(round_to(value, 8, 0));  // test values are far from bfloat16's smallest
  uint32_t bits = 0;
  std::memcpy(&bits, &rounded, sizeof(bits));
  return static_cast<uint16_t>(bits >> 16);
}

inline double from_bfloat16_bits(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// Element i of an array of `dtype`.
inline double load(const void* array, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(array)[i];
    case DType::kFloat16:
      return from_float16_bits(static_cast<const uint16_t*>(array)[i]);
    case DType::kBFloat16:
      return from_bfloat16_bits(static_cast<const uint16_t*>(array)[i]);
    case DType::kFloat64:
      return static_cast<const double*>(array)[i];
  }
  return 0;
}

inline void store(void* array, DType dtype, int64_t i, double value) {
  switch (dtype) {
    case DType::kFloat32:
      static_cast<float*>(array)[i] = static_cast<float>(value);
      return;
    case DType::kFloat16:
      static_cast<uint16_t*>(array)[i] = to_float16_bits(value);
      return;
    case DType::kBFloat16:
      static_cast<uint16_t*>(array)[i] = to_bfloat16_bits(value);
      return;
    case DType::kFloat64:
      static_cast<double*>(array)[i] = value;
      return;
  }
}

// `value` as an element of `dtype` holds it.
inline double rounded(double value, DType dtype) {
  double cell = 0;
  store(&cell, dtype, 0, value);
  return load(&cell, dtype, 0);
}

// Small, fast and the same everywhere (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // Uniform in [low, high).
  double uniform(double low, double high) {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return low + (high - low) * static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }

  // `count` numbers in [low, high), rounded to `dtype`, so that a kernel and a naive loop see the same input.
  std::vector<double> values(int64_t count, DType dtype, double low, double high) {
    std::vector<double> result(static_cast<size_t>(count));
    for (double& value : result) value = rounded(uniform(low, high), dtype);
    return result;
  }

 private:
  uint64_t state_;
};

}  // namespace jdm_fast::test
