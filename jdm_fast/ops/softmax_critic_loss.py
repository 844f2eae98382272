"""Loss of a K-way softmax patch critic, with its gradient, in one reading of the logits (eq. 11 of the JointGAN paper).

``jdm_fast::softmax_critic_loss`` returns (loss, source_loss, source_accuracy, dlogits). dlogits = d loss / d logits is
computed along with the loss if ``needs_grad`` says so. It is kept for the backward pass, which only scales it
(``jdm_fast::softmax_critic_loss_backward``). It is itself a differentiable output, so that autograd finds the second
derivative through it; where one may be asked for, plain PyTorch does the scaling.

Autocast leaves it alone: logits of any floating dtype, sums and losses float32 (float64 for float64). The public
function reads float16 logits as float32, so that a loss scaler (torch.amp.GradScaler) can do its work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from jdm_fast.ops import _library, reference
from jdm_fast.ops.reference import accumulation_dtype

MAX_CLASSES = 64
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_library.define(
    "softmax_critic_loss(Tensor logits, Tensor source, int num_sources, bool needs_grad)"
    " -> (Tensor loss, Tensor source_loss, Tensor source_accuracy, Tensor dlogits)"
)
_op = torch.ops.jdm_fast.softmax_critic_loss.default
_library.define(
    "softmax_critic_loss_backward(Tensor dlogits, Tensor source, Tensor? d_loss, Tensor? d_source_loss) -> Tensor"
)
_backward_op = torch.ops.jdm_fast.softmax_critic_loss_backward.default


def softmax_critic_loss(logits: Tensor, source: Tensor, num_sources: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of each patch with its source's class, averaged within each source and summed over the sources.

    ``source_loss[s]`` is the mean of ``-log softmax(logits)[s]`` over all patches of the samples of source ``s``,
    ``source_accuracy[s]`` the share of these patches whose largest logit is class ``s`` (ties: the lowest class wins),
    and ``loss = source_loss.sum()``. A source without samples has loss 0 and accuracy 0. Logits of any size are safe.

    Differentiable to any order, the accuracy excepted. Works under ``torch.compile(fullgraph=True)``, which itself
    supports first derivatives only. Equal to :func:`jdm_fast.ops.reference.softmax_critic_loss`.

    Args:
        logits: [M, K, h, w], float32, float16, bfloat16 or float64, K from 1 to 64, h and w at least 1; M may be 0.
            Contiguous and channels_last tensors are taken as they are, others are copied first.
        source: [M] int64, the true class of each sample, 0..num_sources-1.
        num_sources: S, 1..K.

    Returns:
        loss (a scalar), source_loss [S] and source_accuracy [S], in float32 (float64 for float64 logits).

    Raises:
        ValueError: a shape, device or ``num_sources`` that does not fit; the message says what was expected and what
            came.
        TypeError: logits or source of another dtype.
        IndexError: a source index outside 0..num_sources-1, on the CPU. On CUDA, where looking would stop the device,
            it makes the loss and that sample's gradient NaN.
    """
    if logits.dtype == torch.float16:
        # dlogits, about 1 / number of patches, would be lost in float16 before the backward pass can scale it up again.
        logits = logits.float()
    needs_grad = torch.is_grad_enabled() and logits.requires_grad
    if torch.compiler.is_compiling():
        return _op(logits, source, num_sources, needs_grad)[:3]
    if needs_grad:
        return _EagerSoftmaxCriticLoss.apply(logits, source, num_sources)
    with _library.below_autograd():
        return _op(logits, source, num_sources, False)[:3]


# ---- checks shared by the fake and the reference; csrc/bindings/softmax_critic_loss.cpp makes the same ones


def _check_source(op: str, source: Tensor, like: Tensor, like_name: str) -> None:
    if source.dtype != torch.int64:
        raise TypeError(f"{op}: source must be int64, got {source.dtype}")
    if source.dim() != 1 or source.shape[0] != like.shape[0]:
        raise ValueError(f"{op}: source must be [{like.shape[0]}], one index a sample, got {list(source.shape)}")
    if source.device != like.device:
        raise ValueError(f"{op}: source must be on {like.device} like {like_name}, got {source.device}")


