// Compiles the file named by JDM_LEVEL_BODY once per CPU level. No include guard: each `<op>_cpu.cpp` includes it once.
//
// The body finds the vector types of `cpu/vec.inl` and JDM_CPU_LEVEL (0 default, 1 avx2, 2 avx512), and is placed in
// jdm_fast::level_default, ::level_avx2 or ::level_avx512. Every function it calls in a hot loop must be its own or
// from vec.inl: an inline function of the standard library may be emitted once for all levels, so a body includes
// nothing and instantiates no std:: template. (Headers needed by it are included here, before any target pragma.)
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../types.h"
#include "dispatch.h"
#include "storage.h"
#if JDM_X86_LEVELS
#include <immintrin.h>
#endif

#define JDM_CPU_LEVEL 0
namespace jdm_fast {
namespace level_default {
#include "vec.inl"
#include JDM_LEVEL_BODY
}  // namespace level_default
}  // namespace jdm_fast
#undef JDM_CPU_LEVEL

#if JDM_X86_LEVELS

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define JDM_CPU_LEVEL 1
namespace jdm_fast {
namespace level_avx2 {
#include "vec.inl"
#include JDM_LEVEL_BODY
}  // namespace level_avx2
}  // namespace jdm_fast
#undef JDM_CPU_LEVEL
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define JDM_CPU_LEVEL 2
namespace jdm_fast {
namespace level_avx512 {
#include "vec.inl"
#include JDM_LEVEL_BODY
}  // namespace level_avx512
}  // namespace jdm_fast
#undef JDM_CPU_LEVEL
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // JDM_X86_LEVELS
