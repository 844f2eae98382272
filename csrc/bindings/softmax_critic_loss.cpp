// torch.ops.jdm_fast.softmax_critic_loss. Schema, fake and derivatives: jdm_fast/ops/softmax_critic_loss.py.
#include "kernels/softmax_critic_loss.h"

#include <ATen/ops/zeros.h>

#include <tuple>

#include "bindings/common.h"

namespace jdm_fast {
namespace {

constexpr char kOp[] = "softmax_critic_loss";
constexpr int64_t kMaxClasses = 64;

// One index for each sample of `like`.
void check_source(const char* op, const at::Tensor& source, const at::Tensor& like, const char* like_name) {
  TORCH_CHECK_TYPE(source.scalar_type() == at::kLong, op, ": source must be int64, got ", source.scalar_type());
  TORCH_CHECK_VALUE(source.dim() == 1 && source.size(0) == like.size(0), op, ": source must be [", like.size(0),
                    "], one index a sample, got ", source.sizes());
  check_device(op, "source", source, like, like_name);
}

SoftmaxCriticLossShape checked_shape(const at::Tensor& logits, const at::Tensor& source, int64_t num_sources) {
  const DType dtype = checked_dtype(kOp, "logits", logits);
  TORCH_CHECK_VALUE(logits.dim() == 4 && logits.size(2) >= 1 && logits.size(3) >= 1, kOp,
                    ": logits must be [M, K, h, w] with h, w >= 1, got ", logits.sizes());
  TORCH_CHECK_VALUE(1 <= logits.size(1) && logits.size(1) <= kMaxClasses, kOp, ": logits must have 1 to ", kMaxClasses,
                    " classes, got ", logits.sizes());
  check_source(kOp, source, logits, "logits");
  TORCH_CHECK_VALUE(1 <= num_sources && num_sources <= logits.size(1), kOp, ": num_sources must be 1 to ",
                    logits.size(1), ", the classes of logits, got ", num_sources);
  const bool channels_last = logits.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  return {logits.size(0), logits.size(1), logits.size(2) * logits.size(3), num_sources, channels_last, dtype};
}

// logits: [M, K, h, w]. source: int64 [M]. Returns loss [], source_loss [S], source_accuracy [S] in the accumulation
// type, and dlogits like logits in its suggested memory format, or [0] without needs_grad.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> softmax_critic_loss(const at::Tensor& logits,
                                                                               const at::Tensor& source,
                                                                               int64_t num_sources, bool needs_grad) {
  const SoftmaxCriticLossShape shape = checked_shape(logits, source, num_sources);
  const at::Tensor sources = source.contiguous();
  if (source.is_cpu()) {  // on a GPU, looking would make the host wait
    for (int64_t m = 0; m < shape.samples; ++m) {
      const int64_t s = pointer<int64_t>(sources)[m];
      TORCH_CHECK_INDEX(0 <= s && s < num_sources, kOp, ": source must hold indices 0..", num_sources - 1, ", got ", s,
                        " for sample ", m);
    }
  }

  const at::MemoryFormat format = logits.suggest_memory_format();
  const at::Tensor input = logits.contiguous(format);
  const at::TensorOptions options = logits.options().dtype(accumulator_type(logits.scalar_type()));
  at::Tensor dlogits =
      needs_grad ? at::empty(logits.sizes(), logits.options(), format) : at::empty({0}, logits.options());
  if (logits.numel() == 0) {
    return {at::zeros({}, options), at::zeros({num_sources}, options), at::zeros({num_sources}, options), dlogits};
  }
  at::Tensor loss = at::empty({}, options), source_loss = at::empty({num_sources}, options);
  at::Tensor accuracy = at::empty({num_sources}, options);

  const SoftmaxCriticLossArgs args{input.const_data_ptr(),      pointer<int64_t>(sources),
                                   loss.mutable_data_ptr(),     source_loss.mutable_data_ptr(),
                                   accuracy.mutable_data_ptr(), needs_grad ? dlogits.mutable_data_ptr() : nullptr};
#ifdef JDM_FAST_WITH_CUDA
  if (logits.is_cuda()) {
    const CudaLaunch launch(logits);
    const int multiprocessors = launch.multiprocessors();
    at::Tensor workspace = launch.workspace(softmax_critic_loss_workspace_cuda(shape, multiprocessors));
    softmax_critic_loss_cuda(shape, args, workspace.mutable_data_ptr(), multiprocessors, launch.stream());
    launch.check();
    return {loss, source_loss, accuracy, dlogits};
  }
#endif
  softmax_critic_loss_cpu(shape, args, cpu_threads());
  return {loss, source_loss, accuracy, dlogits};
}

// dlogits: dense, as softmax_critic_loss returns it. source: int64 [M]. d_loss [] and d_source_loss [S] in the
// accumulation type; at least one of them is there. Returns dlogits * (d_loss + d_source_loss[source]), like dlogits.
at::Tensor softmax_critic_loss_backward(const at::Tensor& dlogits, const at::Tensor& source,
                                        const std::optional<at::Tensor>& d_loss,
                                        const std::optional<at::Tensor>& d_source_loss) {
  constexpr char kName[] = "softmax_critic_loss_backward";
  const DType dtype = checked_dtype(kName, "dlogits", dlogits);
  check_dim(kName, "dlogits", dlogits, 4, "[M, K, h, w]");
  check_source(kName, source, dlogits, "dlogits");
  TORCH_CHECK_VALUE(d_loss.has_value() || d_source_loss.has_value(), kName,
                    ": d_loss or d_source_loss must be given, got neither");
  const auto checked_factor = [&](const char* name, const std::optional<at::Tensor>& factor, int64_t dim) {
    if (!factor.has_value()) return at::Tensor();
    TORCH_CHECK_VALUE(factor->dim() == dim, kName, ": ", name, " must have ", dim, " dimensions, got ",
                      factor->sizes());
    TORCH_CHECK_TYPE(factor->scalar_type() == accumulator_type(dlogits.scalar_type()), kName, ": ", name, " must be ",
                     accumulator_type(dlogits.scalar_type()), ", got ", factor->scalar_type());
    check_device(kName, name, *factor, dlogits, "dlogits");
    return factor->contiguous();
  };
  const at::Tensor of_loss = checked_factor("d_loss", d_loss, 0);
  const at::Tensor of_sources = checked_factor("d_source_loss", d_source_loss, 1);
  const at::Tensor sources = source.contiguous();

  const at::MemoryFormat format = dlogits.suggest_memory_format();
  const at::Tensor input = dlogits.contiguous(format);
  at::Tensor result = at::empty(dlogits.sizes(), dlogits.options(), format);
  if (result.numel() == 0) return result;
  const bool channels_last = format == at::MemoryFormat::ChannelsLast;
  const SoftmaxCriticLossShape shape{dlogits.size(0),
                                     dlogits.size(1),
                                     dlogits.size(2) * dlogits.size(3),
                                     of_sources.defined() ? of_sources.size(0) : 0,
                                     channels_last,
                                     dtype};
  const SoftmaxCriticLossBackwardArgs args{input.const_data_ptr(), pointer<int64_t>(sources), pointer_or_null(of_loss),
                                           pointer_or_null(of_sources), result.mutable_data_ptr()};
#ifdef JDM_FAST_WITH_CUDA
  if (dlogits.is_cuda()) {
    const CudaLaunch launch(dlogits);
    softmax_critic_loss_backward_cuda(shape, args, launch.stream());
    launch.check();
    return result;
  }
#endif
  softmax_critic_loss_backward_cpu(shape, args, cpu_threads());
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(jdm_fast, CPU, m) {
  m.impl("softmax_critic_loss", &softmax_critic_loss);
  m.impl("softmax_critic_loss_backward", &softmax_critic_loss_backward);
}

#ifdef JDM_FAST_WITH_CUDA
TORCH_LIBRARY_IMPL(jdm_fast, CUDA, m) {
  m.impl("softmax_critic_loss", &softmax_critic_loss);
  m.impl("softmax_critic_loss_backward", &softmax_critic_loss_backward);
}
#endif

}  // namespace jdm_fast
