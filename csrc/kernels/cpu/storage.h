// 16-bit element types of the CPU kernels and what goes with each element type. Conversions live in `cpu/vec.inl`.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "../types.h"

namespace jdm_fast {

struct Float16 {
  uint16_t bits;  // IEEE 754 binary16
};

struct BFloat16 {
  uint16_t bits;  // upper half of a binary32
};

// The type in which sums and statistics of T are kept.
template <typename T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::type;

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls visit(TypeTag<T>()) with the element type that `dtype` stands for.
template <typename Visitor>
auto visit_dtype(DType dtype, Visitor&& visit) {
  switch (dtype) {
    case DType::kFloat32:
      return visit(TypeTag<float>());
    case DType::kFloat16:
      return visit(TypeTag<Float16>());
    case DType::kBFloat16:
      return visit(TypeTag<BFloat16>());
    case DType::kFloat64:
      return visit(TypeTag<double>());
  }
  throw std::invalid_argument("unknown element type");
}

}  // namespace jdm_fast
