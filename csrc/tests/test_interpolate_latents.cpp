// interpolate_latents forward and backward against naive loops in double.
#include "check.h"

namespace jdm_fast::test {
namespace {

constexpr InterpolateLatentsShape kShapes[] = {
    {1, 2, 8, 64, DType::kFloat32},    // one pair
    {3, 4, 3, 35, DType::kFloat32},    // odd everything
    {2, 5, 1, 17, DType::kFloat32},    // no in-between frames
    {2, 1, 4, 33, DType::kFloat32},    // one key frame: it is the whole result
    {1, 3, 2, 4100, DType::kFloat32},  // more elements than a block has threads
    {1, 2, 70, 1, DType::kFloat32},    // one element, many steps
    {0, 3, 2, 16, DType::kFloat32},    // no sequences
    {2, 3, 2, 0, DType::kFloat32},     // no elements
};

void test_one(InterpolateLatentsShape shape, DType dtype) {
  shape.dtype = dtype;
  const int64_t frames = (shape.keys - 1) * shape.steps + 1, elements = shape.elements;
  Report::get().begin_case("B=%ld T=%ld n=%ld E=%ld %s", static_cast<long>(shape.sequences),
                           static_cast<long>(shape.keys), static_cast<long>(shape.steps), static_cast<long>(elements),
                           name(dtype));
  const DType sums = accumulator(dtype);
  Random random(static_cast<uint64_t>(frames * elements) + 3);
  const std::vector<double> z = random.values(shape.sequences * shape.keys * elements, dtype, -2, 2);
  const std::vector<double> dy = random.values(shape.sequences * frames * elements, dtype, -1, 1);
  const std::vector<double> coefficients =
      random.values(shape.sequences * (shape.keys - 1) * shape.steps * 2, sums, -1, 1);

  std::vector<double> y(dy.size()), dz(z.size());
  for (int64_t b = 0; b < shape.sequences; ++b) {
    for (int64_t frame = 0; frame < frames; ++frame) {
      const int64_t t = frame / shape.steps, k = frame % shape.steps;
      const double* weights = k == 0 ? nullptr : &coefficients[(((b * (shape.keys - 1)) + t) * shape.steps + k) * 2];
      for (int64_t e = 0; e < elements; ++e) {
        const int64_t begin = (b * shape.keys + t) * elements + e, out = (b * frames + frame) * elements + e;
        if (weights == nullptr) {  // a key frame is copied
          y[out] = z[begin];
          dz[begin] += dy[out];
        } else {
          y[out] = weights[0] * z[begin] + weights[1] * z[begin + elements];
          dz[begin] += weights[0] * dy[out];
          dz[begin + elements] += weights[1] * dy[out];
        }
      }
    }
  }

  const Array z_in("z", dtype, z), dy_in("dy", dtype, dy), coefficients_in("coefficients", sums, coefficients);
  const Array y_out("y", dtype, static_cast<int64_t>(y.size())), dz_out("dz", dtype, static_cast<int64_t>(dz.size()));
  backend::interpolate_latents_forward(shape, z_in.data(), coefficients_in.data(), y_out.data());
  expect_close(y_out, y, tolerance(dtype));
  backend::interpolate_latents_backward(shape, dy_in.data(), coefficients_in.data(), dz_out.data());
  expect_close(dz_out, dz, tolerance(dtype), std::sqrt(static_cast<double>(shape.steps)));
}

}  // namespace
}  // namespace jdm_fast::test

int main() {
  using namespace jdm_fast::test;
  for (const auto& shape : kShapes) {
    for (const jdm_fast::DType dtype : kAllDTypes) test_one(shape, dtype);
  }
  return Report::get().verdict("interpolate_latents");
}
