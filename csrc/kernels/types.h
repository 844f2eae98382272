// Types shared by every kernel, on the host and on the device. Knows nothing of torch or CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jdm_fast {

// Element type of the large tensors. Sums and statistics are always kept in the accumulation type:
// double for kFloat64, float for every other.
enum class DType : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2, kFloat64 = 3 };

enum class Activation : int { kNone = 0, kRelu = 1, kLeakyRelu = 2 };

// Bytes of one element.
constexpr int64_t dtype_size(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// Bytes of one accumulator.
constexpr int64_t accumulator_size(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

}  // namespace jdm_fast
