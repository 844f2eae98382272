// Small kernels for testing the emulator itself: right ones, and ones with the mistakes it must show.
//   emulator_programs NAME forward|reverse|random
// prints what came out, or "error: ..." when the emulator refused.
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/cluster.cuh"

namespace {

constexpr int kThreads = 64;

// ---------------------------------------------------------------------------------------------------------------------
// Right.

__global__ void primitives(int* out) {  // [operations][thread]
  const int t = threadIdx.x;
  const unsigned full = 0xffffffffu;
  out[0 * kThreads + t] = __shfl_xor_sync(full, t, 5);
  out[1 * kThreads + t] = __shfl_up_sync(full, t, 3u);
  out[2 * kThreads + t] = __shfl_down_sync(full, t, 3u);
  out[3 * kThreads + t] = __shfl_sync(full, t, 7);
  out[4 * kThreads + t] = __shfl_xor_sync(full, t, 2, 4);
  out[5 * kThreads + t] = __shfl_down_sync(full, t, 3u, 8);
  out[6 * kThreads + t] = static_cast<int>(__ballot_sync(full, t % 3 == 0));
  out[7 * kThreads + t] = static_cast<int>(__shfl_xor_sync(full, 0.25 + t, 1) * 4);
  if (t % 32 < 16) {  // half a warp on its own
    out[8 * kThreads + t] = __shfl_xor_sync(0xffffu, t, 8);
  } else {
    __syncwarp(0xffff0000u);
    out[8 * kThreads + t] = static_cast<int>(__ballot_sync(0xffff0000u, t & 1));
  }
  out[9 * kThreads + t] = __syncthreads_count(t % 5 == 0);
  out[10 * kThreads + t] = __syncthreads_count(t < 2 ? 7 : 0);  // begins at zero again
}

__global__ void atomics(int* i, unsigned* u, float* f, double* d) {
  atomicAdd(i, 2);
  atomicAdd(u, 3u);
  atomicAdd(f, 0.5f);
  atomicAdd(d, 0.25);
}

__global__ void indices(int* out) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] += block * 1000 + thread;
}

