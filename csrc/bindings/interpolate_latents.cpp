// torch.ops.jdm_fast.interpolate_latents and interpolate_latents_backward. Schemas, fakes and derivatives:
// jdm_fast/ops/interpolate_latents.py.
#include "kernels/interpolate_latents.h"

#include "bindings/common.h"

namespace jdm_fast {
namespace {

// The coefficients as the kernels want them. They say how many keys and steps there are, and x must agree: its first
// two sizes are B and either T ("latents") or (T-1)*n + 1 ("dy").
at::Tensor checked_coefficients(const char* op, const char* name, const at::Tensor& x, const at::Tensor& coefficients,
                                bool frames) {
  const at::ScalarType expected = accumulator_type(x.scalar_type());
  TORCH_CHECK_TYPE(coefficients.scalar_type() == expected, op, ": coefficients must be ", expected, ", got ",
                   coefficients.scalar_type());
  check_device(op, "coefficients", coefficients, x, name);
  TORCH_CHECK_VALUE(coefficients.dim() == 4 && coefficients.size(2) >= 1 && coefficients.size(3) == 2, op,
                    ": coefficients must be [B, T-1, n, 2] with n >= 1, got ", coefficients.sizes());
  const int64_t gaps = coefficients.size(1), rows = frames ? gaps * coefficients.size(2) + 1 : gaps + 1;
  TORCH_CHECK_VALUE(x.dim() >= 2 && x.size(0) == coefficients.size(0) && x.size(1) == rows, op, ": ", name,
                    " must be [", coefficients.size(0), ", ", rows, ", ...] with coefficients ", coefficients.sizes(),
                    ", got ", x.sizes());
  return coefficients.contiguous();
}

// [B, rows, ...] with the trailing sizes of `like`.
at::Tensor empty_rows(const at::Tensor& like, int64_t rows) {
  at::DimVector sizes(like.sizes());
  sizes[1] = rows;
  return at::empty(sizes, like.options());
}

// latents: [B, T, ...]. coefficients: [B, T-1, n, 2], accumulation type. Returns [B, (T-1)*n + 1, ...], contiguous.
at::Tensor interpolate_latents(const at::Tensor& latents, const at::Tensor& coefficients) {
  constexpr char kOp[] = "interpolate_latents";
  const DType dtype = checked_dtype(kOp, "latents", latents);
  const at::Tensor weights = checked_coefficients(kOp, "latents", latents, coefficients, /*frames=*/false);
  const int64_t keys = latents.size(1), steps = weights.size(2);

  const at::Tensor z = latents.contiguous();
  at::Tensor y = empty_rows(z, (keys - 1) * steps + 1);
  if (y.numel() == 0) return y;
  const InterpolateLatentsShape shape{z.size(0), keys, steps, z.numel() / (z.size(0) * keys), dtype};
#ifdef JDM_FAST_WITH_CUDA
  if (z.is_cuda()) {
    const CudaLaunch launch(z);
    interpolate_latents_forward_cuda(shape, z.const_data_ptr(), weights.const_data_ptr(), y.mutable_data_ptr(),
                                     launch.stream());
    launch.check();
    return y;
  }
#endif
  interpolate_latents_forward_cpu(shape, z.const_data_ptr(), weights.const_data_ptr(), y.mutable_data_ptr(),
                                  cpu_threads());
  return y;
}

// dy: [B, (T-1)*n + 1, ...]. coefficients: [B, T-1, n, 2], accumulation type. Returns [B, T, ...], contiguous.
at::Tensor interpolate_latents_backward(const at::Tensor& dy, const at::Tensor& coefficients) {
  constexpr char kOp[] = "interpolate_latents_backward";
  const DType dtype = checked_dtype(kOp, "dy", dy);
  const at::Tensor weights = checked_coefficients(kOp, "dy", dy, coefficients, /*frames=*/true);
  const int64_t keys = weights.size(1) + 1;

  const at::Tensor gradient = dy.contiguous();
  at::Tensor dz = empty_rows(gradient, keys);
  if (dz.numel() == 0) return dz;
  const InterpolateLatentsShape shape{dz.size(0), keys, weights.size(2), dz.numel() / (dz.size(0) * keys), dtype};
#ifdef JDM_FAST_WITH_CUDA
  if (dz.is_cuda()) {
    const CudaLaunch launch(dz);
    interpolate_latents_backward_cuda(shape, gradient.const_data_ptr(), weights.const_data_ptr(), dz.mutable_data_ptr(),
                                      launch.stream());
    launch.check();
    return dz;
  }
#endif
  interpolate_latents_backward_cpu(shape, gradient.const_data_ptr(), weights.const_data_ptr(), dz.mutable_data_ptr(),
                                   cpu_threads());
  return dz;
}

}  // namespace

TORCH_LIBRARY_IMPL(jdm_fast, CPU, m) {
  m.impl("interpolate_latents", &interpolate_latents);
  m.impl("interpolate_latents_backward", &interpolate_latents_backward);
}

#ifdef JDM_FAST_WITH_CUDA
TORCH_LIBRARY_IMPL(jdm_fast, CUDA, m) {
  m.impl("interpolate_latents", &interpolate_latents);
  m.impl("interpolate_latents_backward", &interpolate_latents_backward);
}
#endif

}  // namespace jdm_fast
