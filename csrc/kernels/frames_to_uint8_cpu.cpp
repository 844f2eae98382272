// Pixel bytes on the CPU: cuts the frames into pieces and shares them among threads. The arithmetic is in
// cpu/frames_to_uint8.inl.
#include <algorithm>

#include "cpu/parallel.h"
#include "frames_to_uint8.h"
#define JDM_LEVEL_BODY "frames_to_uint8.inl"
#include "cpu/for_each_level.h"

namespace jdm_fast {

void frames_to_uint8_cpu(const FramesToUint8Shape& shape, const void* x, uint8_t* y, int num_threads) {
  constexpr int64_t kPiece = 4096;  // pixels
  // With the channels innermost, input and output have the same order: planes of one channel.
  const int channels = shape.channels_last ? 1 : static_cast<int>(shape.channels);
  const int64_t pixels = shape.channels_last ? shape.pixels * shape.channels : shape.pixels;
  const int64_t pieces = (pixels + kPiece - 1) / kPiece;
  const int threads = useful_threads(shape.batch * channels * pixels, num_threads);
  visit_dtype(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto frame_bytes = JDM_FOR_CURRENT_LEVEL(frame_bytes<T>);
    parallel_ranges(shape.batch * pieces, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t frame = i / pieces * channels * pixels, first = i % pieces * kPiece;
        frame_bytes(static_cast<const T*>(x) + frame + first, channels, pixels, shape.tanh,
                    y + frame + first * channels, std::min(kPiece, pixels - first));
      }
    });
  });
}

}  // namespace jdm_fast
