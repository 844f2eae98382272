// Instance norm on rows of C channels (channels_last); included by instance_norm.inl.

//------------------------------------------------------------------------ the order of the sums

// Rows are summed a tile of some rows after the other, in a tile a block of neighbouring channels after the other, with
// the sums so far in memory (the first cache) between tiles. So the tensor is read about in the order of its addresses,
// which is what the processor loads ahead along: a block of channels down a whole piece of rows, with the sums in
// registers, took up to three times as long. In a tile of rows longer than a block the processor meets several streams
// that end soon, hence the prefetches; along one stream (a plane, or rows of one block) they only cost time.
constexpr int kBlockVectors = JDM_CPU_LEVEL == 2 ? 4 : 2;  // of channels: as many as the registers hold
constexpr int64_t kTileRows = 4;                           // 8: 4 to 24 % slower at 256 channels
constexpr int64_t kPrefetchBytes = 8192;                   // how far ahead; half or twice that: no better in sum

// Neighbouring channels: kCount vectors, or (0) fewer than a vector has.
template <int kCount>
struct Block {
  static constexpr bool kPartial = kCount == 0;
  static constexpr int kVectors = kCount == 0 ? 1 : kCount;
  int64_t lanes;  // channels in each vector

  template <typename T>
  JDM_INLINE Vec<Accumulator<T>> get(const T* at, int vector = 0) const {
    return kPartial ? load_partial(at, lanes) : load(at + vector * Vec<Accumulator<T>>::kSize);
  }
  template <typename A>
  JDM_INLINE void put(A* at, int vector, Vec<A> value) const {
    if (kPartial) {
      store_partial(at, value, lanes);
    } else {
      store(at + vector * Vec<A>::kSize, value);
    }
  }
};

// Calls body(block, first channel) for blocks that make up a row: one block if it fits, else blocks of a vector.
template <typename A, typename Body>
JDM_INLINE void for_each_block(int64_t channels, const Body& body) {
  constexpr int64_t kSize = Vec<A>::kSize;
  if (channels == kBlockVectors * kSize) return body(Block<kBlockVectors>{kSize}, 0);
  int64_t c = 0;
  for (; c + kSize <= channels; c += kSize) body(Block<1>{kSize}, c);
  if (c < channels) body(Block<0>{channels - c}, c);
}

// Calls body(row) for 0..rows-1; the rows of a whole tile are unrolled, so that each of their loads steps by a vector
// from block to block.
template <typename Body>
JDM_INLINE void for_each_row(int64_t rows, const Body& body) {
  if (rows == kTileRows) {
#pragma GCC unroll 4
    for (int64_t row = 0; row < kTileRows; ++row) body(row);
  } else {
    for (int64_t row = 0; row < rows; ++row) body(row);
  }
}

struct Tile {
  int64_t rows;
  int64_t ahead;  // elements from a tile to the one whose loading it starts, or 0
};

template <typename T>
JDM_INLINE Tile tile_of(int64_t channels, int64_t rows) {
  constexpr int64_t kSize = Vec<Accumulator<T>>::kSize;
  if (channels <= kSize || channels == kBlockVectors * kSize) return {rows, 0};  // a row is a block: sums in registers
  const int64_t elements = kTileRows * channels, wanted = kPrefetchBytes / static_cast<int64_t>(sizeof(T));
  return {kTileRows, (wanted + elements - 1) / elements * elements};
}

