// Memory throughput of every kernel, as a share of what a plain copy reaches in the same run on the same machine.
//   bench_kernels_cpu [threads]      bench_kernels_cuda [norm-paths [nchw|channels_last]]
// norm-paths: instead of that, every kernel that instance_norm has (bench_norm_paths.h).
// Each kernel is first checked on the data it is then timed with. Buffers rotate, so that none is still in a cache when
// its turn comes again; times are medians; bytes are the least the operation must move (design: docs/design.md, the
// kernels).
#define JDM_TIMED
#include <algorithm>
#include <chrono>
#include <functional>
#include <string>

#include "../tests/backend.h"
#include "../tests/numbers.h"
#if defined(JDM_TEST_CUDA)
#include "bench_norm_paths.h"
#endif

namespace jdm_fast {
namespace {

using test::name;

constexpr size_t kRotatingBytes = size_t{768} << 20;  // per array set: several times any cache
constexpr int kRepetitions = 15;

// The same random elements in `copies` device arrays of `count` elements.
class Rotating {
 public:
  Rotating(DType dtype, int64_t count, size_t copies) : count_(count), dtype_(dtype) {
    const size_t bytes = static_cast<size_t>(count * dtype_size(dtype));
    const std::vector<double> pattern = test::Random(1).values(std::min<int64_t>(count, 65521), dtype, -2, 2);
    std::vector<char> host(bytes);
    for (int64_t i = 0; i < count; ++i)
      test::store(host.data(), dtype, i, pattern[static_cast<size_t>(i) % pattern.size()]);
    for (size_t copy = 0; copy < copies; ++copy) {
      arrays_.push_back(backend::allocate(bytes));
      if (copy == 0) {
        backend::to_device(arrays_.back(), host.data(), bytes);
      } else {
        backend::within_device(arrays_.back(), arrays_.front(), bytes);
      }
    }
  }
  ~Rotating() {
    for (void* array : arrays_) backend::release(array);
  }
  Rotating(const Rotating&) = delete;
  Rotating& operator=(const Rotating&) = delete;

  void* operator[](size_t i) const { return arrays_[i % arrays_.size()]; }

  std::vector<double> values(size_t i) const {
    std::vector<char> host(static_cast<size_t>(count_ * dtype_size(dtype_)));
    backend::to_host(host.data(), (*this)[i], host.size());
    std::vector<double> result(static_cast<size_t>(count_));
    for (int64_t e = 0; e < count_; ++e) result[static_cast<size_t>(e)] = test::load(host.data(), dtype_, e);
    return result;
  }

 private:
  int64_t count_;
  DType dtype_;
  std::vector<void*> arrays_;
};

// Median seconds of call(i) over i = 0, 1, ...
double median_seconds(const std::function<void(size_t)>& call) {
  std::vector<double> seconds;
  for (size_t i = 0; i < kRepetitions + 3; ++i) {
#if defined(JDM_TEST_CUDA)
    cudaEvent_t begin, end;
    backend::check_cuda(cudaEventCreate(&begin), "event");
    backend::check_cuda(cudaEventCreate(&end), "event");
    backend::check_cuda(cudaEventRecord(begin), "event");
    call(i);
    backend::check_cuda(cudaEventRecord(end), "event");
    backend::check_cuda(cudaEventSynchronize(end), "event");
    float milliseconds = 0;
    backend::check_cuda(cudaEventElapsedTime(&milliseconds, begin, end), "event");
    backend::check_cuda(cudaEventDestroy(begin), "event");
    backend::check_cuda(cudaEventDestroy(end), "event");
    seconds.push_back(milliseconds / 1e3);
#else
    const auto begin = std::chrono::steady_clock::now();
    call(i);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
#endif
  }
  seconds.erase(seconds.begin(), seconds.begin() + 3);  // warm-up
  std::nth_element(seconds.begin(), seconds.begin() + kRepetitions / 2, seconds.end());
  return seconds[kRepetitions / 2];
}

void copy(void* to, const void* from, size_t bytes) {
#if defined(JDM_TEST_CUDA)
  backend::check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice), "copy");
#else
  const int threads = backend::num_threads();
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int part = 0; part < threads; ++part) {
    const size_t begin = bytes * static_cast<size_t>(part) / static_cast<size_t>(threads);
    const size_t end = bytes * static_cast<size_t>(part + 1) / static_cast<size_t>(threads);
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, end - begin);
  }
#endif
}

double copy_bandwidth = 0;  // bytes read and written a second

void report(const std::string& kernel, double bytes, double seconds) {
  const double bandwidth = bytes / seconds;
  std::printf("%-52s %9.1f us %9.1f GB/s %6.2f of copy\n", kernel.c_str(), seconds * 1e6, bandwidth / 1e9,
              bandwidth / copy_bandwidth);
}

void expect(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "wrong result, not timed: %s\n", what);
  std::exit(1);
}

