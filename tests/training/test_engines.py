from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.training.engines import CompiledEngine, EagerEngine, make_engine
from jdm_fast.training.engines.graph import WARM_UP_STEPS
from jdm_fast.training.precision import FP32, Precision
from tests.training.engine_cases import (
    BETAS,
    FP16,
    LR,
    build,
    in_double,
    make_batches,
    make_fake,
    make_jwdm,
    same_state,
    steps,
)
from tests.training.tape import TapeRecorder

# ---- Choice ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [("auto", EagerEngine, "eager: on a CPU"), ("eager", EagerEngine, "eager: as asked for"),
     ("compile", CompiledEngine, "compile: as asked for")],
)  # fmt: skip
def test_the_engine_and_why(name: str, kind: type, why: str) -> None:
    engine, said = make_engine(name, make_fake(), lr=LR, betas=BETAS)
    assert type(engine) is kind and said.startswith(why)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cuda", {}, "engine: expected one of auto, eager, compile, graph, got 'cuda'"),
        ("graph", {}, "engine: graph is of CUDA GPUs; use engine=eager"),
        ("compile", {"activation_memory": "recompute"}, "activation_memory: recompute works with engine=eager"),
        ("eager", {"accumulate": 0}, "accumulate: expected an integer of at least 1, got 0"),
        ("eager", {"clip_norm": -1.0}, "clip_norm: expected a number of at least 0, got -1"),
    ],
)
def test_what_cannot_be(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_engine(name, make_fake(), lr=LR, betas=BETAS, **options)


# ---- The engines agree -----------------------------------------------------------------------------------------------


def test_compiled_networks_take_the_same_steps_and_are_compiled_once() -> None:
    """In double precision, where rounding says nothing. After the first step a compilation is an error."""
    batches = in_double(make_batches(4))
    expected = steps(build("eager", make_jwdm().double()), batches)
    compiled = build("compile", make_jwdm().double(), backend="aot_eager")
    steps(compiled, batches[:1])
    graphs = dict(torch._dynamo.utils.counters["stats"])
    compiled.load_state_dict(build("eager", make_jwdm().double()).state_dict())
    with torch.compiler.set_stance("fail_on_recompile"):
        losses = steps(compiled, batches)
    assert dict(torch._dynamo.utils.counters["stats"]) == graphs and graphs["unique_graphs"] > 0
    for got, want in zip(losses, expected, strict=True):
        assert got == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_channels_last_is_a_matter_of_memory_alone() -> None:
    """Except for the prior, whose samples fill the memory in its order, so it has no weight here."""
    batches, seen = in_double(make_batches(3)), []
    expected = steps(build("eager", make_jwdm(lambda_z=0.0).double()), batches)
    method = make_jwdm(lambda_z=0.0).double()
    method.critics["x"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    engine = EagerEngine(method, lr=LR, betas=BETAS, pool_size=3, ema_decay=0.9, seed=3, channels_last=True)
    for got, want in zip(steps(engine, batches), expected, strict=True):
        for name in want.keys() - {"critic_latent", "adversarial_latent"}:
            assert got[name] == pytest.approx(want[name], rel=1e-9), name
    weight = method.encoders["x"].down_sampling[2].weight
    for tensor in (*seen, weight, engine._generators._optimizer.state[weight]["exp_avg"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_critics_with_a_gradient_penalty_are_not_compiled() -> None:
    batches = in_double(make_batches(3))
    method = make_jwdm(divergence="wgan-gp").double()
    compiled, why = make_engine("compile", method, lr=LR, betas=BETAS, pool_size=3, seed=3, backend="aot_eager")
    assert "the generators alone are compiled" in why
    regions = {id(parameter) for region in method.regions() for parameter in region.parameters()}
    assert regions == {id(parameter) for parameter in method.generator_parameters()}
    expected = steps(build("eager", make_jwdm(divergence="wgan-gp").double()), batches)
    for got, want in zip(steps(compiled, batches), expected, strict=True):
        assert got == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_networks_are_compiled_inside_of_the_step_alone() -> None:
    method = make_fake()
    engine = build("compile", method, backend="aot_eager")
    forward = nn.Conv2d.forward
    assert all(region.forward.__func__ is forward for region in method.regions())
    engine.step(make_batches(1)[0], LR)
    assert all(region.forward.__func__ is forward for region in method.regions())


def test_a_backend_that_fails_is_told_in_words() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("no compiler found")

    torch._dynamo.reset()
    with pytest.raises(UserError, match="engine: torch.compile could not compile.*no compiler found.*engine=eager"):
        build("compile", make_fake(), backend=broken).step(make_batches(1)[0], LR)


GRAPH_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "gradient penalty, clipped": ({"divergence": "wgan-gp"}, {"clip_norm": 0.5}),
    "mmd, guarded": ({"divergence": "mmd"}, {"skip_nonfinite": True}),
    "accumulate, recompute, clipped": ({}, {"accumulate": 2, "activation_memory": "recompute", "clip_norm": 0.5}),
    "fp16, guarded": ({}, {"precision": FP16, "skip_nonfinite": True}),
}


@pytest.mark.parametrize("case", GRAPH_CASES)
def test_a_captured_step_repeats_what_the_eager_one_does(case: str) -> None:
    """Losses, weights, average, optimisers, scalers, pools and random numbers to the bit, with a learning rate, images
    and pool decisions that are new in each step, on a tape that keeps a CUDA graph's rules (tape.py)."""
    changes, options = GRAPH_CASES[case]
    batches, recorder = make_batches(WARM_UP_STEPS + 3), TapeRecorder()
    eager = build("eager", make_jwdm(**changes), **options)
    expected = steps(eager, batches)
    after = torch.get_rng_state()
    graph = build("graph", make_jwdm(**changes), recorder=recorder, **options)
    assert steps(graph, batches) == expected
    assert torch.equal(torch.get_rng_state(), after)
    assert same_state(graph, eager)
    assert recorder.captures == 1


def test_captured_losses_stay_as_they_were_when_the_next_step_comes() -> None:
    engine = build("graph", make_fake(), recorder=TapeRecorder())
    losses = [engine.step(batch, LR) for batch in make_batches(WARM_UP_STEPS + 3)]
    assert len({terms["critic_loss"].item() for terms in losses}) == len(losses)


def test_the_engine_says_which_step_captures() -> None:
    recorder = TapeRecorder()
    engine = build("graph", make_fake(), recorder=recorder)
    for left, batch in zip(range(WARM_UP_STEPS + 1, -1, -1), make_batches(WARM_UP_STEPS + 2), strict=True):
        assert engine.steps_to_capture() == left and recorder.captures == (left == 0)
        engine.step(batch, LR)
    engine.load_state_dict(engine.state_dict())
    assert engine.steps_to_capture() == WARM_UP_STEPS + 1
    assert build("eager", make_fake()).steps_to_capture() == 0


class Halves:
    """A reducer, for two processes of which the other has the gradients zero. It leaves its result elsewhere, as one
    with a flat tensor does."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def reduce(self, parameters: Any) -> None:
        self.sizes.append(len(parameters))
        for parameter in parameters:
            parameter.grad = parameter.grad / 2


def test_gradients_are_averaged_once_for_each_update_between_captured_pieces() -> None:
    batches, recorder = make_batches(WARM_UP_STEPS + 2), TapeRecorder()
    of_eager, of_graph = Halves(), Halves()
    eager = build("eager", make_jwdm(), reducer=of_eager, clip_norm=0.5, accumulate=2)
    graph = build("graph", make_jwdm(), reducer=of_graph, clip_norm=0.5, accumulate=2, recorder=recorder)
    assert steps(graph, batches) == steps(eager, batches)
    assert same_state(graph, eager)
    method = make_jwdm()
    assert of_eager.sizes == [len(method.critic_parameters()), len(method.generator_parameters())] * len(batches)
    assert of_graph.sizes == of_eager.sizes and recorder.captures == 3


def test_a_captured_step_refuses_other_shapes() -> None:
    engine = build("graph", make_fake(), recorder=TapeRecorder())
    for batch in make_batches(WARM_UP_STEPS + 1):
        engine.step(batch, LR)
    with pytest.raises(ValueError, match=r"takes x \[2, 3, 16, 16\].* got x \[1, 3, 16, 16\]"):
        engine.step(make_batches(1, count=1)[0], LR)


def test_what_cannot_be_captured_is_told_in_words() -> None:
    method = make_fake()
    generate = method.generate

    def reads(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch["x"].sum().item()
        return generate(batch)

    method.generate = reads  # type: ignore[method-assign]
    engine = build("graph", method, recorder=TapeRecorder())
    with pytest.raises(UserError, match="could not be captured.*not permitted when stream is capturing"):
        steps(engine, make_batches(WARM_UP_STEPS + 1))


@pytest.mark.parametrize(
    ("before", "after"), [("eager", "eager"), ("graph", "eager"), ("eager", "graph"), ("graph", "graph")]
)
@pytest.mark.parametrize("precision", [FP32, FP16], ids=lambda precision: precision.name)
def test_goes_on_from_a_checkpoint_of_any_engine(before: str, after: str, precision: Precision) -> None:
    def make(name: str, seed: int) -> Any:
        torch.manual_seed(seed)
        options = {"recorder": TapeRecorder()} if name == "graph" else {}
        return build(name, make_fake(seed), precision=precision, clip_norm=0.1, **options)

    batches, first = make_batches(12), make(before, 0)
    steps(first, batches[:5])
    state = torch.utils._pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, first.state_dict())
    expected = steps(first, batches[5:], seed=6)
    second = make(after, 1)
    steps(second, batches[:4], seed=9)  # captured already: loading must not leave it on old memory
    second.load_state_dict(state)
    assert steps(second, batches[5:], seed=6) == expected
    assert same_state(second, first)
