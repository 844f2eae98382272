// torch.ops.jdm_fast.interpolate_latents and interpolate_latents_backward. Schemas, fakes and derivatives:
// jdm_fast/ops/interpolate_latents.py.
#include "kernels/interpolate_latents.h"

#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>

#include "bindings/common.h"

namespace jdm_fast {
namespace {

constexpr char kForward[] = "interpolate_latents", kBackward[] = "interpolate_latents_backward";

// A tensor of latents or frames, [rows, C, h, w] or [B, rows, C, h, w], as the kernels read it: each latent's numbers
// one after the other, in the order [C, h, w] or, channels last, [h, w, C].
struct Rows {
  at::Tensor tensor;
  bool channels_last;
  int64_t sequences, rows;

  Rows(const char* op, const char* name, const at::Tensor& given) {
    checked_dtype(op, name, given);
    const int64_t dims = given.dim();
    TORCH_CHECK_VALUE(dims == 4 || dims == 5, op, ": ", name, " must be [T, C, h, w] or [B, T, C, h, w], got ",
                      given.sizes());
    sequences = dims == 5 ? given.size(0) : 1;
    rows = given.size(dims - 4);
    TORCH_CHECK_VALUE(rows >= 1, op, ": ", name, " must hold at least one ",
                      std::string_view(name) == "z" ? "key latent" : "frame", " (T >= 1), got ", given.sizes());
    channels_last = !given.is_contiguous() && given.movedim(-3, -1).is_contiguous();
    tensor = channels_last ? given : given.contiguous();
  }

  int64_t elements() const {
    const int64_t count = sequences * rows;
    return count == 0 ? 0 : tensor.numel() / count;
  }

