from __future__ import annotations

import io
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from jdm_fast.data import read_image
from jdm_fast.data.layouts import two_folders
from jdm_fast.data.loader import Loader
from jdm_fast.errors import UserError
from jdm_fast.methods import METHODS
from jdm_fast.runs import RunFolder, read_checkpoint
from jdm_fast.training import DataConfig, Event, NonFiniteLoss, TrainConfig, train
from jdm_fast.training import trainer as trainer_module
from jdm_fast.training.schedule import Schedule
from tests.training.fake_method import FakeConfig, FakeMethod

Configure = Callable[..., TrainConfig[FakeConfig]]


def test_a_training_leaves_what_it_should(configure: Configure, console: Console, images: Path) -> None:
    events: list[Event] = []
    config = configure(sample_every=8, sample_count=2, data=DataConfig(root=images))
    run = train(config, console=console, callback=events.append)
    folder = RunFolder(run)
    assert run == config.out
    assert sorted(path.name for path in run.iterdir() if path.name != ".lock") == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "samples",
    ]
    assert folder.steps() == [20, 21], "two are kept, and the last step is saved"
    assert [path.name for path in sorted(folder.samples.iterdir())] == [f"step-000000{n:02}.png" for n in (8, 16, 21)]
    assert read_image(folder.sample(8)).size > 0
    expected = [("start", 0)]
    for step in range(1, 22):
        expected += [("log", step)] * (step % 4 == 0 or step == 21)
        expected += [("sample", step)] * (step % 8 == 0 or step == 21)
        expected += [("checkpoint", step)] * (step % 5 == 0 or step == 21)
    told = [(event.kind, event.step) for event in events]
    grids = [pair for pair in told if pair[0] == "sample"]  # told of once the thread has written them
    assert grids == [pair for pair in expected if pair[0] == "sample"]
    assert [pair for pair in told if pair[0] != "sample"] == [
        *(pair for pair in expected if pair[0] != "sample"), ("end", 21)
    ]  # fmt: skip
    assert all(event.total_steps == 21 for event in events)
    assert all(event.path == folder.checkpoint(event.step) for event in events if event.kind == "checkpoint")

    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert records == [event.metrics for event in events if event.kind == "log"]
    schedule = Schedule("linear", config.lr, 1, 2, steps_per_epoch=7)
    for record in records:
        assert record["lr"] == schedule.learning_rate(record["step"] - 1)
        assert record["epoch"] == (record["step"] - 1) // 7 + 1
        assert set(record) == {
            "step", "epoch", "lr", "images_per_second", "data_wait",
            "critic_loss", "generator_loss", "critic_x", "critic_y", "adversarial",
        }  # fmt: skip
        assert record["images_per_second"] > 0 and 0 <= record["data_wait"] <= 1
    printed = console.file.getvalue()
    assert "7 of x and 5 of y" in printed and "step 21/21" in printed


def test_the_optimisers_get_the_documented_rates(
    configure: Configure, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[tuple[float, ...]] = []
    step = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *arguments: object) -> object:
        rates.append((self.param_groups[0]["lr"], *self.param_groups[0]["betas"]))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    train(configure(lr=0.3, beta1=0.4, beta2=0.9), console=console)
    # 1 + 2 epochs of 7 steps, two optimisers: the full rate, then 2/3 and 1/3 of it.
    by_hand = [(0.3 * part, 0.4, 0.9) for part in (1, 2 / 3, 1 / 3) for _ in range(14)]
    assert [rate for rate, *_ in rates] == pytest.approx([rate for rate, *_ in by_hand])
    assert [betas for _, *betas in rates] == [betas for _, *betas in by_hand]


