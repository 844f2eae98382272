// Every CUDA launcher on memory of exactly the size its contract names, for a build with AddressSanitizer and
// UndefinedBehaviorSanitizer: reading or writing one byte too far, or a misaligned access, ends the program. Values are
// tested elsewhere; here outputs must only be free of NaN, which is what untouched memory holds.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "emulation/cuda_emulation.h"
#include "kernels/cuda/device.cuh"
#include "kernels/frames_to_uint8.h"
#include "kernels/instance_norm.h"
#include "kernels/interpolate_instance_norm.h"
#include "kernels/interpolate_latents.h"
#include "kernels/softmax_critic_loss.h"

namespace {

using namespace jdm_fast;

int checked = 0;

double value_at(const unsigned char* address, DType dtype) {
  if (dtype == DType::kFloat16 || dtype == DType::kBFloat16) {
    uint16_t bits;
    std::memcpy(&bits, address, sizeof bits);
    return dtype == DType::kFloat16 ? cuda_emulation::half_to_float(bits) : cuda_emulation::bfloat16_to_float(bits);
  }
  if (dtype == DType::kFloat64) {
    double value;
    std::memcpy(&value, address, sizeof value);
    return value;
  }
  float value;
  std::memcpy(&value, address, sizeof value);
  return value;
}

// `count` elements that begin `shift` elements past a 16-byte boundary and end where the allocation ends. Full of NaN.
class Memory {
 public:
  Memory(int64_t count, DType dtype, int shift = 0)
      : count_(count), dtype_(dtype), skipped_(shift * dtype_size(dtype)), bytes_(count * dtype_size(dtype)) {
    storage_.reset(new unsigned char[static_cast<size_t>(skipped_ + bytes_)]);
    std::memset(storage_.get(), 0xff, static_cast<size_t>(skipped_ + bytes_));
  }
  Memory& fill() {  // small numbers of both signs
    for (int64_t i = 0; i < count_; ++i) {
      const double value = std::sin(0.7 * static_cast<double>(i) + 0.1);
      unsigned char* const at = data() + i * dtype_size(dtype_);
      const float as_float = static_cast<float>(value);
      const uint16_t bits = dtype_ == DType::kFloat16 ? cuda_emulation::float_to_half(as_float)
                                                      : cuda_emulation::float_to_bfloat16(as_float);
      if (dtype_ == DType::kFloat64) std::memcpy(at, &value, 8);
      if (dtype_ == DType::kFloat32) std::memcpy(at, &as_float, 4);
      if (dtype_size(dtype_) == 2) std::memcpy(at, &bits, 2);
    }
    return *this;
  }
  void check(const char* what) const {
    for (int64_t i = 0; i < count_; ++i) {
      if (!std::isnan(value_at(data() + i * dtype_size(dtype_), dtype_))) continue;
      std::printf("%s: element %lld of %lld was not computed\n", what, static_cast<long long>(i),
                  static_cast<long long>(count_));
      std::exit(1);
    }
    ++checked;
  }
  unsigned char* data() const { return storage_.get() + skipped_; }