// Starts loading as many bytes as a block has in a row: in the order of addresses, not of the tile's rows.
template <typename T, int kCount>
JDM_INLINE void prefetch(Block<kCount>, const T* tile, int64_t offset) {
  constexpr int kBytes = kCount * Vec<Accumulator<T>>::kSize * static_cast<int>(sizeof(T));
  const uintptr_t from = reinterpret_cast<uintptr_t>(tile) + static_cast<uintptr_t>(offset) * sizeof(T);
#pragma GCC unroll 4
  for (int byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(reinterpret_cast<const char*>(from) + byte);
}

//------------------------------------------------------------------------ forward

// Adds `rows` rows of one block, from channel c on, to its sums.
template <int kCount, typename T, typename A>
JDM_INLINE void add_moments(Block<kCount> block, const T* x, int64_t rows, int64_t channels, int64_t c, int64_t ahead,
                            const A* pivot, A* sum, A* squares) {
  constexpr int kVectors = Block<kCount>::kVectors;
  Vec<A> pivots[kVectors], sums[kVectors], products[kVectors];
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    pivots[j] = block.get(pivot + c, j);
    sums[j] = block.get(sum + c, j);
    products[j] = block.get(squares + c, j);
  }
  for_each_row(rows, [&](int64_t row) __attribute__((always_inline)) {
    if (ahead > 0) prefetch(block, x, ahead + c * rows + row * kCount * Vec<A>::kSize);
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const Vec<A> d = block.get(x + row * channels + c, j) - pivots[j];
      sums[j] = sums[j] + d;
      products[j] = multiply_add(d, d, products[j]);
    }
  });
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    block.put(sum + c, j, sums[j]);
    block.put(squares + c, j, products[j]);
  }
}

// For every channel a pivot, the mean of the first sixteenth of the rows, and the sums over the rows of x - pivot and
// of its square, as in span_moments, so for at most 16 times as many rows as the pivot has: partial is [3, channels].
template <typename T>
void row_moments(const T* x, int64_t rows, int64_t channels, Accumulator<T>* partial) {
  using A = Accumulator<T>;
  A *pivot = partial, *sum = partial + channels, *squares = partial + 2 * channels;
  const int64_t pivot_rows = (rows + 15) / 16;
  const Vec<A> share(A(1) / static_cast<A>(pivot_rows));
  for_each_block<A>(channels, [&](auto block, int64_t c) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int j = 0; j < block.kVectors; ++j) {
      Vec<A> head;
      for (int64_t row = 0; row < pivot_rows; ++row) head = head + block.get(x + row * channels + c, j);
      block.put(pivot + c, j, head * share);
      block.put(sum + c, j, Vec<A>());
      block.put(squares + c, j, Vec<A>());
    }
  });
  const Tile tile = tile_of<T>(channels, rows);
  for (int64_t row = 0; row < rows; row += tile.rows) {
    const int64_t here = rows - row < tile.rows ? rows - row : tile.rows;
    for_each_block<A>(channels, [&](auto block, int64_t c) __attribute__((always_inline)) {
      add_moments(block, x + row * channels, here, channels, c, tile.ahead, pivot, sum, squares);
    });
  }
}

// As many elements as a vector of doubles has.
JDM_INLINE Vec<double> load_as_double(const double* p) { return load(p); }
JDM_INLINE Vec<double> load_as_double(const float* p) {
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  Half half;
  __builtin_memcpy(&half, p, sizeof(half));
  return __builtin_convertvector(half, Doubles);
}

