"""Several expansions as one: seeds once, the copies of all, each as it was; read together, or merged into a folder."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from helpers import contents, forge_manifest, hugging_face
from PIL import Image

import gif_datasets
from gif_datasets import DataLoader, PlanMismatch, ShardError, UsageError, load_expanded, merge_parts
from gif_datasets.cli import parser
from gif_datasets.data.map_style import LoadedDataset
from gif_datasets.expansion import combine
from gif_datasets.expansion.withdraw import withdraw
from gif_datasets.shards import manifest
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.joined import join
from gif_datasets.shards.manifest import read_manifest
from gif_datasets.shards.rejections import reject
from gif_datasets.shards.verify import verify

Expand = Callable[..., Path]
GUIDED: dict[str, Any] = {"ratio": 2, "prior": "linear", "rng_seed": 0}
AUGMENTED: dict[str, Any] = {"ratio": 3, "method": "cutmix", "image_format": "png"}


@pytest.fixture
def expand(seed_folder: Path, tmp_path: Path) -> Expand:
    """Expand the seeds, or another source, into a folder of a name."""

    def run(name: str, source: Any = str(seed_folder), **options: Any) -> Path:
        gif_datasets.expand(source, tmp_path / name, **{"samples_per_shard": 4, **options})
        return tmp_path / name

    return run


@pytest.fixture
def other_seeds(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    """Pictures of crabs, one of which the seeds have too, and of dogs; dogs come first."""
    for name, numbers in (("a dog", (70, 71)), ("crab", (20, 90))):
        (tmp_path / "others" / name).mkdir(parents=True)
        for number in numbers:
            picture(number).save(tmp_path / "others" / name / f"{number}.png")
    return tmp_path / "others"


def samples(loaded: LoadedDataset) -> dict[tuple[int, int], dict[str, Any]]:
    """Records by seed and copy; each is there once, and its image is that of its digest."""
    records = [loaded.provenance(index) for index in range(len(loaded))]
    found = {(record.seed_index, record.copy): record.to_json() for record in records}
    assert len(found) == len(loaded)
    return found


def test_two_methods_on_one_source(expand: Expand, tmp_path: Path) -> None:
    """Seeds are there once, with the copies of both, whose numbers count on; nothing else of any record changes."""
    parts = [expand("guided", validation_share=0.25, **GUIDED), expand("mixed", validation_share=0.25, **AUGMENTED)]
    before = [contents(part) for part in parts]
    assert merge_parts(parts, tmp_path / "both") == 3 + 5 + 7 + 1
    assert verify(tmp_path / "both") == []
    own = [samples(load_expanded(part)) for part in parts]
    wanted = own[0] | {(seed, copy + 2): {**r, "copy": copy + 2} for (seed, copy), r in own[1].items() if copy}
    for loaded in (load_expanded(tmp_path / "both"), load_expanded(parts)):
        assert samples(loaded) == wanted
        assert np.bincount(loaded.groups).tolist() == [6 * (number in set(loaded.groups)) for number in range(12)]
        assert (len(loaded), int(loaded.synthetic.sum())) == (54, 45)
    held = [samples(load_expanded(folder, split="validation")) for folder in (*parts, tmp_path / "both")]
    assert held[1] | held[0] == held[2] == samples(load_expanded(parts, split="validation"))
    shards = [{shard.sha256 for shard in read_manifest(folder).shards} for folder in (parts[0], tmp_path / "both")]
    assert shards[0] < shards[1]
    made = contents(tmp_path / "both")
    assert merge_parts(parts, tmp_path / "both") == 16
    assert contents(tmp_path / "both") == made
    assert [contents(part) for part in parts] == before


def test_a_list_is_read_as_one(expand: Expand, tmp_path: Path) -> None:
    """Images are those of the folders, in their order; it loads, is pickled, checked and split as one folder is."""
    parts = [expand("guided", **GUIDED), expand("mixed", **AUGMENTED)]
    joined, first, second = load_expanded(parts, check=True), *map(load_expanded, parts)
    images = [*first, *(second[i] for i in np.flatnonzero(second.synthetic).tolist())]
    assert all(
        np.array_equal(np.asarray(a[0]), np.asarray(b[0])) and a[1] == b[1] for a, b in zip(joined, images, strict=True)
    )
    assert samples(pickle.loads(pickle.dumps(joined))) == samples(joined)
    batch, labels = next(iter(DataLoader(joined, 72)))
    assert (batch.shape, labels.tolist()) == ((72, 3, 32, 32), joined.targets.tolist())
    assert joined.fingerprint not in {load_expanded(parts[::-1]).fingerprint, first.fingerprint}
    assert [recipe["options"]["method"] for recipe in joined.recipe["joined"]] == ["gif-unclip", "cutmix"]
    with pytest.warns(UserWarning, match="classifier=both"):
        train, held = joined.split(0.25)
    shown = {held.provenance(i).seed_key for i in range(len(held))}
    assert not any({r.seed_key, r.partner_key} & shown for r in map(train.provenance, range(len(train))))
    assert train.left_out == 72 - 3 * 6 - len(train) > 0
    assert samples(load_expanded(parts[:1])) == samples(first)
    with pytest.raises(IndexError):
        joined._reader.image_bytes(72)
    with pytest.raises(UsageError, match="no split 'validation' here; there is train"):
        load_expanded(parts, split="validation")


def test_seeds_come_from_whoever_has_them(expand: Expand, tmp_path: Path) -> None:
    """A folder of copies alone gets its seeds from another, whichever is first."""
    parts = [expand("copies", originals=False, **GUIDED), expand("mixed", **AUGMENTED)]
    for number, order in enumerate((parts, parts[::-1])):
        merge_parts(order, tmp_path / str(number))
        assert verify(tmp_path / str(number)) == []
        loaded = load_expanded(tmp_path / str(number))
        assert samples(loaded) == samples(load_expanded(order))
        assert (len(loaded), int(loaded.synthetic.sum())) == (72, 60)


def test_other_sources_by_class_name(expand: Expand, other_seeds: Path, tmp_path: Path) -> None:
    """Labels follow the names, new classes come last, and an image that both have under one class is one seed."""
    parts = [expand("ours", **AUGMENTED), expand("theirs", str(other_seeds), method="cutmix", ratio=1)]
    merge_parts(parts, tmp_path / "both", match_classes=True)
    assert verify(tmp_path / "both") == []
    loaded = load_expanded(tmp_path / "both")
    assert loaded.classes == ("ant", "bee", "crab", "a dog")
    found = samples(loaded)
    assert found == samples(load_expanded(parts, match_classes=True))
    assert len(set(loaded.groups)) == int((~loaded.synthetic).sum()) == 12 + 3
    assert len(loaded) == 15 + 12 * 3 + 4
    assert sorted(np.bincount(loaded.groups).tolist()) == [2, 2, 2, *[4] * 11, 5]
    partners = {record["seed_key"]: record["label"] for record in found.values()}
    for record in found.values():
        assert record["class_name"] == loaded.classes[record["label"]]
        assert record["partner_label"] == partners.get(record["partner_key"], -1)
    assert [loaded[i][1] for i in range(len(loaded))] == loaded.targets.tolist()
    again = tmp_path / "again"
    merge_parts([tmp_path / "both", expand("third", ratio=1, method="randaugment")], again, match_classes=True)
    assert verify(again) == []
    assert len(load_expanded(again)) == 55 + 12
    assert len(read_manifest(again).plan.merged) == 3


def test_what_was_rejected_stays_so(expand: Expand, tmp_path: Path) -> None:
    """Samples that were rejected, and those that were left out before, of seeds and copies of both."""
    parts = [expand("guided", **GUIDED), expand("mixed", **AUGMENTED)]
    reject(parts[0], ["train-0000001-0000", "train-0000002-0001"])
    gif_datasets.export_expanded(parts[0], tmp_path / "pruned", "shards")
    reject(parts[1], ["train-0000001-0000", "train-0000005-0003"])
    gone = {(1, 0), (2, 1), (5, 5)}
    for number, first in enumerate((parts[0], tmp_path / "pruned")):
        merge_parts([first, parts[1]], tmp_path / str(number))
        assert verify(tmp_path / str(number)) == []
        loaded = load_expanded(tmp_path / str(number))
        assert samples(loaded) == samples(load_expanded([first, parts[1]]))
        assert len(loaded) == 72 - 3
        assert not gone & samples(loaded).keys()
    reject(tmp_path / "0", ["train-0000002-0001"], rejected=False)
    merge_parts(parts, tmp_path / "0")  # what somebody took back stays
    assert len(load_expanded(tmp_path / "0")) == 70


def test_copies_that_were_chosen_among_all(expand: Expand, tmp_path: Path) -> None:
    """Seeds with more copies than others."""
    chosen = {"method": "select:unclip", "selection": "sample-agnostic", "prior": "linear", "ratio": 2}
    parts = [expand("chosen", **chosen), expand("mixed", **AUGMENTED)]
    merge_parts(parts, tmp_path / "both")
    assert verify(tmp_path / "both") == []
    assert len(load_expanded(tmp_path / "both")) == 12 * 6


def test_own_columns_of_one_source_stay(expand: Expand, seed_folder: Path, tmp_path: Path) -> None:
    """Those of a Hugging Face dataset; of two they cannot be put together."""
    rows = hugging_face(seed_folder)
    parts = [expand("guided", rows, **GUIDED), expand("mixed", rows, **AUGMENTED)]
    merge_parts(parts, tmp_path / "both")
    assert verify(tmp_path / "both") == []
    gif_datasets.export_expanded(tmp_path / "both", tmp_path / "parquet", "parquet")
    found = datasets.load_dataset(str(tmp_path / "parquet"), split="train")
    assert found["id"] == [100 + number for number in found["seed_index"]]
    assert found.num_rows == 72
    fewer = expand("fewer", rows.select(range(8)), method="randaugment", ratio=1)
    plain = expand("plain", method="randaugment", ratio=1)
    for other in (fewer, plain):
        with pytest.raises(UsageError, match="columns of their own that cannot be put together"):
            merge_parts([parts[0], other], tmp_path / "none", match_classes=True)
    assert not (tmp_path / "none").exists()


def test_a_merge_that_is_cut_off_goes_on(expand: Expand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run again, it has the bytes of one that nobody disturbed; what has a manifest has everything."""
    parts = [expand("guided", **GUIDED), expand("mixed", **AUGMENTED)]
    merge_parts(parts, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    write, left = combine._write, iter(range(5))

    def cut(*args: Any) -> Any:
        next(left)
        return write(*args)

    monkeypatch.setattr(combine, "_write", cut)
    with pytest.raises(StopIteration):
        merge_parts(parts, tmp_path / "both")
    assert not (tmp_path / "both" / "manifest.json").exists()
    monkeypatch.setattr(combine, "_write", write)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write_manifest", lambda *_: next(left))
        with pytest.raises(StopIteration):
            merge_parts(parts, tmp_path / "both")
    assert contents(tmp_path / "both").keys() == whole.keys() - {"manifest.json"}
    merge_parts(parts, tmp_path / "both")
    assert contents(tmp_path / "both") == whole
    with pytest.raises(PlanMismatch, match="holds another expansion"):
        merge_parts(parts[::-1], tmp_path / "both")
    damaged = sorted((parts[1] / "data").iterdir())[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(ShardError, match="missing or damaged; run: gif-datasets verify"):
        merge_parts(parts, tmp_path / "third")


def test_copies_that_both_have_are_told(expand: Expand, tmp_path: Path) -> None:
    """Of one method with one number, the smaller ratio's copies are the first of the larger one's."""
    parts = [expand("two", ratio=2, method="randaugment"), expand("three", ratio=3, method="randaugment")]
    with pytest.warns(UserWarning, match=r"24 of 60 copies are the same image .* another --rng-seed"):
        merge_parts(parts, tmp_path / "both")
    assert len(load_expanded(tmp_path / "both")) == 12 * 6


def test_the_cards_tell_the_parts(expand: Expand, tmp_path: Path) -> None:
    """Each method, ratio and number of a run; a set of augmented copies names no model; no one run makes it again."""
    parts = [
        expand("guided", **GUIDED),
        expand("mixed", **AUGMENTED),
        expand("masked", method="cutout", ratio=1, rng_seed=7),
    ]
    merge_parts(parts, tmp_path / "all")
    text = (tmp_path / "all" / "README.md").read_text()
    assert "expanded 6x by `gif-unclip + cutmix + cutout`" in text
    assert "Guided Imagination Framework" in text
    assert "under `cutmix`" in text
    told = [json.loads(line.split("`")[1]) for line in text.splitlines() if line.startswith("| part ")]
    assert [(one["method"], one["ratio"], one["rng_seed"]) for one in told] == [
        ("gif-unclip", 2, 0),
        ("cutmix", 3, 0),
        ("cutout", 1, 7),
    ]
    merge_parts(parts[1:], tmp_path / "augmented")
    for folder, imagined in (("all", True), ("augmented", False)):
        pushed = _card(tmp_path / folder)
        assert ("a model imagined them" in pushed) == imagined
        assert "config.toml" not in pushed
        assert "| part 2 |" in pushed


def _card(folder: Path) -> str:
    from gif_datasets.publish import contents as published
    from gif_datasets.publish.hub_card import Rights
    from gif_datasets.types import no_progress

    opened = ExpandedFolder.open(folder)
    with published.picture_files(opened, "shards", no_progress) as pictures:
        files = published.collect(opened, "me/x", pictures, Rights(), None, "2026-01-02", False, no_progress)
    return published.text_of(files["README.md"])


def test_what_does_not_go_together_is_refused(
    expand: Expand, seed_folder: Path, other_seeds: Path, tmp_path: Path
) -> None:
    """The difference is named, by whoever reads or merges, and nothing is written."""
    ours = expand("ours", ratio=1, method="randaugment")
    renamed = Path(shutil.copytree(seed_folder, tmp_path / "renamed"))
    (renamed / "bee").rename(renamed / "wasp")
    relabelled = Path(shutil.copytree(seed_folder, tmp_path / "relabelled"))
    (relabelled / "bee" / "1.png").rename(relabelled / "ant" / "9.png")
    options = {"ratio": 1, "method": "cutout"}
    rows = hugging_face(seed_folder)
    turned = rows.cast_column("kind", datasets.ClassLabel(names=["crab", "bee", "ant"]))
    for number, (source, more, error) in enumerate(
        (
            (str(seed_folder), {"validation_share": 0.25}, r"3 only in .*\(crab, held out\)|3 only in .*, expanded\)"),
            (str(seed_folder), {"limit": 6}, r"6 only in .*ours, the first ant/1.png \(ant, expanded\)"),
            (str(renamed), {}, r"other classes .*only in .*: wasp; only in .*ours: bee"),
            (str(other_seeds), {}, "other classes"),
            (
                str(relabelled),
                {},
                r"source: seeds there, relabelled here; 1 only in .*bee/1.png \(bee",
            ),
            (turned, {}, r"other classes .*\(in another order\)"),
        )
    ):
        theirs = expand(f"theirs {number}", source, **options, **more)
        for together in (load_expanded, lambda parts: merge_parts(parts, tmp_path / "none")):
            with pytest.raises(UsageError, match=error):
                together([ours, theirs])
    held = expand("held", validation_share=0.25, **options)
    with pytest.raises(UsageError, match=r"an image is held out and expanded: .* in .*held, .* in .*ours; hold out"):
        load_expanded([ours, held], match_classes=True)
    copy = Path(shutil.copytree(ours, tmp_path / "copy"))
    with pytest.raises(UsageError, match=r"copy and .*ours hold the same expansion; give it once"):
        load_expanded([ours, copy])
    webp = expand("webp", image_format="webp", **options)
    assert len(load_expanded([ours, webp])) == 36
    with pytest.raises(UsageError, match=r"has png images, .* has webp"):
        merge_parts([ours, webp], tmp_path / "none")
    many = [expand(f"many {number}", ratio=1, method="cutout", rng_seed=number) for number in (1, 2)]
    for out in (many[0], many[0] / "inner"):
        with pytest.raises(UsageError, match="which stays as it is; choose another --out"):
            merge_parts(many, out)
    with pytest.raises(UsageError, match="at least one folder"):
        load_expanded([])
    with pytest.raises(UsageError, match="no revision with a list"):
        load_expanded(many, revision="main")
    (many[1] / "manifest.json").unlink()
    with pytest.raises(PlanMismatch, match="to merge several expansions, finish each before"):
        merge_parts(many, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_folders_that_have_changed(
    expand: Expand, seed_folder: Path, tmp_path: Path, picture: Callable[[int], Image.Image]
) -> None:
    """Generations go together by their images, whatever number each has; what was withdrawn does not come back."""
    source, parts = str(seed_folder), [expand("guided", **GUIDED), expand("mixed", **AUGMENTED)]
    picture(55).save(seed_folder / "ant" / "00.png")  # now the first
    gif_datasets.expand(source, parts[0], update=True, **GUIDED)
    with pytest.raises(UsageError, match=r"1 only in .*guided, the first ant/00\.png"):
        load_expanded(parts)
    again = expand("again", **AUGMENTED)
    merge_parts([parts[0], again], tmp_path / "grown")
    assert verify(tmp_path / "grown") == []
    assert samples(load_expanded(tmp_path / "grown")) == samples(load_expanded([parts[0], again]))
    assert len(load_expanded(tmp_path / "grown")) == 13 * 6
    with pytest.raises(
        PlanMismatch, match=r"grown was merged from 2 expansions, .*; update each of them, and merge again"
    ):
        gif_datasets.expand(source, tmp_path / "grown", update=True)
    withdraw(tmp_path / "grown", ["ant/00.png"])
    withdraw(parts[0], ["ant/00.png"])
    assert verify(tmp_path / "grown") == []
    text = (tmp_path / "grown" / "README.md").read_text()
    assert "1 more was real images of earlier generations" in text
    with pytest.raises(UsageError, match=r"ant/00\.png in .*again was withdrawn from .*guided; withdraw it there, too"):
        load_expanded([parts[0], again], match_classes=True)
    withdraw(again, ["ant/00.png"])
    merge_parts([parts[0], again], tmp_path / "smaller")
    assert verify(tmp_path / "smaller") == []
    assert samples(load_expanded(tmp_path / "smaller")) == samples(load_expanded(tmp_path / "grown"))
    assert len(read_manifest(tmp_path / "smaller").plan.withdrawn) == 1
    assert "1 more was real images of earlier" in (tmp_path / "smaller" / "README.md").read_text()


def test_a_union_is_withdrawn_from(expand: Expand, other_seeds: Path, tmp_path: Path) -> None:
    """Where seeds have different numbers of copies, and parts have other options; the cache is cleared, too."""
    parts = [expand("ours", encode_batch=4, **GUIDED), expand("theirs", str(other_seeds), method="cutmix", ratio=1)]
    merge_parts(parts, tmp_path / "both", match_classes=True)
    assert withdraw(tmp_path / "both", ["crab/0.png"]).cache_entries == 3
    assert verify(tmp_path / "both") == []
    assert len(set(load_expanded(tmp_path / "both").groups)) == 14


def test_more_copies_than_numbers(expand: Expand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers have a limit, which is named."""
    parts = [expand("guided", **GUIDED), expand("mixed", **AUGMENTED)]
    monkeypatch.setattr("gif_datasets.shards.joined.MAX_RATIO", 4)
    with pytest.raises(UsageError, match="together they have 5 copies a seed, and 4 are the most"):
        load_expanded(parts)


@pytest.mark.parametrize(
    "forged",
    [*({"merged": one} for one in (7, ["x"], [{}], [{"source": "x", "seeds": 1, "recipe": {}}])), {"copies": "many"}],
)
def test_a_damaged_list_of_parts(expand: Expand, forged: dict[str, Any]) -> None:
    """It is named, not shown."""
    folder = expand("mixed", **AUGMENTED)
    forge_manifest(folder, plan={**read_manifest(folder).plan.content, **forged})
    with pytest.raises(ShardError, match="is damaged"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "forged", [{"seed_index": 99}, {"seed_index": -1}, {"label": 3}, {"label": -1}, {"partner_label": 3}]
)
def test_a_record_of_something_else_is_not_merged(expand: Expand, forged: dict[str, Any]) -> None:
    """It is named by its folder, with the command that looks closer."""
    parts = [expand("guided", **GUIDED), expand("mixed", **AUGMENTED)]
    member = join([ExpandedFolder.open(part) for part in parts]).members[1]
    record = dataclasses.replace(load_expanded(parts[1]).provenance(12), **forged)
    with pytest.raises(ShardError, match=r"a record in .*mixed names a seed or a class that is not there; run"):
        member.record(record)


def test_command_line(expand: Expand, other_seeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`gif-datasets merge A B`, then `info`, which tells the parts."""
    guided, mixed = (str(expand("guided", **GUIDED)), str(expand("mixed", **AUGMENTED)))
    theirs = str(expand("theirs", str(other_seeds), method="cutmix", ratio=1))
    assert parser.main(["merge", guided, mixed, "--out", str(tmp_path / "both"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["originals"], value["synthetic"]) == (12, 60)
    assert parser.main(["info", str(tmp_path / "both")]) == 0
    assert 'merged, part 2: {"source": "seeds", "seeds": 12, "method": "cutmix"' in capsys.readouterr().out
    assert parser.main(["merge", guided, theirs, "--out", str(tmp_path / "more")]) == 2
    assert "merge --match-classes" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()
    assert parser.main(["merge", guided, theirs, "--out", str(tmp_path / "more"), "--match-classes"]) == 0