def test_each_step_gets_the_batch_of_its_number(
    configure: Configure, console: Console, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    generate = FakeMethod.generate

    def watched(self: FakeMethod, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(batch["x"])
        return generate(self, batch)

    monkeypatch.setattr(FakeMethod, "generate", watched)
    config = configure(batch_size=2, n_epochs_decay=0)
    train(config, console=console)
    groups = two_folders(images / "trainA", images / "trainB").groups("train")
    data = Loader(groups, load_size=18, crop_size=16, seed=config.seed, batch_size=2)
    assert len(seen) == data.steps_per_epoch == 4
    assert all(torch.equal(batch, data.batch(step)["x"]) for step, batch in enumerate(seen))


@pytest.mark.parametrize("save_every_steps, kept", [(5, "the checkpoint of step 5 is kept"), (0, "no checkpoint yet")])
def test_a_broken_loss_stops_and_is_named(
    configure: Configure, console: Console, save_every_steps: int, kept: str
) -> None:
    config = configure(method=FakeConfig(broken_at=7), save_every_steps=save_every_steps)
    with pytest.raises(NonFiniteLoss, match=f"step 7: the loss generator_loss became -?inf; .*{kept}"):
        train(config, console=console)
    folder = RunFolder(config.out)
    assert folder.steps() == ([5] if save_every_steps else [])
    assert all(json.loads(line)["step"] < 7 for line in folder.metrics.read_text().splitlines())


def test_broken_weights_are_not_saved(configure: Configure, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of step 10 break the weights, but its losses are finite, and a checkpoint is due right then."""
    original = FakeMethod.generator_loss

    def generator_loss(self: FakeMethod, *arguments: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict]:
        loss, terms = original(self, *arguments)
        if self.steps == 10:
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss, terms

    monkeypatch.setattr(FakeMethod, "generator_loss", generator_loss)
    config = configure(keep_last=1, log_every=100)
    with pytest.raises(NonFiniteLoss, match="step 10: the weights generators.x.weight.*step 5 is kept"):
        train(config, console=console)
    assert RunFolder(config.out).steps() == [5]


def test_other_settings_do_not_continue_a_run(configure: Configure, console: Console) -> None:
    config = configure(n_epochs_decay=0)
    train(config, console=console)
    kept = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"n_epochs_decay=1 \(0\); lr=0.5 \(0.001\); method.width=3 \(2\)\. Use those"):
        train(configure(n_epochs_decay=1, lr=0.5, method=FakeConfig(width=3)), console=console)
    assert {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()} == kept


def test_other_images_do_not_continue_a_run_but_moved_ones_do(
    configure: Configure, console: Console, images: Path, tmp_path: Path
) -> None:
    config = configure(n_epochs_decay=0)
    train(config, console=console)
    for folder in ("trainA", "trainB"):
        shutil.copytree(images / folder, tmp_path / "moved" / folder)
    moved = configure(n_epochs_decay=0, data=DataConfig(root=tmp_path / "moved"))
    train(moved, console=console)
    (tmp_path / "moved" / "trainB" / "4.png").unlink()
    with pytest.raises(UserError, match="images of y: .*'count': 4.*'count': 5"):
        train(moved, console=console)


def test_other_method(configure: Configure, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(n_epochs_decay=0)
    train(config, console=console)
    monkeypatch.setitem(METHODS, "other", METHODS.pop("fake"))
    document = json.loads((config.out / "config.json").read_text())
    with pytest.raises(UserError, match="the method 'fake' is not known here; expected one of"):
        train(config, console=console)
    (config.out / "config.json").write_text(json.dumps({**document, "method": "jwdm"}))
    with pytest.raises(UserError, match="a run of the method jwdm, not of other"):
        train(config, console=console)
    # The configuration says one method, the checkpoint in the folder another.
    (config.out / "config.json").write_text(json.dumps({**document, "method": "other"}))
    with pytest.raises(UserError, match="a checkpoint of the method 'fake' in a run of 'other'"):
        train(config, console=console)


@pytest.mark.parametrize(
    "data, message",
    [
        (DataConfig(), "data: x and y missing"),
        (DataConfig(x=Path("here")), "data: y missing"),
        (DataConfig(x=Path("here"), root=Path("there")), "either root or x and y"),
        (DataConfig(root=Path("nowhere")), "nowhere: there is no such folder"),
        (DataConfig(x=Path("nowhere"), y=Path("nowhere")), "nowhere: there is no such folder"),
    ],
    ids=str,
)
def test_missing_images(configure: Configure, console: Console, data: DataConfig, message: str) -> None:
    config = configure(data=data)
    with pytest.raises(UserError, match=message):
        train(config, console=console)
    assert not config.out.exists(), "nothing is written before the input is known to be good"


def test_half_a_test_set(configure: Configure, console: Console, images: Path) -> None:
    data = DataConfig(root=images, x_test=images / "testA")
    with pytest.raises(UserError, match="both x_test and y_test"):
        train(configure(data=data), console=console)


def test_images_too_small_for_the_networks(configure: Configure, console: Console) -> None:
    config = configure(crop_size=3)
    with pytest.raises(UserError, match="3x3 are too small for the fake method"):
        train(config, console=console)
    assert not config.out.exists()


def test_a_folder_that_cannot_be_written(configure: Configure, console: Console, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="file/run: the folder cannot be made: Not a directory"):
        train(configure(out=tmp_path / "file" / "run"), console=console)
    assert (tmp_path / "file").read_text() == "not a folder"


def test_files_of_somebody_else_are_not_touched(configure: Configure, console: Console, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("precious\n")
    with pytest.raises(UserError, match="there is metrics.jsonl but no config.json"):
        train(configure(out=run), console=console)
    assert [path.name for path in run.iterdir()] == ["metrics.jsonl"]
    assert (run / "metrics.jsonl").read_text() == "precious\n"


def test_two_processes_do_not_share_a_folder(configure: Configure, console: Console) -> None:
    config = configure(n_epochs_decay=0)
    train(config, console=console)
    with RunFolder(config.out).locked(), pytest.raises(UserError, match="another process is training"):
        train(config, console=console)


def test_a_full_disk_keeps_the_older_checkpoint(
    configure: Configure, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full(document: dict, file: object) -> None:
        save(document, file)
        if document["step"] == 10:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    config = configure()
    with pytest.raises(UserError, match="step-00000010.pt: cannot be written: No space left on device"):
        train(config, console=console)
    folder = RunFolder(config.out)
    assert folder.steps() == [5]
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000005.pt"], "no unfinished file may stay"


def test_no_gpu_is_said(configure: Configure, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device: cuda was asked for"):
        train(configure(device="cuda"), console=console)
    assert trainer_module._choose_device("auto") == torch.device("cpu")


def test_unknown_method_configuration(configure: Configure, console: Console) -> None:
    with pytest.raises(UserError, match="method: expected the configuration of a method .*JWDMConfig.*, got dict"):
        train(configure(method={"width": 3}), console=console)


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN], ids=["usual", "ignored"])
def test_a_second_signal_ends_at_once(handler: object, configure: Configure, console: Console) -> None:
    """Also in a background job, which a shell starts with SIGINT ignored."""

    def twice(event: Event) -> None:
        if event.kind == "log":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(configure(), console=console, callback=twice)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_terminal_gets_a_live_line(configure: Configure) -> None:
    terminal = Console(file=io.StringIO(), width=160, force_terminal=True)
    train(configure(n_epochs_decay=0, log_every=2), console=terminal)
    printed = terminal.file.getvalue()
    assert "7/7" in printed and "critic" in printed and "images/s" in printed


def test_grids_change_nothing_of_the_training(configure: Configure, console: Console, images: Path) -> None:
    weights = []
    for name, every in (("with", 1), ("without", 0)):
        config = configure(sample_every=every, data=DataConfig(root=images), out=configure().out.with_name(name))
        train(config, console=console)
        weights.append(read_checkpoint(RunFolder(config.out).checkpoint(21), "fake"))
    networks = [document["networks"] for document in weights]
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])
    assert torch.equal(weights[0]["rng"][0]["cpu"], weights[1]["rng"][0]["cpu"])
    assert len(list((configure().out.with_name("with") / "samples").iterdir())) == 21


def test_a_broken_loss_can_be_skipped(configure: Configure, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    original = FakeMethod.generator_loss

    def generator_loss(self: FakeMethod, *arguments: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict]:
        loss, terms = original(self, *arguments)
        return (loss * float("nan"), terms) if self.steps in (6, 7) else (loss, terms)

    monkeypatch.setattr(FakeMethod, "generator_loss", generator_loss)
    config = configure(on_nonfinite="skip")
    train(config, console=console)
    printed = console.file.getvalue()
    for step in (6, 7):
        assert f"step {step}: the loss generator_loss became nan; the update of the generators was skipped" in printed
    records = [json.loads(line) for line in RunFolder(config.out).metrics.read_text().splitlines()]
    assert {record["step"]: record["generator_skipped"] for record in records} == {
        step: 2.0 if step == 8 else 0.0 for step in (4, 8, 12, 16, 20, 21)
    }
    assert all(record["critic_skipped"] == 0 for record in records)
    networks = read_checkpoint(RunFolder(config.out).checkpoint(21), "fake")["networks"]
    assert all(torch.isfinite(tensor).all() for tensor in networks.values())


def test_skipping_every_step_stops(configure: Configure, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdm_fast.training.log.MOST_IN_A_ROW", 9)
    with pytest.raises(NonFiniteLoss, match="steps in a row had to be skipped; the last: step 1[0-9]"):
        train(configure(method=FakeConfig(broken_at=3), on_nonfinite="skip"), console=console)


def test_a_profile_is_shown_and_kept(configure: Configure, console: Console) -> None:
    run = train(configure(profile=True), console=console)
    printed = console.file.getvalue()
    assert "mean of 10 steps" in printed and "optimiser" in printed and "trace.json" in printed
    assert json.loads((run / "profile" / "trace.json").read_text())["traceEvents"]


def test_running_out_of_memory_is_advice(
    configure: Configure, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(self: FakeMethod, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"latent": torch.empty(1 << 60, dtype=torch.uint8)}

    monkeypatch.setattr(FakeMethod, "generate", generate)
    with pytest.raises(UserError, match="memory has run out .*--dry-run"):
        train(configure(batch_size=2), console=console)
