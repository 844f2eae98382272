// Launcher of frames_to_uint8.
#include "frames_to_uint8.cuh"
#include "frames_to_uint8.h"

namespace jdm_fast {
namespace cuda {
namespace {

template <typename T, int kChannels>
void launch_interleave_vector(const FramesToUint8Shape& shape, const T* x, uint8_t* y, void* stream) {
  const int64_t per_image = shape.pixels / kVectorElements<T>;
  const int64_t groups = shape.batch * per_image;
  JDM_LAUNCH((interleave_frames_vector<T, kChannels>), grid_size(ceil_divide(groups, kFrameThreads)), kFrameThreads, 0,
             stream)
  (x, y, groups, per_image, shape.tanh);
}

template <typename T>
void launch_frames(const FramesToUint8Shape& shape, const T* x, uint8_t* y, void* stream) {
  constexpr int kVector = kVectorElements<T>;
  constexpr bool kVectorised = !std::is_same_v<T, double>;
  const int64_t pixels = shape.batch * shape.pixels;
  const bool aligned = kVectorised && vector_aligned(x, y);
  if (shape.channels_last || shape.channels == 1) {
    const int64_t count = pixels * shape.channels;
    if constexpr (kVectorised) {
      if (aligned) {
        JDM_LAUNCH((convert_frames<T, kVector>), grid_size(ceil_divide(count, kFrameThreads * kVector)), kFrameThreads,
                   0, stream)
        (x, y, count, shape.tanh);
        return;
      }
    }
    JDM_LAUNCH((convert_frames<T, 1>), grid_size(ceil_divide(count, kFrameThreads)), kFrameThreads, 0, stream)
    (x, y, count, shape.tanh);
    return;
  }
  if constexpr (kVectorised) {
    if (aligned && shape.pixels % kVector == 0) {
      if (shape.channels == 2) return launch_interleave_vector<T, 2>(shape, x, y, stream);
      if (shape.channels == 3) return launch_interleave_vector<T, 3>(shape, x, y, stream);
      if (shape.channels == 4) return launch_interleave_vector<T, 4>(shape, x, y, stream);
    }
  }
  JDM_LAUNCH((interleave_frames<T>), grid_size(ceil_divide(pixels, kFrameThreads)), kFrameThreads, 0, stream)
  (x, y, pixels, shape.pixels, static_cast<int>(shape.channels), shape.tanh);
}

}  // namespace
}  // namespace cuda

void frames_to_uint8_cuda(const FramesToUint8Shape& shape, const void* x, uint8_t* y, void* stream) {
  if (shape.batch == 0 || shape.channels == 0 || shape.pixels == 0) return;
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    cuda::launch_frames<T>(shape, static_cast<const T*>(x), y, stream);
  });
}

}  // namespace jdm_fast
