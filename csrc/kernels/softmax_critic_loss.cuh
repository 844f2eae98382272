// The softmax critic's loss on the device: one kernel reads the logits, writes dlogits and leaves (loss, correct
// pixels) of each block; a second one, of one block, adds those up by source.
#pragma once

#include "cuda/device.cuh"

namespace jdm_fast::cuda {

constexpr int kCriticThreads = 256;
constexpr int kRegisterClasses = 8;  // up to which the logits of a pixel stay in registers
constexpr int kCriticVector = 4;     // pixels a thread has at once; more would ask for too many registers
constexpr int kCriticTileThreads = 128;
// Pixels of a channels_last tile, so that the tile of 64 classes fits in 48 KiB.
template <typename T>
constexpr int kCriticTilePixels = sizeof(T) == 8 ? kCriticTileThreads / 2 : kCriticTileThreads;
constexpr int kFinishThreads = 1024;
constexpr int kMaxClasses = 64;

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
template <typename A>
struct CriticPart {
  int64_t sample, begin, end;
  int target;
  A scale;  // of dlogits: 1 / (pixels * samples of this source); NaN if the source does not exist

  // Called by all kThreads threads of the block.
  template <int kThreads, typename T>
  static __device__ __forceinline__ CriticPart of_block(const CriticLoss<T>& args) {
    CriticPart part;
    part.sample = blockIdx.x / static_cast<unsigned>(args.chunks);
    part.begin = blockIdx.x % static_cast<unsigned>(args.chunks) * args.chunk;
    part.end = part.begin + args.chunk < args.pixels ? part.begin + args.chunk : args.pixels;
    const int64_t source = args.source[part.sample];
    const bool exists = source >= 0 && source < args.sources;
    part.target = exists ? static_cast<int>(source) : 0;
    part.scale = A(0);
    if (args.dlogits != nullptr) {
      int same = 0;
      for (int64_t m = threadIdx.x; m < args.samples; m += kThreads) same += args.source[m] == source;
      same = group_merge<kThreads>(Sums<int>{same, 0}).first;
      part.scale = exists ? A(1) / (static_cast<A>(args.pixels) * static_cast<A>(same)) : A(nanf(""));
    }
    return part;
  }
};

// Logits [M, K, h*w]. kClasses > 0: they stay in registers, classes <= kClasses. 0: any number, read again for each
// pass.
template <typename T, int kVector, int kClasses>
__global__ void __launch_bounds__(kCriticThreads, 1) critic_loss_planes(CriticLoss<T> args) {
  using A = Accumulator<T>;
  const auto part = CriticPart<A>::template of_block<kCriticThreads>(args);
  const int64_t start = part.sample * args.classes * args.pixels;
  Sums<A> own{};
  for (int64_t pixel = part.begin + threadIdx.x * kVector; pixel < part.end; pixel += kCriticThreads * kVector) {
    const T* const logits = args.logits + start + pixel;
    Packed<T, kVector> held[kClasses > 0 ? kClasses : 1];
    if constexpr (kClasses > 0) {
#pragma unroll
      for (int k = 0; k < kClasses; ++k) {
        if (k < args.classes) held[k] = load<kVector>(logits + k * args.pixels);
      }
    }
    // visit(k, logits of class k) for every class in order.
    const auto for_each_class = [&](auto visit) {
      A value[kVector];
      if constexpr (kClasses > 0) {
#pragma unroll
        for (int k = 0; k < kClasses; ++k) {
          if (k < args.classes) {
            unpack(held[k], value);
            visit(k, value);
          }
        }
      } else {
        for (int k = 0; k < args.classes; ++k) {
          unpack(load<kVector>(logits + k * args.pixels), value);
          visit(k, value);
        }
      }
    };
    A largest[kVector], total[kVector] = {}, true_logit[kVector] = {};
    int best[kVector] = {};
#pragma unroll
    for (int e = 0; e < kVector; ++e) largest[e] = A(-INFINITY);
    for_each_class([&](int k, const A* value) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const bool above = value[e] > largest[e];  // of equals the first stays
        largest[e] = above ? value[e] : largest[e];
        best[e] = above ? k : best[e];
        if (k == part.target) true_logit[e] = value[e];
      }
    });
    for_each_class([&](int, const A* value) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) total[e] += exponential(value[e] - largest[e]);
    });
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      own.first += logarithm(total[e]) - (true_logit[e] - largest[e]);
      own.second += best[e] == part.target ? A(1) : A(0);
      total[e] = part.scale / total[e];
    }
    if (args.dlogits != nullptr) {
      T* const dlogits = args.dlogits + start + pixel;
      for_each_class([&](int k, const A* value) {
        A gradient[kVector];
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          gradient[e] = exponential(value[e] - largest[e]) * total[e] - (k == part.target ? part.scale : A(0));
        }
        store(dlogits + k * args.pixels, pack<T>(gradient));
      });
    }
  }
  own = group_merge<kCriticThreads>(own);
  if (threadIdx.x == 0) args.partials[blockIdx.x] = own;
}

