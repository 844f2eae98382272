// Cross-entropy of a K-way patch critic, averaged within each source, with its gradient, in one reading of the logits.
//   loss_s = mean over the pixels of the samples of source s of -log softmax(logits)[s],   loss = sum_s loss_s
//   accuracy_s = share of those pixels whose largest logit is class s (ties: the lowest class wins)
//   dlogits = d loss / d logits = (softmax(logits) - onehot(s)) / (pixels * samples of source s)
// A source without samples has loss 0 and accuracy 0. A source index outside 0..S-1 makes that sample's
// dlogits NaN and the total loss NaN (the bindings refuse it on the CPU, where looking costs nothing).
#pragma once

#include "types.h"

namespace jdm_fast {

struct SoftmaxCriticLossShape {
  int64_t samples;     // M = S * N
  int64_t classes;     // K, 1..64
  int64_t pixels;      // h * w
  int64_t sources;     // S <= K
  bool channels_last;  // logits and dlogits are [M, h*w, K] if set, else [M, K, h*w]
  DType dtype;         // of logits and dlogits
};

struct SoftmaxCriticLossArgs {
  const void* logits;     // [M, K, h*w] or [M, h*w, K], dtype
  const int64_t* source;  // [M]
  void* loss;             // [1] accumulator type
  void* source_loss;      // [S] accumulator type
  void* source_accuracy;  // [S] accumulator type
  void* dlogits;          // like logits, or nullptr: not wanted
};

struct SoftmaxCriticLossBackwardArgs {
  const void* dlogits;        // as softmax_critic_loss leaves it
  const int64_t* source;      // [M]
  const void* d_loss;         // [1] accumulator type, or nullptr: 0
  const void* d_source_loss;  // [S] accumulator type, or nullptr: 0
  void* result;               // like dlogits: dlogits * (d_loss + d_source_loss[source])
};

void softmax_critic_loss_cpu(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossArgs& args, int num_threads);
// The gradient of the logits for those of loss and source_loss. An unknown source makes that of its sample NaN.
void softmax_critic_loss_backward_cpu(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossBackwardArgs& args,
                                      int num_threads);

size_t softmax_critic_loss_workspace_cuda(const SoftmaxCriticLossShape& shape, int multiprocessors);
void softmax_critic_loss_cuda(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossArgs& args, void* workspace,
                              int multiprocessors, void* stream);
void softmax_critic_loss_backward_cuda(const SoftmaxCriticLossShape& shape, const SoftmaxCriticLossBackwardArgs& args,
                                       void* stream);

}  // namespace jdm_fast
