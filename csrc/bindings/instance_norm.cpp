// torch.ops.jdm_fast.instance_norm and instance_norm_backward. Schemas, fakes and derivatives:
// jdm_fast/ops/instance_norm.py.
#include "kernels/instance_norm.h"

#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <string_view>
#include <tuple>
#include <utility>

#include "bindings/common.h"

namespace jdm_fast {
namespace {

constexpr char kOp[] = "instance_norm";
#ifdef JDM_FAST_WITH_CUDA
constexpr int64_t kMostSummed = 64;  // samples that one thread adds up: of more, ATen's reduction takes several
#endif

Activation checked_activation(std::string_view name) {
  if (name == "none") return Activation::kNone;
  if (name == "relu") return Activation::kRelu;
  TORCH_CHECK_VALUE(name == "leaky_relu", kOp, ": activation must be one of none, relu, leaky_relu, got '", name, "'");
  return Activation::kLeakyRelu;
}

// Contiguous [C] or [N, C] in the accumulation type, or undefined for None.
at::Tensor checked_parameter(const char* name, const std::optional<at::Tensor>& parameter, const at::Tensor& x) {
  if (!parameter.has_value()) return {};
  const at::IntArrayRef channel = x.sizes().slice(1, 1), plane = x.sizes().slice(0, 2);
  TORCH_CHECK_VALUE(parameter->sizes() == channel || parameter->sizes() == plane, kOp, ": ", name, " must be ", channel,
                    ", one value a channel, or ", plane, ", one for each sample and channel, got ", parameter->sizes());
  checked_dtype(kOp, name, *parameter);
  check_device(kOp, name, *parameter, x, "x");
  return parameter->to(accumulator_type(x.scalar_type())).contiguous();
}

// Weight and bias, both [C] or both [N, C].
std::pair<at::Tensor, at::Tensor> checked_affine(const std::optional<at::Tensor>& weight,
                                                 const std::optional<at::Tensor>& bias, const at::Tensor& x) {
  at::Tensor w = checked_parameter("weight", weight, x), b = checked_parameter("bias", bias, x);
  TORCH_CHECK_VALUE(!w.defined() || !b.defined() || b.sizes() == w.sizes(), kOp, ": bias must be ", w.sizes(),
                    " like weight, got ", b.sizes());
  return {std::move(w), std::move(b)};
}

// Contiguous [N, C] in the accumulation type.
at::Tensor checked_statistics(const char* name, const at::Tensor& statistics, const at::Tensor& x) {
  TORCH_CHECK_VALUE(statistics.dim() == 2 && statistics.size(0) == x.size(0) && statistics.size(1) == x.size(1), kOp,
                    ": ", name, " must be [", x.size(0), ", ", x.size(1), "], got ", statistics.sizes());
  const at::ScalarType expected = accumulator_type(x.scalar_type());
  TORCH_CHECK_TYPE(statistics.scalar_type() == expected, kOp, ": ", name, " must be ", expected, ", got ",
                   statistics.scalar_type());
  check_device(kOp, name, statistics, x, "x");
  return statistics.contiguous();
}

InstanceNormShape checked_shape(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                                const std::optional<at::Tensor>& bias, std::string_view activation,
                                double negative_slope) {
  check_dim(kOp, "x", x, 4, "[N, C, H, W]");
  const bool channels_last = x.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  return {x.size(0),
          x.size(1),
          x.size(2) * x.size(3),
          channels_last,
          checked_dtype(kOp, "x", x),
          checked_activation(activation),
          negative_slope,
          (weight.has_value() && weight->dim() == 2) || (bias.has_value() && bias->dim() == 2)};
}

// x: [N, C, H, W]. weight, bias: [C] or [N, C], or None, any floating dtype. residual: like x, or None.
// Returns y like x in its suggested memory format, mean [N, C], rstd [N, C].
std::tuple<at::Tensor, at::Tensor, at::Tensor> instance_norm(
    const at::Tensor& x, const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
    const std::optional<at::Tensor>& residual, std::string_view activation, double negative_slope, double eps) {
  const InstanceNormShape shape = checked_shape(x, weight, bias, activation, negative_slope);
  const auto [w, b] = checked_affine(weight, bias, x);
  if (residual.has_value()) check_like(kOp, "residual", *residual, x, "x");

  const at::MemoryFormat format = x.suggest_memory_format();
  const at::Tensor input = x.contiguous(format);
  const at::Tensor added = residual.has_value() ? residual->contiguous(format) : at::Tensor();
  const at::TensorOptions statistics = x.options().dtype(accumulator_type(x.scalar_type()));
  at::Tensor y = at::empty(x.sizes(), x.options(), format);
  at::Tensor mean = at::empty({shape.batch, shape.channels}, statistics);
  at::Tensor rstd = at::empty({shape.batch, shape.channels}, statistics);
  if (x.numel() == 0) {  // planes without pixels: what torch.var_mean says of them
    mean.fill_(NAN);
    rstd.fill_(NAN);
    return {y, mean, rstd};
  }

  const InstanceNormForward args{
      input.const_data_ptr(), pointer_or_null(added),  pointer_or_null(w),      pointer_or_null(b),
      y.mutable_data_ptr(),   mean.mutable_data_ptr(), rstd.mutable_data_ptr(), eps};
#ifdef JDM_FAST_WITH_CUDA
  if (x.is_cuda()) {
    const CudaLaunch launch(x);
    const int multiprocessors = launch.multiprocessors();
    at::Tensor workspace = launch.workspace(instance_norm_workspace_cuda(shape, /*backward=*/false, multiprocessors));
    instance_norm_forward_cuda(shape, args, workspace.mutable_data_ptr(), multiprocessors, launch.stream());
    launch.check();
    return {y, mean, rstd};
  }
#endif
  instance_norm_forward_cpu(shape, args, cpu_threads());
  return {y, mean, rstd};
}

// dy, x: [N, C, H, W]. mean, rstd: [N, C] as returned by the forward. weight, bias: as given to it. `eps` is for the
// derivative. Returns dx like x in its suggested memory format, d_weight, d_bias like weight and bias (both [C] if both
// are None) in the accumulation type.
std::tuple<at::Tensor, at::Tensor, at::Tensor> instance_norm_backward(const at::Tensor& dy, const at::Tensor& x,
                                                                      const at::Tensor& mean, const at::Tensor& rstd,
                                                                      const std::optional<at::Tensor>& weight,
                                                                      const std::optional<at::Tensor>& bias,
                                                                      std::string_view activation,
                                                                      double negative_slope, double /*eps*/) {
  const InstanceNormShape shape = checked_shape(x, weight, bias, activation, negative_slope);
  check_like(kOp, "dy", dy, x, "x");
  const auto [w, b] = checked_affine(weight, bias, x);
  const at::Tensor m = checked_statistics("mean", mean, x), r = checked_statistics("rstd", rstd, x);

  const at::MemoryFormat format = x.suggest_memory_format();
  const at::Tensor input = x.contiguous(format), gradient = dy.contiguous(format);
  const at::TensorOptions statistics = x.options().dtype(accumulator_type(x.scalar_type()));
  at::Tensor dx = at::empty(x.sizes(), x.options(), format);
  const at::IntArrayRef channel = x.sizes().slice(1, 1), plane = x.sizes().slice(0, 2);
  const at::IntArrayRef result_shape = shape.affine_per_sample ? plane : channel;
  if (x.numel() == 0) return {dx, at::zeros(result_shape, statistics), at::zeros(result_shape, statistics)};

  // The kernels write one sum for each sample; with weights for each sample, or with one sample, that is the result.
  const bool sum_samples = !shape.affine_per_sample && shape.batch != 1;
  const at::IntArrayRef sums_shape = sum_samples ? plane : result_shape;
  at::Tensor d_weight = at::empty(sums_shape, statistics), d_bias = at::empty(sums_shape, statistics);
  const InstanceNormBackward args{gradient.const_data_ptr(), input.const_data_ptr(),      m.const_data_ptr(),
                                  r.const_data_ptr(),        pointer_or_null(w),          pointer_or_null(b),
                                  dx.mutable_data_ptr(),     d_weight.mutable_data_ptr(), d_bias.mutable_data_ptr()};
#ifdef JDM_FAST_WITH_CUDA
  if (x.is_cuda()) {
    const CudaLaunch launch(x);
    const int multiprocessors = launch.multiprocessors();
    at::Tensor workspace = launch.workspace(instance_norm_workspace_cuda(shape, /*backward=*/true, multiprocessors));
    instance_norm_backward_cuda(shape, args, workspace.mutable_data_ptr(), multiprocessors, launch.stream());
    launch.check();
    if (sum_samples && shape.batch <= kMostSummed) {
      const at::Tensor weight_each = std::exchange(d_weight, at::empty(channel, statistics));
      const at::Tensor bias_each = std::exchange(d_bias, at::empty(channel, statistics));
      instance_norm_sum_samples_cuda(shape, weight_each.const_data_ptr(), bias_each.const_data_ptr(),
                                     d_weight.mutable_data_ptr(), d_bias.mutable_data_ptr(), launch.stream());
      launch.check();
      return {dx, d_weight, d_bias};
    }
  } else {
    instance_norm_backward_cpu(shape, args, cpu_threads());
  }
#else
  instance_norm_backward_cpu(shape, args, cpu_threads());
#endif
  if (sum_samples) return {dx, d_weight.sum(0), d_bias.sum(0)};
  return {dx, d_weight, d_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(jdm_fast, CPU, m) {
  m.impl("instance_norm", &instance_norm);
  m.impl("instance_norm_backward", &instance_norm_backward);
}

#ifdef JDM_FAST_WITH_CUDA
TORCH_LIBRARY_IMPL(jdm_fast, CUDA, m) {
  m.impl("instance_norm", &instance_norm);
  m.impl("instance_norm_backward", &instance_norm_backward);
}
#endif

}  // namespace jdm_fast
