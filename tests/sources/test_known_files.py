"""A folder is listed in threads, and again without reading what has not changed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gif_datasets.errors import SourceError
from gif_datasets.io import decode, images, unchanged
from gif_datasets.io.cache.store import Cache
from gif_datasets.io.digests import digest_pixels
from gif_datasets.sources import base, known_files, open_source
from gif_datasets.sources.base import SeedList, list_seeds, seed_image

LONG_AGO = time.time() - 1000


def write(path: Path, number: int, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((40, 24), Image.Resampling.BICUBIC)
    (image.convert("L") if number % 5 == 0 else image).save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Plain files, files that take care, and one that is none."""
    for number in range(20):
        kind = ("jpg", "png", "webp", "bmp")[number % 4]
        write(tmp_path / "seeds" / "ab"[number % 2] / f"{number}.{kind}", number)
    (tmp_path / "seeds" / "a" / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    return tmp_path / "seeds"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded; files count from the first byte on, and a listing of old ones is trusted at once."""
    found: list[str] = []
    plain, careful = decode.plain, images.read_rgb
    monkeypatch.setattr(known_files, "LEAST_BYTES", 0)
    monkeypatch.setattr(unchanged, "SETTLED", -10 * 10**9)
    monkeypatch.setattr(decode, "plain", lambda *given: (found.append("plain"), plain(*given))[1])
    monkeypatch.setattr(images, "read_rgb", lambda file, name: (found.append(name), careful(file, name))[1])
    return found


def listed(folder: Path, cache: Path | None = None, limit: int | None = None) -> SeedList:
    return list_seeds(open_source(str(folder)), limit, cache=None if cache is None else Cache(cache))


def test_threads_and_care_find_the_same(folder: Path) -> None:
    """Keys, labels, order and bad files are those that each file has by itself."""
    source = open_source(str(folder))
    found = list_seeds(source)
    assert [seed.index for seed in found.seeds] == [i for i in range(21) if "broken" not in source.origin(i)]
    for seed in found.seeds:
        image, label = source.sample(seed.index)
        grey = bool(np.ptp(np.asarray(image), axis=2).max() == 0)
        assert (seed.key, seed.label, seed.grey) == (digest_pixels(np.asarray(image)), label, grey)
        assert np.array_equal(seed_image(source, seed), image)
    assert [message.partition(":")[0] for message in found.bad] == ["a/broken.jpg"]


def test_files_are_read_by_several_threads_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads meet in the decoder."""
    meeting, plain = threading.Barrier(2), decode.plain
    monkeypatch.setattr(base, "READ_TOGETHER", 1)

    def meet(*given: Any) -> object:
        if not meeting.broken and meeting.n_waiting < 2:
            meeting.wait(60)
            meeting.abort()
        return plain(*given)

    monkeypatch.setattr(decode, "plain", meet)
    try:
        listed(folder)
    finally:
        assert meeting.broken


def test_the_second_listing_reads_nothing_but_what_changed(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    """Whatever changed: content, name, or the content under old times and size."""
    first = listed(folder, tmp_path / "c")
    reads.clear()
    again = listed(folder, tmp_path / "c")
    assert again == first
    assert reads == ["plain", "a/broken.jpg"]

    edited, status = folder / "b" / "3.bmp", (folder / "b" / "3.bmp").stat()
    content = bytearray(edited.read_bytes())
    content[-1] ^= 255
    edited.write_bytes(content)
    os.utime(edited, ns=(status.st_atime_ns, status.st_mtime_ns))
    (folder / "a" / "2.webp").rename(folder / "a" / "2b.webp")
    (folder / "b" / "1.png").unlink()
    reads.clear()
    changed = listed(folder, tmp_path / "c")
    assert changed == listed(folder)
    assert {seed.origin for seed in changed.seeds} - {seed.origin for seed in first.seeds} == {"a/2b.webp"}
    keys = [next(seed.key for seed in found.seeds if seed.origin == "b/3.bmp") for found in (first, changed)]
    assert keys[0] != keys[1]


def test_a_listing_of_some_files_keeps_what_is_known_of_others(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    """And a whole one forgets what is gone."""
    listed(folder, tmp_path / "c", limit=5)
    listed(folder, tmp_path / "c", limit=8)
    reads.clear()
    whole = listed(folder, tmp_path / "c")
    assert 0 < reads.count("plain") < 17
    for path in sorted(folder.rglob("*.png")):
        path.unlink()
    listed(folder, tmp_path / "c")
    reads.clear()
    assert len(listed(folder, tmp_path / "c").seeds) == len(whole.seeds) - 5
    assert reads == ["plain", "a/broken.jpg"]


def test_fresh_files_and_small_folders_are_not_known(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    """A file that was just written may change again without another time; a small folder is read in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unchanged, "SETTLED", 10**12)
        listed(folder, tmp_path / "fresh")
        patch.setattr(unchanged, "SETTLED", -(10**12))
        patch.setattr(known_files, "LEAST_BYTES", 1 << 20)
        listed(folder, tmp_path / "small")
    assert not list(tmp_path.rglob("*.tensors"))


def test_a_key_is_forgotten_with_its_listing(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    """One that has other images alone stays; one that shrinks below the bound does not keep what has left."""
    cache, first = Cache(tmp_path / "c"), listed(folder, tmp_path / "c").seeds[0]
    write(tmp_path / "seeds 2" / "a" / "other.png", 99)
    listed(tmp_path / "seeds 2", tmp_path / "c")
    assert len(cache.of_kind(known_files.LISTING)) == 2
    known_files.forget(cache, {first.key})
    assert len(cache.of_kind(known_files.LISTING)) == 1
    listed(folder, tmp_path / "c")
    (folder / first.origin).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_files, "LEAST_BYTES", 1 << 20)
        listed(folder, tmp_path / "c")
    kept = [cache.stored_tensors(name) for name in cache.of_kind(known_files.LISTING)]
    assert sorted(0 if tensors is None else len(tensors["keys"]) for tensors in kept) == [1, 19]


def test_what_is_known_wrongly_makes_nothing(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    """A cache with other keys is found out when the image is read; a damaged or read-only one is read past."""
    first = listed(folder, tmp_path / "c")
    [kept] = tmp_path.rglob("*.tensors")
    cache, name = Cache(tmp_path / "c"), kept.stem
    tensors = cache.stored_tensors(name)
    assert tensors is not None
    tensors["keys"][:, 0] ^= 1
    cache.store_tensors(name, tensors)
    wrong = listed(folder, tmp_path / "c")
    with pytest.raises(SourceError, match="has changed since the images were listed"):
        seed_image(open_source(str(folder)), wrong.seeds[0])
    kept.write_bytes(b"nonsense")
    assert listed(folder, tmp_path / "c") == first
    (tmp_path / "file").write_text("")
    assert listed(folder, tmp_path / "file") == first
