// The CUDA execution model on one host thread, for testing kernels on a machine without a GPU.
//
// A CUDA source compiled by a host compiler sees this header in place of the CUDA runtime (`kernels/cuda/device.cuh`
// makes the switch). Every thread of a block is a fiber with its own stack; fibers run one at a time, from one
// synchronisation point to the next, in an order the test chooses. Whatever a kernel may not rely on is made visible:
// shared memory starts as 0xFF bytes (NaN in every floating type), each shared array is an allocation of its own (so
// AddressSanitizer guards its ends), and a launch or a barrier that the hardware would refuse, hang on or leave
// undefined throws `cuda_emulation::Error`.
//
// Only what the kernels use is here. README.md says what the emulation cannot see.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

// ---------------------------------------------------------------------------------------------------------------------
// Keywords and built-in types. `__shared__` is left undefined on purpose: kernels declare shared memory with
// JDM_SHARED_ARRAY and JDM_DYNAMIC_SHARED of device.cuh, which lets the emulation poison and guard it.

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// The built-in variables of the running thread; the scheduler sets them before it resumes a fiber.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

// ---------------------------------------------------------------------------------------------------------------------
// What tests use.

namespace cuda_emulation {

// A launch that breaks a limit, a deadlock, divergent or mismatched synchronisation, a misaligned vector access. The
// message names the kernel, the block and what the threads were doing.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Order in which the blocks of a launch, and the ready threads of a block, run. A correct kernel gives the same result
// in all.
enum class Order : int { kForward = 0, kReverse = 1, kRandom = 2 };

void set_order(Order order, uint64_t seed);  // `seed` matters for kRandom only

struct LaunchRecord {
  std::string kernel;  // with its template arguments
  dim3 grid, block;
  size_t dynamic_shared_bytes;
  void* stream;
  unsigned cluster;  // blocks that run side by side and reach each other's shared memory
};

// Launches since the last call, oldest first.
std::vector<LaunchRecord> take_launches();

// Of the emulated device, ten times the version: 90 unless set. Launchers ask it as they would the hardware.
void set_compute_capability(int capability);
int compute_capability();

// Limits of compute capability 8.0 to 10.0 (dynamic shared memory: 9.0).
constexpr unsigned kMaxThreadsPerBlock = 1024;
constexpr unsigned kMaxBlockZ = 64;
constexpr unsigned kMaxGridX = 2147483647u;
constexpr unsigned kMaxGridYZ = 65535;
constexpr size_t kMaxStaticSharedBytes = 48 * 1024;
constexpr size_t kMaxOptInSharedBytes = 227 * 1024;
constexpr size_t kMaxParameterBytes = 4096;
constexpr unsigned kMaxPortableCluster = 8;
constexpr unsigned kMaxCluster = 16;

// ---------------------------------------------------------------------------------------------------------------------
// What the launch macro and the device functions below are made of.

namespace detail {

enum class Collective : int { kNone, kSyncWarp, kShuffle, kBallot };

using Body = void (*)(void* closure);
void run_grid(const LaunchRecord& launch, const void* kernel, size_t parameter_bytes, Body body, void* closure);
void allow_dynamic_shared(const void* kernel, size_t bytes);
void allow_large_clusters(const void* kernel);

void* static_shared(const void* site, size_t bytes);  // the block's array declared at `site`
void* dynamic_shared();
void sync_threads(const char* file, int line);
int sync_threads_count(bool yes, const char* file, int line);
unsigned cluster_rank();
unsigned cluster_size();
void cluster_arrive();
void cluster_wait(const char* file, int line);
const void* shared_of_rank(const void* own, unsigned rank);  // the same place in another block of the cluster
void begin_copy(void* to, const void* from, size_t bytes);   // takes place when it is waited for, at the latest moment
void end_copy_group();
void finish_copies(size_t pending);  // of the thread's groups, all but the last `pending`
unsigned lane();
// Meets the lanes of `mask`, then returns the value that `source_lane` brought (kShuffle: 0xFF bytes if that lane is
// not in the mask), or the mask of lanes that brought a non-zero value (kBallot).
uint64_t meet(Collective kind, unsigned mask, uint64_t value, unsigned source_lane, const char* file, int line);
[[noreturn]] void fail(const std::string& what);  // device side: names kernel, block and thread

template <auto kKernel>
std::string kernel_name() {  // from "... [with auto kKernel = NAME; std::string = ...]"
  const std::string text = __PRETTY_FUNCTION__;
  const size_t begin = text.find("kKernel = ") + 10;
  const size_t end = text.find("; std::string", begin);
  return text.substr(begin, (end == std::string::npos ? text.size() - 1 : end) - begin);
}

template <auto kKernel>
struct Launcher;

template <typename... Parameters, void (*kKernel)(Parameters...)>
struct Launcher<kKernel> {
  dim3 grid, block;
  size_t dynamic_shared_bytes;
  void* stream;
  unsigned cluster;

