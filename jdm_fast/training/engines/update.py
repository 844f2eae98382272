"""One of the two updates of a step: an optimiser and all that happens between a backward pass and its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jdm_fast.training.nonfinite import hold_back_unless_finite


class Update:
    """Fused Adam over all parameters of one side, with its loss scaler, clipping and its own count of updates left out.

    Nothing here waits for the device, except :meth:`counters` and the state dict.

    Args:
        parameters: of the side.
        lr, betas: of Adam.
        lr_on_device: keep the learning rate in a tensor, which a captured step reads anew in each repetition.
        scaled: scale losses, for fp16; an update whose gradients overflow is left out and halves the scale.
        clip_norm: scale gradients down so that their norm over all parameters is no larger; 0 is off.
        skip_nonfinite: leave out an update whose gradients are not finite (which ``scaled`` does in any case).
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        lr_on_device: bool = False,
        scaled: bool = False,
        clip_norm: float = 0.0,
        skip_nonfinite: bool = False,
    ) -> None:
        self.parameters = parameters
        self._clip_norm = clip_norm
        self._guarded = skip_nonfinite and not scaled
        device = parameters[0].device
        self._lr = torch.full((), lr, dtype=torch.float32, device=device) if lr_on_device else None
        self._optimizer = torch.optim.Adam(
            parameters,
            lr=lr if self._lr is None else self._lr,
            betas=betas,
            fused=True,
            capturable=lr_on_device and device.type == "cuda",
        )
        self._optimizer.register_step_pre_hook(self._note_skip)
        self._scaler = torch.amp.GradScaler(device.type) if scaled else None
        self._skips = torch.zeros((), dtype=torch.float32, device=device)
        self._norm = torch.zeros((), dtype=torch.float32, device=device)
        self.skipped = torch.zeros((), dtype=torch.float32, device=device)
        """1 if the last update was left out, on the device."""

    def set_lr(self, lr: float) -> None:
        """Use this learning rate from now on."""
        if self._lr is not None:
            self._lr.fill_(lr)
            return
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def apply(self) -> None:
        """Change the parameters by their gradients, which are dropped at once, so that their memory is free for the
        next pass."""
        if self._guarded:
            hold_back_unless_finite(self._optimizer)
        if self._clip_norm > 0:
            if self._scaler is not None:
                self._scaler.unscale_(self._optimizer)
            self._norm.copy_(nn.utils.clip_grad_norm_(self.parameters, self._clip_norm, foreach=True))
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self.clear_gradients()
        if self._guarded:
            del self._optimizer.found_inf

    def clear_gradients(self) -> None:
        """Drop the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def _note_skip(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Before each step of the optimiser: the flag that tells a fused Adam to leave it out, from the scaler or from
        ``hold_back_unless_finite``."""
        flag = getattr(optimizer, "found_inf", None)
        if flag is not None:
            self.skipped.copy_(flag)
            self._skips.add_(flag)

    def counters(self) -> dict[str, float]:
        """Numbers for the log; waits for the device. ``overflows`` and ``loss_scale`` with scaling, ``gradient_norm``
        (of the last update, before clipping) with clipping."""
        numbers = {}
        if self._scaler is not None:
            numbers |= {"overflows": self._skips.item(), "loss_scale": self._scaler.get_scale()}
        if self._clip_norm > 0:
            numbers["gradient_norm"] = self._norm.item()
        return numbers

    def state_dict(self) -> dict[str, Any]:
        """Adam's state, as the optimiser gives it but with the learning rate as a number."""
        state = self._optimizer.state_dict()
        groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    def scaler_state_dict(self) -> dict[str, Any] | None:
        """The loss scale, its age, and the count of overflows; None without scaling."""
        return None if self._scaler is None else {**self._scaler.state_dict(), "overflows": self._skips.item()}

    def load_state_dict(self, state: dict[str, Any], scaler: dict[str, Any] | None) -> None:
        """Take over the states; how the optimiser is run (learning rate, fused, captured) stays as it is here. A state
        saved without scaling leaves the scale at its start."""
        own = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state["state"], "param_groups": own})
        for group in self._optimizer.param_groups:
            if self._lr is not None:
                group["lr"] = self._lr  # the tensor itself: a loaded group has a copy
        for parameter, values in self._optimizer.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:  # moments in the parameter's memory format, as a fused Adam needs
                    values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if self._scaler is not None and scaler is not None:
            self._scaler.load_state_dict({name: value for name, value in scaler.items() if name != "overflows"})
            self._skips.fill_(scaler["overflows"])
        self.clear_gradients()
