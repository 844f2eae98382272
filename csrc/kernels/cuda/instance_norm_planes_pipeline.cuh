// Instance norm of [N, C, H*W] that reads from memory once what no block holds (pipeline.cuh): the unit is a part of a
// plane, which is summed, then applied; the whole is the plane.
#pragma once

#include "instance_norm_planes.cuh"
#include "pipeline.cuh"

namespace jdm_fast::cuda {

// Which plane, and which of its elements, a unit has.
struct PlaneUnit {
  unsigned plane;
  int64_t start, count;

  __device__ __forceinline__ PlaneUnit(unsigned unit, int64_t pixels, int splits, int64_t chunk) {
    plane = unit / static_cast<unsigned>(splits);
    const int64_t begin = (unit - plane * static_cast<unsigned>(splits)) * chunk;
    start = plane * pixels + begin;
    count = pixels - begin < chunk ? pixels - begin : chunk;
  }
};

// partials: [N*C, splits], of x minus the first element of the plane.
template <typename T, int kVector>
__global__ void __launch_bounds__(kStreamThreads, 4)
    planes_forward_pipeline(NormForward<T> args, Moments<Accumulator<T>>* partials, int splits, int64_t chunk,
                            PipelineUnits order, PipelineState state) {
  using A = Accumulator<T>;
  release_dependents();
  take_turns(
      order, state,
      [&](unsigned index) {
        const PlaneUnit unit(index, args.pixels, splits, chunk);
        const A shift = load_one(args.x + unit.plane * args.pixels);
        const auto own = group_merge<kStreamThreads>(span_moments<kVector>(args.x + unit.start, unit.count, shift));
        if (threadIdx.x == 0) partials[index] = own;
        if (!is_last_of(state, unit.plane, static_cast<unsigned>(splits))) return;
        const Moments<A> moments = merge_partials(partials + static_cast<int64_t>(unit.plane) * splits, splits);
        if (threadIdx.x == 0) {
          args.mean[unit.plane] = shift + moments.mean;
          args.rstd[unit.plane] = rstd_of(moments, args.eps);
        }
        raise_flag(state, unit.plane);
      },
      [&](unsigned index) {
        const PlaneUnit unit(index, args.pixels, splits, chunk);
        wait_for_flag(state, unit.plane);
        const Channel<A> channel = make_channel(args, unit.plane % args.affine_planes,
                                                load_fresh(args.mean + unit.plane), load_fresh(args.rstd + unit.plane));
        const A slope = args.slope;
        span_apply<kVector>(args.x + unit.start, args.residual != nullptr ? args.residual + unit.start : nullptr,
                            args.y + unit.start, unit.count,
                            [=](A x, A residual) { return forward_value(channel, slope, x) + residual; });
      });
}

// partials: [N*C, splits].
template <typename T, int kVector>
__global__ void __launch_bounds__(kStreamThreads, 4)
    planes_backward_pipeline(NormBackward<T> args, Sums<Accumulator<T>>* partials, int splits, int64_t chunk,
                             PipelineUnits order, PipelineState state) {
  using A = Accumulator<T>;
  release_dependents();
  const auto channel_of = [&](unsigned plane) {
    return make_channel(args, plane % args.affine_planes, args.mean[plane], args.rstd[plane]);
  };
  take_turns(
      order, state,
      [&](unsigned index) {
        const PlaneUnit unit(index, args.pixels, splits, chunk);
        const auto own = group_merge<kStreamThreads>(span_gradient_sums<kVector>(
            args.x + unit.start, args.dy + unit.start, unit.count, channel_of(unit.plane), args.slope));
        if (threadIdx.x == 0) partials[index] = own;
        if (!is_last_of(state, unit.plane, static_cast<unsigned>(splits))) return;
        const Sums<A> sums = merge_partials(partials + static_cast<int64_t>(unit.plane) * splits, splits);
        if (threadIdx.x == 0) {
          args.d_bias[unit.plane] = sums.first;
          args.d_weight[unit.plane] = sums.second * args.rstd[unit.plane];
        }
        raise_flag(state, unit.plane);
      },
      [&](unsigned index) {
        const PlaneUnit unit(index, args.pixels, splits, chunk);
        wait_for_flag(state, unit.plane);
        const A share = A(1) / static_cast<A>(args.pixels);
        const A mean_g = load_fresh(args.d_bias + unit.plane) * share;
        const A tilt = load_fresh(args.d_weight + unit.plane) * share * args.rstd[unit.plane];
        const Channel<A> channel = channel_of(unit.plane);
        const A slope = args.slope;
        span_apply<kVector>(args.x + unit.start, args.dy + unit.start, args.dx + unit.start, unit.count,
                            [=](A x, A dy) { return backward_value(channel, slope, mean_g, tilt, x, dy); });
      });
}

}  // namespace jdm_fast::cuda
