// Every way that the CUDA launchers know to normalise a tensor, timed in one run, so that the plan
// (kernels/cuda/instance_norm_plan.h) can be checked against measurements. Each is a CUDA graph of many launches over
// rotating buffers: no launch latency of the host in it, and no data in the cache.
#pragma once

#include <algorithm>
#include <functional>
#include <set>
#include <string>

#include "../tests/backend.h"
#include "../tests/numbers.h"

namespace jdm_fast {

constexpr size_t kPoolBytes = size_t{768} << 20;
constexpr int kRounds = 5;
constexpr int kMinLaunches = 20;
constexpr size_t kColdBytes = size_t{256} << 20;  // moved by the launches of a graph, at least: five times the cache

// Device memory that tensors of one role are cut from, full of random elements of a 16-bit type.
class Pool {
 public:
  explicit Pool(uint64_t seed) : memory_(static_cast<char*>(backend::allocate(kPoolBytes))) {
    constexpr size_t kSeeded = size_t{8} << 20;
    const int64_t count = static_cast<int64_t>(kSeeded / 2);
    const std::vector<double> values = test::Random(seed).values(count, DType::kBFloat16, -2, 2);
    std::vector<char> host(kSeeded);
    for (int64_t i = 0; i < count; ++i) {
      test::store(host.data(), DType::kBFloat16, i, values[static_cast<size_t>(i)]);
    }
    backend::to_device(memory_, host.data(), kSeeded);
    for (size_t filled = kSeeded; filled < kPoolBytes; filled *= 2) {
      backend::check_cuda(
          cudaMemcpy(memory_ + filled, memory_, std::min(filled, kPoolBytes - filled), cudaMemcpyDeviceToDevice),
          "copy");
    }
  }
  ~Pool() { backend::release(memory_); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Tensor number i of those of `bytes`; they come round after the last that fits.
  char* operator()(size_t i, size_t bytes) const {
    const size_t padded = (bytes + 255) / 256 * 256;
    return memory_ + i % (kPoolBytes / padded) * padded;
  }

 private:
  char* memory_;
};

// Median seconds of one of `launches` calls call(i, stream) in a graph.
inline double graph_seconds(size_t launches, const std::function<void(size_t, cudaStream_t)>& call) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaEvent_t begin, end;
  backend::check_cuda(cudaStreamCreate(&stream), "stream");
  backend::check_cuda(cudaEventCreate(&begin), "event");
  backend::check_cuda(cudaEventCreate(&end), "event");
  call(0, stream);  // whatever is set up once
  backend::check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (size_t i = 0; i < launches; ++i) call(i, stream);
  backend::check_cuda(cudaStreamEndCapture(stream, &graph), "capture");
  backend::check_cuda(cudaGraphInstantiate(&executable, graph, 0), "graph");
  std::vector<float> milliseconds(kRounds);
  backend::check_cuda(cudaGraphLaunch(executable, stream), "graph");  // warm-up
  for (float& round : milliseconds) {
    backend::check_cuda(cudaEventRecord(begin, stream), "event");
    backend::check_cuda(cudaGraphLaunch(executable, stream), "graph");
    backend::check_cuda(cudaEventRecord(end, stream), "event");
    backend::check_cuda(cudaEventSynchronize(end), "event");
    backend::check_cuda(cudaEventElapsedTime(&round, begin, end), "event");
  }
  std::nth_element(milliseconds.begin(), milliseconds.begin() + kRounds / 2, milliseconds.end());
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return milliseconds[kRounds / 2] / 1e3 / static_cast<double>(launches);
}

struct NormBuffers {
  Pool x{1}, dy{2}, out{3};
  void *mean, *rstd, *d_weight, *d_bias;
  NormBuffers() {
    for (void** per_plane : {&mean, &rstd, &d_weight, &d_bias}) *per_plane = backend::allocate(size_t{1} << 20);
  }
  ~NormBuffers() {
    for (void* per_plane : {mean, rstd, d_weight, d_bias}) backend::release(per_plane);
  }
  NormBuffers(const NormBuffers&) = delete;
  NormBuffers& operator=(const NormBuffers&) = delete;
};

inline std::vector<InstanceNormOverride> norm_paths(const InstanceNormShape& shape) {
  using Path = InstanceNormOverride::Path;
  using Hold = InstanceNormOverride::Hold;
  std::vector<InstanceNormOverride> paths{{}, {Path::kTwoKernels}};
  const auto add_clusters = [&](int lanes) {
    for (const Hold hold : {Hold::kRegisters, Hold::kShared}) {
      for (const int cluster : {1, 2, 4, 8, 16}) {
        paths.push_back({Path::kCluster, lanes, cluster});
        paths.back().hold = hold;
      }
    }
  };
  if (!shape.channels_last) {
    add_clusters(0);
    return paths;
  }
  paths.push_back({Path::kTwoKernels, 0, 0, 0, false});
  for (const int lanes : {8, 4, 2}) {
    for (const int64_t group : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{4}, shape.batch}) {
      paths.push_back({Path::kTwoKernels, lanes, 0, group, true});
    }
    add_clusters(lanes);
  }
  return paths;
}

