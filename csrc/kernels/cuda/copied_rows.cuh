// Vectors that a thread keeps in dynamic shared memory, copied there past the registers. The copies come in kCopyGroups
// groups, of which the first can be read while the later ones are on their way. Every thread copies what it uses
// itself, so there are no barriers.
#pragma once

#include "cluster.cuh"

namespace jdm_fast::cuda {

constexpr int kCopyGroups = 4;

// Rows of the thread, each a vector of every one of kTensors tensors. kUnroll: how many are read at a time.
template <typename T, int kThreads, int kTensors, int kUnroll>
class CopiedRows {
 public:
  using Vector = Packed<T, kVectorElements<T>>;

  // Row r has what is at from[t] + at(r), for `count` rows.
  template <typename At>
  __device__ __forceinline__ CopiedRows(int count, const T* const (&from)[kTensors], At at) : count_(count) {
    JDM_DYNAMIC_SHARED(Vector, memory);
    own_ = memory + threadIdx.x;  // [row][tensor][thread]
    per_group_ = (count + kCopyGroups - 1) / kCopyGroups;
    for (int group = 0, r = 0; group < kCopyGroups; ++group) {
      for (; r < group_end(group); ++r) {
#pragma unroll
        for (int t = 0; t < kTensors; ++t) copy_async(own_ + (r * kTensors + t) * kThreads, from[t] + at(r));
      }
      end_copy_group();
    }
  }

  __device__ __forceinline__ int count() const { return count_; }

  // Calls use(data) for every row as it arrives, data[t] being that of tensor t.
  template <int kGroup = 0, typename Use>
  __device__ __forceinline__ void each_as_it_arrives(Use use) const {
    if constexpr (kGroup < kCopyGroups) {
      wait_for_copies<kCopyGroups - 1 - kGroup>();
#pragma unroll(kUnroll)
      for (int r = kGroup * per_group_; r < group_end(kGroup); ++r) use_row(r, use);
      each_as_it_arrives<kGroup + 1>(use);
    }
  }

  // Afterwards, of one row: use(data).
  template <typename Use>
  __device__ __forceinline__ void use_row(int r, Use use) const {
    Vector data[kTensors];
#pragma unroll
    for (int t = 0; t < kTensors; ++t) data[t] = load_shared(own_ + (r * kTensors + t) * kThreads);
    use(data);
  }

 private:
  __device__ __forceinline__ int group_end(int group) const {
    const int end = (group + 1) * per_group_;
    return end < count_ ? end : count_;
  }

  Vector* own_;
  int count_, per_group_;
};

}  // namespace jdm_fast::cuda
