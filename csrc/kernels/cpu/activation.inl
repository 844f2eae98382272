// Activations on vectors, and the switch from a run-time activation to code for it. For the bodies of instance norms.

template <Activation kActivation, typename A>
JDM_INLINE Vec<A> activate(Vec<A> t, Vec<A> slope) {
  if (kActivation == Activation::kRelu) return clamp_negative(t);
  if (kActivation == Activation::kLeakyRelu) return where_positive(t, t, t * slope);
  return t;
}

// Calls `function<activation>(args...)` for a run-time activation. The file that includes this undefines it again.
#define JDM_WITH_ACTIVATION(activation, function, ...)      \
  switch (activation) {                                     \
    case Activation::kNone:                                 \
      return function<Activation::kNone>(__VA_ARGS__);      \
    case Activation::kRelu:                                 \
      return function<Activation::kRelu>(__VA_ARGS__);      \
    case Activation::kLeakyRelu:                            \
      return function<Activation::kLeakyRelu>(__VA_ARGS__); \
  }
