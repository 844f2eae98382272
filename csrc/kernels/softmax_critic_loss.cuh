// The softmax critic's loss on the device: one kernel reads the logits, writes dlogits and leaves (loss, correct
// pixels) of each block; a second one, of one block, which begins while the first still runs, adds those up by source.
// The backward pass scales dlogits.
#pragma once

#include "cuda/cluster.cuh"
#include "cuda/reductions.cuh"

namespace jdm_fast::cuda {

constexpr int kCriticThreads = 256;
constexpr int kRegisterClasses = 8;  // up to which the logits of a pixel stay in registers; else read so many at a time
constexpr int kCriticVector = 4;     // pixels a thread has at once; more would ask for too many registers
constexpr int kFinishThreads = 512;
constexpr int kMaxClasses = 64;
// Threads and pixels of a channels_last tile, so that the tile of 64 classes fits in 48 KiB.
template <int kClasses>
constexpr int kCriticTileThreads = kClasses > 0 ? kCriticThreads : 128;
template <typename T, int kClasses>
constexpr int kCriticTilePixels = kClasses == 0 && sizeof(T) == 8 ? 64 : kCriticTileThreads<kClasses>;

template <typename T>
struct CriticLoss {
  const T* logits;                 // [M, K, h*w] or [M, h*w, K]
  const int64_t* source;           // [M]
  T* dlogits;                      // like logits, or nullptr
  Sums<Accumulator<T>>* partials;  // [M, chunks]: loss and number of correct pixels
  int64_t samples;
  int64_t pixels;
  int64_t chunk;  // pixels of a block, at most
  int chunks;     // blocks of a sample
  int classes;
  int sources;
};

// A block's share: pixels [begin, end) of a sample, whose true class is `target`.
template <typename T>
struct CriticPart {
  using A = Accumulator<T>;
  int64_t sample, begin, end;
  int target;
  bool exists;       // the source
  bool same_source;  // the sample whose number is that of the thread

  __device__ __forceinline__ explicit CriticPart(const CriticLoss<T>& args) {
    sample = blockIdx.x / static_cast<unsigned>(args.chunks);
    begin = blockIdx.x % static_cast<unsigned>(args.chunks) * args.chunk;
    end = begin + args.chunk < args.pixels ? begin + args.chunk : args.pixels;
    const int64_t source = args.source[sample];
    exists = source >= 0 && source < args.sources;
    target = exists ? static_cast<int>(source) : 0;
    same_source = threadIdx.x < args.samples && args.source[threadIdx.x] == source;
  }

  // Of dlogits: 1 / (pixels * samples of this source); NaN if the source does not exist. Called by all threads of the
  // block, after the first logits are under way: the barrier would hold them up.
  __device__ __forceinline__ A gradient_scale(const CriticLoss<T>& args) const {
    int same = __syncthreads_count(same_source);
    for (int64_t first = blockDim.x; first < args.samples; first += blockDim.x) {
      const int64_t m = first + threadIdx.x;
      same += __syncthreads_count(m < args.samples && args.source[m] == args.source[sample]);
    }
    return exists ? A(1) / (static_cast<A>(args.pixels) * static_cast<A>(same)) : A(nanf(""));
  }
};

// What the loss needs to know of kPixels pixels. Each function is called for every class in order, with the logits of
// the pixels, before the next function is.
template <typename A, int kPixels>
struct PixelSoftmax {
  A largest[kPixels];
  A true_logit[kPixels];
  A total[kPixels];
  bool beaten[kPixels];  // a class before the true one is as large as any: of equals the first wins

  __device__ __forceinline__ PixelSoftmax() {
#pragma unroll
    for (int e = 0; e < kPixels; ++e) {
      largest[e] = A(-INFINITY);
      true_logit[e] = total[e] = A(0);
      beaten[e] = false;
    }
  }

  __device__ __forceinline__ void look(int k, int target, const A* value) {
#pragma unroll
    for (int e = 0; e < kPixels; ++e) {
      largest[e] = maximum(largest[e], value[e]);
      true_logit[e] = k == target ? value[e] : true_logit[e];
    }
  }

  __device__ __forceinline__ void add(int k, int target, const A* value) {
#pragma unroll
    for (int e = 0; e < kPixels; ++e) {
      total[e] += quick_exponential(value[e] - largest[e]);
      beaten[e] = beaten[e] || (k < target && value[e] == largest[e]);
    }
  }

