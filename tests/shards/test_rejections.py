"""Rejected samples: no reader of ours gives them, a copy without them is whole, and the list can be trusted."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pytest
import webdataset
from helpers import contents, forge_manifest
from hub_server import WRITER, HubServer
from hypothesis import given
from hypothesis import strategies as st

import gif_datasets
from gif_datasets import ShardError, UsageError, load_expanded, stream_expanded
from gif_datasets.publish.export import export_expanded
from gif_datasets.report.page import write_report
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards import tar
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.rejections import REJECTED, reject, rejected_keys
from gif_datasets.shards.verify import verify


@pytest.fixture
def folder(seed_folder: Path, tmp_path: Path) -> Path:
    """9 seeds with two copies each in shards of four, and 3 that are held out."""
    place = tmp_path / "set"
    options = {"ratio": 2, "prior": "linear", "samples_per_shard": 4, "decode_batch": 4}
    gif_datasets.expand(str(seed_folder), place, validation_share=0.25, **options)
    return place


def keys_of(folder: Path) -> list[str]:
    return [key for split in ("train", "validation") for key in _keys(ShardReader(folder, split))]


def _keys(reader: ShardReader) -> list[str]:
    return [reader.key(i) for i in range(len(reader))]


def four(folder: Path) -> tuple[str, ...]:
    """A seed and three copies."""
    keys = _keys(ShardReader(folder))
    return (keys[1], *[key for key in keys if not key.endswith("-0000")][::6])


def some(folder: Path) -> tuple[str, ...]:
    """Every third sample, whole seeds and a whole shard among them, and one that is held out."""
    reader = ShardReader(folder)
    first = [key for key in _keys(reader) if key.split("-")[1] == reader.key(0).split("-")[1]]
    keys = {*_keys(reader)[::3], *first, *_keys(reader)[-4:], *_keys(ShardReader(folder, "validation"))[:1]}
    return tuple(sorted(keys))


def test_readers_go_without(folder: Path) -> None:
    """The map-style dataset, pickled or not, and the streamed one give the others, in order, with their labels."""
    before, out = ShardReader(folder), some(folder)
    wanted = {key: (before.label(i), before.image_bytes(i)) for i, key in enumerate(_keys(before)) if key not in out}
    reject(folder, out)
    for reader in (ShardReader(folder), pickle.loads(pickle.dumps(ShardReader(folder)))):
        found = {key: (reader.label(i), reader.image_bytes(i)) for i, key in enumerate(_keys(reader))}
        assert (list(found), found) == (list(wanted), wanted)
        assert [reader.index_of(key) for key in wanted] == list(range(len(wanted)))
        with pytest.raises(KeyError):
            reader.index_of(out[0])
    loaded, streamed = load_expanded(folder), stream_expanded(f"file://{folder}")
    assert len(loaded) == len(streamed) == len(wanted)
    rows = [(image.tobytes(), label) for image, label in streamed]
    assert rows == [(image.tobytes(), label) for image, label in loaded]
    assert [label for _, label in rows] == [label for label, _ in wanted.values()]
    shuffled = stream_expanded(f"file://{folder}", shuffle=True, together=2)
    assert sorted((image.tobytes(), label) for image, label in shuffled) == sorted(rows)
    assert len(load_expanded(folder, split="validation")) == 2
    assert len(ShardReader(folder, whole=True)) == len(before)


def test_taking_back(folder: Path) -> None:
    """What is taken back is there again, and without any the list is gone."""
    out = four(folder)
    before = contents(folder)
    reject(folder, out)
    assert reject(folder, out[:2], rejected=False) == {*out[2:]}
    assert verify(folder) == []
    assert reject(folder, out[2:], rejected=False) == frozenset()
    assert contents(folder) == before


def test_many_at_once(folder: Path) -> None:
    """Two browsers on one folder lose nothing of each other's."""
    keys = keys_of(folder)
    with ThreadPoolExecutor(len(keys)) as pool:
        list(pool.map(lambda key: reject(folder, [key]), keys))
    assert rejected_keys(folder, manifests.read_manifest(folder)) == {*keys}
    with ThreadPoolExecutor(len(keys)) as pool:
        list(pool.map(lambda key: reject(folder, [key], rejected=False), keys[1:]))
    assert rejected_keys(folder, manifests.read_manifest(folder)) == {keys[0]}


