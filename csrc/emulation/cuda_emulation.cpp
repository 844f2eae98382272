// Scheduler of the emulation: runs the clusters of a launch (of one block unless the launch says otherwise) one after
// another, and the threads of a cluster as fibers.
#include "cuda_emulation.h"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <random>
#include <set>
#include <sstream>
#include <utility>

#include "fiber.h"

namespace cuda_emulation {
namespace detail {
namespace {

enum class State { kReady, kAtBarrier, kAtClusterBarrier, kInWarp, kDone };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Thread {
  State state = State::kReady;
  // Where it waits, and for whom.
  const char* file = "";
  int line = 0;
  Collective collective = Collective::kNone;
  unsigned mask = 0, source_lane = 0;
  uint64_t value = 0, result = 0;
  unsigned cluster_arrivals = 0, cluster_waits = 0;
  std::vector<Copy> begun;                  // asynchronous copies that are in no group yet
  std::deque<std::vector<Copy>> under_way;  // groups of them, oldest first
};

struct FreeDeleter {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t{kAlignment}); }
  static constexpr size_t kAlignment = 128;
};
using SharedMemory = std::unique_ptr<void, FreeDeleter>;

// Of exactly `bytes`, so that AddressSanitizer sees the first byte beyond; full of NaN.
SharedMemory poisoned_memory(size_t bytes) {
  SharedMemory memory(::operator new(bytes, std::align_val_t{FreeDeleter::kAlignment}));
  std::memset(memory.get(), 0xff, bytes);
  return memory;
}

struct SharedArray {
  const void* site;
  SharedMemory memory;
  size_t bytes;
};

// One of the blocks that run side by side.
struct Block {
  uint3 index = {};
  unsigned done = 0, at_barrier = 0;
  int saying_yes = 0, said_yes = 0;  // at this barrier so far, at the last one
  std::vector<SharedArray> static_shared;
  size_t static_shared_bytes = 0;
  SharedMemory dynamic_shared;
};

std::string text(uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

std::string place(const Thread& thread) { return std::string(thread.file) + ":" + std::to_string(thread.line); }

// Everything of the launch in progress. Only one is, see run_grid.
struct Machine {
  Order order = Order::kForward;
  std::mt19937_64 random;
  std::vector<LaunchRecord> launches;
  std::map<const void*, size_t> allowed_dynamic_shared;
  std::set<const void*> allowed_large_clusters;
  int capability = 90;

  const LaunchRecord* launch = nullptr;
  Body body = nullptr;
  void* closure = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers;  // kept between launches
  std::vector<Block> blocks;                   // of the cluster that runs
  std::vector<Thread> threads;                 // of all its blocks
  unsigned block_threads = 0;
  unsigned current = 0, done = 0;
  std::string failure;

  Block& block() { return blocks[current / block_threads]; }
  unsigned rank() const { return current / block_threads; }
  void run_cluster(uint64_t first_block);
  void run_thread(unsigned index);
  void release_barrier(unsigned rank);
  void release_cluster_barrier();
  void complete_warp(unsigned rank, unsigned warp, unsigned mask);
  void complete_waiting_lanes(unsigned rank, unsigned warp);
  std::string describe_stop() const;
  std::vector<uint64_t> permutation(uint64_t count);
  [[noreturn]] void raise(const std::string& what) const;
};

Machine machine;

uint3 thread_index(unsigned linear) {
  return {linear % blockDim.x, linear / blockDim.x % blockDim.y, linear / (blockDim.x * blockDim.y)};
}

void Machine::raise(const std::string& what) const {
  throw Error("kernel " + launch->kernel + ", block " + text(blockIdx) + ": " + what);
}

std::vector<uint64_t> Machine::permutation(uint64_t count) {
  std::vector<uint64_t> indices(count);
  std::iota(indices.begin(), indices.end(), uint64_t{0});
  if (order == Order::kReverse) std::reverse(indices.begin(), indices.end());
  if (order == Order::kRandom) std::shuffle(indices.begin(), indices.end(), random);
  return indices;
}

// Entry of every fiber.
void thread_main() {
  Fiber::entered();
  machine.body(machine.closure);
  machine.threads[machine.current].state = State::kDone;
  machine.fibers[machine.current]->suspend(/*last=*/true);
}

void wait(State state, const char* file, int line) {
  Thread& thread = machine.threads[machine.current];
  thread.state = state;
  thread.file = file;
  thread.line = line;
  machine.fibers[machine.current]->suspend(/*last=*/false);
}

void Machine::run_thread(unsigned index) {
  current = index;
  const unsigned warp = index % block_threads / warpSize;
  threadIdx = thread_index(index % block_threads);
  blockIdx = block().index;
  fibers[index]->resume();
  if (!failure.empty()) raise(failure);
  if (threads[index].state == State::kInWarp) complete_warp(rank(), warp, threads[index].mask);
  if (threads[index].state == State::kDone) {
    ++done;
    ++block().done;
    complete_waiting_lanes(rank(), warp);  // lanes that have returned are not waited for
  }
}

// Lets the threads go once all have arrived. Threads that have exited do not count on the hardware either, but a kernel
// whose threads leave before a barrier that others reach is refused here: it is nearly always a mistake.
void Machine::release_barrier(unsigned rank) {
  Block& block = blocks[rank];
  if (block.at_barrier == 0 || block.at_barrier + block.done != block_threads) return;
  blockIdx = block.index;
  if (block.done != 0) {
    raise("divergent barrier: " + std::to_string(block.at_barrier) + " of " + std::to_string(block_threads) +
          " threads wait at __syncthreads, the others have returned; " + describe_stop());
  }
  Thread* const own = &threads[rank * block_threads];
  for (unsigned i = 0; i < block_threads; ++i) {
    if (own[i].line != own[0].line || std::strcmp(own[i].file, own[0].file) != 0) {
      raise("divergent barrier: threads of the block wait at different __syncthreads; " + describe_stop());
    }
  }
  for (unsigned i = 0; i < block_threads; ++i) own[i].state = State::kReady;
  block.at_barrier = 0;
  block.said_yes = std::exchange(block.saying_yes, 0);
}

// Lets go whom every thread that still runs has met: one that waits for its n-th time waits for n arrivals of each.
void Machine::release_cluster_barrier() {
  unsigned fewest = ~0u;
  for (const Thread& thread : threads) {
    if (thread.state != State::kDone) fewest = std::min(fewest, thread.cluster_arrivals);
  }
  for (Thread& thread : threads) {
    if (thread.state == State::kAtClusterBarrier && thread.cluster_waits <= fewest) thread.state = State::kReady;
  }
}

// Completes the collective of `mask` if every lane of it that still runs has arrived.
void Machine::complete_warp(unsigned rank, unsigned warp, unsigned mask) {
  Thread* lanes = &threads[rank * block_threads + warp * warpSize];
  const unsigned lane_count = std::min<unsigned>(warpSize, block_threads - warp * warpSize);
  Collective kind = Collective::kNone;
  unsigned arrived = 0, ballot = 0;
  for (unsigned i = 0; i < lane_count; ++i) {
    if (!(mask >> i & 1) || lanes[i].state == State::kDone) continue;
    if (lanes[i].state != State::kInWarp) return;
    if (kind == Collective::kNone) kind = lanes[i].collective;
    if (lanes[i].mask != mask || lanes[i].collective != kind) {
      raise("lanes of warp " + std::to_string(warp) + " meet in different operations or with different masks; " +
            describe_stop());
    }
    arrived |= 1u << i;
    if (lanes[i].value != 0) ballot |= 1u << i;
  }
  for (unsigned i = 0; i < lane_count; ++i) {
    if (!(arrived >> i & 1)) continue;
    const unsigned source = lanes[i].source_lane;
    lanes[i].result = kind == Collective::kBallot              ? ballot
                      : source < 32 && (arrived >> source & 1) ? lanes[source].value
                                                               : ~uint64_t{0};
    lanes[i].state = State::kReady;
  }
}

void Machine::complete_waiting_lanes(unsigned rank, unsigned warp) {
  const unsigned end = std::min<unsigned>((warp + 1) * warpSize, block_threads);
  for (unsigned i = warp * warpSize; i < end; ++i) {
    const Thread& thread = threads[rank * block_threads + i];
    if (thread.state == State::kInWarp) complete_warp(rank, warp, thread.mask);
  }
}

// "12 threads wait at __syncthreads (a.cu:7), 20 threads wait in a warp operation (b.cu:9), 3 have returned"
std::string Machine::describe_stop() const {
  std::map<std::string, unsigned> groups;
  for (const Thread& thread : threads) {
    if (thread.state == State::kAtBarrier) ++groups["wait at __syncthreads (" + place(thread) + ")"];
    if (thread.state == State::kAtClusterBarrier) ++groups["wait for their cluster (" + place(thread) + ")"];
    if (thread.state == State::kInWarp) ++groups["wait in a warp operation (" + place(thread) + ")"];
    if (thread.state == State::kReady) ++groups["run"];
    if (thread.state == State::kDone) ++groups["have returned"];
  }
  std::ostringstream out;
  const char* separator = "";
  for (const auto& [what, count] : groups) {
    out << separator << count << " threads " << what;
    separator = ", ";
  }
  return out.str();
}

void Machine::run_cluster(uint64_t first_block) {
  block_threads = blockDim.x * blockDim.y * blockDim.z;
  blocks.clear();
  blocks.resize(launch->cluster);
  for (unsigned rank = 0; rank < launch->cluster; ++rank) {
    const uint64_t i = first_block + rank;
    blocks[rank].index = {static_cast<unsigned>(i % gridDim.x), static_cast<unsigned>(i / gridDim.x % gridDim.y),
                          static_cast<unsigned>(i / gridDim.x / gridDim.y)};
    blocks[rank].dynamic_shared = poisoned_memory(launch->dynamic_shared_bytes);
  }
  blockIdx = blocks[0].index;
  const unsigned count = launch->cluster * block_threads;
  threads.assign(count, Thread{});
  done = 0;
  for (unsigned i = 0; i < count; ++i) fibers[i]->start(thread_main);
  while (done < count) {
    bool progress = false;
    for (const uint64_t index : permutation(count)) {
      if (threads[index].state != State::kReady) continue;
      run_thread(static_cast<unsigned>(index));
      progress = true;
    }
    for (unsigned rank = 0; rank < launch->cluster; ++rank) release_barrier(rank);
    release_cluster_barrier();
    if (!progress && std::none_of(threads.begin(), threads.end(), [](auto& t) { return t.state == State::kReady; })) {
      raise("deadlock: " + describe_stop());
    }
  }
}

void check_limits(const LaunchRecord& launch, size_t allowed_dynamic, bool large_clusters, size_t parameter_bytes) {
  const auto require = [&](bool holds, const std::string& what) {
    if (!holds) throw Error("kernel " + launch.kernel + ": invalid launch: " + what);
  };
  const dim3 grid = launch.grid, block = launch.block;
  const std::string grid_text = "grid " + text({grid.x, grid.y, grid.z});
  const std::string block_text = "block " + text({block.x, block.y, block.z});
  require(grid.x >= 1 && grid.y >= 1 && grid.z >= 1, grid_text + " has an empty side");
  require(grid.x <= kMaxGridX && grid.y <= kMaxGridYZ && grid.z <= kMaxGridYZ, grid_text + " is too large");
  require(block.x >= 1 && block.y >= 1 && block.z >= 1, block_text + " has an empty side");
  require(block.z <= kMaxBlockZ && uint64_t{block.x} * block.y <= kMaxThreadsPerBlock &&
              uint64_t{block.x} * block.y * block.z <= kMaxThreadsPerBlock,
          block_text + " has more than 1024 threads (or more than 64 along z)");
  const unsigned largest_cluster = large_clusters ? kMaxCluster : kMaxPortableCluster;
  require(launch.cluster >= 1 && launch.cluster <= largest_cluster,
          "a cluster of " + std::to_string(launch.cluster) + " blocks, allowed " + std::to_string(largest_cluster));
  require(grid.x % launch.cluster == 0, grid_text + " is not a multiple of the cluster");
  require(launch.cluster == 1 || machine.capability >= 90, "clusters need compute capability 9.0");
  require(launch.dynamic_shared_bytes <= allowed_dynamic,
          std::to_string(launch.dynamic_shared_bytes) + " bytes of dynamic shared memory, allowed " +
              std::to_string(allowed_dynamic) + " (48 KiB unless raised by cudaFuncSetAttribute)");
  require(parameter_bytes <= kMaxParameterBytes,
          std::to_string(parameter_bytes) + " bytes of parameters, allowed 4096");
}

}  // namespace

void run_grid(const LaunchRecord& launch, const void* kernel, size_t parameter_bytes, Body body, void* closure) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const auto allowed = machine.allowed_dynamic_shared.find(kernel);
  check_limits(launch, allowed == machine.allowed_dynamic_shared.end() ? kMaxStaticSharedBytes : allowed->second,
               machine.allowed_large_clusters.count(kernel) > 0, parameter_bytes);
  machine.launches.push_back(launch);
  machine.launch = &launch;
  machine.body = body;
  machine.closure = closure;
  machine.failure.clear();
  gridDim = launch.grid;
  blockDim = launch.block;
  while (machine.fibers.size() < uint64_t{launch.cluster} * blockDim.x * blockDim.y * blockDim.z) {
    machine.fibers.push_back(std::make_unique<Fiber>());
  }
  for (const uint64_t i : machine.permutation(uint64_t{gridDim.x} * gridDim.y * gridDim.z / launch.cluster)) {
    machine.run_cluster(i * launch.cluster);
  }
}