def _check(logits: Tensor, source: Tensor, num_sources: int) -> None:
    if logits.dtype not in DTYPES:
        raise TypeError(
            f"softmax_critic_loss: logits must be float32, float16, bfloat16 or float64, got {logits.dtype}"
        )
    if logits.dim() != 4 or logits.shape[2] < 1 or logits.shape[3] < 1:
        raise ValueError(f"softmax_critic_loss: logits must be [M, K, h, w] with h, w >= 1, got {list(logits.shape)}")
    if not 1 <= logits.shape[1] <= MAX_CLASSES:
        raise ValueError(f"softmax_critic_loss: logits must have 1 to {MAX_CLASSES} classes, got {list(logits.shape)}")
    _check_source("softmax_critic_loss", source, logits, "logits")
    if not 1 <= num_sources <= logits.shape[1]:
        raise ValueError(
            f"softmax_critic_loss: num_sources must be 1 to {logits.shape[1]}, the classes of logits, got {num_sources}"
        )


# ---- plain PyTorch implementation, used for a device that the extension has no kernel for


def _weight(source: Tensor, num_sources: int, patches: int, dtype: torch.dtype) -> Tensor:
    """d loss / d (cross-entropy of one patch) of every sample, [M, 1, 1, 1]: one over the patches of its source.

    NaN for an unknown source, which on CUDA nobody has refused.
    """
    valid, known = (source >= 0) & (source < num_sources), source.clamp(0, num_sources - 1)
    count = torch.zeros(num_sources, dtype=dtype, device=source.device).index_add(0, known, valid.to(dtype))
    return torch.where(valid, 1 / (count[known] * patches), torch.nan).view(-1, 1, 1, 1)


def _reference(
    logits: Tensor, source: Tensor, num_sources: int, needs_grad: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(logits, source, num_sources)
    if source.device.type == "cpu" and source.numel():
        lowest, highest = source.min().item(), source.max().item()
        if lowest < 0 or highest >= num_sources:
            raise IndexError(
                f"softmax_critic_loss: source must hold indices 0..{num_sources - 1}, "
                f"got {lowest if lowest < 0 else highest}"
            )
    losses = reference.softmax_critic_loss(logits, source, num_sources)
    if not needs_grad:
        return *losses, logits.new_empty(0)
    p = torch.softmax(logits.to(losses[0].dtype), dim=1)
    onehot = torch.zeros_like(p).scatter_(1, source.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:]), 1)
    dlogits = (p - onehot) * _weight(source, num_sources, logits.shape[2] * logits.shape[3], p.dtype)
    return *losses, dlogits.to(logits.dtype, memory_format=suggest_memory_format(logits))


def _check_backward(dlogits: Tensor, source: Tensor, d_loss: Tensor | None, d_source_loss: Tensor | None) -> None:
    op = "softmax_critic_loss_backward"
    if dlogits.dtype not in DTYPES:
        raise TypeError(f"{op}: dlogits must be float32, float16, bfloat16 or float64, got {dlogits.dtype}")
    if dlogits.dim() != 4:
        raise ValueError(f"{op}: dlogits must be [M, K, h, w], got {list(dlogits.shape)}")
    _check_source(op, source, dlogits, "dlogits")
    if d_loss is None and d_source_loss is None:
        raise ValueError(f"{op}: d_loss or d_source_loss must be given, got neither")
    for name, factor, dim in (("d_loss", d_loss, 0), ("d_source_loss", d_source_loss, 1)):
        if factor is None:
            continue
        if factor.dim() != dim:
            raise ValueError(f"{op}: {name} must have {dim} dimensions, got {list(factor.shape)}")
        if factor.dtype != accumulation_dtype(dlogits.dtype):
            raise TypeError(f"{op}: {name} must be {accumulation_dtype(dlogits.dtype)}, got {factor.dtype}")
        if factor.device != dlogits.device:
            raise ValueError(f"{op}: {name} must be on {dlogits.device} like dlogits, got {factor.device}")


def _backward_reference(dlogits: Tensor, source: Tensor, d_loss: Tensor | None, d_source_loss: Tensor | None) -> Tensor:
    _check_backward(dlogits, source, d_loss, d_source_loss)
    return _scaled(dlogits, source, d_loss, d_source_loss)


def _scaled(dlogits: Tensor, source: Tensor, d_loss: Tensor | None, d_source_loss: Tensor | None) -> Tensor:
    """``dlogits * (d_loss + d_source_loss[source])``, at least one of which is given, in the dtype of dlogits."""
    # With four dimensions, so that the product has the factors' precision: a number would be rounded to dlogits' first.
    factors = [d_loss] if d_loss is not None else []
    if d_source_loss is not None:
        known = source.clamp(0, len(d_source_loss) - 1)  # an index outside would stop a CUDA device
        factors.append(torch.where(known == source, d_source_loss[known], torch.nan))
    scale = sum(factors[1:], factors[0]).view(-1, 1, 1, 1)
    return (dlogits * scale).to(dlogits.dtype)


