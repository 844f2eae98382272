from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jdm_fast.data.layouts import find_layout, fitting_layouts
from jdm_fast.data.layouts._pickles import read_pickle
from jdm_fast.errors import UserError

Paint = Callable[..., Path]

BIRDS = (
    "001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111.jpg",
    "001.Black_footed_Albatross/Black_Footed_Albatross_0002_55.jpg",
    "002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg",
    "002.Laysan_Albatross/Laysan_Albatross_0003_1033.jpg",
)
VALUES = np.random.default_rng(0).normal(size=(4, 2, 8)).astype(np.float32)


@pytest.fixture
def birds(tmp_path: Path, paint: Paint) -> Path:
    """As CUB_200_2011.tgz unpacks."""
    folder = tmp_path / "CUB_200_2011"
    for name in BIRDS:
        paint(folder / "images" / name, 50, 33)
    (folder / "images.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(BIRDS, 1)))
    (folder / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n4 1\n")
    return folder


def check_split_of_the_archive(root: Path, values: np.ndarray) -> None:
    layout = find_layout(root)
    assert layout.name == "cub" and layout.domains == ("image", "caption")
    for split, rows in (("train", [0, 2, 3]), ("test", [1])):
        (group,) = layout.splits[split]
        assert [path.name for path in group.domains["image"].paths] == [Path(BIRDS[row]).name for row in rows]
        assert np.array_equal(group.domains["caption"].values, values[rows])
        assert group.domains["caption"].values.dtype == np.float32


@pytest.mark.parametrize("inside", [True, False], ids=["in CUB_200_2011", "beside it"])
@pytest.mark.parametrize("captions", [2, None], ids=["two captions", "one vector"])
def test_one_array(birds: Path, inside: bool, captions: int | None) -> None:
    values = VALUES if captions else VALUES[:, 0]
    np.save((birds if inside else birds.parent) / "features.npy", values.astype(np.float64))
    assert fitting_layouts(birds.parent) == ("cub",)
    check_split_of_the_archive(birds if inside else birds.parent, VALUES if captions else VALUES[:, :1])


def test_an_array_for_each_image(birds: Path) -> None:
    for name, value in zip(BIRDS, VALUES, strict=True):
        path = (birds / "features" / name).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, value)
    check_split_of_the_archive(birds, VALUES)
    np.save(path, VALUES[0, 0, :5])
    with pytest.raises(UserError, match="features: features of different lengths: 5, 8; expected one"):
        find_layout(birds)


def python_2_pickle(array: np.ndarray) -> bytes:
    """A list with an array as Python 2's cPickle wrote it with protocol 2: bytes are plain strings in it."""
    data = array.tobytes()
    return b"".join([
        b"\x80\x02]cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
        b"(K\x01", b"".join(b"K" + bytes([length]) for length in array.shape), b"\x86" if array.ndim == 2 else b"\x85",
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"\x89T", struct.pack("<I", len(data)), data, b"tba.",
    ])  # fmt: skip


@pytest.mark.parametrize("place", [".", "birds"])
def test_stackgans_pickles(birds: Path, place: str) -> None:
    """They bring their own split, in an order of their own, as written by Python 2."""
    root = birds.parent
    for split, rows in (("train", [2, 0]), ("test", [3])):
        folder = root / place / split
        folder.mkdir(parents=True)
        names = [BIRDS[row].removesuffix(".jpg") for row in rows]
        (folder / "filenames.pickle").write_bytes(pickle.dumps(names, protocol=0))
        (folder / "char-CNN-RNN-embeddings.pickle").write_bytes(pickle.dumps([VALUES[row] for row in rows], protocol=2))
    layout = find_layout(root)
    (train,), (test,) = layout.splits["train"], layout.splits["test"]
    assert [path.relative_to(birds / "images").as_posix() for path in train.domains["image"].paths] == [
        BIRDS[0],
        BIRDS[2],
    ]
    assert np.array_equal(train.domains["caption"].values, VALUES[[0, 2]])
    assert np.array_equal(test.domains["caption"].values, VALUES[[3]])
    (root / place / "train" / "filenames.pickle").write_bytes(pickle.dumps(["004.Gone/Gone_1"] * 2))
    with pytest.raises(UserError, match=r"Gone_1.jpg: there is no such file, and 1 more of 2 are missing"):
        find_layout(root)
    (root / place / "train" / "filenames.pickle").write_bytes(pickle.dumps(["004.Gone/Gone_1"]))
    with pytest.raises(UserError, match="features of 2 images, but filenames.pickle names 1"):
        find_layout(root)


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    (tmp_path / "a.pickle").write_bytes(python_2_pickle(VALUES[0]))
    (array,) = read_pickle(tmp_path / "a.pickle")
    assert array.dtype == np.float32 and np.array_equal(array, VALUES[0])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_all_protocols(tmp_path: Path, protocol: int) -> None:
    value = [VALUES, ["a", "b"], np.float32(1.5), 3, {"k": (1.0, None)}]
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(value, protocol))
    array, *others = read_pickle(tmp_path / "a.pickle")
    assert np.array_equal(array, VALUES) and others == value[1:]


class Command:
    """Unpickled by pickle itself, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"cos\nsystem\n(S'true'\ntR.", "asks for (os|posix).system; only lists, strings and numpy arrays are read"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "asks for builtins.eval"),
        (b"c__builtin__\ngetattr\n(S'1'\ntR.", "asks for __builtin__.getattr|asks for builtins.getattr"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.", "not a pickle, or damaged"),
        (b"Pfile\n.", "refers to other files"),
        (b"", "not a pickle, or damaged"),
        (b"\x89PNG", "not a pickle, or damaged"),
        (pickle.dumps([VALUES])[:-20], "not a pickle, or damaged"),
    ],
)
def test_pickles_that_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.pickle").write_bytes(data)
    with pytest.raises(UserError, match=f"a.pickle: .*({message})"):
        read_pickle(tmp_path / "a.pickle")


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (tmp_path / "evil.pickle").write_bytes(pickle.dumps([VALUES, Command(made)]))
    with pytest.raises(UserError, match="evil.pickle: this pickle asks for .*open"):
        read_pickle(tmp_path / "evil.pickle")
    assert not made.exists()
    pickle.loads((tmp_path / "evil.pickle").read_bytes())[1].close()
    assert made.exists(), "the pickle must do harm when read by pickle, or this test shows nothing"


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda root: None, "birds without features of their captions; expected StackGAN's"),
        (lambda root: np.save(root / "features.npy", VALUES[:3]), "features of 3 images, but images.txt lists 4"),
        (
            lambda root: np.save(root / "features.npy", VALUES.astype(str)),
            "features.npy: expected numbers in 2 or 3 dim",
        ),
        (lambda root: (root / "features.npy").write_text("no"), "features.npy: cannot be read as an array"),
        (lambda root: (root / "images.txt").write_text("1\n"), "images.txt: line 1: expected a number and a value"),
    ],
)
def test_incomplete_birds(birds: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(birds)
    with pytest.raises(UserError, match=message):
        find_layout(birds)


def test_a_split_file_that_does_not_match(birds: Path) -> None:
    np.save(birds / "features.npy", VALUES)
    (birds / "train_test_split.txt").write_text("1 1\n2 0\n")
    with pytest.raises(UserError, match="train_test_split.txt: expected a 0 or 1 for each of the 4 images"):
        find_layout(birds)
