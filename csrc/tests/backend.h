// The three places a kernel's C++ tests and micro-benchmarks run, chosen at compile time. Each gives the same few
// functions:
//   (default)           the CPU kernels
//   JDM_TEST_EMULATED   the CUDA sources compiled as C++ against csrc/emulation; "device" memory is host memory
//   JDM_TEST_CUDA       the CUDA kernels on a GPU
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../kernels/frames_to_uint8.h"
#include "../kernels/instance_norm.h"
#include "../kernels/interpolate_instance_norm.h"
#include "../kernels/interpolate_latents.h"
#include "../kernels/softmax_critic_loss.h"

#if defined(JDM_TEST_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace jdm_fast::backend {

#if defined(JDM_TEST_CUDA)

constexpr const char* kName = "cuda";

inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

inline void* allocate(size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, bytes), "cudaMalloc");
  return memory;
}
inline void release(void* memory) { check_cuda(cudaFree(memory), "cudaFree"); }
inline void to_device(void* device, const void* host, size_t bytes) {
  check_cuda(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copy to the device");
}
inline void to_host(void* host, const void* device, size_t bytes) {
  check_cuda(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "copy to the host");
}
inline void within_device(void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToDevice), "copy within the device");
}
// Kernels run on; the copy of their results waits for them and reports what they did wrong.
inline void check_launch() { check_cuda(cudaGetLastError(), "kernel launch"); }
inline int multiprocessors() {
  int count = 0;
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0), "multiprocessor count");
  return count;
}

#else

#if defined(JDM_TEST_EMULATED)
constexpr const char* kName = "emulated";
#else
constexpr const char* kName = "cpu";
#endif

inline void* allocate(size_t bytes) {
  void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (memory == nullptr) std::abort();
  return memory;
}
inline void release(void* memory) { std::free(memory); }
inline void to_device(void* device, const void* host, size_t bytes) { std::memcpy(device, host, bytes); }
inline void to_host(void* host, const void* device, size_t bytes) { std::memcpy(host, device, bytes); }
inline void within_device(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
inline void check_launch() {}
inline int multiprocessors() { return 8; }  // a small GPU, so that plans that depend on it split the work

#endif

// Whether blocks can reach into each other's shared memory.
inline bool has_clusters() {
#if defined(JDM_TEST_CUDA)
  int major = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "compute capability");
  return major >= 9;
#else
  return true;
#endif
}

// Threads of the CPU kernels.
inline int& num_threads() {
  static int threads = 2;
  return threads;
}

// Device scratch of at least `bytes`, valid until the next call. It holds garbage, as a caching allocator's would,
// except where filling it would be timed.
inline void* scratch(size_t bytes) {
  static void* memory = nullptr;
  static size_t capacity = 0;
  if (bytes == 0) return nullptr;
  if (bytes > capacity) {
    if (memory != nullptr) release(memory);
    memory = allocate(bytes);
    capacity = bytes;
  }
#if !defined(JDM_TIMED)
  const std::vector<unsigned char> garbage(bytes, 0xff);  // NaN in every floating type
  to_device(memory, garbage.data(), bytes);
#endif
  return memory;
}

// The kernels, by one name in every place.
#if defined(JDM_TEST_CUDA) || defined(JDM_TEST_EMULATED)

