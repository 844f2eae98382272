// interpolate_latents forward and backward against naive loops in double, lerp and slerp.
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

double product(const double* p, const double* q, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += p[i] * q[i];
  return sum;
}

// Rows of [a, c, da/dw, dc/dw] of every gap, and its gradient of w: see interpolate_latents.h.
std::vector<double> naive_slerp_weights(const InterpolateLatentsShape& shape, const std::vector<double>& z) {
  std::vector<double> weights;
  for (int64_t gap = 0; gap < shape.sequences * (shape.keys - 1); ++gap) {
    const int64_t key = gap / (shape.keys - 1) * shape.keys + gap % (shape.keys - 1);
    const double *p = z.data() + key * shape.elements, *q = p + shape.elements;
    const double p_norm = std::sqrt(product(p, p, shape.elements)), q_norm = std::sqrt(product(q, q, shape.elements));
    const double cosine = product(p, q, shape.elements) / (p_norm * q_norm);
    const double w = std::acos(std::fmax(-1.0, std::fmin(1.0, cosine))), sine = std::sin(w);
    const bool safe = sine > 1e-4;
    for (int64_t k = 0; k < shape.steps; ++k) {
      const double c = static_cast<double>(k) / static_cast<double>(shape.steps), a = 1 - c;
      for (const double s : {a, c}) weights.push_back(safe ? std::sin(s * w) / sine : s);
      for (const double s : {a, c}) {
        const double quotient = std::sin(s * w) / sine;
        weights.push_back(safe ? (s * std::cos(s * w) - quotient * std::cos(w)) / sine : 0);
      }
    }
    weights.push_back(safe ? cosine / (sine * p_norm * p_norm) : 0);
    weights.push_back(safe ? -1 / (sine * p_norm * q_norm) : 0);
    weights.push_back(safe ? cosine / (sine * q_norm * q_norm) : 0);
    weights.push_back(0);
  }
  return weights;
}

std::vector<double> lerp_weights(const InterpolateLatentsShape& shape) {
  std::vector<double> weights;
  for (int64_t gap = 0; gap < shape.sequences * (shape.keys - 1); ++gap) {
    for (int64_t k = 0; k <= shape.steps; ++k) {
      const double c = static_cast<double>(k) / static_cast<double>(shape.steps);
      for (const double weight : {1 - c, c, 0.0, 0.0}) weights.push_back(k < shape.steps ? weight : 0.0);
    }
  }
  return weights;
}

struct Frames {
  std::vector<double> y, dz;
};

Frames naive(const InterpolateLatentsShape& shape, const std::vector<double>& z, const std::vector<double>& dy,
             const std::vector<double>& weights) {
  const int64_t frames = (shape.keys - 1) * shape.steps + 1, elements = shape.elements;
  Frames result{std::vector<double>(dy.size()), std::vector<double>(z.size())};
  for (int64_t b = 0; b < shape.sequences; ++b) {
    for (int64_t t = 0; t < shape.keys; ++t) {
      const double* rows = weights.data() + (b * (shape.keys - 1) + t) * (shape.steps + 1) * 4;
      const double* p = z.data() + (b * shape.keys + t) * elements;
      double* dp = result.dz.data() + (b * shape.keys + t) * elements;
      double turning = 0;  // <dy, dy/dw>
      for (int64_t k = 0; k < shape.steps && (t < shape.keys - 1 || k == 0); ++k) {
        const int64_t out = (b * frames + t * shape.steps + k) * elements;
        for (int64_t e = 0; e < elements; ++e) {
          const double gradient = dy[out + e];
          if (k == 0) {  // a key frame is copied
            result.y[out + e] = p[e];
            dp[e] += gradient;
            continue;
          }
          const double *row = rows + k * 4, q = p[elements + e];
          result.y[out + e] = row[0] * p[e] + row[1] * q;
          dp[e] += row[0] * gradient;
          dp[elements + e] += row[1] * gradient;
          turning += gradient * (row[2] * p[e] + row[3] * q);
        }
      }
      if (t == shape.keys - 1) continue;
      const double* turn = rows + shape.steps * 4;
      for (int64_t e = 0; e < elements; ++e) {
        dp[e] += turning * (turn[0] * p[e] + turn[1] * p[elements + e]);
        dp[elements + e] += turning * (turn[1] * p[e] + turn[2] * p[elements + e]);
      }
    }
  }
  return result;
}

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
  const Array z_in("z", dtype, z), dy_in("dy", dtype, dy);
  const Array y_out("y", dtype, static_cast<int64_t>(dy.size())), dz_out("dz", dtype, static_cast<int64_t>(z.size()));
  const double steps = std::sqrt(static_cast<double>(shape.steps));

  const Frames lerp = naive(shape, z, dy, lerp_weights(shape));
  backend::interpolate_latents_forward(shape, z_in.data(), nullptr, y_out.data());
  expect_close(y_out, lerp.y, tolerance(dtype));
  backend::interpolate_latents_backward(shape, dy_in.data(), dz_out.data());
  expect_close(dz_out, lerp.dz, tolerance(dtype), steps);

  if (elements == 0) return;
  const std::vector<double> exact_weights = naive_slerp_weights(shape, z);
  const Array weights("weights", sums, static_cast<int64_t>(exact_weights.size()));
  const Array slerp_y("y of slerp", dtype, static_cast<int64_t>(dy.size()));
  const Array slerp_dz("dz of slerp", dtype, static_cast<int64_t>(z.size()));
  const Frames slerp = naive(shape, z, dy, exact_weights);
  backend::slerp_weights(shape, z_in.data(), weights.data());
  expect_close(weights, exact_weights, tolerance(sums));
  backend::interpolate_latents_forward(shape, z_in.data(), weights.data(), slerp_y.data());
  expect_close(slerp_y, slerp.y, tolerance(dtype));
  backend::slerp_backward(shape, dy_in.data(), z_in.data(), weights.data(), slerp_dz.data());
  expect_close(slerp_dz, slerp.dz, tolerance(dtype), steps * 4);  // the angles' part is a sum over the whole latent
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