  // Loss and number of correct pixels. After it `total` is what an exponential is to be multiplied with.
  __device__ __forceinline__ Sums<A> close(A scale) {
    Sums<A> sums{};
#pragma unroll
    for (int e = 0; e < kPixels; ++e) {
      sums.first += logarithm(total[e]) - (true_logit[e] - largest[e]);
      sums.second += true_logit[e] == largest[e] && !beaten[e] ? A(1) : A(0);
      total[e] = quick_divide(scale, total[e]);
    }
    return sums;
  }

  __device__ __forceinline__ void gradient(int k, int target, A scale, const A* value, A (&result)[kPixels]) const {
#pragma unroll
    for (int e = 0; e < kPixels; ++e) {
      result[e] = quick_exponential(value[e] - largest[e]) * total[e] - (k == target ? scale : A(0));
    }
  }
};

// Logits [M, K, h*w]. kClasses > 0: they stay in registers, classes <= kClasses. 0: any number, read again for each
// pass.
template <typename T, int kVector, int kClasses>
__global__ void __launch_bounds__(kCriticThreads, 1) critic_loss_planes(CriticLoss<T> args) {
  using A = Accumulator<T>;
  constexpr int kAtOnce = kClasses > 0 ? kClasses : kRegisterClasses;
  release_dependents();
  const CriticPart<T> part(args);
  const int64_t start = part.sample * args.classes * args.pixels;
  int64_t pixel = part.begin + threadIdx.x * kVector;
  Packed<T, kVector> held[kAtOnce];
  const auto load_from = [&](int first) {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (first + k < args.classes) held[k] = load<kVector>(args.logits + start + (first + k) * args.pixels + pixel);
    }
  };
  // visit(k, logits of class k) for every class in order.
  const auto for_each_class = [&](auto visit) {
    for (int first = 0; first < (kClasses > 0 ? 1 : args.classes); first += kAtOnce) {
      if constexpr (kClasses == 0) load_from(first);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (first + k < args.classes) {
          A value[kVector];
          unpack(held[k], value);
          visit(first + k, value);
        }
      }
    }
  };
  if (kClasses > 0 && pixel < part.end) load_from(0);
  const A scale = args.dlogits != nullptr ? part.gradient_scale(args) : A(0);
  Sums<A> own{};
  while (pixel < part.end) {
    PixelSoftmax<A, kVector> softmax;
    for_each_class([&](int k, const A* value) { softmax.look(k, part.target, value); });
    for_each_class([&](int k, const A* value) { softmax.add(k, part.target, value); });
    own = merge(own, softmax.close(scale));
    if (args.dlogits != nullptr) {
      for_each_class([&](int k, const A* value) {
        A gradient[kVector];
        softmax.gradient(k, part.target, scale, value, gradient);
        store(args.dlogits + start + k * args.pixels + pixel, pack<T>(gradient));
      });
    }
    pixel += kCriticThreads * kVector;
    if (kClasses > 0 && pixel < part.end) load_from(0);
  }
  own = group_merge<kCriticThreads>(own);
  if (threadIdx.x == 0) args.partials[blockIdx.x] = own;
}

// to[i] = from[i] for i < count, by all kThreads threads of the block; begun, not ended.
template <int kThreads, int kVector, typename T>
__device__ __forceinline__ void begin_tile_copy(const T* from, T* to, int count) {
  int done = 0;
  if constexpr (kVector > 1) {
#pragma unroll 4
    for (int i = threadIdx.x; i < count / kVector; i += kThreads) copy_async(to + i * kVector, from + i * kVector);
    end_copy_group();
    done = count / kVector * kVector;
  }
#pragma unroll 1
  for (int i = done + threadIdx.x; i < count; i += kThreads) to[i] = load<1>(from + i).element[0];
}

template <int kThreads, int kVector, typename T>
__device__ __forceinline__ void write_tile(const T* from, T* to, int count) {
#pragma unroll 4
  for (int i = threadIdx.x; i < count / kVector; i += kThreads) {
    store(to + i * kVector, load_shared(reinterpret_cast<const Packed<T, kVector>*>(from + i * kVector)));
  }
#pragma unroll 1
  for (int i = count / kVector * kVector + threadIdx.x; i < count; i += kThreads) {
    store(to + i, Packed<T, 1>{{from[i]}});
  }
}