  void operator()(Parameters... parameters) const {
    auto closure = [&] { kKernel(parameters...); };  // copied parameters, as at a real launch
    using Closure = decltype(closure);
    run_grid(
        {kernel_name<kKernel>(), grid, block, dynamic_shared_bytes, stream, cluster},
        reinterpret_cast<const void*>(kKernel), (size_t{0} + ... + sizeof(Parameters)),
        [](void* p) { (*static_cast<Closure*>(p))(); }, &closure);
  }
};

template <auto kKernel>
Launcher<kKernel> launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, void* stream, unsigned cluster = 1) {
  return {grid, block, dynamic_shared_bytes, stream, cluster};
}

template <typename T, size_t kCount>
T (&shared_array(const void* site))
[kCount] {
  static_assert(std::is_trivial_v<T>, "shared memory is not initialised: its element type may not have a constructor");
  return *static_cast<T(*)[kCount]>(static_shared(site, sizeof(T) * kCount));
}

template <typename T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a shuffle moves 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
T shuffle(unsigned mask, T value, unsigned source_lane, const char* file, int line) {
  return from_bits<T>(meet(Collective::kShuffle, mask, to_bits(value), source_lane, file, line));
}

template <typename T>
T fetch_add(T* address, T value) {  // one thread runs at a time, so a plain read-modify-write is atomic
  const T old = *address;
  *address = old + value;
  return old;
}

}  // namespace detail

// Vector accesses fault on the hardware unless the address is a multiple of their size.
inline void check_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    detail::fail("misaligned access of " + std::to_string(bytes) + " bytes");
  }
}

}  // namespace cuda_emulation

// ---------------------------------------------------------------------------------------------------------------------
// Device functions. The trailing parameters only carry the place of the call into the messages.

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_emulation::detail::sync_threads(file, line);
}

inline int __syncthreads_count(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return cuda_emulation::detail::sync_threads_count(predicate != 0, file, line);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_emulation::detail::meet(cuda_emulation::detail::Collective::kSyncWarp, mask, 0, 0, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  return static_cast<unsigned>(
      cuda_emulation::detail::meet(cuda_emulation::detail::Collective::kBallot, mask, predicate != 0, 0, file, line));
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  const unsigned lane = cuda_emulation::detail::lane(), segment = lane & ~static_cast<unsigned>(width - 1);
  return cuda_emulation::detail::shuffle(mask, value, segment | (source & (width - 1)), file, line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  const unsigned lane = cuda_emulation::detail::lane(), segment = lane & ~static_cast<unsigned>(width - 1);
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  return cuda_emulation::detail::shuffle(mask, value, source < segment + width ? source : lane, file, line);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  const unsigned lane = cuda_emulation::detail::lane(), segment = lane & ~static_cast<unsigned>(width - 1);
  return cuda_emulation::detail::shuffle(mask, value, lane + delta < segment + width ? lane + delta : lane, file, line);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE()) {
  const unsigned lane = cuda_emulation::detail::lane(), segment = lane & ~static_cast<unsigned>(width - 1);
  return cuda_emulation::detail::shuffle(mask, value, lane >= segment + delta ? lane - delta : lane, file, line);
}

inline float atomicAdd(float* address, float value) { return cuda_emulation::detail::fetch_add(address, value); }
inline double atomicAdd(double* address, double value) { return cuda_emulation::detail::fetch_add(address, value); }
inline int atomicAdd(int* address, int value) { return cuda_emulation::detail::fetch_add(address, value); }
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  return cuda_emulation::detail::fetch_add(address, value);
}

template <typename T>
T __ldg(const T* address) {
  cuda_emulation::check_aligned(address, alignof(T));
  return *address;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(std::rint(x)); }
inline unsigned __double2uint_rn(double x) { return static_cast<unsigned>(std::rint(x)); }

inline constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 8;
inline constexpr int cudaFuncAttributeNonPortableClusterSizeAllowed = 9;

template <typename Kernel>
int cudaFuncSetAttribute(Kernel* kernel, int attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    cuda_emulation::detail::allow_dynamic_shared(reinterpret_cast<const void*>(kernel), static_cast<size_t>(value));
  }
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed && value != 0) {
    cuda_emulation::detail::allow_large_clusters(reinterpret_cast<const void*>(kernel));
  }
  return 0;
}