// Merges what row_moments found in the pieces of a sample, in their order (Chan, Golub and LeVeque): partial is
// [pieces, 3, channels], every piece has `rows` rows but the last, which has what remains of `pixels`. Writes mean and
// sum of squared deviations of `count` channels.
template <typename A>
void merge_row_moments(const A* partial, int64_t rows, int64_t pixels, int64_t channels, int64_t count, double* mean,
                       double* m2) {
  constexpr int kSize = Vec<double>::kSize;
  for (int64_t c = 0; c < count; c += kSize) {
    const int64_t lanes = count - c < kSize ? count - c : kSize;
    Vec<double> total_mean, total_m2;
    for (int64_t done = 0; done < pixels; done += rows) {
      const A* piece = partial + done / rows * 3 * channels + c;
      A copy[3][kSize] = {};
      int64_t stride = channels;
      if (lanes < kSize) {
        for (int i = 0; i < 3; ++i) {
          __builtin_memcpy(copy[i], piece + i * channels, static_cast<size_t>(lanes) * sizeof(A));
        }
        piece = copy[0];
        stride = kSize;
      }
      const double here = static_cast<double>(pixels - done < rows ? pixels - done : rows);
      const double share = here / (static_cast<double>(done) + here);
      const Vec<double> sum = load_as_double(piece + stride), shift = sum * Vec<double>(1.0 / here);
      const Vec<double> delta = load_as_double(piece) + shift - total_mean;
      total_mean = multiply_add(delta, Vec<double>(share), total_mean);
      total_m2 = total_m2 + (load_as_double(piece + 2 * stride) - sum * shift) +
                 delta * delta * Vec<double>(share * static_cast<double>(done));
    }
    store_partial(mean + c, total_mean, lanes);
    store_partial(m2 + c, total_m2, lanes);
  }
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void apply_rows_as(const T* x, const T* residual, T* y, int64_t rows, int64_t channels, const A* mean,
                              const A* scale, const A* shift, A slope) {
  constexpr int kSize = Vec<A>::kSize;
  const Vec<A> vslope(slope);
  const int64_t whole = channels - channels % kSize, rest = channels - whole;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * channels;
    if (residual == nullptr) {
      for (int64_t c = 0; c < whole; c += kSize) {
        const Vec<A> t = multiply_add(load(x + at + c) - load(mean + c), load(scale + c), load(shift + c));
        store(y + at + c, activate<kActivation>(t, vslope));
      }
    } else {
      for (int64_t c = 0; c < whole; c += kSize) {
        const Vec<A> t = multiply_add(load(x + at + c) - load(mean + c), load(scale + c), load(shift + c));
        store(y + at + c, activate<kActivation>(t, vslope) + load(residual + at + c));
      }
    }
    if (rest > 0) {
      Vec<A> t = load_partial(x + at + whole, rest) - load_partial(mean + whole, rest);
      t = multiply_add(t, load_partial(scale + whole, rest), load_partial(shift + whole, rest));
      t = activate<kActivation>(t, vslope);
      if (residual != nullptr) t = t + load_partial(residual + at + whole, rest);
      store_partial(y + at + whole, t, rest);
    }
  }
}

// apply_span with the constants of every channel.
template <typename T>
void apply_rows(const T* x, const T* residual, T* y, int64_t rows, int64_t channels, const Accumulator<T>* mean,
                const Accumulator<T>* scale, const Accumulator<T>* shift, Activation activation, Accumulator<T> slope) {
  JDM_WITH_ACTIVATION(activation, apply_rows_as, x, residual, y, rows, channels, mean, scale, shift, slope)
}

//------------------------------------------------------------------------ backward