// Logits [M, h*w, K]. A tile of pixels passes through shared memory, where each thread has a pixel: global memory is
// read and written in order whatever K is. kClasses as above. Dynamic shared memory: kCriticTilePixels * K elements.
template <typename T, int kVector, int kClasses>
__global__ void __launch_bounds__(kCriticTileThreads<kClasses>, 1) critic_loss_channels(CriticLoss<T> args) {
  using A = Accumulator<T>;
  constexpr int kThreads = kCriticTileThreads<kClasses>, kPixels = kCriticTilePixels<T, kClasses>;
  [[maybe_unused]] constexpr int kUnroll =
      std::is_same_v<T, double> ? 1 : 4;  // double: for checking, not for speed; it would spill
  JDM_DYNAMIC_SHARED(T, tile);
  release_dependents();
  const CriticPart<T> part(args);
  const int classes = args.classes;
  // Neighbouring threads begin with other classes: else all would want the same bank where K is a power of two.
  const int begin_class = kClasses > 0 ? 0 : static_cast<int>(threadIdx.x) % classes;
  A scale = A(0);
  Sums<A> own{};
  for (int64_t first = part.begin; first < part.end; first += kPixels) {
    const int pixels = part.end - first < kPixels ? static_cast<int>(part.end - first) : kPixels;
    const int64_t start = (part.sample * args.pixels + first) * classes;
    begin_tile_copy<kThreads, kVector>(args.logits + start, tile, pixels * classes);
    if (args.dlogits != nullptr && first == part.begin) scale = part.gradient_scale(args);
    wait_for_copies<0>();
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < pixels) {
      T* const logits = tile + threadIdx.x * classes;
      A held[kClasses > 0 ? kClasses : 1];
      if constexpr (kClasses > 0) {
#pragma unroll
        for (int k = 0; k < kClasses; ++k) held[k] = k < classes ? to_accumulator(logits[k]) : A(0);
      }
      const auto for_each_class = [&](auto visit) {
        if constexpr (kClasses > 0) {
#pragma unroll
          for (int k = 0; k < kClasses; ++k) {
            if (k < classes) visit(k, held + k);
          }
        } else {
#pragma unroll(kUnroll)
          for (int i = 0, k = begin_class; i < classes; ++i, k = k + 1 < classes ? k + 1 : 0) {
            const A value = to_accumulator(logits[k]);
            visit(k, &value);
          }
        }
      };
      PixelSoftmax<A, 1> softmax;
      for_each_class([&](int k, const A* value) { softmax.look(k, part.target, value); });
      for_each_class([&](int k, const A* value) { softmax.add(k, part.target, value); });
      own = merge(own, softmax.close(scale));
      if (args.dlogits != nullptr) {
        for_each_class([&](int k, const A* value) {
          A gradient[1];
          softmax.gradient(k, part.target, scale, value, gradient);
          logits[k] = from_accumulator<T>(gradient[0]);
        });
      }
    }
    __syncthreads();
    if (args.dlogits != nullptr) {
      write_tile<kThreads, kVector>(tile, args.dlogits + start, pixels * classes);
      __syncthreads();
    }
  }
  own = group_merge<kThreads>(own);
  if (threadIdx.x == 0) args.partials[blockIdx.x] = own;
}

