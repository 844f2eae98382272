// torch.ops.jdm_fast.interpolate_instance_norm. Schema, fake and the missing derivative:
// jdm_fast/ops/interpolate_instance_norm.py.
#include "kernels/interpolate_instance_norm.h"

#include <string_view>

#include "bindings/common.h"

namespace jdm_fast {
namespace {

constexpr char kOp[] = "interpolate_instance_norm";

Activation activation_named(std::string_view name) {
  if (name == "none") return Activation::kNone;
  if (name == "relu") return Activation::kRelu;
  TORCH_CHECK_VALUE(name == "leaky_relu", kOp, ": activation must be one of none, relu, leaky_relu, got '", name, "'");
  return Activation::kLeakyRelu;
}

// Contiguous [C] in the accumulation type, or undefined for None.
at::Tensor channel_parameter(const char* name, const std::optional<at::Tensor>& parameter, const at::Tensor& u) {
  if (!parameter.has_value()) return {};
  TORCH_CHECK_VALUE(parameter->sizes() == u.sizes().slice(1, 1), kOp, ": ", name, " must be ", u.sizes().slice(1, 1),
                    ", got ", parameter->sizes());
  checked_dtype(kOp, name, *parameter);
  check_device(kOp, name, *parameter, u, "u");
  return parameter->to(accumulator_type(u.scalar_type())).contiguous();
}

// Contiguous. What is on the CPU is looked at; on a GPU that would mean to wait for it.
at::Tensor checked_positions(const at::Tensor& positions, const at::Tensor& u) {
  check_dim(kOp, "positions", positions, 1, "[F]");
  TORCH_CHECK_TYPE(positions.scalar_type() == at::kDouble, kOp, ": positions must be ", at::kDouble, ", got ",
                   positions.scalar_type());
  check_device(kOp, "positions", positions, u, "u");
  at::Tensor contiguous = positions.contiguous();
  if (!contiguous.is_cpu()) return contiguous;
  const double* position = contiguous.const_data_ptr<double>();
  const double last = static_cast<double>(u.size(0) - 1);
  for (int64_t i = 0; i < contiguous.numel(); ++i) {
    TORCH_CHECK_VALUE(position[i] >= 0 && position[i] <= last, kOp, ": positions must be in [0, ", last, "], got ",
                      position[i], " at index ", i);
    TORCH_CHECK_VALUE(i == 0 || position[i] >= position[i - 1], kOp, ": positions must not decrease, got ", position[i],
                      " after ", position[i - 1]);
  }
  return contiguous;
}

// u: [T, C, h, w]. positions: float64 [F]. weight, bias: [C] or None, any floating dtype.
// Returns [F, C, h, w] in the suggested memory format of u.
at::Tensor interpolate_instance_norm(const at::Tensor& u, const at::Tensor& positions,
                                     const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
                                     std::string_view activation, double negative_slope, double eps) {
  check_dim(kOp, "u", u, 4, "[T, C, h, w]");
  TORCH_CHECK_VALUE(u.size(0) >= 1, kOp, ": u must hold at least one key map (T >= 1), got ", u.sizes());
  const at::MemoryFormat format = u.suggest_memory_format();
  const InterpolateInstanceNormShape shape{u.size(0),
                                           positions.numel(),
                                           u.size(1),
                                           u.size(2) * u.size(3),
                                           format == at::MemoryFormat::ChannelsLast,
                                           checked_dtype(kOp, "u", u),
                                           activation_named(activation),
                                           negative_slope,
                                           eps};
  const at::Tensor places = checked_positions(positions, u);
  const at::Tensor w = channel_parameter("weight", weight, u), b = channel_parameter("bias", bias, u);
  const at::Tensor keys = u.contiguous(format);
  at::Tensor y = at::empty({shape.frames, u.size(1), u.size(2), u.size(3)}, u.options(), format);
  if (y.numel() == 0) return y;

  const InterpolateInstanceNormArgs args{keys.const_data_ptr(), places.const_data_ptr<double>(), pointer_or_null(w),
                                         pointer_or_null(b), y.mutable_data_ptr()};
#ifdef JDM_FAST_WITH_CUDA
  if (u.is_cuda()) {
    const CudaLaunch launch(u);
    const int multiprocessors = launch.multiprocessors();
    at::Tensor workspace = launch.workspace(interpolate_instance_norm_workspace_cuda(shape, multiprocessors));
    interpolate_instance_norm_cuda(shape, args, workspace.mutable_data_ptr(), multiprocessors, launch.stream());
    launch.check();
    return y;
  }
#endif
  interpolate_instance_norm_cpu(shape, args, cpu_threads());
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(jdm_fast, CPU, m) { m.impl("interpolate_instance_norm", &interpolate_instance_norm); }

#ifdef JDM_FAST_WITH_CUDA
TORCH_LIBRARY_IMPL(jdm_fast, CUDA, m) { m.impl("interpolate_instance_norm", &interpolate_instance_norm); }
#endif

}  // namespace jdm_fast
