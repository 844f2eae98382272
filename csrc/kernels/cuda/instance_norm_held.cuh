// Instance norm of [N, H*W, C] in one touch: a cluster of blocks holds a tile, so that global memory is read once and
// written once. A thread holds up to kHeldRows vectors of 16 bytes of each tensor in registers and, where the plan says
// so, more of them in shared memory. All its loads are under way before the first is used.
//
// A block sums about the mean of the channels' values in a few of its rows, one reference for all of its threads, so
// that what threads hand to each other are plain sums. As the mean of m of n values it is within sqrt(n / m) spreads of
// theirs: the sum of squares loses at most log2(n / m) bits to cancellation, however large the mean. What a channel's
// statistics make of it is worked out once for all threads: with so few rows a thread, what is done once a thread and
// tile counts as much as what is done for every element. Blocks write their results into each other's shared memory,
// once, and nobody reads another block's: a block may return before the others.
#pragma once

#include "instance_norm_held_tile.cuh"

namespace jdm_fast::cuda {

// Blocks of a multiprocessor, which bounds their registers.
constexpr int held_blocks(int threads, bool backward, bool more) {
  return threads > 256 ? 1 : backward || more ? 2 : 3;
}

// kMore: rows beyond kHeldRows.
template <typename T, int kThreads, bool kMore>
__global__ void __launch_bounds__(kThreads, held_blocks(kThreads, false, kMore))
    channels_forward_held(NormForward<T> args, HeldLayout layout) {
  using A = Accumulator<T>;
  using Tile = HeldTile<T, kThreads>;
  constexpr int kVector = Tile::kVector;
  using Vector = Packed<T, kVector>;
  const ClusterSums<T, kThreads> through_cluster;
  const int channels = static_cast<int>(args.channels), pixels = static_cast<int>(args.pixels);
  const Tile tile(layout, channels, pixels);
  const T* const x = args.x + tile.sample_at;
  Vector held[kHeldRows];
#pragma unroll
  for (int r = 0; r < kHeldRows; ++r) {
    if (r < tile.count) held[r] = load_once<kVector>(x + (tile.at + r * tile.step));
  }
  const T* const from[] = {x};
  const std::conditional_t<kMore, MoreRows<T, kThreads, 1>, NoMoreRows> more(tile, from);
  constexpr int kReferenceRows = kMore ? 8 : 4;
  A reference[kVector] = {};
  if (tile.active) {
    Vector row[kReferenceRows];
#pragma unroll
    for (int i = 0; i < kReferenceRows; ++i) {
      const int pixel = tile.first_row + i * tile.rows / kReferenceRows;
      row[i] = load<kVector>(x + (pixel * channels + tile.first_channel + tile.lane_channel));
    }
#pragma unroll
    for (int i = 0; i < kReferenceRows; ++i) {
      A value[kVector];
      unpack(row[i], value);
#pragma unroll
      for (int e = 0; e < kVector; ++e) reference[e] += value[e] * (A(1) / kReferenceRows);
    }
  }
  const ChannelTable<T, kThreads, 1> references;
  if (static_cast<int>(threadIdx.x) < tile.lanes) {
#pragma unroll
    for (int e = 0; e < kVector; ++e) references.put(tile.lane_channel + e, {reference[e]});
  }
  // Of the channel that the thread cares for.
  const A shift = tile.cares ? load_one(x + tile.first_channel + tile.channel) : A(0);
  Sums<A> own[kVector] = {};
  const auto add = [&](const Vector& data) {
    A value[kVector];
    unpack(data, value);
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const A distance = value[e] - reference[e];
      own[e].first += distance;
      own[e].second += distance * distance;
    }
  };
#pragma unroll
  for (int r = 0; r < kHeldRows; ++r) {
    if (r < tile.count) add(held[r]);
  }
  more.each_as_it_arrives([&](const Vector(&data)[1]) { add(data[0]); });
  // Weight and bias come while the blocks talk to each other; before, their registers are needed.
  A weight = A(1), bias = A(0);
  if (tile.cares) {
    const int channel = tile.first_channel + tile.channel;
    const int64_t affine_at = args.affine_planes == args.channels ? channel : tile.plane + tile.channel;
    if (args.weight != nullptr) weight = load_one(args.weight + affine_at);
    if (args.bias != nullptr) bias = load_one(args.bias + affine_at);
  }
  const ChannelTable<T, kThreads, 3> table;
  through_cluster(
      tile, layout, own,
      [&](const Sums<A>& sums) -> Sums<A> {
        const A mean = tile.rows > 0 ? quick_divide(sums.first, static_cast<A>(tile.rows)) : A(0);
        return {references.one(tile.channel) - shift + mean, not_negative(sums.second - sums.first * mean)};
      },
      // Means are compared with the first part's, which costs the squares log2(blocks) bits at most.
      [&](int rank, const Sums<A>& part, const Sums<A>& first) -> Sums<A> {
        const A weight = static_cast<A>(Tile::rows_of(layout, rank, pixels)), distance = part.first - first.first;
        return {weight * distance, weight * distance * distance + part.second};
      },
      [&](const Sums<A>& sums, const Sums<A>& first) {
        const A distance = sums.first * layout.share;
        const A m2 = not_negative(sums.second - sums.first * distance);
        const A mean = shift + (first.first + distance), rstd = reciprocal_root(m2 * layout.share + args.eps);
        if (tile.turn > 0) return;
        table.put(tile.channel, {mean, rstd * weight, bias});
        if (tile.rank > 0) return;
        args.mean[tile.plane + tile.channel] = mean;
        args.rstd[tile.plane + tile.channel] = rstd;
      });
  A number[kVector * 3];
  table.get(tile.lane_channel, number);

