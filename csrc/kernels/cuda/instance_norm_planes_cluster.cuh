// Instance norm of [N, C, H*W] in one touch where a plane is more than a block's registers: the blocks of a cluster
// hold a part each, so that global memory is read once and written once. Vectors of 16 bytes, and the loose ends of
// every part one by one, so that planes need not begin on 16 bytes.
//
// Every block takes exact statistics of its part by two passes over what it holds; then the blocks hand them to each
// other, once, by writing into each other's shared memory.
#pragma once

#include "cluster.cuh"
#include "copied_rows.cuh"
#include "instance_norm_planes.cuh"

namespace jdm_fast::cuda {

// ---------------------------------------------------------------------------------------------------------------------
// What a block holds: of each of kTensors tensors that lie alike, the vectors of its part; vector r * kThreads + t is
// thread t's. Nobody reads another thread's vectors, so there are no barriers.
//
// What is called for a vector gets its place as elements from the thread's first one, of which the caller has a
// pointer: in registers these are constants.
//
// kVectors > 0: in registers, so many vectors of each tensor a thread. 0: in dynamic shared memory (copied_rows.cuh).

template <typename T, int kTensors, int kVectors>
class HeldPart {
 public:
  static constexpr int kVector = kVectorElements<T>, kThreads = kPlaneClusterThreads;
  using Vector = Packed<T, kVector>;

  __device__ __forceinline__ HeldPart(const Span<kVector>& span, const T* const (&from)[kTensors])
      : left_(static_cast<int>(span.vectors) - static_cast<int>(threadIdx.x)) {
#pragma unroll
    for (int r = 0; r < kVectors; ++r) {
      if (!has(r)) continue;
#pragma unroll
      for (int t = 0; t < kTensors; ++t) data_[r][t] = load_once<kVector>(from[t] + place(r));
    }
  }

  // Calls use(data) for every vector of the thread, data[t] being that of tensor t, as they arrive.
  template <typename Use>
  __device__ __forceinline__ void each_as_it_arrives(Use use) {
    in_batches<1>([](int, int) {}, [&](int, int, const Vector(&data)[kTensors]) { use(data); });
  }

  // The same again; of kBatch vectors, numbered u = 0, 1, ..., first prepare(u, at) and then use(u, at, data).
  template <int kBatch, typename Prepare, typename Use>
  __device__ __forceinline__ void in_batches(Prepare prepare, Use use) {
#pragma unroll
    for (int first = 0; first < kVectors; first += kBatch) {
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (has(first + u)) prepare(u, place(first + u));
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (!has(first + u)) continue;
#pragma unroll
        for (int t = 0; t < kTensors; ++t) forget_unpacked(data_[first + u][t]);
        use(u, place(first + u), data_[first + u]);
      }
    }
  }

 private:
  __device__ __forceinline__ static int place(int r) { return r * kThreads * kVector; }
  __device__ __forceinline__ bool has(int r) const { return r * kThreads < left_; }

  int left_;  // vectors from the thread's first one on
  Vector data_[kVectors][kTensors];
};

template <typename T, int kTensors>
class HeldPart<T, kTensors, 0> {
 public:
  static constexpr int kVector = kVectorElements<T>, kThreads = kPlaneClusterThreads;
  using Vector = Packed<T, kVector>;

  __device__ __forceinline__ HeldPart(const Span<kVector>& span, const T* const (&from)[kTensors])
      : rows_(rows_of(static_cast<int>(span.vectors) - static_cast<int>(threadIdx.x)), from, place) {}

  template <typename Use>
  __device__ __forceinline__ void each_as_it_arrives(Use use) const {
    rows_.each_as_it_arrives(use);
  }

  template <int kBatch, typename Prepare, typename Use>
  __device__ __forceinline__ void in_batches(Prepare prepare, Use use) const {
    for (int first = 0; first < rows_.count(); first += kBatch) {
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (first + u < rows_.count()) prepare(u, place(first + u));
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (first + u >= rows_.count()) continue;
        rows_.use_row(first + u, [&](const Vector(&data)[kTensors]) { use(u, place(first + u), data); });
      }
    }
  }

 private:
  __device__ __forceinline__ static int place(int r) { return r * kThreads * kVector; }
  // Of so many vectors from the thread's first one on.
  __device__ __forceinline__ static int rows_of(int left) { return left > 0 ? (left + kThreads - 1) / kThreads : 0; }

  // Of two tensors row by row: unrolled, the code would be twice as long.
  CopiedRows<T, kThreads, kTensors, kTensors == 1 ? 4 : 1> rows_;
};

