from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from jdm_fast.data import cache
from jdm_fast.data.cache import DecodedPictures, Wanted, cache_key, open_cache
from jdm_fast.data.dataset import Group, ImageFiles, VideoFrames
from jdm_fast.data.images import find_images, save_image
from jdm_fast.data.loader import Loader
from jdm_fast.data.video_files import write_video
from jdm_fast.errors import UserError

SIDE = 209  # three channels of a picture of this side are almost 128 kB: eight to the megabyte
PICTURE = SIDE * SIDE * 3


class Source:
    """Pictures of one level each, which counts how often they are decoded."""

    def __init__(self, key: str, count: int, whole: bool = False) -> None:
        self.asked: list[int] = []
        sizes = np.full((count, 2), SIDE, dtype=np.int64)
        self.wanted = Wanted(f"domain {key}", key, sizes, 3, self._decode, whole)

    def _decode(self, count: int) -> Iterator[np.ndarray]:
        self.asked.append(count)
        for level in range(count):
            yield np.full((SIDE, SIDE, 3), level, np.uint8)


def levels(entry: DecodedPictures | None) -> list[int]:
    return [] if entry is None else [int(entry[item].max()) for item in range(len(entry))]


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_pictures_are_decoded_once(tmp_path: Path) -> None:
    source, told = Source("a", 5), []
    (entry,) = open_cache([source.wanted], tmp_path, 10, lambda done, total: told.append((done, total)))
    assert levels(entry) == [0, 1, 2, 3, 4] and entry is not None and entry.nbytes == 5 * PICTURE
    assert told == [(done, 5) for done in range(1, 6)]
    (again,) = open_cache([source.wanted], tmp_path, 10)
    assert levels(again) == levels(entry) and source.asked == [5]
    with pytest.raises(ValueError, match="read-only"):
        entry[0][0, 0, 0] = 1


def test_pictures_of_different_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (4 + k, 9 - k, 1), np.uint8) for k in range(5)]
    sizes = np.array([image.shape[:2] for image in pictures])
    (entry,) = open_cache([Wanted("x", "k", sizes, 1, lambda count: iter(pictures[:count]))], tmp_path, 1)
    assert entry is not None
    assert all(np.array_equal(entry[k], image) for k, image in enumerate(pictures))


def test_no_cache(tmp_path: Path) -> None:
    source = Source("a", 5)
    assert open_cache([source.wanted], tmp_path / "none", 0) == [None]
    assert source.asked == [] and not (tmp_path / "none").exists()


def test_what_does_not_fit_is_left_to_be_decoded_each_time(tmp_path: Path) -> None:
    large, small = Source("a", 24), Source("b", 8)
    entries = open_cache([large.wanted, small.wanted], tmp_path, 2)
    assert [len(levels(entry)) for entry in entries] == [12, 4], "each its share of 16"
    assert [len(levels(entry)) for entry in open_cache([large.wanted, small.wanted], tmp_path, 2)] == [12, 4]
    assert (large.asked, small.asked) == ([12], [4]), "what could be had is not built again"
    assert [len(levels(entry)) for entry in open_cache([large.wanted, small.wanted], tmp_path, 4)] == [24, 8]
    assert [len(levels(entry)) for entry in open_cache([large.wanted, small.wanted], tmp_path, 1)] == [6, 2]
    assert sum(path.stat().st_size for path in tmp_path.rglob("pixels.u8")) <= 2**20


def test_the_same_pictures_twice_are_cached_once(tmp_path: Path) -> None:
    source = Source("a", 5)
    entries = open_cache([source.wanted, source.wanted], tmp_path, 1)
    assert [len(levels(entry)) for entry in entries] == [5, 5] and source.asked == [5]


def test_entries_not_used_for_longest_make_room(tmp_path: Path) -> None:
    for age, key in enumerate("abc"):
        open_cache([Source(key, 8).wanted], tmp_path, 3)
        os.utime(tmp_path / key, (age, age))
    open_cache([Source("a", 8).wanted], tmp_path, 3)  # now b was used longest ago
    assert kept(tmp_path) == {"a", "b", "c"}
    open_cache([Source("d", 8).wanted], tmp_path, 3)
    assert kept(tmp_path) == {"a", "c", "d"}
    open_cache([Source("e", 16).wanted], tmp_path, 3)
    assert kept(tmp_path) == {"d", "e"}