void allow_dynamic_shared(const void* kernel, size_t bytes) {
  if (bytes > kMaxOptInSharedBytes) {
    throw Error("cudaFuncSetAttribute: " + std::to_string(bytes) +
                " bytes of dynamic shared memory, the hardware has " + std::to_string(kMaxOptInSharedBytes));
  }
  machine.allowed_dynamic_shared[kernel] = bytes;
}

void allow_large_clusters(const void* kernel) { machine.allowed_large_clusters.insert(kernel); }

void* static_shared(const void* site, size_t bytes) {
  Block& block = machine.block();
  for (const SharedArray& array : block.static_shared) {
    if (array.site == site) return array.memory.get();
  }
  block.static_shared_bytes += bytes;
  if (block.static_shared_bytes > kMaxStaticSharedBytes) {
    fail(std::to_string(block.static_shared_bytes) + " bytes of static shared memory, allowed 49152");
  }
  block.static_shared.push_back({site, poisoned_memory(bytes), bytes});
  return block.static_shared.back().memory.get();
}

void* dynamic_shared() { return machine.block().dynamic_shared.get(); }

void sync_threads(const char* file, int line) {
  ++machine.block().at_barrier;
  wait(State::kAtBarrier, file, line);
}

int sync_threads_count(bool yes, const char* file, int line) {
  machine.block().saying_yes += yes;
  sync_threads(file, line);
  return machine.block().said_yes;
}