void bench_copy() {
  const int64_t count = int64_t{16} << 20;
  const size_t bytes = static_cast<size_t>(count) * 4, copies = kRotatingBytes / bytes;
  const Rotating from(DType::kFloat32, count, copies), to(DType::kFloat32, count, copies);
  const double seconds = median_seconds([&](size_t i) { copy(to[i], from[i], bytes); });
  copy_bandwidth = 2.0 * static_cast<double>(bytes) / seconds;
  report("copy of 64 MiB", 2.0 * static_cast<double>(bytes), seconds);
}

void bench_instance_norm(DType dtype, bool channels_last) {
  const InstanceNormShape shape{8, 64, 128 * 128, channels_last, dtype, Activation::kRelu, 0};
  const int64_t count = shape.batch * shape.channels * shape.pixels, planes = shape.batch * shape.channels;
  const double bytes = static_cast<double>(count * dtype_size(dtype));
  const size_t copies = kRotatingBytes / static_cast<size_t>(bytes);
  const DType sums = test::accumulator(dtype);
  const Rotating x(dtype, count, copies), y(dtype, count, copies), dy(dtype, count, copies);
  const Rotating mean(sums, planes, 1), rstd(sums, planes, 1), d_weight(sums, planes, 1), d_bias(sums, planes, 1);
  const std::string label =
      std::string("instance_norm relu [8,64,128,128] ") + name(dtype) + (channels_last ? " nhwc" : " nchw");
  const auto forward = [&](size_t i) {
    backend::instance_norm_forward(shape, {x[i], nullptr, nullptr, nullptr, y[i], mean[0], rstd[0], 1e-5});
  };
  forward(0);
  const std::vector<double> first = y.values(0);
  double sum = 0, squares = 0;  // of relu of a normalised plane: every value >= 0, and half of them 0
  for (const double value : first) {
    expect(value >= 0, label.c_str());
    sum += value;
    squares += value * value;
  }
  // The input is uniform: relu of a uniform variable of variance 1 has mean sqrt(3)/4 and mean square 1/2.
  expect(std::fabs(sum / static_cast<double>(count) - std::sqrt(3.0) / 4) < 0.01, label.c_str());
  expect(std::fabs(squares / static_cast<double>(count) - 0.5) < 0.01, label.c_str());
  report(label + " forward", 2 * bytes, median_seconds(forward));
  const auto backward = [&](size_t i) {
    backend::instance_norm_backward(shape,
                                    {dy[i], x[i], mean[0], rstd[0], nullptr, nullptr, y[i], d_weight[0], d_bias[0]});
  };
  report(label + " backward", 3 * bytes, median_seconds(backward));
}

void bench_interpolate_latents(DType dtype, bool slerp) {
  const InterpolateLatentsShape shape{1, 9, 8, 256 * 25 * 25, dtype};
  const int64_t frames = (shape.keys - 1) * shape.steps + 1;
  const double key_bytes = static_cast<double>(shape.keys * shape.elements * dtype_size(dtype));
  const double frame_bytes = static_cast<double>(frames * shape.elements * dtype_size(dtype));
  const size_t copies = std::max<size_t>(2, kRotatingBytes / static_cast<size_t>(frame_bytes));
  const DType sums = test::accumulator(dtype);
  const Rotating z(dtype, shape.keys * shape.elements, copies), y(dtype, frames * shape.elements, copies);
  const Rotating dz(dtype, shape.keys * shape.elements, copies);
  const Rotating weights(sums, (shape.keys - 1) * (shape.steps + 1) * 4, 1);
  const std::string label =
      std::string("interpolate_latents ") + (slerp ? "slerp" : "lerp") + " 9 keys, 8 steps " + name(dtype);
  const auto forward = [&](size_t i) {
    if (slerp) backend::slerp_weights(shape, z[i], weights[0]);
    backend::interpolate_latents_forward(shape, z[i], slerp ? weights[0] : nullptr, y[i]);
  };
  const auto backward = [&](size_t i) {
    if (!slerp) return backend::interpolate_latents_backward(shape, y[i], dz[i]);
    backend::slerp_backward(shape, y[i], z[i], weights[0], dz[i]);
  };
  forward(0);
  const std::vector<double> keys = z.values(0), all = y.values(0);
  expect(std::equal(keys.end() - shape.elements, keys.end(), all.end() - shape.elements), label.c_str());
  report(label + " forward", key_bytes + frame_bytes, median_seconds(forward));
  forward(0), backward(0);  // gradients that are the frames: of the last key, a sum that begins with the key itself
  const std::vector<double> gradient = dz.values(0);
  expect(gradient.back() != 0, label.c_str());
  report(label + " backward", (slerp ? 2 : 1) * key_bytes + frame_bytes, median_seconds(backward));
}

