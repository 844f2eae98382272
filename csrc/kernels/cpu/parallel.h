// Threads for the CPU kernels.
#pragma once

#include <algorithm>
#include <cstdint>

namespace jdm_fast {

// Splits 0..count-1 into at most `num_threads` contiguous ranges, the same ones at every call with the same numbers (so
// that a second sweep finds in its cache what the first one left there), and calls body(begin, end) for each on its own
// thread. `body` must not throw. Without OpenMP: one range.
template <typename Body>
void parallel_ranges(int64_t count, int num_threads, const Body& body) {
  const int64_t ranges = std::max<int64_t>(1, std::min<int64_t>(num_threads, count));
  if (ranges == 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel for num_threads(static_cast<int>(ranges)) schedule(static, 1)
#endif
  for (int64_t i = 0; i < ranges; ++i) body(count * i / ranges, count * (i + 1) / ranges);
}

// Threads worth waking for `elements` elements of elementwise work.
inline int useful_threads(int64_t elements, int num_threads) {
  constexpr int64_t kElementsPerThread = 16384;
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(num_threads, elements / kElementsPerThread)));
}

}  // namespace jdm_fast
