// See jdm_fast/ops/plan.py.
#pragma once

#include <pybind11/pybind11.h>

namespace jdm_fast {

// The plan of a CUDA device for tensors that lie on vectors' boundaries; needs no GPU.
pybind11::dict instance_norm_plan(int64_t batch, int64_t channels, int64_t pixels, bool channels_last, int dtype,
                                  bool backward, int multiprocessors, int capability, int64_t cache_bytes);

}  // namespace jdm_fast
