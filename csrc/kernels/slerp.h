// What slerp makes of the angle between two latents: the same arithmetic on the CPU and on the device, in double.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define JDM_HOST_DEVICE __host__ __device__
#else
#define JDM_HOST_DEVICE
#endif

namespace jdm_fast {

// Numbers of a row of weights, see interpolate_latents.h.
constexpr int kSlerpRow = 4;

// The angle w between p and q and what its gradient consists of.
struct SlerpAngle {
  bool safe;  // false: p and q are parallel, opposite, zero or not finite, and slerp is lerp
  double w, sine, cosine;
  double p2, q2, pq;  // dw/dp = p2 p + pq q, dw/dq = pq p + q2 q
};

// From |p|^2, |q|^2 and <p, q>, sums in double: of the products of float32 numbers, which double holds exactly. Then 1
// - cosine is good to about 1e-15, which leaves the sine seven digits even where it becomes unsafe.
JDM_HOST_DEVICE inline SlerpAngle slerp_angle(double pp, double qq, double pq) {
  const double p_norm = ::sqrt(pp), q_norm = ::sqrt(qq), both = p_norm * q_norm;
  SlerpAngle angle{};
  if (!(both > 0)) return angle;
  const double cosine = pq / both, sine2 = (1 - cosine) * (1 + cosine);
  if (!(sine2 > 1e-8)) return angle;
  const double sine = ::sqrt(sine2);
  return {true, ::atan2(sine, cosine), sine, cosine, cosine / (sine * pp), cosine / (sine * qq), -1 / (sine * both)};
}

// Row k of a gap's weights, 0 <= k <= n; its row n is the gradient of the angle.
template <typename A>
JDM_HOST_DEVICE inline void slerp_row(const SlerpAngle& angle, int64_t k, int64_t n, A* row) {
  if (k == n) {
    row[0] = static_cast<A>(angle.p2);
    row[1] = static_cast<A>(angle.pq);
    row[2] = static_cast<A>(angle.q2);
    row[3] = A(0);
    return;
  }
  if (!angle.safe) {  // the bits of lerp
    row[1] = static_cast<A>(k) / static_cast<A>(n);
    row[0] = A(1) - row[1];
    row[2] = row[3] = A(0);
    return;
  }
  const double r = static_cast<double>(k) / static_cast<double>(n);
  for (int side = 0; side < 2; ++side) {  // sin(s w) / sin(w) and its derivative in w
    const double s = side == 0 ? 1 - r : r, sine = ::sin(s * angle.w), cosine = ::cos(s * angle.w);
    row[side] = static_cast<A>(sine / angle.sine);
    row[2 + side] = static_cast<A>((s * cosine * angle.sine - sine * angle.cosine) / (angle.sine * angle.sine));
  }
}

}  // namespace jdm_fast