__global__ void reversed_through_shared(const float* x, float* y) {
  JDM_SHARED_ARRAY(float, kept, kThreads);
  JDM_DYNAMIC_SHARED(float, doubled);
  kept[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  doubled[threadIdx.x] = 2 * kept[kThreads - 1 - threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = doubled[threadIdx.x] / 2;
}

// Every block adds up what the threads of its number in all blocks of its cluster brought, by both kinds of shared
// memory.
__global__ void sums_over_clusters(float* y) {
  JDM_SHARED_ARRAY(float, kept, kThreads);
  JDM_DYNAMIC_SHARED(float, doubled);
  const int at = blockIdx.x * kThreads + threadIdx.x;
  kept[threadIdx.x] = static_cast<float>(at);
  doubled[threadIdx.x] = 2 * kept[threadIdx.x];
  jdm_fast::cuda::cluster_arrive();
  jdm_fast::cuda::cluster_wait();
  float sum = 0;
  for (unsigned rank = 0; rank < jdm_fast::cuda::cluster_size(); ++rank) {
    sum += *jdm_fast::cuda::shared_of_rank(kept + threadIdx.x, rank);
    sum += *jdm_fast::cuda::shared_of_rank(doubled + threadIdx.x, rank);
  }
  jdm_fast::cuda::cluster_arrive();
  y[at] = sum;
  jdm_fast::cuda::cluster_wait();
}

// Every block writes its number into the shared memory of all blocks of its cluster, and adds up what it was given.
__global__ void numbers_handed_over(float* y) {
  JDM_SHARED_ARRAY(float, given, 8);
  jdm_fast::cuda::cluster_arrive_unfenced();
  jdm_fast::cuda::cluster_wait();
  const unsigned blocks = jdm_fast::cuda::cluster_size();
  if (threadIdx.x < blocks) {
    jdm_fast::cuda::store_to_rank(given + blockIdx.x % blocks, threadIdx.x, static_cast<float>(blockIdx.x));
  }
  jdm_fast::cuda::cluster_arrive();
  jdm_fast::cuda::cluster_wait();
  float sum = 0;
  for (unsigned rank = 0; rank < blocks; ++rank) sum += given[rank];
  y[blockIdx.x * kThreads + threadIdx.x] = sum;
}

__global__ void copies_in_groups(const float* x, float* y) {  // 16 bytes a thread and group
  JDM_SHARED_ARRAY(float, kept, 8 * kThreads);
  for (int group = 0; group < 2; ++group) {
    jdm_fast::cuda::copy_async(kept + 4 * (group * kThreads + threadIdx.x), x + 4 * (threadIdx.x / 4));
    jdm_fast::cuda::end_copy_group();
  }
  jdm_fast::cuda::wait_for_copies<1>();
  const float first = kept[4 * threadIdx.x + threadIdx.x % 4];
  jdm_fast::cuda::wait_for_copies<0>();
  y[threadIdx.x] = (first + kept[4 * (kThreads + threadIdx.x) + threadIdx.x % 4]) / 2;
}

// ---------------------------------------------------------------------------------------------------------------------
// Wrong.

__global__ void copy_not_waited_for(const float* x, float* y) {
  JDM_SHARED_ARRAY(float, kept, 8 * kThreads);
  for (int group = 0; group < 2; ++group) {
    jdm_fast::cuda::copy_async(kept + 4 * (group * kThreads + threadIdx.x), x + 4 * (threadIdx.x / 4));
    jdm_fast::cuda::end_copy_group();
  }
  jdm_fast::cuda::wait_for_copies<1>();
  y[threadIdx.x] = kept[4 * (kThreads + threadIdx.x) + threadIdx.x % 4];
}

__global__ void cluster_without_barrier(float* y) {  // may look before the others have written
  JDM_SHARED_ARRAY(float, kept, kThreads);
  kept[threadIdx.x] = 1;
  jdm_fast::cuda::cluster_arrive();
  y[blockIdx.x * kThreads + threadIdx.x] = *jdm_fast::cuda::shared_of_rank(kept + threadIdx.x, 1 - blockIdx.x);
  jdm_fast::cuda::cluster_wait();
}

__global__ void handed_over_before_others_begin(float* y) {
  JDM_SHARED_ARRAY(float, given, kThreads);
  jdm_fast::cuda::store_to_rank(given + threadIdx.x, 1 - blockIdx.x, 1.0f);
  jdm_fast::cuda::cluster_arrive();
  jdm_fast::cuda::cluster_wait();
  y[blockIdx.x * kThreads + threadIdx.x] = given[threadIdx.x];
}

__global__ void cluster_leaves_too_early(float* y) {
  JDM_SHARED_ARRAY(float, kept, kThreads);
  kept[threadIdx.x] = 1;
  jdm_fast::cuda::cluster_arrive();
  jdm_fast::cuda::cluster_wait();
  if (blockIdx.x == 1) return;
  for (int i = 0; i < 3; ++i) __syncthreads();
  y[threadIdx.x] = *jdm_fast::cuda::shared_of_rank(kept + threadIdx.x, 1);
}

__global__ void cluster_arrives_twice(float* y) {
  jdm_fast::cuda::cluster_arrive();
  jdm_fast::cuda::cluster_arrive();
  y[threadIdx.x] = 1;
}

__global__ void cluster_waits_without_arriving(float* y) {
  jdm_fast::cuda::cluster_wait();
  y[threadIdx.x] = 1;
}

__global__ void barrier_that_keeps_the_cluster_waiting(float* y) {
  if (blockIdx.x == 1 && threadIdx.x < 32) __syncthreads();
  jdm_fast::cuda::cluster_arrive();
  jdm_fast::cuda::cluster_wait();
  y[threadIdx.x] = 1;
}

__global__ void missing_barrier(const float* x, float* y) {
  JDM_SHARED_ARRAY(float, kept, kThreads);
  kept[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = kept[kThreads - 1 - threadIdx.x];
}

__global__ void missing_barrier_before_reuse(const float* x, float* y) {
  JDM_SHARED_ARRAY(float, kept, kThreads);
  kept[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float other = kept[kThreads - 1 - threadIdx.x];
  kept[threadIdx.x] = -1;
  y[threadIdx.x] = other;
}

// Comes out right when threads run in ascending order.
__global__ void missing_barrier_hidden_by_order(const float* x, float* y) {
  JDM_SHARED_ARRAY(float, kept, kThreads + 1);
  if (threadIdx.x == 0) kept[0] = x[kThreads - 1];
  kept[threadIdx.x + 1] = x[threadIdx.x];
  y[threadIdx.x] = kept[threadIdx.x];  // rotated by one
}

__global__ void missing_warp_barrier(const float* x, float* y) {
  JDM_SHARED_ARRAY(float, kept, kThreads);
  kept[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = kept[threadIdx.x ^ 1];
}

__global__ void blocks_depend_on_each_other(float* y) {  // block b counts on block b - 1
  if (threadIdx.x == 0) y[blockIdx.x] = blockIdx.x == 0 ? 1.0f : y[blockIdx.x - 1] + 1.0f;
}

__global__ void uninitialised_shared(float* y) {
  JDM_SHARED_ARRAY(float, sum, 1);
  if (threadIdx.x == 0) sum[0] += 1.0f;
  __syncthreads();
  y[threadIdx.x] = sum[0];
}

__global__ void uninitialised_dynamic_shared(float* y) {
  JDM_DYNAMIC_SHARED(float, sum);
  y[threadIdx.x] = sum[threadIdx.x];
}

__global__ void barrier_in_one_branch(float* y) {
  if (threadIdx.x < 32) {
    __syncthreads();
    y[threadIdx.x] = 1;
  } else {
    __syncthreads();
    y[threadIdx.x] = 2;
  }
}

__global__ void return_before_barrier(float* y) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  y[threadIdx.x] = 1;
}

__global__ void barrier_against_warp_operation(float* y) {
  if (threadIdx.x % 2 == 0) __syncthreads();
  __syncwarp();
  __syncthreads();
  y[threadIdx.x] = 1;
}

__global__ void different_masks(int* y) {
  y[threadIdx.x] = __shfl_xor_sync(threadIdx.x % 32 == 3 ? 0xffu : 0xffffffffu, static_cast<int>(threadIdx.x), 1);
}

__global__ void lane_outside_its_mask(int* y) {
  y[threadIdx.x] = __shfl_xor_sync(0xffu, static_cast<int>(threadIdx.x), 1);
}

__global__ void value_of_absent_lane(float* y) {
  if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}

__global__ void misaligned_vector(const float* x, float* y) {
  y[threadIdx.x] = jdm_fast::cuda::load<4>(x + 1 + 4 * threadIdx.x).element[0];
}

__global__ void write_past_end(float* y) { y[blockIdx.x * blockDim.x + threadIdx.x] = 1; }

__global__ void read_past_end(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x + 1]; }

__global__ void write_past_shared(float* y) {
  JDM_SHARED_ARRAY(float, kept, kThreads);
  float* const end = kept + threadIdx.x;  // through a pointer: no bounds known
  end[1] = 1;
  __syncthreads();
  y[threadIdx.x] = kept[threadIdx.x];
}

__global__ void write_past_dynamic_shared(float* y) {
  JDM_DYNAMIC_SHARED(float, kept);
  kept[threadIdx.x + 1] = 1;
  __syncthreads();
  y[threadIdx.x] = kept[threadIdx.x];
}

__global__ void nothing() {}

__global__ void large_static_shared(float* y) {
  JDM_SHARED_ARRAY(float, first, 6 * 1024);
  JDM_SHARED_ARRAY(float, second, 6 * 1024 + 1);
  first[threadIdx.x] = second[threadIdx.x] = 0;
  y[threadIdx.x] = first[threadIdx.x];
}

// ---------------------------------------------------------------------------------------------------------------------
// What is run under which name.

template <typename T>
std::string text(const T* values, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += (i == 0 ? "" : " ") + std::to_string(values[i]);
  return out;
}

// Heap memory of exactly `count` elements, so that AddressSanitizer knows its end.
template <typename T>
struct Memory {
  std::unique_ptr<T[]> data;
  int count;
  explicit Memory(int count_) : data(new T[count_]()), count(count_) {}
  operator T*() const { return data.get(); }
};

// Runs a kernel on x = 0, 1, 2, ...; says how many of y differ from expected(i).
template <auto kKernel>
std::string count_wrong(const std::function<float(int)>& expected, size_t dynamic_bytes = 0) {
  Memory<float> x(kThreads), y(kThreads);  // the allocator aligns to 16 bytes
  for (int i = 0; i < kThreads; ++i) x[i] = static_cast<float>(i);
  JDM_LAUNCH(kKernel, 1, kThreads, dynamic_bytes, nullptr)(x, y);
  int wrong = 0;
  for (int i = 0; i < kThreads; ++i) wrong += !(y[i] == expected(i));
  return std::to_string(wrong) + " wrong";
}

float reversed(int i) { return static_cast<float>(kThreads - 1 - i); }

template <auto kKernel, typename T>
std::string run_on(int count, int blocks = 1, size_t dynamic_bytes = 0) {
  Memory<T> y(count);
  JDM_LAUNCH(kKernel, blocks, kThreads, dynamic_bytes, nullptr)(y);
  return text<T>(y, count);
}

template <auto kKernel>
std::string run_in_clusters(int blocks, unsigned cluster, size_t dynamic_bytes = 0) {
  Memory<float> y(blocks * kThreads);
  JDM_LAUNCH_WITH(kKernel, (jdm_fast::cuda::LaunchOptions{cluster, false}), blocks, kThreads, dynamic_bytes,
                  nullptr)(y);
  return text<float>(y, y.count);
}

std::string launch_nothing(dim3 grid, dim3 block, size_t dynamic_bytes) {
  JDM_LAUNCH(nothing, grid, block, dynamic_bytes, nullptr)();
  return "ran";
}

using Program = std::function<std::string()>;

const std::map<std::string, Program> kPrograms = {
    {"primitives",
     [] {
       Memory<int> out(11 * kThreads);
       JDM_LAUNCH(primitives, 1, kThreads, 0, nullptr)(out);
       return text<int>(out, out.count);
     }},
    {"atomics",
     [] {
       Memory<int> i(1);
       Memory<unsigned> u(1);
       Memory<float> f(1);
       Memory<double> d(1);
       JDM_LAUNCH(atomics, 3, kThreads, 0, nullptr)(i, u, f, d);
       return text<int>(i, 1) + " " + text<unsigned>(u, 1) + " " + text<float>(f, 1) + " " + text<double>(d, 1);
     }},
    {"indices",
     [] {
       Memory<int> out(2 * 3 * 2 * 24);
       JDM_LAUNCH(indices, dim3(2, 3, 2), dim3(4, 3, 2), 0, nullptr)(out);
       return text<int>(out, out.count);
     }},
    {"reversed_through_shared",
     [] { return count_wrong<reversed_through_shared>(reversed, kThreads * sizeof(float)); }},
    {"copies_in_groups", [] { return count_wrong<copies_in_groups>([](int i) { return static_cast<float>(i); }); }},
    {"copy_not_waited_for",
     [] { return count_wrong<copy_not_waited_for>([](int i) { return static_cast<float>(i); }); }},
    {"missing_barrier", [] { return count_wrong<missing_barrier>(reversed); }},
    {"missing_barrier_before_reuse", [] { return count_wrong<missing_barrier_before_reuse>(reversed); }},
    {"missing_barrier_hidden_by_order",
     [] {
       return count_wrong<missing_barrier_hidden_by_order>(
           [](int i) { return static_cast<float>((i + kThreads - 1) % kThreads); });
     }},
    {"missing_warp_barrier",
     [] { return count_wrong<missing_warp_barrier>([](int i) { return static_cast<float>(i ^ 1); }); }},
    {"blocks_depend_on_each_other", [] { return run_on<blocks_depend_on_each_other, float>(4, 4); }},
    {"uninitialised_shared", [] { return run_on<uninitialised_shared, float>(kThreads); }},
    {"uninitialised_dynamic_shared",
     [] { return run_on<uninitialised_dynamic_shared, float>(kThreads, 1, kThreads * sizeof(float)); }},
    {"barrier_in_one_branch", [] { return run_on<barrier_in_one_branch, float>(kThreads); }},
    {"return_before_barrier", [] { return run_on<return_before_barrier, float>(kThreads); }},
    {"barrier_against_warp_operation", [] { return run_on<barrier_against_warp_operation, float>(kThreads); }},
    {"different_masks", [] { return run_on<different_masks, int>(kThreads); }},
    {"lane_outside_its_mask", [] { return run_on<lane_outside_its_mask, int>(kThreads); }},
    {"value_of_absent_lane", [] { return run_on<value_of_absent_lane, float>(kThreads); }},
    {"misaligned_vector",
     [] {
       alignas(16) static float x[5 * kThreads];
       Memory<float> y(kThreads);
       JDM_LAUNCH(misaligned_vector, 1, kThreads, 0, nullptr)(x, y);
       return std::string("ran");
     }},
    {"write_past_end", [] { return run_on<write_past_end, float>(2 * kThreads - 1, 2); }},
    {"read_past_end", [] { return count_wrong<read_past_end>([](int i) { return static_cast<float>(i + 1); }); }},
    {"write_past_shared", [] { return run_on<write_past_shared, float>(kThreads); }},
    {"write_past_dynamic_shared",
     [] { return run_on<write_past_dynamic_shared, float>(kThreads, 1, kThreads * sizeof(float)); }},
    {"too_many_threads", [] { return launch_nothing(1, dim3(32, 33), 0); }},
    {"too_deep_block", [] { return launch_nothing(1, dim3(1, 1, 65), 0); }},
    {"empty_grid", [] { return launch_nothing(0, 32, 0); }},
    {"too_wide_grid", [] { return launch_nothing(jdm_fast::cuda::grid_size(int64_t{1} << 32), 32, 0); }},
    {"too_tall_grid", [] { return launch_nothing(dim3(1, 65536), 32, 0); }},
    {"dynamic_shared_without_asking", [] { return launch_nothing(1, 32, 48 * 1024 + 1); }},
    {"dynamic_shared_after_asking",
     [] {
       cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024);
       return launch_nothing(1, 32, 227 * 1024);
     }},
    {"more_dynamic_shared_than_there_is",
     [] {
       cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 * 1024);
       return std::string("allowed");
     }},
    {"too_much_static_shared", [] { return run_on<large_static_shared, float>(kThreads); }},
    {"sums_over_clusters", [] { return run_in_clusters<sums_over_clusters>(8, 4, kThreads * sizeof(float)); }},
    {"numbers_handed_over", [] { return run_in_clusters<numbers_handed_over>(8, 4); }},
    {"handed_over_before_others_begin", [] { return run_in_clusters<handed_over_before_others_begin>(2, 2); }},
    {"cluster_without_barrier", [] { return run_in_clusters<cluster_without_barrier>(2, 2); }},
    {"cluster_leaves_too_early", [] { return run_in_clusters<cluster_leaves_too_early>(2, 2); }},
    {"cluster_arrives_twice", [] { return run_in_clusters<cluster_arrives_twice>(2, 2); }},
    {"cluster_waits_without_arriving", [] { return run_in_clusters<cluster_waits_without_arriving>(2, 2); }},
    {"barrier_that_keeps_the_cluster_waiting",
     [] { return run_in_clusters<barrier_that_keeps_the_cluster_waiting>(2, 2); }},
    {"cluster_of_16_without_asking", [] { return run_in_clusters<sums_over_clusters>(16, 16, 256); }},
    {"cluster_of_16_after_asking",
     [] {
       cudaFuncSetAttribute(sums_over_clusters, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
       run_in_clusters<sums_over_clusters>(16, 16, kThreads * sizeof(float));
       return std::string("ran");
     }},
    {"grid_that_clusters_do_not_divide", [] { return run_in_clusters<sums_over_clusters>(3, 2, 256); }},
    {"cluster_on_an_older_device",
     [] {
       cuda_emulation::set_compute_capability(80);
       return run_in_clusters<sums_over_clusters>(2, 2, 256);
     }},
    {"after_an_error",  // the machine still works
     [] {
       try {
         run_on<return_before_barrier, float>(kThreads);
       } catch (const cuda_emulation::Error&) {
       }
       return count_wrong<reversed_through_shared>(reversed, kThreads * sizeof(float));
     }},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || kPrograms.count(argv[1]) == 0) {
    std::fprintf(stderr, "usage: emulator_programs NAME forward|reverse|random\n");
    return 2;
  }
  const std::string order = argv[2];
  cuda_emulation::set_order(order == "reverse"  ? cuda_emulation::Order::kReverse
                            : order == "random" ? cuda_emulation::Order::kRandom
                                                : cuda_emulation::Order::kForward,
                            7);
  try {
    std::printf("%s\n", kPrograms.at(argv[1])().c_str());
  } catch (const cuda_emulation::Error& error) {
    std::printf("error: %s\n", error.what());
  }
  return 0;
}
