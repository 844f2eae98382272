// softmax_critic_loss and its gradient against naive loops in double.
#include "check.h"

namespace jdm_fast::test {
namespace {

struct Case {
  int64_t samples, classes, pixels, sources;
  double largest;  // magnitude of the logits: large ones overflow a softmax that does not subtract the maximum
};

constexpr Case kCases[] = {
    {1, 1, 1, 1, 1},     // one class: loss 0
    {5, 5, 36, 5, 3},    // JointGAN with two paired domains
    {6, 6, 35, 6, 3},    // three domains, odd planes
    {7, 3, 1, 2, 3},     // more classes than sources, one pixel
    {4, 64, 9, 64, 3},   // the most classes; most sources have no sample
    {3, 4, 2050, 3, 3},  // long planes
    {2, 5, 33, 5, 200},  // large logits
    {0, 5, 16, 5, 1},    // no samples
    {3, 5, 0, 5, 1},     // no pixels
};

void test_one(const Case& size, DType dtype, bool channels_last, bool wants_gradient) {
  const auto [samples, classes, pixels, sources, largest] = size;
  Report::get().begin_case("M=%ld K=%ld pixels=%ld S=%ld largest=%g %s %s gradient=%d", static_cast<long>(samples),
                           static_cast<long>(classes), static_cast<long>(pixels), static_cast<long>(sources), largest,
                           name(dtype), channels_last ? "channels_last" : "nchw", wants_gradient);
  const DType sums = accumulator(dtype);
  const int64_t count = samples * classes * pixels;
  const std::vector<double> logits = Random(static_cast<uint64_t>(count) + 11).values(count, dtype, -largest, largest);
  std::vector<int64_t> source(static_cast<size_t>(samples)), samples_of(static_cast<size_t>(sources));
  for (int64_t m = 0; m < samples; ++m) {
    source[m] = (m * 3 + 1) % sources;
    ++samples_of[source[m]];
  }

  std::vector<double> loss(1), source_loss(sources), accuracy(sources), dlogits(count);
  for (int64_t m = 0; m < samples; ++m) {
    const double share = 1.0 / static_cast<double>(pixels * samples_of[source[m]]);
    for (int64_t p = 0; p < pixels; ++p) {
      const auto at = [&, m = m, classes = classes, pixels = pixels](int64_t k) {
        return channels_last ? (m * pixels + p) * classes + k : (m * classes + k) * pixels + p;
      };
      int64_t best = 0;
      for (int64_t k = 1; k < classes; ++k) {
        if (logits[at(k)] > logits[at(best)]) best = k;
      }
      double total = 0;
      for (int64_t k = 0; k < classes; ++k) total += std::exp(logits[at(k)] - logits[at(best)]);
      const double log_total = logits[at(best)] + std::log(total);
      source_loss[source[m]] += share * (log_total - logits[at(source[m])]);
      accuracy[source[m]] += share * (best == source[m]);
      for (int64_t k = 0; k < classes; ++k) {
        dlogits[at(k)] = share * (std::exp(logits[at(k)] - log_total) - (k == source[m]));
      }
    }
  }
  for (const double value : source_loss) loss[0] += value;

  const Array logits_in("logits", dtype, logits), source_in = Array::of<int64_t>("source", source);
  const Array loss_out("loss", sums, 1), source_loss_out("source_loss", sums, sources),
      accuracy_out("accuracy", sums, sources);
  const Array dlogits_out("dlogits", dtype, count);
  backend::softmax_critic_loss(
      {samples, classes, pixels, sources, channels_last, dtype},
      {logits_in.data(), static_cast<const int64_t*>(source_in.data()), loss_out.data(), source_loss_out.data(),
       accuracy_out.data(), wants_gradient ? dlogits_out.data() : nullptr});
  expect_close(loss_out, loss, tolerance(sums));
  expect_close(source_loss_out, source_loss, tolerance(sums));
  expect_close(accuracy_out, accuracy, tolerance(sums));
  if (wants_gradient) {
    // Half precision cannot hold gradients below its smallest number, 6e-8; 1 / pixels keeps the rest in proportion.
    expect_close(dlogits_out, dlogits, tolerance(dtype), 1 / std::fmax(1, static_cast<double>(pixels * samples)));
  }
}

void test_backward(const Case& size, DType dtype, bool with_loss, bool with_sources) {
  const auto [samples, classes, pixels, sources, largest] = size;
  Report::get().begin_case("backward M=%ld K=%ld pixels=%ld S=%ld %s loss=%d sources=%d", static_cast<long>(samples),
                           static_cast<long>(classes), static_cast<long>(pixels), static_cast<long>(sources),
                           name(dtype), with_loss, with_sources);
  const DType sums = accumulator(dtype);
  const int64_t each = classes * pixels, count = samples * each;
  const std::vector<double> dlogits = Random(static_cast<uint64_t>(count) + 12).values(count, dtype, -largest, largest);
  const std::vector<double> factor = Random(13).values(sources, sums, -2, 2), loss = {0.625};
  std::vector<int64_t> source(static_cast<size_t>(samples));
  std::vector<double> expected(static_cast<size_t>(count));
  for (int64_t m = 0; m < samples; ++m) {
    source[m] = (m * 3 + 1) % sources;
    const double scale = (with_loss ? loss[0] : 0) + (with_sources ? factor[source[m]] : 0);
    for (int64_t i = m * each; i < (m + 1) * each; ++i) expected[i] = scale * dlogits[i];
  }
  const Array dlogits_in("dlogits", dtype, dlogits), source_in = Array::of<int64_t>("source", source);
  const Array loss_in("d_loss", sums, loss), factor_in("d_source_loss", sums, factor), result("result", dtype, count);
  backend::softmax_critic_loss_backward(
      {samples, classes, pixels, sources, false, dtype},
      {dlogits_in.data(), static_cast<const int64_t*>(source_in.data()), with_loss ? loss_in.data() : nullptr,
       with_sources ? factor_in.data() : nullptr, result.data()});
  expect_close(result, expected, tolerance(dtype));
}

}  // namespace
}  // namespace jdm_fast::test

int main() {
  using namespace jdm_fast::test;
  for (const auto& size : kCases) {
    for (const jdm_fast::DType dtype : kAllDTypes) {
      for (const bool channels_last : {false, true}) {
        for (const bool wants_gradient : {true, false}) test_one(size, dtype, channels_last, wants_gradient);
      }
      test_backward(size, dtype, true, false);
      test_backward(size, dtype, false, true);
      test_backward(size, dtype, true, true);
    }
  }
  return Report::get().verdict("softmax_critic_loss");
}
