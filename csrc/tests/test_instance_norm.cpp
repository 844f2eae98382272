// instance_norm forward and backward against naive loops in double.
#include <iterator>

#include "check.h"

namespace jdm_fast::test {
namespace {

struct Case {
  int64_t batch, channels, pixels;
  double mean;  // of the input: a large one shows a variance computed as E[x^2] - E[x]^2
};

constexpr Case kCases[] = {
    {1, 1, 1, 0},      // one pixel: variance 0
    {2, 3, 7, 0},      // smaller than any vector
    {1, 5, 64, 100},   // whole vectors, large mean
    {2, 33, 35, 0},    // odd everything, channels past a warp
    {3, 8, 1024, 0},   // whole vectors
    {1, 2, 4099, 10},  // one past a multiple
    {1, 3, 66000, 0},  // a plane larger than a block's share
    {0, 4, 16, 0},     // empty batch
    {2, 3, 0, 0},      // empty planes
};

struct Options {
  Activation activation;
  bool affine, residual;
  bool per_sample;  // weight and bias are [N, C]
};

constexpr Options kOptions[] = {
    {Activation::kNone, false, false, false},
    {Activation::kRelu, true, false, false},
    {Activation::kLeakyRelu, true, true, false},
    {Activation::kLeakyRelu, true, false, true},
};

constexpr double kSlope = 0.2, kEps = 1e-5;

double activate(double t, Activation activation) {
  if (activation == Activation::kNone || t > 0) return t;
  return activation == Activation::kRelu ? 0 : t * kSlope;
}

double slope_at(double t, Activation activation) {
  if (activation == Activation::kNone || t > 0) return 1;
  return activation == Activation::kRelu ? 0 : kSlope;
}

// Statistics and outputs of one case, by the header's formulas. Backward takes the statistics as the kernel gets them,
// rounded: it must not invent others, and the activation's kink then lies where the kernel sees it.
struct Expected {
  std::vector<double> mean, rstd, y, dx, d_weight, d_bias;
};

struct Inputs {
  std::vector<double> x, residual, dy, weight, bias;
};

Expected compute(const Case& size, const Options& options, bool channels_last, DType sums, const Inputs& in) {
  const int64_t channels = size.channels, pixels = size.pixels, planes = size.batch * channels;
  Expected out;
  for (auto* per_plane : {&out.mean, &out.rstd, &out.d_weight, &out.d_bias}) per_plane->resize(planes);
  for (auto* per_element : {&out.y, &out.dx}) per_element->resize(planes * pixels);
  for (int64_t plane = 0; plane < planes; ++plane) {
    const int64_t n = plane / channels, c = plane % channels, affine_at = options.per_sample ? plane : c;
    const double weight = in.weight[affine_at], bias = in.bias[affine_at];
    const auto at = [&](int64_t p) { return channels_last ? (n * pixels + p) * channels + c : plane * pixels + p; };
    double sum = 0, squares = 0;
    for (int64_t p = 0; p < pixels; ++p) sum += in.x[at(p)];
    const double mean = sum / pixels;
    for (int64_t p = 0; p < pixels; ++p) squares += (in.x[at(p)] - mean) * (in.x[at(p)] - mean);
    const double rstd = 1 / std::sqrt(squares / pixels + kEps);
    for (int64_t p = 0; p < pixels; ++p) {
      const double t = weight * (in.x[at(p)] - mean) * rstd + bias;
      out.y[at(p)] = activate(t, options.activation) + (options.residual ? in.residual[at(p)] : 0);
    }
    out.mean[plane] = rounded(mean, sums);
    out.rstd[plane] = rounded(rstd, sums);

    const auto xhat = [&](int64_t p) { return (in.x[at(p)] - out.mean[plane]) * out.rstd[plane]; };
    const auto gradient = [&](int64_t p) {
      return in.dy[at(p)] * slope_at(weight * xhat(p) + bias, options.activation);
    };
    double& sum_g = out.d_bias[plane];
    double& sum_gx = out.d_weight[plane];
    for (int64_t p = 0; p < pixels; ++p) {
      sum_g += gradient(p);
      sum_gx += gradient(p) * xhat(p);
    }
    for (int64_t p = 0; p < pixels; ++p) {
      out.dx[at(p)] = weight * out.rstd[plane] * (gradient(p) - sum_g / pixels - xhat(p) * sum_gx / pixels);
    }
  }
  return out;
}

// `label`: which kernels, for the messages.
void test_one(const Case& size, const Options& options, DType dtype, bool channels_last, const char* label = "") {
  const int64_t planes = size.batch * size.channels, count = planes * size.pixels;
  Report::get().begin_case("N=%ld C=%ld pixels=%ld mean=%g activation=%d affine=%d residual=%d per_sample=%d %s %s %s",
                           static_cast<long>(size.batch), static_cast<long>(size.channels),
                           static_cast<long>(size.pixels), size.mean, static_cast<int>(options.activation),
                           options.affine, options.residual, options.per_sample, name(dtype),
                           channels_last ? "channels_last" : "nchw", label);
  const DType sums = accumulator(dtype);
  const InstanceNormShape shape{size.batch, size.channels,      size.pixels, channels_last,
                                dtype,      options.activation, kSlope,      options.per_sample};
  Random random(static_cast<uint64_t>(count) + 7);
  Inputs in{random.values(count, dtype, size.mean - 2, size.mean + 2), random.values(count, dtype, -1, 1),
            random.values(count, dtype, -1, 1), std::vector<double>(static_cast<size_t>(affine_planes(shape)), 1),
            std::vector<double>(static_cast<size_t>(affine_planes(shape)), 0)};
  if (options.affine) {
    in.weight = random.values(affine_planes(shape), sums, 0.5, 1.5);
    in.bias = random.values(affine_planes(shape), sums, -0.5, 0.5);
  }
  const Expected expected = compute(size, options, channels_last, sums, in);

  const Array x("x", dtype, in.x), residual("residual", dtype, in.residual), dy("dy", dtype, in.dy);
  const Array weight("weight", sums, in.weight), bias("bias", sums, in.bias);
  const void* weight_ptr = options.affine ? weight.data() : nullptr;
  const void* bias_ptr = options.affine ? bias.data() : nullptr;
  const double relative = tolerance(dtype), sum_relative = tolerance(sums);
  const double offset_error = sum_relative * std::fabs(size.mean);  // of x - mean: ulps of the mean
  {
    const Array y("y", dtype, count), mean("mean", sums, planes), rstd("rstd", sums, planes);
    backend::instance_norm_forward(shape, {x.data(), options.residual ? residual.data() : nullptr, weight_ptr, bias_ptr,
                                           y.data(), mean.data(), rstd.data(), kEps});
    expect_close(y, expected.y, relative + offset_error);
    if (size.pixels > 0) {
      expect_close(mean, expected.mean, sum_relative);
      expect_close(rstd, expected.rstd, sum_relative);
    }
  }
  const Array mean("mean", sums, expected.mean), rstd("rstd", sums, expected.rstd);
  const Array dx("dx", dtype, count), d_weight("d_weight", sums, planes), d_bias("d_bias", sums, planes);
  backend::instance_norm_backward(shape, {dy.data(), x.data(), mean.data(), rstd.data(), weight_ptr, bias_ptr,
                                          dx.data(), d_weight.data(), d_bias.data()});
  const double largest_rstd = size.pixels == 1 ? 1 / std::sqrt(kEps) : 1;
  expect_close(dx, expected.dx, relative, largest_rstd);
  const double sum_scale = std::sqrt(std::fmax(1, static_cast<double>(size.pixels)));
  expect_close(d_weight, expected.d_weight, sum_relative, sum_scale);
  expect_close(d_bias, expected.d_bias, sum_relative, sum_scale);
}

#if defined(JDM_TEST_CUDA) || defined(JDM_TEST_EMULATED)

// Shapes for every way that the CUDA launchers know to normalise channels_last tensors.
constexpr Case kTiledCases[] = {
    {1, 72, 57 * 57, 0},     // idle lanes, odd rows
    {3, 40, 33 * 65, 1e4},   // a mean that leaves float32 two digits of the spread
    {2, 64, 20, 0},          // fewer pixels than a block has rows of threads
    {2, 24, 1, 0},           // one pixel
    {1, 16, 128 * 128, 10},  // several runs of rows
};

// The same of [N, C, H*W].
constexpr Case kPlaneCases[] = {
    {2, 3, 57 * 57, 0},      // planes that begin anywhere
    {1, 2, 128 * 72, 1e4},   // whole vectors, a mean that leaves float32 two digits of the spread
    {1, 3, 20, 0},           // less than a part for every block
    {1, 1, 1, 0},            // one pixel
    {1, 1, 33 * 1031, 100},  // loose ends, more than one block's registers
};

// Forced one after another; what does not fit a shape is left out, and what no shape takes fails.
template <size_t kWishCount, size_t kCaseCount>
void test_paths(const InstanceNormOverride (&wishes)[kWishCount], const Case (&cases)[kCaseCount], bool channels_last) {
  InstanceNormOverride& wish = instance_norm_override_cuda();
  for (const InstanceNormOverride& forced : wishes) {
    wish = forced;
    int taken = 0;
    size_t turn = 0;  // of the options, which need not all meet every path in every shape
    for (const Case& size : cases) {
      for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
        const Options& options = kOptions[turn++ % std::size(kOptions)];
        const InstanceNormShape shape{size.batch, size.channels,      size.pixels, channels_last,
                                      dtype,      options.activation, kSlope,      options.per_sample};
        const std::string plan = instance_norm_plan_cuda(shape, false, backend::multiprocessors());
        if (plan.empty() || instance_norm_plan_cuda(shape, true, backend::multiprocessors()).empty()) continue;
        test_one(size, options, dtype, channels_last, plan.c_str());
        ++taken;
      }
    }
    Report::get().begin_case("%s, path %d, %d lanes, cluster of %d, hold %d", channels_last ? "channels_last" : "nchw",
                             static_cast<int>(forced.path), forced.lanes, forced.cluster,
                             static_cast<int>(forced.hold));
    const bool portable = forced.cluster >= 1 && forced.cluster <= 8;  // larger ones depend on which parts a chip has
    if (wish.refused && portable && backend::has_clusters()) Report::get().fail("the device refused the cluster");
    if (taken == 0 && backend::has_clusters()) Report::get().fail("no shape takes it");
  }
  wish = {};
}

void test_every_path() {
  using Wish = InstanceNormOverride;
  using Path = Wish::Path;
  using Hold = Wish::Hold;
  constexpr auto clusters = [](Hold hold, int lanes, int cluster) {
    Wish wish{Path::kCluster, lanes, cluster};
    wish.hold = hold;
    return wish;
  };
  constexpr Wish kWishes[] = {
      {Path::kTwoKernels, 0, 0, 0, true},  {Path::kTwoKernels, 8, 0, 1, true},
      {Path::kTwoKernels, 2, 0, 2, false}, {Path::kTwoKernels, 4, 0, 1, false},
      {Path::kCluster, 0, 0, 0, true},     clusters(Hold::kShared, 0, 0),
      clusters(Hold::kShared, 2, 1),       clusters(Hold::kShared, 4, 2),
      clusters(Hold::kShared, 8, 4),       clusters(Hold::kShared, 4, 8),
      clusters(Hold::kRegisters, 0, 0),    clusters(Hold::kRegisters, 8, 8),  // 57x57: of 512 threads
      clusters(Hold::kRegisters, 8, 16),   clusters(Hold::kRegisters, 4, 1),
      clusters(Hold::kRegisters, 4, 8),    clusters(Hold::kRegisters, 2, 2),  // 57x57: of 512 threads
      clusters(Hold::kRegisters, 2, 16),   clusters(Hold::kRegisters, 1, 4),
  };
  test_paths(kWishes, kTiledCases, true);

  constexpr Wish kPlaneWishes[] = {
      {Path::kTwoKernels},
      {Path::kCluster},
      clusters(Hold::kRegisters, 0, 2),
      clusters(Hold::kRegisters, 0, 4),
      clusters(Hold::kRegisters, 0, 8),
      clusters(Hold::kRegisters, 0, 16),
      clusters(Hold::kShared, 0, 1),
      clusters(Hold::kShared, 0, 2),
      clusters(Hold::kShared, 0, 8),
      clusters(Hold::kShared, 0, 16),
  };
  test_paths(kPlaneWishes, kPlaneCases, false);
}

#else

void test_every_path() {}

#endif

}  // namespace
}  // namespace jdm_fast::test

int main() {
  using namespace jdm_fast::test;
  for (const auto& size : kCases) {
    for (const auto& options : kOptions) {
      for (const jdm_fast::DType dtype : kAllDTypes) {
        for (const bool channels_last : {false, true}) test_one(size, options, dtype, channels_last);
      }
    }
  }
  test_every_path();
  return Report::get().verdict("instance_norm");
}
