"""The commands in README.md and docs/ are ones that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from jdm_fast.cli import main
from jdm_fast.cli import train as train_command
from jdm_fast.methods import METHODS
from jdm_fast.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
USES = ("train", "sample", "translate", "video", "relevance")  # the others may fetch, write or measure on their own


def commands() -> list[str]:
    """Those in code blocks, without their comments."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line for line in lines if re.match(rf"jdm-fast ({'|'.join(USES)}) ", line)]
    return found


def test_there_are_commands_of_every_use_and_method() -> None:
    starts = {tuple(command.split()[1:3]) for command in commands()}
    assert {use for use, _ in starts} == set(USES)
    assert {name for use, name in starts if use == "train"} >= set(METHODS)


@pytest.mark.parametrize("command", commands())
def test_the_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is there to read: what is understood ends with a message, and a training is not begun."""
    monkeypatch.chdir(tmp_path)
    begun = []
    monkeypatch.setattr(train_command, "train", lambda config, console: begun.append(config) or config.out)
    monkeypatch.setattr(train_command, "dry_run", lambda config, console: begun.append(config))
    arguments = [word for word in shlex.split(command, comments=True)[1:] if word != "..."]
    try:
        status = main(arguments)
    except SystemExit:
        pytest.fail(f"{command}: {capsys.readouterr().err}")
    assert (status, len(begun)) == ((0, 1) if arguments[0] == "train" else (2, 0)), capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_preset_and_option_of_a_method_is_in_the_table() -> None:
    """docs/training.md, "Methods"."""
    table = (ROOT / "docs/training.md").read_text(encoding="utf-8").split("## Methods")[1].split("\n## ")[0]
    for name in PRESETS:
        assert f"`{name}`" in table, name
    for name, spec in METHODS.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        for field in spec.config_class.__dataclass_fields__:
            assert f"`{field.replace('_', '-')}`" in row, f"{name}: {field}"