// ---------------------------------------------------------------------------------------------------------------------
// What the blocks of a cluster tell each other.

// Made at the beginning of a kernel, so that no block waits long for the others to have begun.
template <typename Value>
class ClusterExchange {
 public:
  __device__ __forceinline__ ClusterExchange() {
    JDM_SHARED_ARRAY(Value, slots, kMaxCluster);
    slots_ = slots;
    cluster_arrive_unfenced();
  }

  // `own` is the same in every thread of the block. Returns those of all blocks, by rank, in the block's own shared
  // memory: nobody reaches into another block afterwards, so a block may return before the others.
  __device__ __forceinline__ const Value* operator()(const Value& own, int rank) const {
    cluster_wait();  // all blocks have begun
    if (threadIdx.x < 32) {
      if (threadIdx.x < cluster_size()) store_to_rank(slots_ + rank, threadIdx.x, own);
      cluster_arrive();
    } else {
      cluster_arrive_unfenced();
    }
    cluster_wait();
    return slots_;
  }

 private:
  Value* slots_;
};

// Moments of a part. The mean is mean + correction, which together have more digits than one number.
template <typename A>
struct PartMoments {
  A count;
  A mean;
  A correction;
  A m2;
};

// Of all parts. Means are compared with the first part's, so that the mean of the plane is rounded only once, however
// large it is.
template <typename A>
__device__ __forceinline__ Moments<A> merge_parts(const PartMoments<A>* parts) {
  const A origin = parts[0].mean;
  Moments<A> total{parts[0].count, parts[0].correction, parts[0].m2};
  for (unsigned i = 1; i < cluster_size(); ++i) {
    total = merge(total, {parts[i].count, (parts[i].mean - origin) + parts[i].correction, parts[i].m2});
  }
  total.mean += origin;
  return total;
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels: a cluster a plane, `chunk` pixels a block.

template <typename T, int kVectors>
__global__ void __launch_bounds__(kPlaneClusterThreads, kPlaneClusterBlocks)
    planes_forward_cluster(NormForward<T> args, int64_t chunk, bool streaming) {
  using A = Accumulator<T>;
  using Held = HeldPart<T, 1, kVectors>;
  constexpr int kVector = Held::kVector;
  const ClusterExchange<PartMoments<A>> exchange;
  const PlanePart<false> part(args.pixels, static_cast<int>(cluster_size()), chunk);
  const int64_t start = part.plane * args.pixels + part.begin;
  const Span<kVector> span(args.x + start, part.count);
  const bool has_loose = static_cast<int>(threadIdx.x) < span.loose;
  const int64_t first = start + span.vector_offset(threadIdx.x);
  Held held(span, {args.x + first});

  A sum = A(0), loose = A(0);
  if (has_loose) loose = load_one(args.x + start + span.loose_offset(threadIdx.x));
  // Weight and bias are on their way together with x; the statistics come later.
  Channel<A> channel = make_channel(args, part.plane % args.affine_planes, A(0), A(1));
  held.each_as_it_arrives([&](const typename Held::Vector(&data)[1]) {
    A value[kVector];
    unpack(data[0], value);
    A vector_sum = A(0);
#pragma unroll
    for (int e = 0; e < kVector; ++e) vector_sum += value[e];
    sum += vector_sum;
  });
  sum += loose;
  const int count = static_cast<int>(part.count);
  const A share = count > 0 ? A(1) / static_cast<A>(count) : A(0);
  const A part_mean = group_merge<kPlaneClusterThreads>(Sums<A>{sum, A(0)}).first * share;

  Sums<A> spread{};  // of x - mean, whose sum corrects the rounding of the mean, and of its square
  held.template in_batches<1>([](int, int) {},
                              [&](int, int, const typename Held::Vector(&data)[1]) {
                                A value[kVector];
                                unpack(data[0], value);
#pragma unroll
                                for (int e = 0; e < kVector; ++e) {
                                  const A distance = value[e] - part_mean;
                                  spread.first += distance;
                                  spread.second += distance * distance;
                                }
                              });
  if (has_loose) {
    const A distance = loose - part_mean;
    spread = merge(spread, Sums<A>{distance, distance * distance});
  }
  spread = group_merge<kPlaneClusterThreads>(spread);
  const A correction = spread.first * share;
  const Moments<A> total = merge_parts(
      exchange({static_cast<A>(count), part_mean, correction, not_negative(spread.second - correction * spread.first)},
               part.split));
  const A rstd = rstd_of(total, args.eps);
  if (part.split == 0 && threadIdx.x == 0) {
    args.mean[part.plane] = total.mean;
    args.rstd[part.plane] = rstd;
  }

  channel = {total.mean, rstd * channel.scale, channel.bias};
  const T* const residual = args.residual != nullptr ? args.residual + first : nullptr;
  T* const y = args.y + first;
  constexpr int kBatch = 2;  // vectors of the residual on their way at once: more would not fit the registers
  typename Held::Vector extra[kBatch] = {};
  held.template in_batches<kBatch>(
      [&](int u, int at) {
        if (residual != nullptr) extra[u] = load_once<kVector>(residual + at);
      },
      [&](int u, int at, const typename Held::Vector(&data)[1]) {
        A value[kVector];
        unpack(data[0], value);
#pragma unroll
        for (int e = 0; e < kVector; ++e) value[e] = forward_value(channel, args.slope, value[e]);
        if (residual != nullptr) {
          A add[kVector];
          unpack(extra[u], add);
#pragma unroll
          for (int e = 0; e < kVector; ++e) value[e] += add[e];
        }
        store(y + at, pack<T>(value), streaming);
      });
  if (has_loose) {
    const int64_t at = start + span.loose_offset(threadIdx.x);
    const A add = args.residual != nullptr ? load_one(args.residual + at) : A(0);
    store_one(args.y + at, forward_value(channel, args.slope, loose) + add);
  }
}

template <typename T, int kVectors>
__global__ void __launch_bounds__(kPlaneClusterThreads, kPlaneClusterBlocks)
    planes_backward_cluster(NormBackward<T> args, int64_t chunk, bool streaming) {
  using A = Accumulator<T>;
  using Held = HeldPart<T, 2, kVectors>;
  constexpr int kVector = Held::kVector;
  const ClusterExchange<Sums<A>> exchange;
  const PlanePart<false> part(args.pixels, static_cast<int>(cluster_size()), chunk);
  const int64_t start = part.plane * args.pixels + part.begin;
  const Span<kVector> span(args.x + start, part.count);
  const bool has_loose = static_cast<int>(threadIdx.x) < span.loose;
  const int64_t first = start + span.vector_offset(threadIdx.x);
  Held held(span, {args.x + first, args.dy + first});

  A loose_x = A(0), loose_dy = A(0);
  if (has_loose) {
    const int64_t at = start + span.loose_offset(threadIdx.x);
    loose_x = load_one(args.x + at);
    loose_dy = load_one(args.dy + at);
  }
  const A rstd = args.rstd[part.plane];
  const Channel<A> channel = make_channel(args, part.plane % args.affine_planes, args.mean[part.plane], rstd);
  Sums<A> sums{};
  held.each_as_it_arrives([&](const typename Held::Vector(&data)[2]) {
    A value[kVector], gradient[kVector];
    unpack(data[0], value);
    unpack(data[1], gradient);
#pragma unroll
    for (int e = 0; e < kVector; ++e) add_gradient(sums, channel, args.slope, value[e], gradient[e]);
  });
  if (has_loose) add_gradient(sums, channel, args.slope, loose_x, loose_dy);
  const Sums<A>* const parts = exchange(group_merge<kPlaneClusterThreads>(sums), part.split);
  sums = parts[0];
  for (unsigned i = 1; i < cluster_size(); ++i) sums = merge(sums, parts[i]);
  A mean_g, tilt;
  finish_gradient_sums(args, part.plane, sums, part.split == 0 && threadIdx.x == 0, rstd, mean_g, tilt);

  T* const dx = args.dx + first;
  held.template in_batches<1>([](int, int) {},
                              [&](int, int at, const typename Held::Vector(&data)[2]) {
                                A value[kVector], gradient[kVector];
                                unpack(data[0], value);
                                unpack(data[1], gradient);
#pragma unroll
                                for (int e = 0; e < kVector; ++e) {
                                  value[e] = backward_value(channel, args.slope, mean_g, tilt, value[e], gradient[e]);
                                }
                                store(dx + at, pack<T>(value), streaming);
                              });
  if (has_loose) {
    store_one(args.dx + start + span.loose_offset(threadIdx.x),
              backward_value(channel, args.slope, mean_g, tilt, loose_x, loose_dy));
  }
}

}  // namespace jdm_fast::cuda
