// Work that is done twice, the second time soon after the first, by one kernel: what the second turn of a unit reads
// again is still in the cache. Units belong to wholes (planes, tiles), and the second turns of a whole's units need
// what the first turns of all of them have found.
//
// Blocks take tickets, and the order of the tickets lets every unit's second turn come `lag` units after its first. The
// block that ends the last first turn of a whole combines what all have found, in a fixed order, and then raises the
// whole's flag, which second turns wait for. They wait for smaller tickets only, whose blocks have begun: no block
// waits for one that has not been scheduled, so nothing need be resident together.
#pragma once

#include "cluster.cuh"

namespace jdm_fast::cuda {

// In device memory, zero when the kernel begins.
struct PipelineState {
  unsigned* ticket;
  unsigned* summed;  // units of each whole
  unsigned* ready;   // flag of each whole
};

struct PipelineUnits {
  unsigned units;
  unsigned lag;  // at least the units of a whole, at most `units`
};

constexpr int kZeroThreads = 256;

template <typename Word>
__global__ void __launch_bounds__(kZeroThreads) zero_pipeline_state(Word* state, unsigned count) {
  release_dependents();
  for (unsigned i = threadIdx.x; i < count; i += kZeroThreads) state[i] = 0;
}

struct Turn {
  unsigned unit;
  bool second;
};

// The first `lag` tickets are first turns; then both kinds take turns; the last `lag` are second ones.
__device__ __forceinline__ Turn turn_of(unsigned ticket, const PipelineUnits& layout) {
  if (ticket < layout.lag) return {ticket, false};
  const unsigned after = ticket - layout.lag, both = 2 * (layout.units - layout.lag);
  if (after >= both) return {after - both / 2, true};
  return after % 2 == 0 ? Turn{after / 2, true} : Turn{layout.lag + after / 2, false};
}

// Calls first(unit) and second(unit) until there are no tickets left. Both contain a barrier.
template <typename First, typename Second>
__device__ __forceinline__ void take_turns(const PipelineUnits& layout, const PipelineState& state, First first,
                                           Second second) {
  JDM_SHARED_ARRAY(unsigned, tickets, 2);
  wait_for_predecessor();
  if (threadIdx.x == 0) tickets[0] = atomicAdd(state.ticket, 1u);
  for (unsigned turns = 0;; ++turns) {
    __syncthreads();
    const unsigned ticket = tickets[turns % 2];
    if (ticket >= 2 * layout.units) return;
    // Taken early, so that nobody waits for the answer. A block may hold a ticket while it waits, since it waits for
    // smaller ones.
    if (threadIdx.x == 0) tickets[(turns + 1) % 2] = atomicAdd(state.ticket, 1u);
    const Turn turn = turn_of(ticket, layout);
    if (turn.second) {
      second(turn.unit);
    } else {
      first(turn.unit);
    }
  }
}

// After a first turn, by all threads of its block, whose writes precede it: whether it was the whole's last. Then those
// of all its blocks are seen.
__device__ __forceinline__ bool is_last_of(const PipelineState& state, unsigned whole, unsigned units_of_whole) {
  JDM_SHARED_ARRAY(unsigned, is_last, 1);
  device_fence();
  __syncthreads();
  if (threadIdx.x == 0) is_last[0] = atomicAdd(state.summed + whole, 1u) + 1 == units_of_whole;
  __syncthreads();
  if (is_last[0] == 0) return false;
  device_fence();
  return true;
}

// By all threads of the block that has written what the second turns need.
__device__ __forceinline__ void raise_flag(const PipelineState& state, unsigned whole) {
  device_fence();
  __syncthreads();
  if (threadIdx.x == 0) store_release(state.ready + whole, 1u);
}

__device__ __forceinline__ void wait_for_flag(const PipelineState& state, unsigned whole) {
  if (threadIdx.x == 0) {
    while (load_acquire(state.ready + whole) == 0) rest();
  }
  __syncthreads();
}

}  // namespace jdm_fast::cuda
