// torch.ops.jdm_fast.softmax_critic_loss. Schema, fake and derivatives: jdm_fast/ops/softmax_critic_loss.py.
#include "kernels/softmax_critic_loss.h"

#include <ATen/ops/zeros.h>

#include <tuple>

#include "bindings/common.h"

namespace jdm_fast {
namespace {

constexpr char kOp[] = "softmax_critic_loss";
constexpr int64_t kMaxClasses = 64;

SoftmaxCriticLossShape checked_shape(const at::Tensor& logits, const at::Tensor& source, int64_t num_sources) {
  const DType dtype = checked_dtype(kOp, "logits", logits);
  TORCH_CHECK_VALUE(logits.dim() == 4 && logits.size(2) >= 1 && logits.size(3) >= 1, kOp,
                    ": logits must be [M, K, h, w] with h, w >= 1, got ", logits.sizes());
  TORCH_CHECK_VALUE(1 <= logits.size(1) && logits.size(1) <= kMaxClasses, kOp, ": logits must have 1 to ", kMaxClasses,
                    " classes, got ", logits.sizes());
  TORCH_CHECK_TYPE(source.scalar_type() == at::kLong, kOp, ": source must be int64, got ", source.scalar_type());
  TORCH_CHECK_VALUE(source.dim() == 1 && source.size(0) == logits.size(0), kOp, ": source must be [", logits.size(0),
                    "], one index a sample, got ", source.sizes());
  check_device(kOp, "source", source, logits, "logits");
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
  at::Tensor loss = at::zeros({}, options), source_loss = at::zeros({num_sources}, options);
  at::Tensor accuracy = at::zeros({num_sources}, options);
  at::Tensor dlogits =
      needs_grad ? at::empty(logits.sizes(), logits.options(), format) : at::empty({0}, logits.options());
  if (logits.numel() == 0) return {loss, source_loss, accuracy, dlogits};

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

}  // namespace

TORCH_LIBRARY_IMPL(jdm_fast, CPU, m) { m.impl("softmax_critic_loss", &softmax_critic_loss); }

#ifdef JDM_FAST_WITH_CUDA
TORCH_LIBRARY_IMPL(jdm_fast, CUDA, m) { m.impl("softmax_critic_loss", &softmax_critic_loss); }
#endif

}  // namespace jdm_fast
