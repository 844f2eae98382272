// Bytes of pixels: rint((v + 1) * 127.5), clamped to 0..255, ties to even, NaN to 0. A register of float32 holds as
// many pixels as it has lanes; their bytes are gathered in 32-bit lanes, the first channel lowest, and stored without
// the unused bytes. float64 input exists for completeness and goes one number at a time.
#include "vec_math.inl"

JDM_INLINE Vec<float> tanh_of(Vec<float> x) {
  const Vec<float> t = exp_nonpositive(Vec<float>(x.v > 0.f ? x.v * -2.f : x.v * 2.f));  // exp(-2 |x|)
  const Vec<float>::Native magnitude = (1.f - t.v) / (1.f + t.v);
  return x.v > 0.f ? magnitude : -magnitude;
}

// The byte of every lane, in 32 bits.
template <bool kTanh>
JDM_INLINE Bits32 bytes_of(Vec<float> x) {
  // Adding it rounds to an integer, ties to even, which the low bits of the sum then hold.
  constexpr float kShift = 0x1.8p23f;
  if (kTanh) x = tanh_of(x);
  Vec<float>::Native v = (x.v + 1.f) * 127.5f;
  v = v > 0.f ? v : Vec<float>::Native{};  // NaN too
  v = v < 255.f ? v : Vec<float>(255.f).v;
  return (Bits32)(v + kShift) & 0xffu;
}

template <bool kTanh>
JDM_INLINE uint8_t byte_of(double x) {
  const double v = ((kTanh ? ::tanh(x) : x) + 1.0) * 127.5;
  return static_cast<uint8_t>(::nearbyint(v > 0.0 ? (v < 255.0 ? v : 255.0) : 0.0));
}

// Stores the lowest kBytes bytes of every lane, kBytes from 1 to 4.
template <int kBytes>
JDM_INLINE void store_bytes(uint8_t* y, Bits32 lanes) {
#if JDM_CPU_LEVEL == 0
  for (int i = 0; i < Vec<float>::kSize; ++i) {
    for (int c = 0; c < kBytes; ++c) y[kBytes * i + c] = static_cast<uint8_t>(lanes[i] >> (8 * c));
  }
#else
  // Every four lanes, 16 bytes, become 4 * kBytes bytes at the bottom of their 16; then the gaps close.
  constexpr int kStored = kBytes * Vec<float>::kSize;
  const __m128i squeeze = kBytes == 1   ? _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1)
                          : kBytes == 2 ? _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1)
                          : kBytes == 3 ? _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1)
                                        : _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#if JDM_CPU_LEVEL == 2
  const __m512i squeezed = _mm512_shuffle_epi8((__m512i)lanes, _mm512_maskz_broadcast_i32x4(0xffff, squeeze));
  const __m512i order = kBytes == 1   ? _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
                        : kBytes == 2 ? _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0)
                        : kBytes == 3 ? _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0)
                                      : _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i packed = _mm512_maskz_permutexvar_epi32(0xffff, order, squeezed);
#else
  const __m256i squeezed = _mm256_shuffle_epi8((__m256i)lanes, _mm256_broadcastsi128_si256(squeeze));
  const __m256i order = kBytes == 1   ? _mm256_setr_epi32(0, 4, 0, 0, 0, 0, 0, 0)
                        : kBytes == 2 ? _mm256_setr_epi32(0, 1, 4, 5, 0, 0, 0, 0)
                        : kBytes == 3 ? _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 0, 0)
                                      : _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i packed = _mm256_permutevar8x32_epi32(squeezed, order);
#endif
  __builtin_memcpy(y, &packed, kStored);
#endif
}

// y [count, kChannels] of x [kChannels, count], the channels `stride` elements apart.
template <bool kTanh, int kChannels, typename T>
JDM_INLINE void planes_to_bytes(const T* x, int64_t stride, uint8_t* y, int64_t count) {
  if constexpr (sizeof(T) == sizeof(double)) {
    for (int64_t i = 0; i < count; ++i) {
      for (int c = 0; c < kChannels; ++c) y[i * kChannels + c] = byte_of<kTanh>(x[c * stride + i]);
    }
  } else {
    constexpr int kSize = Vec<float>::kSize;
    const int64_t whole = count - count % kSize, rest = count - whole;
    for (int64_t i = 0; i < whole; i += kSize) {
      Bits32 pixels = bytes_of<kTanh>(load(x + i));
#pragma GCC unroll 3
      for (int c = 1; c < kChannels; ++c) pixels |= bytes_of<kTanh>(load(x + c * stride + i)) << (8 * c);
      store_bytes<kChannels>(y + i * kChannels, pixels);
    }
    if (rest > 0) {
      Bits32 pixels{};
      for (int c = 0; c < kChannels; ++c) {
        pixels |= bytes_of<kTanh>(load_partial(x + c * stride + whole, rest)) << (8 * c);
      }
      uint8_t bytes[kSize * kChannels];
      store_bytes<kChannels>(bytes, pixels);
      __builtin_memcpy(y + whole * kChannels, bytes, static_cast<size_t>(rest * kChannels));
    }
  }
}

template <bool kTanh, typename T>
JDM_INLINE void frame_bytes_as(const T* x, int channels, int64_t stride, uint8_t* y, int64_t count) {
  switch (channels) {
    case 1:
      return planes_to_bytes<kTanh, 1>(x, stride, y, count);
    case 2:
      return planes_to_bytes<kTanh, 2>(x, stride, y, count);
    case 3:
      return planes_to_bytes<kTanh, 3>(x, stride, y, count);
    case 4:
      return planes_to_bytes<kTanh, 4>(x, stride, y, count);
  }
}

template <typename T>
void frame_bytes(const T* x, int channels, int64_t stride, bool tanh, uint8_t* y, int64_t count) {
  if (tanh) {
    frame_bytes_as<true>(x, channels, stride, y, count);
  } else {
    frame_bytes_as<false>(x, channels, stride, y, count);
  }
}