def test_loaders_tell_them_apart(folder: Path) -> None:
    """A loader's place in an epoch is that of the set without what was rejected, and of no other."""
    out = four(folder)
    whole = gif_datasets.DataLoader(load_expanded(folder), batch_size=4, shuffle=True)
    next(iter(whole))
    state = whole.state_dict()
    reject(folder, out)
    fewer = gif_datasets.DataLoader(load_expanded(folder), batch_size=4, shuffle=True)
    with pytest.raises(UsageError):
        fewer.load_state_dict(state)
    assert sum(len(labels) for _, labels in fewer) == 27 - len(out)
    held = load_expanded(folder, split="validation")
    assert held.fingerprint.endswith("/validation")  # nothing of it was rejected


def test_resuming_a_stream(folder: Path) -> None:
    """A stream without rejected samples goes on in mid-epoch with what it had not given yet."""

    def loader() -> gif_datasets.DataLoader:
        streamed = stream_expanded(f"file://{folder}", shuffle=True, together=3, seed=1)
        return gif_datasets.DataLoader(streamed, batch_size=4)

    reject(folder, some(folder))
    whole = [batch[0].numpy().tobytes() for batch in loader()]
    first = loader()
    rows = iter(first)
    begun = [next(rows)[0].numpy().tobytes() for _ in range(2)]
    second = loader()
    second.load_state_dict(first.state_dict())
    assert begun + [batch[0].numpy().tobytes() for batch in second] == whole


def test_a_copy_without_them(folder: Path, tmp_path: Path) -> None:
    """Its shards hold the others byte for byte, it is whole, and all that read tars read it; run again = nothing."""
    out = some(folder)
    reject(folder, out)
    summary = export_expanded(folder, tmp_path / "copy", "shards")
    assert (summary.samples, summary.written) == ({"train": 27 - len(out) + 1, "validation": 2}, summary.files)
    assert verify(tmp_path / "copy") == []
    assert keys_of(tmp_path / "copy") == keys_of(folder)
    mine, copied = (ShardReader(place) for place in (folder, tmp_path / "copy"))
    assert mine.fingerprint == copied.fingerprint
    for i in range(len(mine)):
        assert (mine.image_bytes(i), mine.provenance(i)) == (copied.image_bytes(i), copied.provenance(i))
    manifest = manifests.read_manifest(tmp_path / "copy")
    assert set(manifest.left_out) == set(out)
    assert f"{len(out)} more were rejected by a person and left out." in (tmp_path / "copy/README.md").read_text()
    tars = sorted(str(path) for path in (tmp_path / "copy/data").glob("train-*"))
    assert [row["__key__"] for row in webdataset.WebDataset(tars, shardshuffle=False)] == _keys(mine)
    assert datasets.load_dataset(str(tmp_path / "copy"), split="train")["__key__"][:] == _keys(mine)
    assert export_expanded(folder, tmp_path / "copy", "shards").written == 0
    whole = contents(tmp_path / "copy")
    Path(tars[1]).unlink()
    Path(tars[2]).write_bytes(b"damaged")
    (tmp_path / "copy/manifest.json").unlink()
    assert export_expanded(folder, tmp_path / "copy", "shards").written == 2
    assert contents(tmp_path / "copy") == whole
    with pytest.raises(UsageError, match="another expansion"):
        gif_datasets.expand(str(tmp_path / "seeds"), tmp_path / "copy", ratio=2, prior="linear")


def test_a_copy_of_a_copy(folder: Path, tmp_path: Path) -> None:
    """More may be rejected in a copy; the copy of that still knows of all."""
    out = four(folder)
    reject(folder, out[:2])
    export_expanded(folder, tmp_path / "first", "shards")
    reject(tmp_path / "first", out[2:])
    export_expanded(tmp_path / "first", tmp_path / "second", "shards")
    assert verify(tmp_path / "second") == []
    assert set(manifests.read_manifest(tmp_path / "second").left_out) == set(out)
    reject(folder, out)
    assert keys_of(tmp_path / "second") == keys_of(folder)


