// frames_to_uint8 against a naive loop in double: exact without tanh, and within one level at a tie of tanh's rounding.
#include "check.h"

namespace jdm_fast::test {
namespace {

struct Size {
  int64_t batch, channels, pixels;
};

constexpr Size kSizes[] = {
    {1, 3, 1}, {2, 3, 35}, {1, 1, 64}, {3, 4, 257}, {2, 2, 100}, {1, 3, 70001}, {0, 3, 8}, {2, 3, 0},
};

// v + 1 and the product are taken in the accumulator, as the kernel must, so that ties fall the same way.
double scaled(double value, DType dtype) {
  return dtype == DType::kFloat64 ? (value + 1) * 127.5 : (static_cast<float>(value) + 1.0f) * 127.5f;
}

uint8_t to_byte(double level) {
  if (std::isnan(level)) return 0;
  return static_cast<uint8_t>(std::fmin(std::fmax(std::nearbyint(level), 0), 255));
}

void test_one(const Size& size, DType dtype, bool channels_last, bool tanh) {
  const auto [batch, channels, pixels] = size;
  Report::get().begin_case("N=%ld C=%ld pixels=%ld %s %s tanh=%d", static_cast<long>(batch),
                           static_cast<long>(channels), static_cast<long>(pixels), name(dtype),
                           channels_last ? "channels_last" : "nchw", tanh);
  const int64_t count = batch * channels * pixels;
  std::vector<double> x = Random(static_cast<uint64_t>(count) + 1).values(count, dtype, -1.2, 1.2);
  const double special[] = {NAN,  INFINITY,        -INFINITY,       0.0,   -0.0,  1.0,
                            -1.0, 0.5 / 127.5 - 1, 1.5 / 127.5 - 1, 60000, -60000};
  for (size_t i = 0; i < std::size(special) && 5 * i < x.size(); ++i) x[5 * i] = rounded(special[i], dtype);

  const Array x_in("x", dtype, x);
  const Array y_out = Array::of<uint8_t>("y", std::vector<uint8_t>(static_cast<size_t>(count), 77));
  backend::frames_to_uint8({batch, channels, pixels, channels_last, dtype, tanh}, x_in.data(),
                           static_cast<uint8_t*>(y_out.data()));
  const std::vector<uint8_t> actual = y_out.bytes<uint8_t>();
  for (int64_t i = 0; i < count; ++i) {  // i counts the output, [N, pixels, C]
    const int64_t n = i / (channels * pixels), p = i / channels % pixels, c = i % channels;
    const double value = x[channels_last ? i : (n * channels + c) * pixels + p];
    const double level = scaled(tanh ? std::tanh(value) : value, dtype);
    const bool at_tie = tanh && std::fabs(std::fabs(level - std::floor(level)) - 0.5) < 1e-3;
    const int difference = std::abs(int{actual[i]} - int{to_byte(level)});
    if (difference > (at_tie ? 1 : 0)) {
      Report::get().fail("y[" + std::to_string(i) + "] is " + std::to_string(actual[i]) + ", expected " +
                         std::to_string(to_byte(level)) + " for x = " + std::to_string(value));
      return;
    }
  }
}

}  // namespace
}  // namespace jdm_fast::test

int main() {
  using namespace jdm_fast::test;
  for (const auto& size : kSizes) {
    for (const jdm_fast::DType dtype : kAllDTypes) {
      for (const bool channels_last : {false, true}) {
        for (const bool tanh : {false, true}) test_one(size, dtype, channels_last, tanh);
      }
    }
  }
  return Report::get().verdict("frames_to_uint8");
}