void bench_interpolate_instance_norm(DType dtype, bool channels_last) {
  const int64_t keys = 5, steps = 8, frames = (keys - 1) * steps + 1, channels = 256, pixels = 64 * 64;
  const InterpolateInstanceNormShape shape{keys, frames, channels, pixels, channels_last, dtype, Activation::kRelu,
                                           0,    1e-5};
  const double key_bytes = static_cast<double>(keys * channels * pixels * dtype_size(dtype));
  const double frame_bytes = static_cast<double>(frames * channels * pixels * dtype_size(dtype));
  const size_t copies = std::max<size_t>(2, kRotatingBytes / static_cast<size_t>(frame_bytes));
  const Rotating u(dtype, keys * channels * pixels, copies), y(dtype, frames * channels * pixels, copies);
  std::vector<double> times;
  for (int64_t f = 0; f < frames; ++f) times.push_back(static_cast<double>(f) / static_cast<double>(steps));
  void* const positions = backend::allocate(times.size() * sizeof(double));
  backend::to_device(positions, times.data(), times.size() * sizeof(double));
  const std::string label =
      std::string("interpolate_instance_norm 5 keys, 8 steps ") + name(dtype) + (channels_last ? " nhwc" : " nchw");
  const auto call = [&](size_t i) {
    backend::interpolate_instance_norm(shape, {u[i], static_cast<const double*>(positions), nullptr, nullptr, y[i]});
  };
  call(0);
  double squares = 0;  // of relu of normalised planes: half of those of the plane, about
  const std::vector<double> first = y.values(0);
  for (const double value : first) {
    expect(value >= 0, label.c_str());
    squares += value * value;
  }
  expect(std::fabs(squares / static_cast<double>(first.size()) - 0.5) < 0.05, label.c_str());
  report(label, key_bytes + frame_bytes, median_seconds(call));
  backend::release(positions);
}

void bench_frames_to_uint8(DType dtype) {
  const FramesToUint8Shape shape{16, 3, 512 * 256, false, dtype, false};
  const int64_t count = shape.batch * shape.channels * shape.pixels;
  const double bytes = static_cast<double>(count * dtype_size(dtype));
  const size_t copies = kRotatingBytes / static_cast<size_t>(bytes);
  const Rotating x(dtype, count, copies), y(DType::kFloat32, count / 4, copies);
  const std::string label = std::string("frames_to_uint8 [16,3,512,256] ") + name(dtype);
  const auto forward = [&](size_t i) { backend::frames_to_uint8(shape, x[i], static_cast<uint8_t*>(y[i])); };
  forward(0);
  std::vector<uint8_t> first(3);
  backend::to_host(first.data(), y[0], first.size());
  const double level = (x.values(0)[0] + 1) * 127.5;
  expect(std::fabs(first[0] - std::fmin(std::fmax(level, 0), 255)) <= 0.5 + 1e-3, label.c_str());
  report(label, bytes + static_cast<double>(count), median_seconds(forward));
}

void bench_softmax_critic_loss(DType dtype) {
  const SoftmaxCriticLossShape shape{80, 5, 30 * 30, 5, false, dtype};
  const int64_t count = shape.samples * shape.classes * shape.pixels;
  const double bytes = static_cast<double>(count * dtype_size(dtype));
  const size_t copies = kRotatingBytes / 8 / static_cast<size_t>(bytes);
  const DType sums = test::accumulator(dtype);
  const Rotating logits(dtype, count, copies), dlogits(dtype, count, copies), loss(sums, 1 + 2 * shape.sources, 1);
  std::vector<int64_t> source(static_cast<size_t>(shape.samples));
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<int64_t>(i) % shape.sources;
  void* source_on_device = backend::allocate(source.size() * sizeof(int64_t));
  backend::to_device(source_on_device, source.data(), source.size() * sizeof(int64_t));
  const size_t cell = static_cast<size_t>(dtype_size(sums));
  char* results = static_cast<char*>(loss[0]);
  const std::string label = std::string("softmax_critic_loss [80,5,30,30] ") + name(dtype);
  const auto call = [&](size_t i) {
    backend::softmax_critic_loss(shape,
                                 {logits[i], static_cast<const int64_t*>(source_on_device), results, results + cell,
                                  results + cell * static_cast<size_t>(1 + shape.sources), dlogits[i]});
  };
  call(0);
  double total = 0;  // the gradient of every patch sums to zero over the classes
  for (const double value : dlogits.values(0)) total += value;
  const std::vector<double> values = loss.values(0);
  expect(std::fabs(total) < 0.05 && values[0] > 5 * std::log(5.0) && std::isfinite(values[0]), label.c_str());
  report(label, 2 * bytes, median_seconds(call));
  backend::release(source_on_device);
}

}  // namespace
}  // namespace jdm_fast

int main(int argc, char** argv) {
  using namespace jdm_fast;
#if defined(JDM_TEST_CUDA)
  if (argc > 1 && std::string(argv[1]) == "norm-paths") {
    bench_norm_paths(argc > 2 ? argv[2] : "");
    return 0;
  }
#endif
  if (argc > 1) backend::num_threads() = std::max(1, std::atoi(argv[1]));
  std::printf("on %s\n", backend::kName);
  bench_copy();
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const bool channels_last : {false, true}) bench_instance_norm(dtype, channels_last);
    for (const bool slerp : {false, true}) bench_interpolate_latents(dtype, slerp);
    for (const bool channels_last : {false, true}) bench_interpolate_instance_norm(dtype, channels_last);
    bench_frames_to_uint8(dtype);
    bench_softmax_critic_loss(dtype);
  }
  return 0;
}