def test_no_more_than_half_of_the_free_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=16 * PICTURE))
    source = Source("a", 20)
    (entry,) = open_cache([source.wanted], tmp_path, 4096)
    assert len(levels(entry)) == 8
    with pytest.raises(UserError, match="need 3 MB on the disk, and half of the free disk is 1.0 MB"):
        open_cache([Source("b", 20, whole=True).wanted], tmp_path / "other", 4096)


def test_what_must_be_whole_comes_first_or_says_what_it_needs(tmp_path: Path) -> None:
    video, files = Source("a", 8, whole=True), Source("b", 16)
    assert [len(levels(entry)) for entry in open_cache([files.wanted, video.wanted], tmp_path, 2)] == [8, 8]
    for budget in (0, 1):
        with pytest.raises(UserError, match=f"domain c: .* need 2 MB on the disk, and cache_mb is {budget}: raise"):
            open_cache([Source("c", 16, whole=True).wanted], tmp_path, budget)


def test_a_damaged_entry_is_built_again_and_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    source = Source("a", 3)
    open_cache([source.wanted], tmp_path, 1)
    with (tmp_path / "a" / "pixels.u8").open("r+b") as file:
        file.truncate(PICTURE)
    for left in (".new-b", ".removed-c"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "pixels.u8").write_bytes(bytes(100))
    (entry,) = open_cache([source.wanted], tmp_path, 1)
    assert levels(entry) == [0, 1, 2] and source.asked == [3, 3]
    assert kept(tmp_path) == {"a"}


def test_a_user_keeps_an_entry_that_is_removed(tmp_path: Path) -> None:
    (entry,) = open_cache([Source("a", 8).wanted], tmp_path, 1)
    open_cache([Source("b", 8).wanted], tmp_path, 1)
    assert kept(tmp_path) == {"b"} and levels(entry) == list(range(8))


