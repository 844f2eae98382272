// Network output to picture bytes: uint8(rint((v + 1) * 127.5)), v = x or tanh(x), clamped to 0..255,
// ties to even, NaN becomes 0. Output pixels are interleaved: [N, H*W, C].
#pragma once

#include "types.h"

namespace jdm_fast {

struct FramesToUint8Shape {
  int64_t batch;       // N
  int64_t channels;    // C, 1..4
  int64_t pixels;      // H * W
  bool channels_last;  // x is [N, H*W, C] if set, else [N, C, H*W]
  DType dtype;         // of x
  bool tanh;           // apply tanh first
};

void frames_to_uint8_cpu(const FramesToUint8Shape& shape, const void* x, uint8_t* y, int num_threads);
void frames_to_uint8_cuda(const FramesToUint8Shape& shape, const void* x, uint8_t* y, void* stream);

}  // namespace jdm_fast