  T* const y = args.y + tile.sample_at;
  const auto apply = [&](auto with_residual) {
    constexpr bool kResidual = decltype(with_residual)::value;
    const auto residual_of = [&](int r) -> Vector {
      if constexpr (!kResidual) return {};
      return load_once<kVector>(args.residual + tile.sample_at + (tile.at + r * tile.step));
    };
    const auto finish = [&](int r, const Vector& data, [[maybe_unused]] const Vector& residual) {
      A value[kVector];
      unpack(data, value);
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const Channel<A> channel{number[3 * e], number[3 * e + 1], number[3 * e + 2]};
        value[e] = forward_value(channel, args.slope, value[e]);
      }
      if constexpr (kResidual) {
        A add_to[kVector];
        unpack(residual, add_to);
#pragma unroll
        for (int e = 0; e < kVector; ++e) value[e] += add_to[e];
      }
      store(y + (tile.at + r * tile.step), pack<T>(value), layout.streaming);
    };
    constexpr int kBatch = 2;  // vectors of the residual on their way at once: more would not fit the registers
#pragma unroll
    for (int first = 0; first < kHeldRows; first += kBatch) {
      Vector residual[kBatch] = {};
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (first + u < tile.count) residual[u] = residual_of(first + u);
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (first + u >= tile.count) continue;
        forget_unpacked(held[first + u]);
        finish(first + u, held[first + u], residual[u]);
      }
    }
    more.each([&](int r, const Vector(&data)[1]) { finish(r, data[0], residual_of(r)); });
  };
  if (args.residual != nullptr) {
    apply(std::true_type());
  } else {
    apply(std::false_type());
  }
}

template <typename T, int kThreads, bool kMore>
__global__ void __launch_bounds__(kThreads, held_blocks(kThreads, true, kMore))
    channels_backward_held(NormBackward<T> args, HeldLayout layout) {
  using A = Accumulator<T>;
  using Tile = HeldTile<T, kThreads>;
  constexpr int kVector = Tile::kVector;
  using Vector = Packed<T, kVector>;
  const ClusterSums<T, kThreads> through_cluster;
  const int channels = static_cast<int>(args.channels), pixels = static_cast<int>(args.pixels);
  const Tile tile(layout, channels, pixels);
  const T* const x = args.x + tile.sample_at;
  const T* const dy = args.dy + tile.sample_at;
  Vector held_x[kHeldRows], held_dy[kHeldRows];
#pragma unroll
  for (int r = 0; r < kHeldRows; ++r) {
    if (r >= tile.count) continue;
    held_x[r] = load_once<kVector>(x + (tile.at + r * tile.step));
    held_dy[r] = load_once<kVector>(dy + (tile.at + r * tile.step));
  }
  const T* const from[] = {x, dy};
  const std::conditional_t<kMore, MoreRows<T, kThreads, 2>, NoMoreRows> more(tile, from);
  Channel<A> channel[kVector] = {};
  if (tile.active) {
    const int64_t plane = tile.plane + tile.lane_channel;
    const int64_t affine_at = args.affine_planes == args.channels ? tile.first_channel + tile.lane_channel : plane;
    A mean[kVector], rstd[kVector], weight[kVector], bias[kVector] = {};
#pragma unroll
    for (int e = 0; e < kVector; ++e) weight[e] = A(1);
    load_row(args.mean + plane, mean);
    load_row(args.rstd + plane, rstd);
    if (args.weight != nullptr) load_row(args.weight + affine_at, weight);
    if (args.bias != nullptr) load_row(args.bias + affine_at, bias);
#pragma unroll
    for (int e = 0; e < kVector; ++e) channel[e] = {mean[e], rstd[e] * weight[e], bias[e]};
  }
  Sums<A> own[kVector] = {};
#pragma unroll
  for (int r = 0; r < kHeldRows; ++r) {
    if (r < tile.count) add_gradients(held_x[r], held_dy[r], channel, args.slope, own);
  }
  more.each_as_it_arrives([&](const Vector(&data)[2]) { add_gradients(data[0], data[1], channel, args.slope, own); });
  const A own_rstd = tile.cares ? load_one(args.rstd + tile.plane + tile.channel) : A(0);
  const ChannelTable<T, kThreads, 2> table;
  through_cluster(
      tile, layout, own, [](const Sums<A>& sums) { return sums; },
      [](int, const Sums<A>& part, const Sums<A>&) { return part; },
      [&](const Sums<A>& sums, const Sums<A>&) {
        if (tile.turn > 0) return;
        table.put(tile.channel, {sums.first * layout.share, sums.second * layout.share * own_rstd * own_rstd});
        if (tile.rank > 0) return;
        args.d_bias[tile.plane + tile.channel] = sums.first;
        args.d_weight[tile.plane + tile.channel] = sums.second * own_rstd;
      });
  A number[kVector * 2];
  table.get(tile.lane_channel, number);
  A mean_g[kVector], tilt[kVector];
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    mean_g[e] = number[2 * e];
    tilt[e] = number[2 * e + 1];
  }

  T* const dx = args.dx + tile.sample_at;
  const auto finish = [&](int r, const Vector& packed_x, const Vector& packed_dy) {
    store(dx + (tile.at + r * tile.step), backward_vector(packed_x, packed_dy, channel, args.slope, mean_g, tilt),
          layout.streaming);
  };
#pragma unroll
  for (int r = 0; r < kHeldRows; ++r) {
    if (r >= tile.count) continue;
    forget_unpacked(held_x[r]);
    forget_unpacked(held_dy[r]);
    finish(r, held_x[r], held_dy[r]);
  }
  more.each([&](int r, const Vector(&data)[2]) { finish(r, data[0], data[1]); });
}

}  // namespace jdm_fast::cuda