def test_one_builds_and_the_others_wait(tmp_path: Path) -> None:
    """Each opens the lock file for itself, as processes do."""
    sources, found, begun = [Source("a", 6) for _ in range(4)], [], threading.Barrier(4)

    def work(source: Source) -> None:
        begun.wait()
        found.append(levels(open_cache([source.wanted], tmp_path, 1)[0]))

    threads = [threading.Thread(target=work, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(range(6))] * 4
    assert sum(len(source.asked) for source in sources) == 1


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(NamedTuple):
        error: Exception

        def decode(self, count: int) -> Iterator[np.ndarray]:
            yield np.zeros((SIDE, SIDE, 3), np.uint8)
            raise self.error

    sizes = np.full((3, 2), SIDE)
    with pytest.raises(UserError, match="b.png: broken"):
        open_cache([Wanted("x", "a", sizes, 3, Failing(UserError("b.png: broken")).decode)], tmp_path, 1)
    with pytest.raises(UserError, match="cannot be written: No space left.*JDM_FAST_CACHE"):
        full = Failing(OSError(28, "No space left on device"))
        open_cache([Wanted("x", "a", sizes, 3, full.decode)], tmp_path, 1)
    with pytest.raises(UserError, match="x: picture 0 has changed since it was opened: it is 209x209 now, was 5x5"):
        open_cache([Wanted("x", "a", np.full((3, 2), 5), 3, Source("a", 3).wanted.decode)], tmp_path, 1)
    assert kept(tmp_path) == set()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/decoded: the folder cannot be made"):
        open_cache([Source("a", 3).wanted], tmp_path / "file" / "decoded", 1)
    with pytest.raises(UserError, match="cache_mb: expected 0 or more, got -1"):
        open_cache([Source("a", 3).wanted], tmp_path, -1)


# ---- Keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(3):
        (tmp_path / "x").mkdir(exist_ok=True)
        save_image(tmp_path / "x" / f"{k}.png", np.full((20, 24, 3), 10 * k, np.uint8))
    return tmp_path / "x"


def key_of(folder: Path, domain: dict[str, Any] | None = None, **settings: Any) -> str:
    """The key of the cache that a loader wants for the pictures of a folder."""
    domain = {"paths": tuple(find_images(folder)), "root": folder, **(domain or {})}
    loader = Loader([Group({"x": ImageFiles(**domain)})], **{"load_size": 12, "crop_size": 8, **settings})
    return loader._wanted("x").key


def test_the_key_holds_all_that_pixels_depend_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [
        key_of(folder),
        key_of(folder, {"region": "left"}),
        key_of(folder, {"region": "right"}),
        key_of(folder, {"labels": True}),
        key_of(folder, {"palette": ((1, 2, 3),)}),
        key_of(folder, {"palette": ((1, 2, 4),)}),
        key_of(folder, {"paths": tuple(find_images(folder)[:2])}),
        key_of(folder, load_size=13),
        key_of(folder, preprocess="crop"),
        key_of(folder, channels=1),
    ]
    os.utime(folder / "1.png", (1, 1))
    keys.append(key_of(folder))
    with (folder / "1.png").open("ab") as file:
        file.write(b"more")
    os.utime(folder / "1.png", (1, 1))
    keys.append(key_of(folder))
    (folder / "1.png").rename(folder / "one.png")
    keys.append(key_of(folder))
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    keys.append(key_of(folder))
    monkeypatch.setattr("nvidia.dali.__version__", "0.0")
    keys.append(key_of(folder))
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_know_where_the_folder_is_or_what_is_done_later(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")  # keeps the times
    expected = key_of(folder)
    assert key_of(tmp_path / "copy") == expected
    assert key_of(folder, seed=5, crop_size=9, flip=False, batch_size=4) == expected


def test_a_changed_file_is_decoded_anew(folder: Path, tmp_path: Path) -> None:
    def shown() -> set[int]:
        domain = ImageFiles(tuple(find_images(folder)), folder)
        loader = Loader([Group({"x": domain})], preprocess="none", cache_folder=tmp_path / "cache", batch_size=3)
        return {round(float(level)) for level in (loader.batch(0)["x"][:, 0, 0, 0] + 1) * 127.5}

    assert shown() == {0, 10, 20}
    save_image(folder / "1.png", np.full((20, 24, 3), 70, np.uint8))
    assert shown() == {0, 70, 20}
    assert len(kept(tmp_path / "cache" / "decoded")) == 2


def test_keys_are_names_of_folders() -> None:
    assert cache_key(["a", "b"]) == cache_key(["ab"]) != cache_key(["ba"])
    assert cache_key(["\udcff"]).isalnum(), "names of files need not be text"


# ---- Videos


@pytest.fixture
def videos(tmp_path: Path) -> VideoFrames:
    """Two videos of four and six frames whose grey level is 40 for the first, and 20 more for each."""
    frames = []
    for name, first, count in (("a", 0, 4), ("b", 4, 6)):
        pictures = [np.full((32, 48, 3), 40 + 20 * (first + k), np.uint8) for k in range(count)]
        write_video(tmp_path / f"{name}.mp4", np.stack(pictures), fps=10, crf=1)
        frames += [(tmp_path / f"{name}.mp4", k) for k in range(count)]
    return VideoFrames(tuple(frames), tmp_path)


def grey(images: Any) -> list[int]:
    """Which frames a batch shows."""
    return [round((float(image.mean()) + 1) * 127.5 / 20 - 2) for image in images]


def test_frames_of_videos_come_from_the_cache(videos: VideoFrames, tmp_path: Path) -> None:
    loader = Loader([Group({"x": videos})], load_size=20, crop_size=16, cache_folder=tmp_path / "c", batch_size=5)
    assert loader.counts == {"x": 10} and loader.size == (16, 16)
    assert grey(loader.fixed(10)["x"]) == list(range(10)), "before there is a cache"
    shown = grey(loader.batch(0)["x"]) + grey(loader.batch(1)["x"])
    assert sorted(shown) == list(range(10)) != shown
    assert grey(loader.fixed(10)["x"]) == list(range(10))
    some = videos.take([1, 4, 9])
    assert grey(Loader([Group({"x": some})], preprocess="none").fixed(3)["x"]) == [1, 4, 9]


def test_videos_that_do_not_fit_or_end_early(videos: VideoFrames, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="x: the decoded frames of videos need 1 MB on the disk, and cache_mb is 0"):
        Loader([Group({"x": videos})], preprocess="none", cache_mb=0).batch(0)
    beyond = VideoFrames((*videos.frames, (tmp_path / "b.mp4", 6)), tmp_path)
    with pytest.raises(UserError, match="b.mp4: the video ends before frame 6"):
        Loader([Group({"x": beyond})], preprocess="none", cache_folder=tmp_path / "c").batch(0)


def test_the_fingerprint_of_frames(videos: VideoFrames, tmp_path: Path) -> None:
    def fingerprint(domain: VideoFrames) -> str | int:
        return Loader([Group({"x": domain})], preprocess="none").describe()["x"]["fingerprint"]

    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(tmp_path / name, moved / name)
    same = VideoFrames(tuple((moved / path.name, number) for path, number in videos.frames), moved)
    assert fingerprint(same) == fingerprint(videos) != fingerprint(videos.take(range(9)))
