// What Hopper (compute capability 9.0) adds and our kernels use: clusters of blocks that reach each other's shared
// memory, and kernels that begin before the one they depend on has ended; with them copies to shared memory that pass
// by the registers (8.0). The device functions exist for every architecture, so that one source serves all; launch what
// needs a cluster only where `prepare_cluster` says so.
#pragma once

#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "device.cuh"

namespace jdm_fast::cuda {

struct LaunchOptions {
  unsigned cluster = 1;  // blocks, neighbours along x; the grid is a multiple
  // May begin once every block of the kernel before has called `release_dependents` or ended; where that does not exist
  // (before Hopper), after it.
  bool dependent = false;
};

// Ten times the current device's compute capability.
inline int compute_capability() {
#if defined(__CUDACC__)
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return 10 * major + minor;
#else
  return cuda_emulation::compute_capability();
#endif
}

#if defined(__CUDACC__)

// Whether the code of `kernel` that the current device runs is code for Hopper or newer; and its attributes.
template <typename... Parameters>
bool runs_hopper_code(void (*kernel)(Parameters...), cudaFuncAttributes* attributes) {
  if (cudaFuncGetAttributes(attributes, kernel) != cudaSuccess) {
    cudaGetLastError();  // the launch will tell
    return false;
  }
  return compute_capability() >= 90 && attributes->ptxVersion >= 90;
}

// Whether the code of `kernel` that the current device runs waits for its predecessor: code for older devices, compiled
// for this one when it was loaded, does not, and must not begin early. The answers are kept.
template <typename... Parameters>
bool can_begin_early(void (*kernel)(Parameters...)) {
  int device = 0;
  cudaGetDevice(&device);
  static std::mutex one_at_a_time;
  static std::map<std::pair<void (*)(Parameters...), int>, bool> answers;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const auto [answer, is_new] = answers.insert({{kernel, device}, false});
  if (!is_new) return answer->second;
  cudaFuncAttributes attributes;
  answer->second = runs_hopper_code(kernel, &attributes);
  return answer->second;
}

template <typename... Parameters>
struct OptionLaunch {
  void (*kernel)(Parameters...);
  LaunchOptions options;
  dim3 grid, block;
  size_t shared_bytes;
  void* stream;

  void operator()(Parameters... parameters) const {
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    if (options.cluster > 1) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = options.cluster;
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    }
    if (options.dependent && can_begin_early(kernel)) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
    }
    cudaLaunchKernelEx(&config, kernel, parameters...);  // cudaGetLastError tells
  }
};

template <typename... Parameters>
OptionLaunch<Parameters...> option_launch(void (*kernel)(Parameters...), LaunchOptions options, dim3 grid, dim3 block,
                                          size_t shared_bytes, void* stream) {
  return {kernel, options, grid, block, shared_bytes, stream};
}

// JDM_LAUNCH with LaunchOptions.
#define JDM_LAUNCH_WITH(kernel, options, grid, block, shared_bytes, stream) \
  ::jdm_fast::cuda::option_launch((kernel), (options), (grid), (block), (shared_bytes), (stream))

#else

#define JDM_LAUNCH_WITH(kernel, options, grid, block, shared_bytes, stream) \
  ::cuda_emulation::detail::launch<(kernel)>((grid), (block), (shared_bytes), (stream), (options).cluster)

#endif

// ---------------------------------------------------------------------------------------------------------------------
// Device: the threads of a cluster.

__device__ __forceinline__ unsigned cluster_size() {
#if !defined(__CUDACC__)
  return cuda_emulation::detail::cluster_size();
#elif __CUDA_ARCH__ >= 900
  unsigned size;
  asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(size));
  return size;
#else
  return 1;
#endif
}

