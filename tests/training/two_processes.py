"""What one of several processes does in the tests: ``python -m tests.training.two_processes CASE FOLDER``."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.training.distributed import Processes
from jdm_fast.training.rng import rng_state
from tests.training.fake_method import FakeConfig, FakeMethod

BATCH = 4
STEPS = 3
TINY = dict(width=4, blocks=1, embedding_kernel=2, critic_width=4, critic_layers=2, init="default", identity_weight=0.5)
METHODS = {
    "fake": lambda: FakeMethod(FakeConfig()),
    "jwdm": lambda: JWDM(JWDMConfig(**TINY)),
    "jwdm, wgan-gp": lambda: JWDM(JWDMConfig(**TINY, divergence="wgan-gp")),
}


def trained(name: str, processes: Processes) -> dict[str, Tensor]:
    """The weights of a method after a few steps by the protocol, in double precision: Adam's first step is the
    gradient's sign, which rounding decides where the gradient is next to nothing."""
    torch.manual_seed(processes.rank)  # initial weights are rank 0's
    method = METHODS[name]().double()
    processes.same_weights(method)
    torch.manual_seed(5)
    optimizers = [
        (torch.optim.Adam(parameters, lr=1e-2, betas=(0.5, 0.999)), parameters)
        for parameters in (list(method.critic_parameters()), list(method.generator_parameters()))
    ]
    share = processes.share(BATCH)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        whole = {key: torch.rand(BATCH, 3, 16, 24, generator=generator, dtype=torch.float64) * 2 - 1 for key in "xy"}
        batch = {key: images[processes.rank * share : (processes.rank + 1) * share] for key, images in whole.items()}
        fakes = method.generate(batch)
        detached = {key: fake.detach() for key, fake in fakes.items()}
        for k, (optimizer, parameters) in enumerate(optimizers):
            for parameter in optimizers[0][1]:
                parameter.requires_grad_(k == 0)
            (method.generator_loss(batch, fakes) if k else method.critic_loss(batch, detached))[0].backward()
            if processes.reducer is not None:
                processes.reducer.reduce(parameters)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return {**method.state_dict(), "rng": torch.get_rng_state()}


def together(processes: Processes, folder: Path) -> None:
    """Everything that processes say to each other when nothing goes wrong."""
    rank = processes.rank
    assert processes.world_size == 2 and processes.is_main == (rank == 0)
    assert processes.broadcast_object({"from": rank}) == {"from": 0}
    assert processes.gather(rank) == ([0, 1] if processes.is_main else [])
    assert [processes.agree(15 if rank == 1 and turn == 1 else 0) for turn in range(3)] == [0, 15, 0]
    assert [processes.any(rank == 1), processes.any(False)] == [True, False]
    assert torch.equal(processes.mean(torch.tensor([1.0, float(rank)])), torch.tensor([1.0, 0.5]))
    assert torch.isnan(processes.mean(torch.tensor([float("nan") if rank else 0.0]))).all()
    torch.manual_seed(rank)
    states = processes.gather(rng_state(processes.device))
    assert [state["cpu"][0].item() for state in states] == ([0, 1] if processes.is_main else [])
    processes.require_same("steps", 7)
    try:
        processes.require_same("settings", f"seed={rank}")
    except UserError as error:
        assert "rank 1 has other settings than rank 0: ...'seed=1'... and ...'seed=0'" in str(error), error
    else:
        raise AssertionError("a difference must be found on all processes")
    check_reducer(processes)
    torch.save({name: trained(name, processes) for name in METHODS}, folder / f"{rank}.pt")


def check_reducer(processes: Processes) -> None:
    """Means of gradients in the parameters' own strides; none where there was none."""
    rank = processes.rank
    last = nn.Parameter(torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last))
    parameters = [
        nn.Parameter(torch.zeros(3)),
        nn.Parameter(torch.zeros(2)),
        last,
        nn.Parameter(torch.zeros(2).double()),
    ]
    for turn in range(2):
        gradients = [
            torch.full((3,), rank + turn),
            None,
            torch.arange(24.0).view(2, 3, 2, 2) * rank,
            torch.ones(2) * rank,
        ]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.dtype)
        processes.reducer.reduce(parameters)
        assert torch.equal(parameters[0].grad, torch.full((3,), 0.5 + turn))
        assert parameters[1].grad is None
        assert torch.equal(last.grad, torch.arange(24.0).view(2, 3, 2, 2) / 2) and last.grad.stride() == last.stride()
        assert torch.equal(parameters[3].grad, torch.full((2,), 0.5).double())


def endless(processes: Processes) -> None:
    """Steps without end, in which rank 1 fails."""
    parameter = nn.Parameter(torch.zeros(1000))
    for turn in range(10_000):
        if processes.rank == 1 and turn == 3:
            match sys.argv[1]:
                case "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "raises":
                    raise UserError("picture 7 is damaged")
        parameter.grad = torch.ones(1000)
        processes.reducer.reduce([parameter])


def main() -> int:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(100, exit=True)  # where it hangs, if it should
    try:
        with Processes.start("cpu") as processes:
            if sys.argv[1] == "raises":
                together(processes, Path(sys.argv[2]))
            endless(processes)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
