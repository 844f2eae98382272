"""The exact versions in requirements/ are what pyproject.toml asks for, hashed, and without addresses."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]


def locked(name: str) -> list[tuple[Requirement, int]]:
    """(requirement, number of its hashes) of every entry of requirements/``name``."""
    text = re.sub(r"^#.*\n", "", (ROOT / "requirements" / name).read_text(), flags=re.M)
    entries = re.split(r"\n(?=\S)", text.strip())
    return [(Requirement(entry.split("\\")[0]), entry.count("--hash=sha256:")) for entry in entries]


def asked_for(group: str) -> list[Requirement]:
    entries = PROJECT["project"]["dependencies"] if group == "dependencies" else EXTRAS[group]
    return [Requirement(entry) for entry in entries if not entry.startswith("jdm_fast[")]


@pytest.mark.parametrize("group", ["dependencies", "export", "test", "dev"])
def test_lock_satisfies_the_project(group: str) -> None:
    versions = {
        canonicalize_name(entry.name): entry.specifier
        for entry, _ in locked("lock.txt")
        if entry.marker is None or entry.marker.evaluate()
    }
    for wanted in asked_for(group):
        exact = versions.get(canonicalize_name(wanted.name))
        assert exact is not None, f"requirements/lock.txt lacks {wanted}"
        assert wanted.specifier.contains(str(exact).removeprefix("==")), f"{wanted} but locked {exact}"


def test_lock_has_what_the_build_needs() -> None:
    names = {canonicalize_name(entry.name) for entry, _ in locked("lock.txt")}
    assert {canonicalize_name(Requirement(entry).name) for entry in PROJECT["build-system"]["requires"]} <= names


def test_compiler_wheels_fit_the_locked_pytorch() -> None:
    """torch pins cuda-toolkit, whose release names the compiler's: nvcc must be of the same CUDA."""
    toolkit = next(entry for entry, _ in locked("lock.txt") if entry.name == "cuda-toolkit")
    release = ".".join(str(toolkit.specifier).removeprefix("==").split(".")[:2])
    versions = {entry.name: str(entry.specifier).removeprefix("==") for entry, _ in locked("nvcc.txt")}
    assert {"nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl"} == set(versions)
    assert all(version.startswith(f"{release}.") for version in versions.values()), versions


@pytest.mark.parametrize("name", ["lock.txt", "nvcc.txt"])
def test_entries_are_exact_hashed_and_without_addresses(name: str) -> None:
    assert "://" not in (ROOT / "requirements" / name).read_text()
    for entry, hashes in locked(name):
        assert re.fullmatch(r"==[^*,]+", str(entry.specifier)), f"{entry} is not exact"
        assert hashes > 0, f"{entry} has no hash"


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    wanted = {entry.name for group in ("dependencies", *EXTRAS) for entry in asked_for(group)}
    wanted |= {Requirement(entry).name for entry in PROJECT["build-system"]["requires"]}
    missing = [name for name in sorted(wanted) if f"`{name}`" not in text]
    assert not missing, f"docs/dependencies.md says nothing of {missing}"


@pytest.mark.parametrize("group", ["dependencies", *EXTRAS])
def test_each_dependency_has_its_reason_in_the_docs(group: str) -> None:
    rows = re.findall(r"^\| `([\w-]+)`(?: \(`\[\w+\]`\))? \|", (ROOT / "docs/dependencies.md").read_text(), re.M)
    missing = {entry.name for entry in asked_for(group)} - set(rows)
    assert not missing, f"docs/dependencies.md has no row for {', '.join(sorted(missing))}"


def test_the_docs_list_no_dependency_that_is_none() -> None:
    rows = re.findall(r"^\| `([\w-]+)`(?: \(`\[\w+\]`\))? \|", (ROOT / "docs/dependencies.md").read_text(), re.M)
    known = {entry.name for group in ("dependencies", *EXTRAS) for entry in asked_for(group)}
    assert set(rows) <= known, f"docs/dependencies.md has rows for {', '.join(sorted(set(rows) - known))}"
