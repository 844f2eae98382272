"""Files out of Debian packages: found, checked, unpacked as a stream; every failure says what to do."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from jdm_fast.cli import data_fetch
from jdm_fast.data.debian import DebianPackage, fashion_mnist_files, fetch_deb
from jdm_fast.errors import UserError

ROOT = "usr/share/thing"
FILES = {"a.bin": b"aaa", "deep/b.bin": b"b" * 5000}
OTHERS = {"../doc/copyright": b"free", "a.bin.md5": b"no", "huge.bin": bytes(1000)}


def make_deb(path: Path, files: Mapping[str, bytes], compression: str = "xz", suffix: str | None = None) -> Path:
    """A .deb file with ``files`` under ``ROOT``; its control archive has an odd length, which must be padded."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{ROOT}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    suffix = suffix if suffix is not None else f".{compression}" if compression else ""
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar{suffix}": data.getvalue()}
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            file.write(f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


def package(files: Mapping[str, bytes] = FILES) -> DebianPackage:
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return DebianPackage("thing", "1:2.0-1", ROOT, digests, 1)


@pytest.fixture()
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no apt."""
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "bin").mkdir()
    return tmp_path / "cache"


def make_apt(cache: Path, script: str) -> None:
    path = cache.parent / "bin" / "apt-get"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def unpacked(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("compression", ["", "gz", "xz"])
def test_package_at_hand(cache: Path, compression: str) -> None:
    deb = make_deb(cache / "thing_1%3a2.0-1_all.deb", {**OTHERS, **FILES}, compression)
    folder = fetch_deb(package())
    assert unpacked(folder) == FILES, "the files asked for and nothing else"
    assert sorted(path.name for path in cache.iterdir()) == ["thing-1.2.0-1", deb.name], "no scratch is left"
    deb.unlink()
    assert fetch_deb(package()) == folder
    (folder / "a.bin").unlink()
    with pytest.raises(UserError, match="no apt-get"):
        fetch_deb(package())


def test_package_by_apt(cache: Path, tmp_path: Path) -> None:
    deb = make_deb(tmp_path / "made.deb", FILES)
    make_apt(cache, f'[ "$1 $3" = "download thing" ] && /bin/cp {deb} thing_1%3a2.0-1_all.deb')
    assert unpacked(fetch_deb(package())) == FILES
    assert [path.name for path in cache.iterdir()] == ["thing-1.2.0-1"], "what was downloaded is deleted"


def test_apt_that_does_not_know_the_package(cache: Path) -> None:
    make_apt(cache, 'echo "W: noise" >&2; echo "E: Unable to locate package thing" >&2; exit 100')
    message = rf"E: Unable to locate package thing\n.*apt-get update.*put a file thing_\*\.deb.*1:2\.0-1.*into {cache}"
    with pytest.raises(UserError, match=message):
        fetch_deb(package())
    assert not list(cache.iterdir())


def cut(deb: Path) -> None:
    deb.write_bytes(deb.read_bytes()[:-60])


def damage(deb: Path) -> None:
    data = bytearray(deb.read_bytes())
    data[-120:-60] = b"#" * 60
    deb.write_bytes(data)


def without_data(deb: Path) -> None:
    deb.write_bytes(deb.read_bytes()[:100])


BAD_DEBS = {
    "other bytes": (
        lambda path: make_deb(path, {**FILES, "a.bin": b"aab"}),
        r"a\.bin is not the expected file.*1:2\.0",
    ),
    "no such file": (lambda path: make_deb(path, {"a.bin": b"aaa"}), r"has no file usr/share/thing/deep/b\.bin"),
    "text": (lambda path: path.write_text("not a package at all"), "not a Debian package"),
    "empty": (lambda path: path.touch(), "not a Debian package"),
    "cut short": (lambda path: cut(make_deb(path, FILES)), "damaged or cut short"),
    "damaged": (lambda path: damage(make_deb(path, FILES)), "damaged or cut short"),
    "damaged gz": (lambda path: damage(make_deb(path, FILES, "gz")), "damaged or cut short"),
    "no data": (lambda path: without_data(make_deb(path, FILES)), "damaged or cut short: it has no data archive"),
    "lz4": (lambda path: make_deb(path, FILES, suffix=".lz4"), "compressed by lz4, expected xz"),
}


@pytest.mark.parametrize("kind", BAD_DEBS)
def test_bad_package_is_named(cache: Path, kind: str) -> None:
    make, message = BAD_DEBS[kind]
    make(cache / "thing_1_all.deb")
    with pytest.raises(UserError, match=message) as caught:
        fetch_deb(package())
    assert "thing_1_all.deb" in str(caught.value)
    assert [path.name for path in cache.iterdir()] == ["thing_1_all.deb"], "nothing unchecked is left"


def test_zstandard_needs_a_new_python(cache: Path) -> None:
    if sys.version_info >= (3, 14):
        make_deb(cache / "thing_1_all.deb", FILES, "zst")
        assert unpacked(fetch_deb(package())) == FILES
    else:
        make_deb(cache / "thing_1_all.deb", FILES, suffix=".zst")
        with pytest.raises(UserError, match=r"zstd, which Python can read from version 3\.14.*dpkg-deb -Zxz"):
            fetch_deb(package())


def test_large_package_is_read_as_a_stream(cache: Path) -> None:
    size = 64 << 20
    make_deb(cache / "thing_1_all.deb", {"huge.bin": bytes(size), **FILES}, "gz")
    tracemalloc.start()
    try:
        fetch_deb(package())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size // 4


def test_fetch_command(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"no apt-get here.*put a file dataset-fashion-mnist_\*\.deb \(31 MB"):
        data_fetch.run(["fashion-mnist"])
    with pytest.raises(SystemExit):
        data_fetch.run(["cats"])
    assert "fashion-mnist" in capsys.readouterr().err
    with pytest.raises(UserError, match="dataset-fashion-mnist"):
        fashion_mnist_files()