 private:
  int64_t count_;
  DType dtype_;
  int64_t skipped_, bytes_;
  std::unique_ptr<unsigned char[]> storage_;
};

DType accumulator(DType dtype) { return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }

struct Workspace {
  explicit Workspace(size_t bytes) : memory(new unsigned char[bytes]) { std::memset(memory.get(), 0xff, bytes); }
  std::unique_ptr<unsigned char[]> memory;
};

void instance_norm(const InstanceNormShape& shape, int multiprocessors, int shift, int shift_y) {
  const int64_t planes = shape.batch * shape.channels, count = planes * shape.pixels;
  const DType a = accumulator(shape.dtype);
  Memory x(count, shape.dtype, shift), residual(count, shape.dtype, shift), y(count, shape.dtype, shift_y);
  Memory weight(affine_planes(shape), a), bias(affine_planes(shape), a), mean(planes, a), rstd(planes, a);
  x.fill(), residual.fill(), weight.fill(), bias.fill();
  const Workspace forward(instance_norm_workspace_cuda(shape, false, multiprocessors));
  instance_norm_forward_cuda(
      shape, {x.data(), residual.data(), weight.data(), bias.data(), y.data(), mean.data(), rstd.data(), 1e-5},
      forward.memory.get(), multiprocessors, nullptr);
  y.check("y"), mean.check("mean"), rstd.check("rstd");
  Memory dx(count, shape.dtype, shift_y), d_weight(planes, a), d_bias(planes, a);
  const Workspace backward(instance_norm_workspace_cuda(shape, true, multiprocessors));
  instance_norm_backward_cuda(shape,
                              {residual.data(), x.data(), mean.data(), rstd.data(), weight.data(), bias.data(),
                               dx.data(), d_weight.data(), d_bias.data()},
                              backward.memory.get(), multiprocessors, nullptr);
  dx.check("dx"), d_weight.check("d_weight"), d_bias.check("d_bias");
}

void between(const InterpolateInstanceNormShape& shape, int multiprocessors, int shift) {
  const int64_t plane = shape.channels * shape.pixels;
  Memory u(shape.keys * plane, shape.dtype, shift), y(shape.frames * plane, shape.dtype, shift);
  Memory weight(shape.channels, accumulator(shape.dtype)), bias(shape.channels, accumulator(shape.dtype));
  u.fill(), weight.fill(), bias.fill();
  const std::unique_ptr<double[]> positions(new double[static_cast<size_t>(shape.frames)]);
  for (int64_t f = 0; f < shape.frames; ++f) {  // from the first key to the last
    positions[f] = static_cast<double>(f * (shape.keys - 1)) / static_cast<double>(shape.frames - 1);
  }
  const Workspace workspace(interpolate_instance_norm_workspace_cuda(shape, multiprocessors));
  interpolate_instance_norm_cuda(shape, {u.data(), positions.get(), weight.data(), bias.data(), y.data()},
                                 workspace.memory.get(), multiprocessors, nullptr);
  y.check("frames between");
}

void interpolate(const InterpolateLatentsShape& shape, int shift) {
  const int64_t frames = (shape.keys - 1) * shape.steps + 1,
                key_elements = shape.sequences * shape.keys * shape.elements;
  Memory z(key_elements, shape.dtype, shift), y(shape.sequences * frames * shape.elements, shape.dtype, shift);
  Memory dz(key_elements, shape.dtype, shift), slerp_dz(key_elements, shape.dtype, shift);
  Memory weights(shape.sequences * (shape.keys - 1) * (shape.steps + 1) * 4, accumulator(shape.dtype));
  z.fill();
  const Workspace sums(slerp_weights_workspace_cuda(shape)), partials(slerp_backward_workspace_cuda(shape));
  slerp_weights_cuda(shape, z.data(), sums.memory.get(), weights.data(), nullptr);
  weights.check("weights");
  interpolate_latents_forward_cuda(shape, z.data(), weights.data(), y.data(), nullptr);
  y.check("frames");
  interpolate_latents_backward_cuda(shape, y.data(), dz.data(), nullptr);
  dz.check("dz");
  slerp_backward_cuda(shape, y.data(), z.data(), weights.data(), partials.memory.get(), slerp_dz.data(), nullptr);
  slerp_dz.check("dz of slerp");
}

void frames(const FramesToUint8Shape& shape, int shift) {
  const int64_t count = shape.batch * shape.channels * shape.pixels;
  Memory x(count, shape.dtype, shift);
  x.fill();
  const std::unique_ptr<uint8_t[]> y(new uint8_t[static_cast<size_t>(count)]);
  frames_to_uint8_cuda(shape, x.data(), y.get(), nullptr);
  ++checked;
}

void critic_loss(const SoftmaxCriticLossShape& shape, int multiprocessors, int shift) {
  const int64_t count = shape.samples * shape.classes * shape.pixels;
  const DType a = accumulator(shape.dtype);
  Memory logits(count, shape.dtype, shift), dlogits(count, shape.dtype, shift);
  Memory loss(1, a), source_loss(shape.sources, a), accuracy(shape.sources, a);
  const std::unique_ptr<int64_t[]> source(new int64_t[static_cast<size_t>(shape.samples)]);
  for (int64_t m = 0; m < shape.samples; ++m) source[m] = m % shape.sources;
  logits.fill();
  const Workspace workspace(softmax_critic_loss_workspace_cuda(shape, multiprocessors));
  softmax_critic_loss_cuda(
      shape, {logits.data(), source.get(), loss.data(), source_loss.data(), accuracy.data(), dlogits.data()},
      workspace.memory.get(), multiprocessors, nullptr);
  loss.check("loss"), source_loss.check("source loss"), accuracy.check("accuracy"), dlogits.check("dlogits");
}

}  // namespace