// to[i] = from[i] for i < count, by all threads of the block.
template <int kVector, typename T>
__device__ __forceinline__ void copy_tile(const T* from, T* to, int count) {
  for (int i = threadIdx.x; i < count / kVector; i += kCriticTileThreads) {
    *reinterpret_cast<Packed<T, kVector>*>(to + i * kVector) =
        *reinterpret_cast<const Packed<T, kVector>*>(from + i * kVector);
  }
  for (int i = count / kVector * kVector + threadIdx.x; i < count; i += kCriticTileThreads) to[i] = from[i];
}

// Logits [M, h*w, K]. A tile of pixels passes through shared memory, where each thread has a pixel: global memory is
// read and written in order whatever K is. Dynamic shared memory: kCriticTilePixels<T> * K elements.
template <typename T, int kVector>
__global__ void __launch_bounds__(kCriticTileThreads) critic_loss_channels(CriticLoss<T> args) {
  using A = Accumulator<T>;
  constexpr int kPixels = kCriticTilePixels<T>;
  JDM_DYNAMIC_SHARED(T, tile);
  const auto part = CriticPart<A>::template of_block<kCriticTileThreads>(args);
  const int classes = args.classes;
  Sums<A> own{};
  for (int64_t first = part.begin; first < part.end; first += kPixels) {
    const int pixels = part.end - first < kPixels ? static_cast<int>(part.end - first) : kPixels;
    const int64_t start = (part.sample * args.pixels + first) * classes;
    copy_tile<kVector>(args.logits + start, tile, pixels * classes);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < pixels) {
      T* const logits = tile + threadIdx.x * classes;
      A largest = to_accumulator(logits[0]), total = A(0);
      int best = 0;
      for (int k = 1; k < classes; ++k) {
        const A value = to_accumulator(logits[k]);
        best = value > largest ? k : best;
        largest = value > largest ? value : largest;
      }
      for (int k = 0; k < classes; ++k) total += exponential(to_accumulator(logits[k]) - largest);
      own.first += logarithm(total) - (to_accumulator(logits[part.target]) - largest);
      own.second += best == part.target ? A(1) : A(0);
      if (args.dlogits != nullptr) {
        const A share = part.scale / total;
        for (int k = 0; k < classes; ++k) {
          const A gradient =
              exponential(to_accumulator(logits[k]) - largest) * share - (k == part.target ? part.scale : A(0));
          logits[k] = from_accumulator<T>(gradient);
        }
      }
    }
    __syncthreads();
    if (args.dlogits != nullptr) {
      copy_tile<kVector>(tile, args.dlogits + start, pixels * classes);
      __syncthreads();
    }
  }
  own = group_merge<kCriticTileThreads>(own);
  if (threadIdx.x == 0) args.partials[blockIdx.x] = own;
}

// One block adds up the partial results, in double. The warps are shared out among the sources.
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
  int invalid = 0;
  for (int64_t m = threadIdx.x; m < samples; m += kFinishThreads) invalid += source[m] < 0 || source[m] >= sources;
  invalid = group_merge<kFinishThreads>(Sums<int>{invalid, 0}).first;

  const int teams = sources < kWarps ? sources : kWarps;
  const int team_warps = kWarps / (teams > 0 ? teams : 1);
  const int warp = threadIdx.x / 32, team = warp / team_warps, place = warp % team_warps;
  for (int s = team; team < teams && s < sources; s += teams) {
    Sums<double> own{};
    int count = 0;
    for (int64_t i = place * 32 + threadIdx.x % 32; i < samples * chunks; i += team_warps * 32) {
      if (source[i / chunks] == s) {
        own = merge(own, Sums<double>{partials[i].first, partials[i].second});
        count += i % chunks == 0;
      }
    }
    own = warp_merge(own);
    count = warp_merge(Sums<int>{count, 0}).first;
    if (threadIdx.x % 32 == 0) {
      total[s * team_warps + place] = own;
      members[s * team_warps + place] = count;
    }
  }
  __syncthreads();
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
  if (threadIdx.x == 0) {
    double sum = 0.0;
    for (int s = 0; s < sources; ++s) sum += mean_loss[s];
    loss[0] = invalid > 0 ? A(nanf("")) : static_cast<A>(sum);
  }
}

}  // namespace jdm_fast::cuda