inline void instance_norm_forward(const InstanceNormShape& shape, const InstanceNormForward& args) {
  void* workspace = scratch(instance_norm_workspace_cuda(shape, false, multiprocessors()));
  instance_norm_forward_cuda(shape, args, workspace, multiprocessors(), nullptr);
  check_launch();
}
inline void instance_norm_backward(const InstanceNormShape& shape, const InstanceNormBackward& args) {
  void* workspace = scratch(instance_norm_workspace_cuda(shape, true, multiprocessors()));
  instance_norm_backward_cuda(shape, args, workspace, multiprocessors(), nullptr);
  check_launch();
}
inline void interpolate_instance_norm(const InterpolateInstanceNormShape& shape,
                                      const InterpolateInstanceNormArgs& args) {
  void* workspace = scratch(interpolate_instance_norm_workspace_cuda(shape, multiprocessors()));
  interpolate_instance_norm_cuda(shape, args, workspace, multiprocessors(), nullptr);
  check_launch();
}
inline void interpolate_latents_forward(const InterpolateLatentsShape& shape, const void* z, const void* weights,
                                        void* y) {
  interpolate_latents_forward_cuda(shape, z, weights, y, nullptr);
  check_launch();
}
inline void interpolate_latents_backward(const InterpolateLatentsShape& shape, const void* dy, void* dz) {
  interpolate_latents_backward_cuda(shape, dy, dz, nullptr);
  check_launch();
}
inline void slerp_weights(const InterpolateLatentsShape& shape, const void* z, void* weights) {
  slerp_weights_cuda(shape, z, scratch(slerp_weights_workspace_cuda(shape)), weights, nullptr);
  check_launch();
}
inline void slerp_backward(const InterpolateLatentsShape& shape, const void* dy, const void* z, const void* weights,
                           void* dz) {
  slerp_backward_cuda(shape, dy, z, weights, scratch(slerp_backward_workspace_cuda(shape)), dz, nullptr);
  check_launch();
}
inline void frames_to_uint8(const FramesToUint8Shape& shape, const void* x, uint8_t* y) {
  frames_to_uint8_cuda(shape, x, y, nullptr);
  check_launch();
}
inline void softmax_critic_loss(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossArgs& args) {
  void* workspace = scratch(softmax_critic_loss_workspace_cuda(shape, multiprocessors()));
  softmax_critic_loss_cuda(shape, args, workspace, multiprocessors(), nullptr);
  check_launch();
}
inline void softmax_critic_loss_backward(const SoftmaxCriticLossShape& shape,
                                         const SoftmaxCriticLossBackwardArgs& args) {
  softmax_critic_loss_backward_cuda(shape, args, nullptr);
  check_launch();
}

#else

inline void instance_norm_forward(const InstanceNormShape& shape, const InstanceNormForward& args) {
  instance_norm_forward_cpu(shape, args, num_threads());
}
inline void instance_norm_backward(const InstanceNormShape& shape, const InstanceNormBackward& args) {
  instance_norm_backward_cpu(shape, args, num_threads());
}
inline void interpolate_instance_norm(const InterpolateInstanceNormShape& shape,
                                      const InterpolateInstanceNormArgs& args) {
  interpolate_instance_norm_cpu(shape, args, num_threads());
}
inline void interpolate_latents_forward(const InterpolateLatentsShape& shape, const void* z, const void* weights,
                                        void* y) {
  interpolate_latents_forward_cpu(shape, z, weights, y, num_threads());
}
inline void interpolate_latents_backward(const InterpolateLatentsShape& shape, const void* dy, void* dz) {
  interpolate_latents_backward_cpu(shape, dy, dz, num_threads());
}
inline void slerp_weights(const InterpolateLatentsShape& shape, const void* z, void* weights) {
  slerp_weights_cpu(shape, z, weights, num_threads());
}
inline void slerp_backward(const InterpolateLatentsShape& shape, const void* dy, const void* z, const void* weights,
                           void* dz) {
  slerp_backward_cpu(shape, dy, z, weights, dz, num_threads());
}
inline void frames_to_uint8(const FramesToUint8Shape& shape, const void* x, uint8_t* y) {
  frames_to_uint8_cpu(shape, x, y, num_threads());
}
inline void softmax_critic_loss(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossArgs& args) {
  softmax_critic_loss_cpu(shape, args, num_threads());
}
inline void softmax_critic_loss_backward(const SoftmaxCriticLossShape& shape,
                                         const SoftmaxCriticLossBackwardArgs& args) {
  softmax_critic_loss_backward_cpu(shape, args, num_threads());
}

#endif

}  // namespace jdm_fast::backend
