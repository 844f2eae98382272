// interpolate_instance_norm against naive loops in double: frames are formed, then normalised.
#include <algorithm>

#include "check.h"

namespace jdm_fast::test {
namespace {

struct Case {
  int64_t keys, channels, pixels;
  std::vector<double> positions;
  double mean;  // of the input: a large one shows sums that are not centred
};

std::vector<double> even(int64_t keys, int64_t steps) {
  std::vector<double> positions;
  for (int64_t i = 0; i <= (keys - 1) * steps; ++i) positions.push_back(static_cast<double>(i) / steps);
  return positions;
}

const Case kCases[] = {
    {1, 3, 16, {0, 0}, 0},                   // one key, twice
    {2, 2, 1, {0, 0.25, 1}, 0},              // one pixel: variance 0
    {2, 3, 7, even(2, 4), 0},                // smaller than any vector
    {3, 33, 35, even(3, 2), 0},              // odd everything, channels past a warp
    {3, 8, 1024, even(3, 8), 0},             // whole vectors
    {2, 72, 1032, {0.5}, 0},                 // channels for a tile and a rest
    {4, 5, 64, {0, 0.1, 2, 2.999, 3}, 100},  // uneven, a pair without frames, large mean
    {2, 2, 4099, {0, 0.7}, 10},              // one past a multiple
    {2, 1, 66000, {0.3, 1}, 3},              // a plane larger than a block's share
    {2, 2, 16, even(2, 70), 0},              // more frames than lanes
    {3, 4, 16, {}, 0},                       // no frames
    {3, 0, 16, {0, 1}, 0},                   // no channels
    {3, 4, 0, {0, 1}, 0},                    // no pixels
};

constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kLeakyRelu};
constexpr double kSlope = 0.2, kEps = 1e-5;

void test_one(const Case& size, Activation activation, DType dtype, bool channels_last) {
  const int64_t channels = size.channels, pixels = size.pixels, frames = static_cast<int64_t>(size.positions.size());
  const bool affine = activation != Activation::kNone;
  Report::get().begin_case("T=%ld F=%ld C=%ld pixels=%ld mean=%g activation=%d %s %s", static_cast<long>(size.keys),
                           static_cast<long>(frames), static_cast<long>(channels), static_cast<long>(pixels), size.mean,
                           static_cast<int>(activation), name(dtype), channels_last ? "channels_last" : "nchw");
  const DType sums = accumulator(dtype);
  Random random(static_cast<uint64_t>(channels * pixels) + 5);
  const auto u = random.values(size.keys * channels * pixels, dtype, size.mean - 2, size.mean + 2);
  const auto weight = random.values(channels, sums, 0.5, 1.5), bias = random.values(channels, sums, -0.5, 0.5);

  std::vector<double> expected(static_cast<size_t>(frames * channels * pixels));
  std::vector<double> frame(static_cast<size_t>(pixels));
  for (int64_t f = 0; f < frames; ++f) {
    const int64_t k = std::min(static_cast<int64_t>(size.positions[f]), std::max<int64_t>(size.keys - 2, 0));
    const double t = size.positions[f] - static_cast<double>(k);
    for (int64_t c = 0; c < channels; ++c) {
      const auto at = [&](int64_t n, int64_t p) {
        return channels_last ? (n * pixels + p) * channels + c : (n * channels + c) * pixels + p;
      };
      double mean = 0, var = 0;
      for (int64_t p = 0; p < pixels; ++p) {
        frame[p] = t == 0 ? u[at(k, p)] : (1 - t) * u[at(k, p)] + t * u[at(k + 1, p)];
        mean += frame[p] / pixels;
      }
      for (int64_t p = 0; p < pixels; ++p) var += (frame[p] - mean) * (frame[p] - mean) / pixels;
      for (int64_t p = 0; p < pixels; ++p) {
        const double x = (frame[p] - mean) / std::sqrt(var + kEps);
        const double y = affine ? x * weight[c] + bias[c] : x;
        const double below = activation == Activation::kNone ? y : activation == Activation::kRelu ? 0 : y * kSlope;
        expected[at(f, p)] = y > 0 ? y : below;
      }
    }
  }

  const Array u_in("u", dtype, u), positions("positions", DType::kFloat64, size.positions);
  const Array weight_in("weight", sums, weight), bias_in("bias", sums, bias);
  const Array y("y", dtype, frames * channels * pixels);
  backend::interpolate_instance_norm(
      {size.keys, frames, channels, pixels, channels_last, dtype, activation, kSlope, kEps},
      {u_in.data(), static_cast<const double*>(positions.data()), affine ? weight_in.data() : nullptr,
       affine ? bias_in.data() : nullptr, y.data()});
  expect_close(y, expected, tolerance(dtype) + tolerance(sums) * std::fabs(size.mean));
}

}  // namespace
}  // namespace jdm_fast::test

int main() {
  using namespace jdm_fast::test;
  for (const auto& size : kCases) {
    for (const auto activation : kActivations) {
      for (const jdm_fast::DType dtype : kAllDTypes) {
        for (const bool channels_last : {false, true}) test_one(size, activation, dtype, channels_last);
      }
    }
  }
  return Report::get().verdict("interpolate_instance_norm");
}