  // Another number of rows in the same layout.
  at::Tensor empty(int64_t count) const {
    const int64_t dims = tensor.dim();
    at::DimVector sizes(tensor.sizes()), strides(sizes.size());
    sizes[dims - 4] = count;
    at::DimVector from_last{dims - 1, dims - 2, dims - 3, dims - 4};
    if (channels_last) from_last = {dims - 3, dims - 1, dims - 2, dims - 4};
    if (dims == 5) from_last.push_back(0);
    int64_t stride = 1;
    for (const int64_t dim : from_last) {
      strides[dim] = stride;
      stride *= std::max<int64_t>(sizes[dim], 1);
    }
    return at::empty_strided(sizes, strides, tensor.options());
  }
};

// z: [T, C, h, w] or [B, T, C, h, w]. Returns all (T-1)*n + 1 frames in the layout of z, and slerp's weights [B, T-1, n
// + 1, 4] in the accumulation type, or [0] of lerp.
std::tuple<at::Tensor, at::Tensor> interpolate_latents(const at::Tensor& z, int64_t n, std::string_view mode) {
  const Rows keys(kForward, "z", z);
  TORCH_CHECK_VALUE(n >= 1, kForward, ": n must be at least 1, got ", n);
  TORCH_CHECK_VALUE(mode == "lerp" || mode == "slerp", kForward, ": mode must be one of lerp, slerp, got '", mode, "'");
  const bool slerp = mode == "slerp";
  const InterpolateLatentsShape shape{keys.sequences, keys.rows, n, keys.elements(), checked_dtype(kForward, "z", z)};
  at::Tensor y = keys.empty((shape.keys - 1) * n + 1);
  const at::TensorOptions sums = z.options().dtype(accumulator_type(z.scalar_type()));
  at::Tensor weights = slerp ? at::empty({shape.sequences, shape.keys - 1, n + 1, 4}, sums) : at::empty({0}, sums);
  if (y.numel() == 0) return {y, slerp ? weights.zero_() : weights};

  const void* const in = keys.tensor.const_data_ptr();
  void* const turns = slerp ? weights.mutable_data_ptr() : nullptr;
#ifdef JDM_FAST_WITH_CUDA
  if (z.is_cuda()) {
    const CudaLaunch launch(z);
    if (slerp) {
      at::Tensor workspace = launch.workspace(slerp_weights_workspace_cuda(shape));
      slerp_weights_cuda(shape, in, workspace.mutable_data_ptr(), turns, launch.stream());
    }
    interpolate_latents_forward_cuda(shape, in, turns, y.mutable_data_ptr(), launch.stream());
    launch.check();
    return {y, weights};
  }
#endif
  if (slerp) slerp_weights_cpu(shape, in, turns, cpu_threads());
  interpolate_latents_forward_cpu(shape, in, turns, y.mutable_data_ptr(), cpu_threads());
  return {y, weights};
}

// dy: [(T-1)*n + 1, C, h, w] or [B, (T-1)*n + 1, C, h, w]. z and its weights for slerp, or None for lerp. Returns dz in
// the layout of dy (lerp) or z (slerp).
at::Tensor interpolate_latents_backward(const at::Tensor& dy, const std::optional<at::Tensor>& z,
                                        const std::optional<at::Tensor>& weights, int64_t n) {
  const Rows frames(kBackward, "dy", dy);
  TORCH_CHECK_VALUE(n >= 1 && (frames.rows - 1) % n == 0, kBackward, ": dy must hold (T-1)*n + 1 frames with n = ", n,
                    ", got ", dy.sizes());
  TORCH_CHECK_VALUE(z.has_value() == weights.has_value(), kBackward, ": z and weights go together, for slerp; got one");
  const InterpolateLatentsShape shape{frames.sequences, (frames.rows - 1) / n + 1, n, frames.elements(),
                                      checked_dtype(kBackward, "dy", dy)};
  if (!z.has_value()) {
    at::Tensor dz = frames.empty(shape.keys);
    if (dz.numel() == 0) return dz;
    const void* const in = frames.tensor.const_data_ptr();
#ifdef JDM_FAST_WITH_CUDA
    if (dy.is_cuda()) {
      const CudaLaunch launch(dy);
      interpolate_latents_backward_cuda(shape, in, dz.mutable_data_ptr(), launch.stream());
      launch.check();
      return dz;
    }
#endif
    interpolate_latents_backward_cpu(shape, in, dz.mutable_data_ptr(), cpu_threads());
    return dz;
  }

  at::DimVector expected(dy.sizes());
  expected[dy.dim() - 4] = shape.keys;
  TORCH_CHECK_VALUE(z->sizes() == at::IntArrayRef(expected), kBackward, ": z must be ", at::IntArrayRef(expected),
                    " with dy ", dy.sizes(), ", got ", z->sizes());
  TORCH_CHECK_TYPE(z->scalar_type() == dy.scalar_type(), kBackward, ": z must be ", dy.scalar_type(), " like dy, got ",
                   z->scalar_type());
  check_device(kBackward, "z", *z, dy, "dy");
  const at::ScalarType sums = accumulator_type(dy.scalar_type());
  const at::DimVector rows{shape.sequences, shape.keys - 1, n + 1, 4};
  TORCH_CHECK_VALUE(weights->sizes() == at::IntArrayRef(rows), kBackward, ": weights must be ", at::IntArrayRef(rows),
                    ", got ", weights->sizes());
  TORCH_CHECK_TYPE(weights->scalar_type() == sums, kBackward, ": weights must be ", sums, ", got ",
                   weights->scalar_type());
  check_device(kBackward, "weights", *weights, dy, "dy");

  const Rows keys(kBackward, "z", *z);
  at::Tensor dz = keys.empty(shape.keys);
  if (dz.numel() == 0) return dz;
  at::Tensor gradient = frames.tensor;  // in the layout of z
  if (keys.channels_last != frames.channels_last) {
    gradient = keys.empty(frames.rows);
    gradient.copy_(dy);
  }
  const at::Tensor turns = weights->contiguous();
#ifdef JDM_FAST_WITH_CUDA
  if (dy.is_cuda()) {
    const CudaLaunch launch(dy);
    at::Tensor workspace = launch.workspace(slerp_backward_workspace_cuda(shape));
    slerp_backward_cuda(shape, gradient.const_data_ptr(), keys.tensor.const_data_ptr(), turns.const_data_ptr(),
                        workspace.mutable_data_ptr(), dz.mutable_data_ptr(), launch.stream());
    launch.check();
    return dz;
  }
#endif
  slerp_backward_cpu(shape, gradient.const_data_ptr(), keys.tensor.const_data_ptr(), turns.const_data_ptr(),
                     dz.mutable_data_ptr(), cpu_threads());
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