unsigned cluster_rank() { return machine.rank(); }
unsigned cluster_size() { return machine.launch->cluster; }

void cluster_arrive() {
  Thread& thread = machine.threads[machine.current];
  if (thread.cluster_arrivals != thread.cluster_waits) fail("arrives at the cluster barrier twice without waiting");
  ++thread.cluster_arrivals;
}

void cluster_wait(const char* file, int line) {
  Thread& thread = machine.threads[machine.current];
  if (thread.cluster_arrivals == thread.cluster_waits) fail("waits at the cluster barrier without having arrived");
  ++thread.cluster_waits;
  wait(State::kAtClusterBarrier, file, line);
}

const void* shared_of_rank(const void* own, unsigned rank) {
  if (rank >= machine.launch->cluster) fail("the cluster has no block " + std::to_string(rank));
  const Block& block = machine.block();
  Block& other = machine.blocks[rank];
  if (other.done == machine.block_threads) {
    fail("reaches into the shared memory of block " + std::to_string(rank) + " of the cluster, which has returned");
  }
  const auto within = [&](const SharedMemory& memory, size_t bytes) {
    const auto distance = static_cast<const char*>(own) - static_cast<const char*>(memory.get());
    return distance >= 0 && static_cast<size_t>(distance) < bytes ? distance : -1;
  };
  for (const SharedArray& array : block.static_shared) {
    const auto distance = within(array.memory, array.bytes);
    if (distance < 0) continue;
    for (const SharedArray& theirs : other.static_shared) {
      if (theirs.site == array.site) return static_cast<const char*>(theirs.memory.get()) + distance;
    }
    fail("block " + std::to_string(rank) + " of the cluster has not yet reached that shared array");
  }
  const auto distance = within(block.dynamic_shared, machine.launch->dynamic_shared_bytes);
  if (distance < 0) fail("not an address in the block's shared memory");
  return static_cast<const char*>(other.dynamic_shared.get()) + distance;
}