// One block adds up the partial results, in double. The warps are shared out among the sources. What needs the sources
// alone is done before the partial results are there.
template <typename A>
__global__ void __launch_bounds__(kFinishThreads)
    critic_loss_finish(const Sums<A>* partials,  // [M, chunks]
                       const int64_t* source,    // [M]
                       int64_t samples, int chunks, int sources, int64_t pixels,
                       A* loss,               // [1]
                       A* source_loss,        // [S]
                       A* source_accuracy) {  // [S]
  constexpr int kWarps = kFinishThreads / 32;
  JDM_SHARED_ARRAY(Sums<double>, total, kMaxClasses * kWarps);
  JDM_SHARED_ARRAY(int, members, kMaxClasses* kWarps);
  JDM_SHARED_ARRAY(double, mean_loss, kMaxClasses);
  const int teams = sources < kWarps ? sources : kWarps, team_warps = kWarps / teams, lane = threadIdx.x % 32;
  const int team = threadIdx.x / 32 / team_warps, place = threadIdx.x / 32 % team_warps;
  bool invalid = false;
  for (int s = team; team < teams && s < sources; s += teams) {
    int count = 0;
    for (int64_t m = place * 32 + lane; m < samples; m += team_warps * 32) {
      const int64_t own = source[m];
      count += own == s;
      invalid = invalid || own < 0 || own >= sources;
    }
    count = warp_merge(Sums<int>{count, 0}).first;
    if (lane == 0) members[s * team_warps + place] = count;
  }
  wait_for_predecessor();
  const auto blocks = static_cast<unsigned>(samples * chunks), of_sample = static_cast<unsigned>(chunks);
  for (int s = team; team < teams && s < sources; s += teams) {
    Sums<double> own{};
#pragma unroll 4
    for (unsigned i = place * 32 + lane; i < blocks; i += team_warps * 32) {
      const Sums<A> part = partials[i];  // also of other sources: the load need not wait for the number of this one
      if (source[i / of_sample] == s) own = merge(own, Sums<double>{part.first, part.second});
    }
    own = warp_merge(own);
    if (lane == 0) total[s * team_warps + place] = own;
  }
  const bool any_invalid = __syncthreads_count(invalid) > 0;
  if (static_cast<int>(threadIdx.x) < sources) {
    const int s = threadIdx.x;
    Sums<double> sums = total[s * team_warps];
    int64_t count = members[s * team_warps];
    for (int i = 1; i < team_warps; ++i) {
      sums = merge(sums, total[s * team_warps + i]);
      count += members[s * team_warps + i];
    }
    const double number = count > 0 && pixels > 0 ? static_cast<double>(count) * static_cast<double>(pixels) : 1.0;
    mean_loss[s] = sums.first / number;
    source_loss[s] = static_cast<A>(mean_loss[s]);
    source_accuracy[s] = static_cast<A>(sums.second / number);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    Sums<double> sum{lane < sources ? mean_loss[lane] : 0.0, 0.0};
    if (lane + 32 < sources) sum.first += mean_loss[lane + 32];
    sum = warp_merge(sum);
    if (lane == 0) loss[0] = any_invalid ? A(nanf("")) : static_cast<A>(sum.first);
  }
}

constexpr int kScaleVectors = 2;  // of a thread

// result = dlogits * (d_loss + d_source_loss[source of the sample]), where a factor that is nullptr counts as 0.
template <typename T, int kVector>
__global__ void __launch_bounds__(kCriticThreads)
    critic_loss_scale(const T* dlogits,                     // [samples, size]
                      const int64_t* source,                // [samples], read with d_source_loss only
                      const Accumulator<T>* d_loss,         // [1]
                      const Accumulator<T>* d_source_loss,  // [S]
                      T* result,                            // like dlogits
                      int64_t size, unsigned chunks, int sources) {
  using A = Accumulator<T>;
  const int64_t sample = blockIdx.x / chunks, begin = sample * size, end = begin + size;
  int64_t i =
      begin + (static_cast<int64_t>(blockIdx.x % chunks) * kScaleVectors * kCriticThreads + threadIdx.x) * kVector;
  Packed<T, kVector> held[kScaleVectors];
#pragma unroll
  for (int v = 0; v < kScaleVectors; ++v) {
    const int64_t at = i + v * kCriticThreads * kVector;
    if (at + kVector <= end) held[v] = load<kVector>(dlogits + at);
  }
  A scale = d_loss != nullptr ? *d_loss : A(0);
  if (d_source_loss != nullptr) {
    const int64_t s = source[sample];
    scale += s >= 0 && s < sources ? d_source_loss[s] : A(nanf(""));
  }
#pragma unroll
  for (int v = 0; v < kScaleVectors; ++v, i += kCriticThreads * kVector) {
    if (i + kVector <= end) {
      A value[kVector];
      unpack(held[v], value);
#pragma unroll
      for (int e = 0; e < kVector; ++e) value[e] *= scale;
      store(result + i, pack<T>(value));
    } else {
#pragma unroll 1
      for (int64_t at = i; at < end; ++at) store_one(result + at, load_one(dlogits + at) * scale);
    }
  }
}

}  // namespace jdm_fast::cuda
