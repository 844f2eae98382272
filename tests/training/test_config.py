from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from jdm_fast._plain import from_plain, to_plain
from jdm_fast.errors import UserError
from jdm_fast.methods import JWDMConfig
from jdm_fast.training import DataConfig, TrainConfig
from jdm_fast.training.config import differing_fields


def test_defaults_are_the_papers() -> None:
    config = TrainConfig(method=JWDMConfig())
    assert (config.load_size, config.crop_size, config.flip, config.batch_size) == (286, 256, True, 1)
    assert (config.lr, config.beta1, config.beta2, config.lr_policy) == (2e-4, 0.5, 0.999, "linear")
    assert (config.n_epochs, config.n_epochs_decay, config.pool_size, config.ema_decay) == (100, 100, 50, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"load_size": 100, "crop_size": 101},
        {"load_size": (300, 200), "crop_size": 256},
        {"crop_size": 0},
        {"batch_size": 0},
        {"n_epochs": 0, "n_epochs_decay": 0},
        {"n_epochs": -1},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"beta1": 1.0},
        {"ema_decay": 1.0},
        {"pool_size": -1},
        {"keep_last": 0},
        {"log_every": 0},
        {"preprocess": "scale_width"},
        {"lr_policy": "plateau"},
        {"device": "tpu"},
        {"engine": "turbo"},
        {"precision": "fp8"},
        {"activation_memory": "none"},
        {"on_nonfinite": "hope"},
        {"accumulate": 0},
        {"clip_norm": -1.0},
        {"lr_decay_iters": 0},
    ],
    ids=str,
)
def test_impossible_values_are_refused_by_name(changes: dict[str, Any]) -> None:
    name = next(iter(changes))
    with pytest.raises(UserError, match=f"^{name}: expected .*, got "):
        TrainConfig(method=JWDMConfig(), **changes)


@pytest.mark.parametrize(
    "changes", [{"max_dataset_size": 0}, {"cache_mb": -1}, {"threads": 0}, {"pairing": "both"}], ids=str
)
def test_impossible_data_settings(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^data.{next(iter(changes))}: expected"):
        DataConfig(**changes)


def test_a_configuration_survives_json() -> None:
    config = TrainConfig(
        method=JWDMConfig(width=8, latent_channels=5),
        data=DataConfig(x=Path("a"), y=Path("b")),
        load_size=(40, 50),
        crop_size=32,
    )
    values = json.loads(json.dumps(to_plain(config)))
    method = from_plain(JWDMConfig, values["method"], "config.json")
    assert from_plain(TrainConfig, values, "config.json", method=method) == config


@dataclasses.dataclass
class Small:
    number: float
    count: int = 0
    name: Literal["a", "b"] = "a"
    sides: int | tuple[int, int] | None = None


@pytest.mark.parametrize(
    "values, message",
    [
        ({"number": 1, "colour": 2}, "f.json: Small has no field colour.*another version"),
        ({}, "f.json: the field number of Small is missing"),
        ({"number": "1"}, "f.json: number: expected float, got '1'"),
        ({"number": True}, "f.json: number: expected float, got True"),
        ({"number": 1.0, "count": 1.5}, "f.json: count: expected int, got 1.5"),
        ({"number": 1.0, "name": "c"}, "f.json: name: expected .*, got 'c'"),
        ({"number": 1.0, "sides": [1]}, "f.json: sides: expected .*, got .1."),
        ([1], "f.json: expected the fields of Small, got"),
    ],
    ids=str,
)
def test_bad_plain_values_are_refused_by_name(values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_plain(Small, values, "f.json")


def test_plain_values_become_what_the_fields_say() -> None:
    assert from_plain(Small, {"number": 1, "sides": [3, 4]}, "") == Small(1.0, sides=(3, 4))
    assert from_plain(Small, {"number": 1, "sides": None}, "") == Small(1.0)
    with pytest.raises(TypeError, match="cannot hold a set"):
        to_plain({1})


def test_what_may_change_when_a_run_is_continued(configure: Callable[..., Any]) -> None:
    config = configure()
    free = configure(
        out=Path("elsewhere"), device="auto", save_every_steps=1, keep_last=9, log_every=9, sample_every=9,
        sample_count=9, eval_every=9, eval_count=9, tensorboard=True, wandb="p", profile=True, engine="eager",
        activation_memory="recompute", deterministic=True, on_nonfinite="skip",
        data=DataConfig(root=Path("moved"), recursive=True, cache_mb=1, layout="cyclegan", skip_bad=True, threads=3),
    )  # fmt: skip
    assert differing_fields(free, config) == []
    changed = configure(
        lr=0.5,
        n_epochs=9,
        method=dataclasses.replace(config.method, width=3),
        data=DataConfig(max_dataset_size=2, pairing="disjoint"),
    )
    assert differing_fields(changed, config) == [
        "n_epochs=9 (1)",
        "lr=0.5 (0.001)",
        "data.pairing=disjoint (auto)",
        "data.max_dataset_size=2 (None)",
        "method.width=3 (2)",
    ]
    assert differing_fields(configure(method=JWDMConfig()), config) == ["method: JWDMConfig (FakeConfig)"]
    # Whatever a new field means, somebody must have decided on which side it is.
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    assert len(known) == 37, "a field was added: if it does not change the result, list it as free, and count it here"