// Adds `rows` rows of one block, from channel c on, to its sums.
template <Activation kActivation, int kCount, typename T, typename A>
JDM_INLINE void add_gradient_sums(Block<kCount> block, const T* dy, const T* x, int64_t rows, int64_t channels,
                                  int64_t c, int64_t ahead, const A* mean, const A* scale, const A* shift,
                                  Vec<A> vslope, A* sum_g, A* sum_gd) {
  constexpr int kVectors = Block<kCount>::kVectors;
  Vec<A> vmean[kVectors], vscale[kVectors], vshift[kVectors], sums[kVectors], products[kVectors];
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    vmean[j] = block.get(mean + c, j);
    vscale[j] = block.get(scale + c, j);
    vshift[j] = block.get(shift + c, j);
    sums[j] = block.get(sum_g + c, j);
    products[j] = block.get(sum_gd + c, j);
  }
  for_each_row(rows, [&](int64_t row) __attribute__((always_inline)) {
    if (ahead > 0) {
      prefetch(block, x, ahead + c * rows + row * kCount * Vec<A>::kSize);
      prefetch(block, dy, ahead + c * rows + row * kCount * Vec<A>::kSize);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const Vec<A> d = block.get(x + row * channels + c, j) - vmean[j], t = multiply_add(d, vscale[j], vshift[j]);
      const Vec<A> g = masked_gradient<kActivation>(block.get(dy + row * channels + c, j), t, vslope);
      sums[j] = sums[j] + g;
      products[j] = multiply_add(g, d, products[j]);
    }
  });
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    block.put(sum_g + c, j, sums[j]);
    block.put(sum_gd + c, j, products[j]);
  }
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void row_gradient_sums_as(const T* dy, const T* x, int64_t rows, int64_t channels, const A* mean,
                                     const A* scale, const A* shift, A slope, A* sum_g, A* sum_gd) {
  const Tile tile = tile_of<T>(channels, rows);
  const Vec<A> vslope(slope);
  for (int64_t c = 0; c < channels; ++c) sum_g[c] = sum_gd[c] = A(0);
  for (int64_t row = 0; row < rows; row += tile.rows) {
    const int64_t here = rows - row < tile.rows ? rows - row : tile.rows, at = row * channels;
    for_each_block<A>(channels, [&](auto block, int64_t c) __attribute__((always_inline)) {
      add_gradient_sums<kActivation>(block, dy + at, x + at, here, channels, c, tile.ahead, mean, scale, shift, vslope,
                                     sum_g, sum_gd);
    });
  }
}

// span_gradient_sums for every channel.
template <typename T>
void row_gradient_sums(const T* dy, const T* x, int64_t rows, int64_t channels, const Accumulator<T>* mean,
                       const Accumulator<T>* scale, const Accumulator<T>* shift, Activation activation,
                       Accumulator<T> slope, Accumulator<T>* sum_g, Accumulator<T>* sum_gd) {
  JDM_WITH_ACTIVATION(activation, row_gradient_sums_as, dy, x, rows, channels, mean, scale, shift, slope, sum_g, sum_gd)
}

template <Activation kActivation, typename T, typename A>
JDM_INLINE void apply_rows_gradient_as(const T* dy, const T* x, T* dx, int64_t rows, int64_t channels, const A* mean,
                                       const A* scale, const A* shift, A slope, const A* offset, const A* tilt) {
  constexpr int kSize = Vec<A>::kSize;
  const Vec<A> vslope(slope);
  const int64_t whole = channels - channels % kSize, rest = channels - whole;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * channels;
    for (int64_t c = 0; c < whole; c += kSize) {
      const Vec<A> d = load(x + at + c) - load(mean + c), vscale = load(scale + c);
      const Vec<A> g =
          masked_gradient<kActivation>(load(dy + at + c), multiply_add(d, vscale, load(shift + c)), vslope);
      store(dx + at + c, (g + multiply_add(d, load(tilt + c), load(offset + c))) * vscale);
    }
    if (rest > 0) {
      const Vec<A> d = load_partial(x + at + whole, rest) - load_partial(mean + whole, rest);
      const Vec<A> vscale = load_partial(scale + whole, rest);
      const Vec<A> t = multiply_add(d, vscale, load_partial(shift + whole, rest));
      const Vec<A> g = masked_gradient<kActivation>(load_partial(dy + at + whole, rest), t, vslope);
      const Vec<A> h = multiply_add(d, load_partial(tilt + whole, rest), load_partial(offset + whole, rest));
      store_partial(dx + at + whole, (g + h) * vscale, rest);
    }
  }
}

// apply_span_gradient with the constants of every channel.
template <typename T>
void apply_rows_gradient(const T* dy, const T* x, T* dx, int64_t rows, int64_t channels, const Accumulator<T>* mean,
                         const Accumulator<T>* scale, const Accumulator<T>* shift, Activation activation,
                         Accumulator<T> slope, const Accumulator<T>* offset, const Accumulator<T>* tilt) {
  JDM_WITH_ACTIVATION(activation, apply_rows_gradient_as, dy, x, dx, rows, channels, mean, scale, shift, slope, offset,
                      tilt)
}