_library.register_reference("softmax_critic_loss", _reference)
_library.register_reference("softmax_critic_loss_backward", _backward_reference)


# ---- fakes


@torch.library.register_fake("jdm_fast::softmax_critic_loss")
def _fake(logits: Tensor, source: Tensor, num_sources: int, needs_grad: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(logits, source, num_sources)
    loss = logits.new_empty((), dtype=accumulation_dtype(logits.dtype))
    source_loss = loss.new_empty(num_sources)
    dlogits = (
        torch.empty_like(logits, memory_format=suggest_memory_format(logits)) if needs_grad else logits.new_empty(0)
    )
    return loss, source_loss, torch.empty_like(source_loss), dlogits


@torch.library.register_fake("jdm_fast::softmax_critic_loss_backward")
def _backward_fake(dlogits: Tensor, source: Tensor, d_loss: Tensor | None, d_source_loss: Tensor | None) -> Tensor:
    _check_backward(dlogits, source, d_loss, d_source_loss)
    return torch.empty_like(dlogits, memory_format=suggest_memory_format(dlogits))


# ---- derivatives


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, source, num_sources, needs_grad = inputs
    _, _, accuracy, dlogits = output
    ctx.save_for_backward(logits, source, dlogits)
    ctx.num_sources, ctx.needs_grad = num_sources, needs_grad
    ctx.mark_non_differentiable(accuracy)
    ctx.set_materialize_grads(False)


def _derivative(
    ctx: Any, d_loss: Tensor | None, d_source_loss: Tensor | None, _: None, u: Tensor | None
) -> tuple[Tensor | None, None, None, None]:
    """``dlogits * (d_loss + d_source_loss[source])``, and the Hessian of the loss times ``u``, the gradient of dlogits.

    dlogits comes from the forward op as a differentiable output. A second derivative goes through this product into
    both of its factors and comes back here as ``u``.
    """
    logits, source, dlogits = ctx.saved_tensors
    terms = []
    if d_loss is not None or d_source_loss is not None:
        if not ctx.needs_grad:
            raise RuntimeError("softmax_critic_loss: the gradient was not computed; pass needs_grad=True to the op")
        terms.append(_scaled(dlogits, source, d_loss, d_source_loss))
    if u is not None and ctx.needs_grad:
        terms.append(_hessian_product(logits, source, ctx.num_sources, u))
    return sum(terms[1:], terms[0]) if terms else None, None, None, None


class _EagerSoftmaxCriticLoss(torch.autograd.Function):
    """The op with its derivative, called without the dispatcher's detour through torch.library's Python autograd.

    Here dlogits is no output. Where a second derivative is asked for, the registered op gives it once more, as one.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, source: Tensor, num_sources: int) -> tuple[Tensor, Tensor, Tensor]:
        with _library.below_autograd():
            loss, source_loss, accuracy, dlogits = _op(logits, source, num_sources, True)
        ctx.num_sources = num_sources
        ctx.save_for_backward(logits, source, dlogits)
        ctx.mark_non_differentiable(accuracy)
        ctx.set_materialize_grads(False)
        return loss, source_loss, accuracy

    @staticmethod
    def backward(
        ctx: Any, d_loss: Tensor | None, d_source_loss: Tensor | None, _: None
    ) -> tuple[Tensor | None, None, None]:
        if d_loss is None and d_source_loss is None:
            return None, None, None
        logits, source, dlogits = ctx.saved_tensors
        if torch.is_grad_enabled():
            dlogits = _op(logits, source, ctx.num_sources, True)[3]
            return _scaled(dlogits, source, d_loss, d_source_loss), None, None
        with _library.below_autograd():
            return _backward_op(dlogits, source, d_loss, d_source_loss), None, None


def _hessian_product(logits: Tensor, source: Tensor, num_sources: int, u: Tensor) -> Tensor:
    """``weight * (p u - p <p, u>)``, p = softmax(logits). Plain PyTorch, so higher orders follow by autograd."""
    dtype = accumulation_dtype(logits.dtype)
    p = torch.softmax(logits.to(dtype), dim=1)
    pu = p * u.to(dtype)
    weight = _weight(source, num_sources, logits.shape[2] * logits.shape[3], dtype)
    return (weight * (pu - p * pu.sum(1, keepdim=True))).to(logits.dtype)


torch.library.register_autograd("jdm_fast::softmax_critic_loss", _derivative, setup_context=_setup)