inline void bench_norm_paths(const NormBuffers& buffers, const InstanceNormShape& shape, bool backward) {
  const size_t bytes = static_cast<size_t>(shape.batch * shape.channels * shape.pixels * dtype_size(shape.dtype));
  const size_t launches = std::clamp<size_t>(kColdBytes / (2 * bytes), kMinLaunches, 100);
  const int multiprocessors = backend::multiprocessors();
  InstanceNormOverride& wish = instance_norm_override_cuda();
  const auto run = [&](size_t i, cudaStream_t stream) {
    void* workspace = backend::scratch(instance_norm_workspace_cuda(shape, backward, multiprocessors));
    if (backward) {
      instance_norm_backward_cuda(shape,
                                  {buffers.dy(i, bytes), buffers.x(i, bytes), buffers.mean, buffers.rstd, nullptr,
                                   nullptr, buffers.out(i, bytes), buffers.d_weight, buffers.d_bias},
                                  workspace, multiprocessors, stream);
    } else {
      instance_norm_forward_cuda(
          shape,
          {buffers.x(i, bytes), nullptr, nullptr, nullptr, buffers.out(i, bytes), buffers.mean, buffers.rstd, 1e-5},
          workspace, multiprocessors, stream);
    }
    backend::check_launch();
  };
  // The first results of a path, as numbers: enough to see a kernel that does something else.
  const auto results = [&] {
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(bytes) / dtype_size(shape.dtype), 1 << 18);
    std::vector<char> host(static_cast<size_t>(count * dtype_size(shape.dtype)));
    backend::check_cuda(cudaMemset(buffers.out(0, bytes), 0xff, bytes), "memset");
    run(0, nullptr);
    backend::to_host(host.data(), buffers.out(0, bytes), host.size());
    std::vector<double> values(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      values[static_cast<size_t>(i)] = test::load(host.data(), shape.dtype, i);
    }
    return values;
  };
  const double copy = graph_seconds(launches, [&](size_t i, cudaStream_t stream) {
    backend::check_cuda(
        cudaMemcpyAsync(buffers.out(i, bytes), buffers.x(i, bytes), bytes, cudaMemcpyDeviceToDevice, stream), "copy");
  });
  std::printf("[%ld, %ld, %ld pixels] %s %s %s: copy of as many bytes %.1f us\n", static_cast<long>(shape.batch),
              static_cast<long>(shape.channels), static_cast<long>(shape.pixels),
              shape.channels_last ? "channels_last" : "nchw", test::name(shape.dtype),
              backward ? "backward" : "forward", copy * 1e6 * (backward ? 1.5 : 1));
  wish = {InstanceNormOverride::Path::kTwoKernels, 0, 0, 0, false};
  const std::vector<double> expected = results();
  std::set<std::string> seen;
  for (const InstanceNormOverride& path : norm_paths(shape)) {
    wish = path;
    const std::string plan = instance_norm_plan_cuda(shape, backward, multiprocessors);
    if (plan.empty() || !seen.insert(plan).second) continue;
    const std::vector<double> actual = results();
    if (wish.refused) {
      std::printf("    %-52s refused by the device\n", plan.c_str());
      continue;
    }
    double worst = 0;  // NaN counts as infinitely wrong
    for (size_t i = 0; i < actual.size(); ++i) {
      const double error = std::fabs(actual[i] - expected[i]) / std::fmax(1, std::fabs(expected[i]));
      worst = error >= 0 ? std::fmax(worst, error) : INFINITY;
    }
    if (worst > 2 * test::tolerance(shape.dtype)) {
      std::printf("    %-52s WRONG by %.3g, not timed\n", plan.c_str(), worst);
      continue;
    }
    const double seconds = graph_seconds(launches, run);
    std::printf("  %s %-52s %9.2f us %6.2f of copy\n", path.path == InstanceNormOverride::Path::kPlan ? "*" : " ",
                plan.c_str(), seconds * 1e6, copy * (backward ? 1.5 : 1) / seconds);
  }
  wish = {};
}

inline void bench_plane_paths(const NormBuffers& buffers) {
  constexpr int64_t kSizes[][3] = {
      // N, C, H*W
      {1, 64, 256 * 256}, {16, 64, 256 * 256}, {1, 128, 128 * 128}, {16, 128, 128 * 128},
      {2, 256, 64 * 64},  {16, 256, 64 * 64},  {16, 64, 128 * 256}, {16, 128, 64 * 128},
      {1, 64, 256 * 512}, {1, 3, 1024 * 512},  {8, 8, 1024 * 512},
  };
  for (const auto& [batch, channels, pixels] : kSizes) {
    for (const bool backward : {false, true}) {
      bench_norm_paths(buffers, {batch, channels, pixels, false, DType::kBFloat16, Activation::kRelu, 0}, backward);
    }
  }
}

// `only`: "nchw" or "channels_last"; else both.
inline void bench_norm_paths(const std::string& only) {
  struct Size {
    int64_t batch, channels, pixels;
    bool in_float32;
  };
  constexpr Size kSizes[] = {
      {1, 64, 256 * 256, true},   {1, 128, 128 * 128, false}, {1, 256, 64 * 64, true},   {2, 256, 64 * 64, false},
      {16, 64, 256 * 256, false}, {16, 128, 128 * 128, true}, {16, 256, 64 * 64, false}, {8, 64, 128 * 128, false},
  };
  const NormBuffers buffers;
  if (only != "channels_last") bench_plane_paths(buffers);
  if (only == "nchw") return;
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    for (const Size& size : kSizes) {
      if (dtype == DType::kFloat32 && !size.in_float32) continue;
      for (const bool backward : {false, true}) {
        bench_norm_paths(buffers, {size.batch, size.channels, size.pixels, true, dtype, Activation::kRelu, 0},
                         backward);
      }
    }
  }
}

}  // namespace jdm_fast
