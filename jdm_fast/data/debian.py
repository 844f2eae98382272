"""Real data that come inside Debian packages: fetched once by apt, checked, unpacked, never installed.

No root rights are needed. A package is read as a stream, so that of a large one only the files that are used ever reach
the disk, and little of it the memory; they stay in the cache folder, and later starts touch no network.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jdm_fast.data.real_files import cache_folder
from jdm_fast.errors import UserError

_CHUNK = 1 << 20
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60  # bytes: name 16, time 12, user 6, group 6, mode 8, size 10, end mark 2


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package and the files of it that are used.

    Attributes:
        name, version: of the package. Another version does as well, as long as the files are the same.
        root: the folder in the package that ``files`` are relative to, such as ``usr/share/datasets/thing``.
        files: sha256 by name.
        megabytes: of the download, for messages.
    """

    name: str
    version: str
    root: str
    files: dict[str, str]
    megabytes: int

    @property
    def folder(self) -> Path:
        """Where the files lie in the cache."""
        return cache_folder() / f"{self.name}-{self.version.replace(':', '.')}"


#: Zalando's Fashion-MNIST in MNIST's file format: 60,000 and 10,000 pictures of clothes, 28x28 grey.
FASHION_MNIST = DebianPackage(
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    root="usr/share/datasets/fashion-mnist",
    files={
        "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    },
    megabytes=31,
)


def fashion_mnist_files() -> Path:
    """The folder with Fashion-MNIST's four ``.gz`` files, fetched if need be.

    Raises:
        UserError: they cannot be had here; it says what to do.
    """
    return fetch_deb(FASHION_MNIST)


def fetch_deb(package: DebianPackage) -> Path:
    """The folder in the cache with the package's files; downloads and unpacks them if one is missing.

    A file ``<name>_*.deb`` that already lies in the cache folder is used without a download, which is the way in for
    machines without apt or network; it is left there. A downloaded one is deleted when its files are out.

    Raises:
        UserError: the package cannot be fetched, is not a Debian package, or its files are not the known ones.
    """
    folder = package.folder
    if all((folder / name).is_file() for name in package.files):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".fetch-{package.name}-") as scratch:
            deb = _at_hand(package) or _download(package, Path(scratch))
            _extract(deb, package, Path(scratch) / "files")
            for name in package.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(scratch) / "files" / name, folder / name)
    except OSError as error:
        raise UserError(
            f"cannot store {package.name} in the cache folder {folder}: {error}. Set JDM_FAST_CACHE."
        ) from error
    return folder


def _at_hand(package: DebianPackage) -> Path | None:
    found = sorted(cache_folder().glob(f"{package.name}_*.deb"))
    return found[-1] if found else None


def _download(package: DebianPackage, folder: Path) -> Path:
    """Have apt put the package into ``folder``; apt brings the machine's own mirror and checks the signature."""
    advice = (
        f"Without apt or network, put a file {package.name}_*.deb ({package.megabytes} MB, version {package.version}, "
        f"from a Debian mirror) into {cache_folder()}."
    )
    if shutil.which("apt-get") is None:
        raise UserError(f"cannot fetch the Debian package {package.name}: there is no apt-get here. {advice}")
    command = ["apt-get", "download", "--quiet", package.name]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    debs = sorted(folder.glob("*.deb"))
    if done.returncode == 0 and debs:
        return debs[0]
    errors = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.strip().splitlines()
    raise UserError(
        f"apt-get cannot download the Debian package {package.name}: {errors[0] if errors else 'it brought no file'}\n"
        f"If it does not know the package, have its lists brought up to date first (as root: apt-get update). {advice}"
    )


def _extract(deb: Path, package: DebianPackage, folder: Path) -> None:
    """Write the package's files from ``deb`` into ``folder``, checked, reading the archive once and no further than
    needed."""
    missing = dict(package.files)
    try:
        with deb.open("rb") as file, _data_archive(file, deb) as archive:
            for member in archive:
                archive.members = []  # tarfile would keep a record of each file passed: thousands in a large package
                name = _relative(member.name, package.root)
                if name not in missing:
                    continue
                content = archive.extractfile(member) if member.isfile() else None
                if content is None:
                    raise UserError(f"{deb}: {member.name} is not a plain file")
                digest = _copy(content, folder / name)
                if digest != missing.pop(name):
                    raise UserError(
                        f"{deb}: {member.name} is not the expected file: sha256 {digest}, expected "
                        f"{package.files[name]}. Get version {package.version} of {package.name} and put the .deb "
                        f"file into {cache_folder()}."
                    )
                if not missing:
                    return
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{deb}: damaged or cut short: {error}. Delete it and fetch it again.") from error
    raise UserError(f"{deb}: has no file {package.root}/{next(iter(missing))} (expected version {package.version})")


def _relative(name: str, root: str) -> str | None:
    """The name of an archive's member relative to ``root``; None outside. Members are called ``./usr/…``."""
    name = name.removeprefix("./")
    return name[len(root) + 1 :] if name.startswith(f"{root}/") else None


def _copy(content: BinaryIO, path: Path) -> str:
    """Write a stream to a file; its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


@contextmanager
def _data_archive(file: BinaryIO, deb: Path) -> Iterator[tarfile.TarFile]:
    """The tar archive of a package's files, as a stream that is decompressed while it is read.

    A .deb file is an ar archive of ``debian-binary``, ``control.tar.*`` and ``data.tar.*``, each after a header of 60
    bytes that tells its length.
    """
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise UserError(f"{deb}: not a Debian package")
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER and header.endswith(b"`\n"):
        name, length = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58]
        if not length.strip().isdigit():
            break
        size = int(length)
        if name.startswith("data.tar"):
            with (
                _decompressed(_Window(file, size), name, deb) as data,
                tarfile.open(fileobj=data, mode="r|") as archive,
            ):
                yield archive
            return
        file.seek(size + size % 2, io.SEEK_CUR)  # members start at even places
    raise UserError(f"{deb}: damaged or cut short: it has no data archive. Delete it and fetch it again.")


def _decompressed(data: _Window, name: str, deb: Path) -> BinaryIO:
    """A stream of what ``data`` holds compressed. Unlike tarfile's own, it never unpacks more than is asked for."""
    compression = name.removeprefix("data.tar").removeprefix(".")
    if compression == "":
        return data
    if compression == "gz":
        return gzip.GzipFile(fileobj=data)
    if compression == "xz":
        return lzma.LZMAFile(data)
    if compression == "zst" and sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdFile(data)
    if compression == "zst":
        raise UserError(
            f"{deb}: compressed by zstd, which Python can read from version 3.14 on. With dpkg it can be repacked: "
            "dpkg-deb -R FILE.deb FOLDER && dpkg-deb -Zxz -b FOLDER FILE.deb"
        )
    raise UserError(f"{deb}: its data are compressed by {compression}, expected xz, gz or zst")


class _Window(io.RawIOBase):
    """The next ``size`` bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)
