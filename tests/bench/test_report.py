"""Results as a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jdm_fast.bench import read_results, select, write_results
from jdm_fast.bench.clock import Times
from jdm_fast.bench.machine import machine, revision
from jdm_fast.bench.measure import Result
from jdm_fast.errors import UserError


def results() -> list[Result]:
    cells = select(ops=["instance_norm/relu"], shapes=["1x2x3x4"], layouts=["channels_last"])
    fast, slow = Times.of((1.0, 2.0, 3.0), "graph"), Times.of((2000.0, 4000.0, 6000.0), "events")
    return [
        Result(
            cells[0],
            "cuda",
            192 * 10**9,
            4096,
            fast,
            {"jdm_fast": fast, "eager": slow},
            {"compile": "does not compile: x"},
        ),
        Result(cells[1], "cuda", 288, 8192, slow, {"eager": slow}, {"jdm_fast": "wrong: result is off"}),
    ]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, results(), {"machine": machine(), "revision": revision()})
    assert read_results(path) == results()
    content = json.loads(path.read_text())
    first, second = content["cells"]
    assert first["title"] == "instance_norm relu forward [1, 2, 3, 4] float32 channels_last"
    assert first["contenders"]["eager"]["ratio"] == 2000 and first["contenders"]["eager"]["of_copy"] == 0.0005
    assert first["contenders"]["jdm_fast"]["gigabytes_per_second"] == 96
    assert (first["copy"]["q1"], first["copy"]["median"], first["copy"]["q3"]) == (1.5, 2, 2.5)
    assert second["contenders"] == {
        "eager": second["contenders"]["eager"],
        "jdm_fast": {"problem": "wrong: result is off"},
    }
    assert second["contenders"]["eager"]["ratio"] is None
    assert content["machine"]["threads"] >= 1 and content["machine"]["extension"]["compiler"] is not None


@pytest.mark.parametrize(
    "text, message",
    [(None, "cannot be read: No such file"), ("{", "these are not results"), ('{"kind": "other"}', "not results")],
)
def test_another_file(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "file.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_results(tmp_path / "file.json")


def test_a_revision_for_files_without_a_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("jdm_fast.bench.machine._ROOT", tmp_path)
    assert revision() == "unknown"
    monkeypatch.setenv("JDM_FAST_REVISION", "abc123")
    assert revision() == "abc123"