def test_a_copy_of_a_whole_folder(folder: Path, tmp_path: Path) -> None:
    """Where nothing was rejected, its shards are the folder's own."""
    export_expanded(folder, tmp_path / "copy", "shards")
    assert verify(tmp_path / "copy") == []
    for path in (folder / "data").iterdir():
        assert (tmp_path / "copy/data" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_other_forms(folder: Path, tmp_path: Path, form: str) -> None:
    """Exports are without them, and one from before they were rejected is not taken for one from after."""
    out = four(folder)
    export_expanded(folder, tmp_path / "before", form)
    reject(folder, out)
    assert export_expanded(folder, tmp_path / "after", form).samples == {"train": 23, "validation": 3}
    with pytest.raises(UsageError, match="holds another export"):
        export_expanded(folder, tmp_path / "before", form)


def test_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    reject(folder, _keys(ShardReader(folder)))
    with pytest.raises(UsageError, match="nothing is left"):
        export_expanded(folder, tmp_path / "copy", "shards")


@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_push(hub: HubServer, folder: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was rejected is not published, and a report from before is not published with the rest."""
    out = four(folder)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    write_report(folder, tmp_path / "report.html")
    reject(folder, out)
    with pytest.raises(UsageError, match="belongs to another dataset"):
        gif_datasets.push_to_hub(folder, "me/fewer", form=form, report=tmp_path / "report.html")
    gif_datasets.push_to_hub(folder, "me/fewer", form=form)
    published = datasets.load_dataset("me/fewer", split="train")
    assert published["__key__" if form == "shards" else "key"][:] == _keys(ShardReader(folder))
    assert "4 more were rejected by a person and left out." in hub.content("me/fewer", "README.md").decode()
    if form == "shards":
        assert len(load_expanded("hub:me/fewer")) == 23


def test_report(folder: Path, tmp_path: Path) -> None:
    """The page counts what is left, and says how many are not."""
    out = four(folder)
    reject(folder, out)
    page = Path(write_report(folder, tmp_path / "report.html").page).read_text()
    assert "8 real and 15 synthetic images" in page
    assert "4 more were rejected" in page


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot read"),
        ('{"format": 1, "rejected": [1]}', "is damaged"),
        ('{"format": 2, "rejected": []}', "is damaged"),
        ('{"format": 1, "plan_hash": "other", "rejected": []}', "belongs to another dataset"),
    ],
)
def test_a_damaged_list(folder: Path, text: str, problem: str) -> None:
    """It is never taken for an empty one, by any reader."""
    (folder / REJECTED).write_text(text)
    for read in (ShardReader, load_expanded, lambda place: stream_expanded(f"file://{place}")):
        with pytest.raises(ShardError, match=problem):
            read(folder)
    assert any(problem in line for line in verify(folder))


def test_verify_knows_the_samples(folder: Path) -> None:
    """A key that is no sample's is named; readers do as if it were not there."""
    out = four(folder)
    reject(folder, ("train-0000099-0001", "nonsense", out[0]))
    assert verify(folder) == [
        f"{REJECTED} names {key!r}, which is not a sample" for key in ("nonsense", "train-0000099-0001")
    ]
    assert len(load_expanded(folder)) == 26


def test_verify_checks_what_was_left_out(folder: Path, tmp_path: Path) -> None:
    """A copy that lacks more than it tells, or tells of what it has, is not whole."""
    out = four(folder)
    reject(folder, out)
    copy = tmp_path / "copy"
    export_expanded(folder, copy, "shards")
    told = manifests.read_manifest(copy).left_out
    present = _keys(ShardReader(copy))[0]
    for changed in (
        {key: value for key, value in told.items() if key != out[1]},
        {**told, present: {**told[out[0]], "seed": ["", 0, int(present.split("-")[1]), ""], "copy": int(present[-4:])}},
        {**told, out[1]: {**told[out[1]], "copy": 1 + told[out[1]]["copy"]}},
        {**told, out[1]: {"copy": told[out[1]]["copy"]}},
        {**told, out[1]: 7},
    ):
        forge_manifest(copy, left_out=changed)
        assert verify(copy)
    forge_manifest(copy, left_out=[*told])
    with pytest.raises(ShardError, match="'left_out' is of another type"):
        verify(copy)


@given(st.text(max_size=60) | st.from_regex(r"\A[a-z]{1,9}-[0-9]{1,12}-[0-9]{1,8}\Z"))
def test_keys(text: str) -> None:
    """Whatever is parsed is the key of what it was parsed to."""
    found = tar.parse_key(text)
    assert found is None or tar.sample_key(*found) == text


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`info` tells how many; `export` takes them out."""
    out = four(folder)
    from gif_datasets.cli import main

    reject(folder, out)
    assert main(["info", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rejected"], told["samples"]) == (4, 23)
    assert main(["export", str(folder), "--to", "shards", "--out", str(tmp_path / "copy")]) == 0
    assert main(["verify", str(tmp_path / "copy")]) == 0
    assert rejected_keys(tmp_path / "copy", manifests.read_manifest(tmp_path / "copy")) == frozenset()