int main() {
  const auto clusters = [](int64_t n, int64_t c, int64_t pixels, DType dtype, InstanceNormOverride::Hold hold,
                           int lanes, int blocks) {
    InstanceNormOverride& wish = instance_norm_override_cuda();
    wish = {InstanceNormOverride::Path::kCluster, lanes, blocks};
    wish.hold = hold;
    instance_norm({n, c, pixels, true, dtype, Activation::kLeakyRelu, 0.2, false}, 4, 0, 0);
    wish = {};
  };
  const auto plane_clusters = [](int64_t pixels, DType dtype, InstanceNormOverride::Hold hold, int blocks, int shift) {
    InstanceNormOverride& wish = instance_norm_override_cuda();
    wish = {InstanceNormOverride::Path::kCluster, 0, blocks};
    wish.hold = hold;
    instance_norm({1, 3, pixels, false, dtype, Activation::kLeakyRelu, 0.2, false}, 4, shift, shift);
    wish = {};
  };
  for (const auto order :
       {cuda_emulation::Order::kForward, cuda_emulation::Order::kReverse, cuda_emulation::Order::kRandom}) {
    cuda_emulation::set_order(order, 3);
    for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64}) {
      for (const bool channels_last : {false, true}) {
        const auto norm = [&](int64_t n, int64_t c, int64_t pixels, int multiprocessors, int shift, int shift_y,
                              bool per_sample = false) {
          instance_norm({n, c, pixels, channels_last, dtype, Activation::kLeakyRelu, 0.2, per_sample}, multiprocessors,
                        shift, shift_y);
        };
        norm(1, 1, 1, 4, 0, 0);
        norm(2, 3, 49, 1, 1, 1);          // loose ends on both sides of every plane
        norm(1, 5, 341, 1, 0, 1);         // tensors that lie differently: no vectors
        norm(1, 16, 640, 2, 0, 0);        // vectors of channels; split over blocks when channels_last
        norm(1, 8, 1105, 1, 0, 0);        // a block a plane; odd rows
        norm(3, 5, 49, 1, 0, 0, true);    // weights of each sample
        norm(2, 16, 640, 2, 0, 0, true);  // the same, by vectors of channels and split
        if (order == cuda_emulation::Order::kForward && !channels_last) {
          norm(1, 1, 33 * 521, 4, 3, 3);  // too large for registers (backward, and forward in float32): split
          norm(9, 1, 33 * 521, 1, 3, 3);  // the same, streamed
        }
        const auto pairs = [&](int64_t keys, int64_t frame_count, int64_t c, int64_t pixels, int multiprocessors,
                               int shift) {
          between({keys, frame_count, c, pixels, channels_last, dtype, Activation::kLeakyRelu, 0.2, 1e-5},
                  multiprocessors, shift);
        };
        pairs(1, 2, 3, 16, 1, 0);     // one key
        pairs(3, 7, 5, 64, 1, 0);     // a plane for a warp
        pairs(3, 5, 8, 49, 1, 1);     // no vectors of pixels
        pairs(2, 40, 16, 640, 4, 0);  // more frames than lanes; rows in parts
        pairs(2, 3, 1, 2080, 4, 0);   // parts of a plane
        pairs(2, 3, 3, 1105, 1, 1);   // parts of a plane, odd
        frames({2, 3, 40, channels_last, dtype, true}, 0);
        frames({1, 3, 33, channels_last, dtype, false}, 1);
        frames({1, 4, 24, channels_last, dtype, false}, 0);
        critic_loss({5, 3, 36, 3, channels_last, dtype}, 4, 0);
        critic_loss({2, 5, 515, 2, channels_last, dtype}, 4, 1);
        critic_loss({2, 64, 72, 64, channels_last, dtype}, 1, 0);
      }
      if (dtype != DType::kFloat64) {
        for (const auto hold : {InstanceNormOverride::Hold::kRegisters, InstanceNormOverride::Hold::kShared}) {
          const bool registers = hold == InstanceNormOverride::Hold::kRegisters;
          clusters(1, 40, registers ? 129 : 1030, dtype, hold, 4,
                   registers ? 8 : 1);  // idle lanes; blocks without rows
          clusters(1, 16, registers ? 640 : 4200, dtype, hold, 2, 2);
          plane_clusters(1280, dtype, hold, 2, 0);
          plane_clusters(1105, dtype, hold, 4, 1);  // loose ends of every part
          plane_clusters(35, dtype, hold, 8, 3);    // blocks without pixels
        }
      }
      interpolate({2, 3, 4, 48, dtype}, 0);
      interpolate({1, 4, 3, 35, dtype}, 1);
      interpolate({1, 1, 3, 8, dtype}, 0);
    }
  }
  std::printf("%d results checked\n", checked);
  return 0;
}