void begin_copy(void* to, const void* from, size_t bytes) {
  machine.threads[machine.current].begun.push_back({to, from, bytes});
}

void end_copy_group() {
  Thread& thread = machine.threads[machine.current];
  thread.under_way.push_back(std::exchange(thread.begun, {}));
}

void finish_copies(size_t pending) {
  auto& groups = machine.threads[machine.current].under_way;
  for (; groups.size() > pending; groups.pop_front()) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
  }
}

unsigned lane() { return machine.current % machine.block_threads % warpSize; }

uint64_t meet(Collective kind, unsigned mask, uint64_t value, unsigned source_lane, const char* file, int line) {
  if (!(mask >> lane() & 1)) fail("a lane calls a warp operation whose mask leaves it out");
  Thread& thread = machine.threads[machine.current];
  thread.collective = kind;
  thread.mask = mask;
  thread.value = value;
  thread.source_lane = source_lane;
  wait(State::kInWarp, file, line);
  return thread.result;
}

void fail(const std::string& what) {
  machine.failure = "thread " + text(threadIdx) + ": " + what;
  machine.fibers[machine.current]->suspend(/*last=*/true);
  std::abort();  // a failed thread is never resumed
}

}  // namespace detail

void set_order(Order order, uint64_t seed) {
  detail::machine.order = order;
  detail::machine.random.seed(seed);
}

void set_compute_capability(int capability) { detail::machine.capability = capability; }
int compute_capability() { return detail::machine.capability; }

std::vector<LaunchRecord> take_launches() { return std::exchange(detail::machine.launches, {}); }

}  // namespace cuda_emulation
