// The CUDA launchers on the emulation, with C linkage for the tests. Each function returns nullptr, or what went wrong
// (valid until the next call).
#include <cstdint>
#include <exception>
#include <string>

#include "../kernels/frames_to_uint8.h"
#include "../kernels/instance_norm.h"
#include "../kernels/interpolate_instance_norm.h"
#include "../kernels/interpolate_latents.h"
#include "../kernels/softmax_critic_loss.h"
#include "cuda_emulation.h"
#include "float16.h"
#include "touched.h"

namespace {

std::string message;

template <typename Function>
const char* guarded(Function&& function) {
  try {
    function();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

extern "C" {

// order: 0 forward, 1 reverse, 2 random.
void emulation_set_order(int order, uint64_t seed) {
  cuda_emulation::set_order(static_cast<cuda_emulation::Order>(order), seed);
}

// Ten times the version.
void emulation_set_compute_capability(int capability) { cuda_emulation::set_compute_capability(capability); }

// Counts accesses to each byte of a tensor from now on in `counts`, on top of what is there; for all that are watched
// until emulation_watch_nothing.
void emulation_watch(const void* begin, int64_t bytes, uint32_t* counts) {
  cuda_emulation::watched().push_back({static_cast<const char*>(begin), static_cast<size_t>(bytes), counts});
}
void emulation_watch_nothing() { cuda_emulation::watched().clear(); }

// One line a launch since the last call: "stream grid.x kernel".
const char* emulation_take_launches() {
  message.clear();
  for (const cuda_emulation::LaunchRecord& launch : cuda_emulation::take_launches()) {
    message += std::to_string(reinterpret_cast<uintptr_t>(launch.stream)) + " " + std::to_string(launch.grid.x) + " " +
               launch.kernel + "\n";
  }
  return message.c_str();
}

// The software conversions, for `count` values.
void emulation_float_to_half(const float* from, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = cuda_emulation::float_to_half(from[i]);
}
void emulation_float_to_bfloat16(const float* from, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = cuda_emulation::float_to_bfloat16(from[i]);
}
void emulation_half_to_float(const uint16_t* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = cuda_emulation::half_to_float(from[i]);
}

int64_t emulation_instance_norm_workspace(const jdm_fast::InstanceNormShape* shape, bool backward,
                                          int multiprocessors) {
  return static_cast<int64_t>(jdm_fast::instance_norm_workspace_cuda(*shape, backward, multiprocessors));
}

const char* emulation_instance_norm_forward(const jdm_fast::InstanceNormShape* shape,
                                            const jdm_fast::InstanceNormForward* args, void* workspace,
                                            int multiprocessors, void* stream) {
  return guarded([&] { jdm_fast::instance_norm_forward_cuda(*shape, *args, workspace, multiprocessors, stream); });
}

const char* emulation_instance_norm_backward(const jdm_fast::InstanceNormShape* shape,
                                             const jdm_fast::InstanceNormBackward* args, void* workspace,
                                             int multiprocessors, void* stream) {
  return guarded([&] { jdm_fast::instance_norm_backward_cuda(*shape, *args, workspace, multiprocessors, stream); });
}

const char* emulation_instance_norm_sum_samples(const jdm_fast::InstanceNormShape* shape, const void* d_weight_each,
                                                const void* d_bias_each, void* d_weight, void* d_bias, void* stream) {
  return guarded(
      [&] { jdm_fast::instance_norm_sum_samples_cuda(*shape, d_weight_each, d_bias_each, d_weight, d_bias, stream); });
}

int64_t emulation_interpolate_instance_norm_workspace(const jdm_fast::InterpolateInstanceNormShape* shape,
                                                      int multiprocessors) {
  return static_cast<int64_t>(jdm_fast::interpolate_instance_norm_workspace_cuda(*shape, multiprocessors));
}

const char* emulation_interpolate_instance_norm(const jdm_fast::InterpolateInstanceNormShape* shape,
                                                const jdm_fast::InterpolateInstanceNormArgs* args, void* workspace,
                                                int multiprocessors, void* stream) {
  return guarded([&] { jdm_fast::interpolate_instance_norm_cuda(*shape, *args, workspace, multiprocessors, stream); });
}

const char* emulation_interpolate_latents_forward(const jdm_fast::InterpolateLatentsShape* shape, const void* z,
                                                  const void* weights, void* y, void* stream) {
  return guarded([&] { jdm_fast::interpolate_latents_forward_cuda(*shape, z, weights, y, stream); });
}

const char* emulation_interpolate_latents_backward(const jdm_fast::InterpolateLatentsShape* shape, const void* dy,
                                                   void* dz, void* stream) {
  return guarded([&] { jdm_fast::interpolate_latents_backward_cuda(*shape, dy, dz, stream); });
}

int64_t emulation_slerp_weights_workspace(const jdm_fast::InterpolateLatentsShape* shape) {
  return static_cast<int64_t>(jdm_fast::slerp_weights_workspace_cuda(*shape));
}

const char* emulation_slerp_weights(const jdm_fast::InterpolateLatentsShape* shape, const void* z, void* workspace,
                                    void* weights, void* stream) {
  return guarded([&] { jdm_fast::slerp_weights_cuda(*shape, z, workspace, weights, stream); });
}

int64_t emulation_slerp_backward_workspace(const jdm_fast::InterpolateLatentsShape* shape) {
  return static_cast<int64_t>(jdm_fast::slerp_backward_workspace_cuda(*shape));
}

const char* emulation_slerp_backward(const jdm_fast::InterpolateLatentsShape* shape, const void* dy, const void* z,
                                     const void* weights, void* workspace, void* dz, void* stream) {
  return guarded([&] { jdm_fast::slerp_backward_cuda(*shape, dy, z, weights, workspace, dz, stream); });
}

const char* emulation_frames_to_uint8(const jdm_fast::FramesToUint8Shape* shape, const void* x, uint8_t* y,
                                      void* stream) {
  return guarded([&] { jdm_fast::frames_to_uint8_cuda(*shape, x, y, stream); });
}

int64_t emulation_softmax_critic_loss_workspace(const jdm_fast::SoftmaxCriticLossShape* shape, int multiprocessors) {
  return static_cast<int64_t>(jdm_fast::softmax_critic_loss_workspace_cuda(*shape, multiprocessors));
}

const char* emulation_softmax_critic_loss(const jdm_fast::SoftmaxCriticLossShape* shape,
                                          const jdm_fast::SoftmaxCriticLossArgs* args, void* workspace,
                                          int multiprocessors, void* stream) {
  return guarded([&] { jdm_fast::softmax_critic_loss_cuda(*shape, *args, workspace, multiprocessors, stream); });
}

const char* emulation_softmax_critic_loss_backward(const jdm_fast::SoftmaxCriticLossShape* shape,
                                                   const jdm_fast::SoftmaxCriticLossBackwardArgs* args, void* stream) {
  return guarded([&] { jdm_fast::softmax_critic_loss_backward_cuda(*shape, *args, stream); });
}

}  // extern "C"
