// torch.ops.jdm_fast.frames_to_uint8. Schema and fake: jdm_fast/ops/frames_to_uint8.py.
#include "kernels/frames_to_uint8.h"

#include "bindings/common.h"

namespace jdm_fast {
namespace {

constexpr char kOp[] = "frames_to_uint8";
constexpr int64_t kMaxChannels = 4;

// x: [N, C, H, W], C from 1 to 4. Returns [N, H, W, C] uint8, contiguous.
at::Tensor frames_to_uint8(const at::Tensor& x, bool tanh) {
  const DType dtype = checked_dtype(kOp, "x", x);
  check_dim(kOp, "x", x, 4, "[N, C, H, W]");
  TORCH_CHECK_VALUE(1 <= x.size(1) && x.size(1) <= kMaxChannels, kOp, ": x must have 1 to ", kMaxChannels,
                    " channels, got ", x.sizes());

  const at::MemoryFormat format = x.suggest_memory_format();
  const at::Tensor input = x.contiguous(format);
  at::Tensor y = at::empty({x.size(0), x.size(2), x.size(3), x.size(1)}, x.options().dtype(at::kByte));
  if (y.numel() == 0) return y;
  const FramesToUint8Shape shape{x.size(0), x.size(1), x.size(2) * x.size(3), format == at::MemoryFormat::ChannelsLast,
                                 dtype,     tanh};
  uint8_t* bytes = y.mutable_data_ptr<uint8_t>();
#ifdef JDM_FAST_WITH_CUDA
  if (x.is_cuda()) {
    const CudaLaunch launch(x);
    frames_to_uint8_cuda(shape, input.const_data_ptr(), bytes, launch.stream());
    launch.check();
    return y;
  }
#endif
  frames_to_uint8_cpu(shape, input.const_data_ptr(), bytes, cpu_threads());
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(jdm_fast, CPU, m) { m.impl("frames_to_uint8", &frames_to_uint8); }

#ifdef JDM_FAST_WITH_CUDA
TORCH_LIBRARY_IMPL(jdm_fast, CUDA, m) { m.impl("frames_to_uint8", &frames_to_uint8); }
#endif

}  // namespace jdm_fast
