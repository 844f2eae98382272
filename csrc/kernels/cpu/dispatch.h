// Run-time choice of the CPU instruction set. Knows nothing of torch.
//
// A kernel's vector code lives in `cpu/<op>.inl`, is written once with the types of `cpu/vec.inl`, and is compiled once
// per level (see `cpu/for_each_level.h`), each time in a namespace of its own: `level_default`, `level_avx2`,
// `level_avx512`.
// `<op>_cpu.cpp` picks one of them:
//
//   #define JDM_LEVEL_BODY "<op>.inl"       // found beside for_each_level.h; defines e.g. void add(const float*,
//   float*, int64_t) #include "cpu/for_each_level.h"
//   ...
//   const auto add = JDM_FOR_CURRENT_LEVEL(add);      // pointer to the function of the level in use
//
// No flag beyond -O2/-O3 is needed, so one plain list of sources works in every build. OpenMP stays in `<op>_cpu.cpp`:
// the bodies are serial, which keeps outlined parallel regions out of the target pragmas.
#pragma once

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define JDM_X86_LEVELS 1
#else
#define JDM_X86_LEVELS 0  // only `level_default`, 16-byte vectors of the compiler's own choosing (SSE2, NEON, ...)
#endif

namespace jdm_fast {

// kDefault: the compiler's baseline. kAvx2: AVX2, FMA, F16C. kAvx512: F, BW, DQ, VL on top of kAvx2.
enum class CpuCapability : int { kDefault = 0, kAvx2 = 1, kAvx512 = 2 };

inline const char* cpu_capability_name(CpuCapability level) {
  constexpr const char* kNames[] = {"default", "avx2", "avx512"};
  return kNames[static_cast<int>(level)];
}

// The best level this machine (processor and operating system) can run.
inline CpuCapability best_cpu_capability() {
#if JDM_X86_LEVELS
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return CpuCapability::kDefault;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? CpuCapability::kAvx512 : CpuCapability::kAvx2;
#else
  return CpuCapability::kDefault;
#endif
}

// Names of all levels this machine can run, weakest first.
inline std::vector<std::string> supported_cpu_capabilities() {
  std::vector<std::string> names;
  for (int level = 0; level <= static_cast<int>(best_cpu_capability()); ++level) {
    names.emplace_back(cpu_capability_name(static_cast<CpuCapability>(level)));
  }
  return names;
}

// The level in use: the best one, or what JDM_FAST_CPU_CAPABILITY=default|avx2|avx512 asks for. The variable is read
// once, at the first call. Throws std::runtime_error (at every call) if it names no level or one that this machine
// cannot run.
inline CpuCapability cpu_capability() {
  static const CpuCapability level = [] {
    const CpuCapability best = best_cpu_capability();
    const char* wanted = std::getenv("JDM_FAST_CPU_CAPABILITY");
    if (wanted == nullptr || *wanted == '\0') return best;
    for (int candidate = 0; candidate <= static_cast<int>(best); ++candidate) {
      if (std::strcmp(wanted, cpu_capability_name(static_cast<CpuCapability>(candidate))) == 0) {
        return static_cast<CpuCapability>(candidate);
      }
    }
    throw std::runtime_error(std::string("JDM_FAST_CPU_CAPABILITY=") + wanted +
                             ": expected default, avx2 or avx512, and this machine runs none above " +
                             cpu_capability_name(best) + "; unset it to use that one");
  }();
  return level;
}

// One of three implementations with the same signature, by the level in use.
template <typename Function>
Function* select_by_level(Function* on_default, Function* on_avx2, Function* on_avx512) {
  Function* const functions[] = {on_default, on_avx2, on_avx512};
  return functions[static_cast<int>(cpu_capability())];
}

}  // namespace jdm_fast

#if JDM_X86_LEVELS
#define JDM_FOR_CURRENT_LEVEL(...)                                                                           \
  ::jdm_fast::select_by_level(&::jdm_fast::level_default::__VA_ARGS__, &::jdm_fast::level_avx2::__VA_ARGS__, \
                              &::jdm_fast::level_avx512::__VA_ARGS__)
#else
#define JDM_FOR_CURRENT_LEVEL(...) (&::jdm_fast::level_default::__VA_ARGS__)
#endif