// Every thread of the cluster arrives, then waits for all; between the two lies work that needs nobody. What was
// written to shared memory before arriving is seen after waiting.
__device__ __forceinline__ void cluster_arrive() {
#if !defined(__CUDACC__)
  cuda_emulation::detail::cluster_arrive();
#elif __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}

// Arrives where nothing was written that others must see: without the fence, which is not free.
__device__ __forceinline__ void cluster_arrive_unfenced() {
#if !defined(__CUDACC__)
  cuda_emulation::detail::cluster_arrive();
#elif __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}

#if defined(__CUDACC__)
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}
#else
inline void cluster_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_emulation::detail::cluster_wait(file, line);
}
#endif

// The same place in the shared memory of block `rank` of the cluster. That block must have begun and not yet returned.
template <typename Value>
__device__ __forceinline__ const Value* shared_of_rank(const Value* own, unsigned rank) {
#if !defined(__CUDACC__)
  return static_cast<const Value*>(cuda_emulation::detail::shared_of_rank(own, rank));
#elif __CUDA_ARCH__ >= 900
  const Value* other;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(other) : "l"(own), "r"(rank));
  return other;
#else
  return own;
#endif
}

// Writes there. The other block sees it after a barrier of the cluster.
template <typename Value>
__device__ __forceinline__ void store_to_rank(Value* own, unsigned rank, const Value& value) {
  *const_cast<Value*>(shared_of_rank(own, rank)) = value;
}

// ---------------------------------------------------------------------------------------------------------------------
// Device: kernels that overlap.

// Lets the next kernel's blocks be scheduled, if it was launched as a dependent.
__device__ __forceinline__ void release_dependents() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// In a dependent: waits until the kernel before has ended and its writes are seen. Else does nothing.
__device__ __forceinline__ void wait_for_predecessor() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// Device: copies of 16 bytes from global to shared memory, in groups that are waited for in order.

__device__ __forceinline__ void copy_async(void* shared, const void* global) {
#if defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
#else
  cuda_emulation::check_aligned(shared, kVectorBytes);
  cuda_emulation::check_aligned(global, kVectorBytes);
  cuda_emulation::touch(global, kVectorBytes);
  cuda_emulation::detail::begin_copy(shared, global, kVectorBytes);
#endif
}

__device__ __forceinline__ void end_copy_group() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  cuda_emulation::detail::end_copy_group();
#endif
}

// Until at most the last kPending groups of this thread are under way. The thread then sees what it copied itself.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  cuda_emulation::detail::finish_copies(kPending);
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// Host.

// Bytes of the current device's L2 cache.
inline int64_t cache_bytes() {
#if defined(__CUDACC__)
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device);
  return bytes;
#else
  return 128 * 1024;  // small, so that tests get past it
#endif
}

// Prepares `kernel` for blocks with that much dynamic shared memory in clusters of that many. False: the current
// device, or the code that was compiled for it, cannot. The answers are kept: asking the driver takes longer than a
// launch.
template <typename... Parameters>
bool prepare_cluster(void (*kernel)(Parameters...), unsigned cluster, unsigned threads, size_t shared_bytes) {
#if defined(__CUDACC__)
  int device = 0;
  cudaGetDevice(&device);
  static std::mutex one_at_a_time;
  static std::map<std::tuple<void (*)(Parameters...), int, unsigned, unsigned, size_t>, bool> answers;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const auto [answer, is_new] = answers.insert({{kernel, device, cluster, threads, shared_bytes}, false});
  if (!is_new) return answer->second;

  const auto works = [](cudaError_t status) {
    if (status != cudaSuccess) cudaGetLastError();  // not an error of the caller's: another kernel does it
    return status == cudaSuccess;
  };
  cudaFuncAttributes attributes;
  if (!runs_hopper_code(kernel, &attributes)) return false;
  int largest = 0;
  cudaDeviceGetAttribute(&largest, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  largest -= static_cast<int>(attributes.sharedSizeBytes);
  if (largest < static_cast<int>(shared_bytes) ||
      !works(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, largest)) ||
      (cluster > 8 && !works(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1)))) {
    return false;
  }
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = cluster;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  answer->second = works(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config)) && clusters > 0;
  return answer->second;
#else
  (void)threads;
  if (compute_capability() < 90) return false;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (cluster > 8) cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  return true;
#endif
}

}  // namespace jdm_fast::cuda
