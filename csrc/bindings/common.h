// What every binding needs: checks with messages, types, threads and, with CUDA, the device and its stream.
//
// A message says which op and tensor, what was expected, and what came. A wrong shape, value or device raises
// ValueError in Python, a wrong dtype TypeError.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <optional>

#include "kernels/types.h"

#ifdef JDM_FAST_WITH_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace jdm_fast {

// The kernels' name for the dtype of `tensor`.
inline DType checked_dtype(const char* op, const char* name, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kDouble:
      return DType::kFloat64;
    default:
      TORCH_CHECK_TYPE(false, op, ": ", name, " must be float32, float16, bfloat16 or float64, got ",
                       tensor.scalar_type());
  }
}

// The dtype in which sums and statistics of tensors of `dtype` are kept.
inline at::ScalarType accumulator_type(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

inline void check_dim(const char* op, const char* name, const at::Tensor& tensor, int64_t dim, const char* layout) {
  TORCH_CHECK_VALUE(tensor.dim() == dim, op, ": ", name, " must be ", layout, ", got ", tensor.sizes());
}

inline void check_device(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& like,
                         const char* like_name) {
  TORCH_CHECK_VALUE(tensor.device() == like.device(), op, ": ", name, " must be on ", like.device(), " like ",
                    like_name, ", got ", tensor.device());
}

// Same shape, dtype and device as `like`.
inline void check_like(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& like,
                       const char* like_name) {
  TORCH_CHECK_VALUE(tensor.sizes() == like.sizes(), op, ": ", name, " must be ", like.sizes(), " like ", like_name,
                    ", got ", tensor.sizes());
  TORCH_CHECK_TYPE(tensor.scalar_type() == like.scalar_type(), op, ": ", name, " must be ", like.scalar_type(),
                   " like ", like_name, ", got ", tensor.scalar_type());
  check_device(op, name, tensor, like, like_name);
}

template <typename T = void>
const T* pointer(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// nullptr for an undefined tensor, which stands for an argument that was None.
inline const void* pointer_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

// Threads a CPU kernel may use: PyTorch's setting, and one where PyTorch already runs in parallel.
inline int cpu_threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

#ifdef JDM_FAST_WITH_CUDA
// The device and the current stream of a tensor, for as long as this object lives.
class CudaLaunch {
 public:
  explicit CudaLaunch(const at::Tensor& tensor)
      : guard_(tensor.device()), stream_(c10::cuda::getCurrentCUDAStream(tensor.get_device())) {}

  void* stream() const { return stream_.stream(); }
  // Asked of the runtime: ATen's device properties come with headers of cuSPARSE and others that a bare CUDA compiler
  // lacks.
  int multiprocessors() const {
    int count = 0;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, guard_.current_device().index()));
    return count;
  }
  // Scratch for the kernel about to be launched: the caching allocator reuses it in stream order.
  at::Tensor workspace(size_t bytes) const {
    return at::empty({static_cast<int64_t>(bytes)},
                     at::TensorOptions().dtype(at::kByte).device(guard_.current_device()));
  }
  // To be called after the launch. Raises what cudaGetLastError says.
  void check() const { C10_CUDA_KERNEL_LAUNCH_CHECK(); }

 private:
  c10::cuda::CUDAGuard guard_;
  c10::cuda::CUDAStream stream_;
};
#endif

}  // namespace jdm_fast
