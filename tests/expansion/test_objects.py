"""Boxes and masks stay: pixels, records, exports, columns and the Hub, read by readers that are not ours."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import objects as marked
import pytest
import yaml
from hub_server import WRITER, HubServer
from PIL import Image, ImageDraw

import gif_datasets
from gif_datasets import ConfigError, ExpandedDataset, PlanMismatch, UsageError, expand, load_expanded
from gif_datasets.expansion.combine import combine
from gif_datasets.methods import METHODS
from gif_datasets.objects import Objects
from gif_datasets.publish.export import export_expanded
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.verify import verify

QUICK: dict[str, Any] = {"ratio": 2, "method": "unclip", "decode_steps": 2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, Path]:
    """An expansion with boxes, and one with masks; the seeds beside them."""
    place = tmp_path_factory.mktemp("kept")
    source = marked.coco(place / "seeds")
    for keep in ("boxes", "masks"):
        expand(source, place / keep, keep=keep, cache_dir=cache, **QUICK)
    return {name: place / name for name in ("seeds", "boxes", "masks")}


def seen_by_copies(seed: Image.Image, side: int) -> Image.Image:
    """The middle square of a seed, as small as a copy."""
    edge = min(seed.size)
    left, top = (seed.width - edge) // 2, (seed.height - edge) // 2
    return seed.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.BICUBIC)


def moved(box: list[float], size: tuple[int, int], side: int) -> list[float] | None:
    """A box in the middle square of a seed, as small as a copy: left, top, width, height; None if it is not there."""
    edge = min(size)
    corners = []
    for start, length, whole in zip(box[:2], box[2:], size, strict=True):
        ends = [(value - (whole - edge) // 2) * side / edge for value in (start, start + length)]
        corners.append([min(max(end, 0), side) for end in ends])
    (x0, x1), (y0, y1) = corners
    return [x0, y0, x1 - x0, y1 - y0] if x1 - x0 >= 1 and y1 - y0 >= 1 else None


def coco_of(folder: Path, out: Path) -> tuple[dict[str, Any], Path]:
    """The annotations of an export, as any reader of JSON has them, and the folder of its images."""
    export_expanded(folder, out, "coco")
    return json.loads((out / "train" / "_annotations.coco.json").read_text()), out / "train"


@pytest.mark.parametrize("keep", ["boxes", "masks"])
def test_seed_pixels_stay_inside_and_nothing_else_does(keep: str, kept: dict[str, Path], tmp_path: Path) -> None:
    """Read from the export: every pixel of the objects is the scaled seed's, and most others are the copy's."""
    content, folder = coco_of(kept[keep], tmp_path / "coco")
    assert len(content["images"]) == 18
    inside = 0
    for entry in content["images"]:
        found = np.asarray(Image.open(folder / entry["file_name"]))
        seed = Image.open(kept["seeds"] / entry["seed_origin"]).convert("RGB")
        assert found.shape[:2] == (entry["height"], entry["width"])
        if entry["copy"] == 0:
            assert np.array_equal(found, np.asarray(seed))
            continue
        wanted = np.asarray(seen_by_copies(seed, found.shape[0]))
        canvas = Image.new("L", found.shape[1::-1])
        for one in content["annotations"]:
            if one["image_id"] == entry["id"]:
                x, y, width, height = one["bbox"]
                if keep == "boxes":
                    corners = (math.floor(x), math.floor(y), math.ceil(x + width) - 1, math.ceil(y + height) - 1)
                    ImageDraw.Draw(canvas).rectangle(corners, fill=1)
                for polygon in one["segmentation"]:
                    ImageDraw.Draw(canvas).polygon(polygon, fill=1)
        mask = np.asarray(canvas) > 0
        assert np.array_equal(found[mask], wanted[mask])
        assert (found[~mask] != wanted[~mask]).any(1).mean() > 0.5
        inside += int(mask.sum())
    assert inside > 1000


def test_boxes_move_with_the_pixels(kept: dict[str, Path], tmp_path: Path) -> None:
    """Of wide, high and square seeds: cut to the middle square, scaled, and left out where nothing is left."""
    content, _ = coco_of(kept["boxes"], tmp_path / "coco")
    assert [one["name"] for one in content["categories"]] == ["cat", "dog"]
    names = {one["id"]: one["name"] for one in content["categories"]}
    for entry in content["images"]:
        number, size = int(entry["seed_origin"][0]), (entry["width"], entry["height"])
        boxes = [(marked.CATEGORIES[category], list(map(float, box))) for category, box in marked.boxes_of(number)]
        if entry["copy"]:
            found = [(name, moved(box, marked.sizes()[number], size[0])) for name, box in boxes]
            boxes = [(name, box) for name, box in found if box is not None]
        mine = [one for one in content["annotations"] if one["image_id"] == entry["id"]]
        assert [names[one["category_id"]] for one in mine] == [name for name, _ in boxes]
        assert np.allclose([one["bbox"] for one in mine], [box for _, box in boxes], atol=0.001)
        assert entry["class_name"] == ("dog" if number % 2 else "cat")  # of the largest


def test_the_reader_of_torchvision(kept: dict[str, Path], tmp_path: Path) -> None:
    """``CocoDetection`` and COCO's own masks, where pycocotools is installed; test_records says the same without."""
    pytest.importorskip("pycocotools")
    from torchvision.datasets import CocoDetection

    export_expanded(kept["masks"], tmp_path / "coco", "coco")
    read = CocoDetection(str(tmp_path / "coco/train"), str(tmp_path / "coco/train/_annotations.coco.json"))
    loaded = load_expanded(kept["masks"], objects=True)
    assert len(read) == len(loaded) == 18
    for (image, target), (own, _, objects) in zip(read, loaded, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(own))
        assert [one["bbox"] for one in target] == [list(one.box) for one in objects.items]
        for one in target:
            assert abs(int(read.coco.annToMask(one).sum()) - one["area"]) < 0.2 * one["area"] + 20


def test_records_of_every_reader(kept: dict[str, Path], tmp_path: Path) -> None:
    """`load_expanded`, a stream, `datasets` on shards, folders and Parquet say the same of each sample."""
    loaded = load_expanded(kept["masks"], objects=True)
    assert loaded.object_classes == ("cat", "dog")
    assert verify(kept["masks"]) == []
    truth = [Objects.to_json(objects) for _, _, objects in loaded]
    assert [objects for _, _, objects in gif_datasets.stream_expanded(f"file://{kept['masks']}", objects=True)] == [
        objects for _, _, objects in loaded
    ]
    shards = datasets.load_dataset(str(kept["masks"]), split="train", cache_dir=str(tmp_path / "hf"))
    assert [row["objects"] for row in shards["json"]] == truth
    for form in ("imagefolder", "parquet"):
        export_expanded(kept["masks"], tmp_path / form, form)
        rows = datasets.load_dataset(str(tmp_path / form), split="train", cache_dir=str(tmp_path / "hf"))
        assert rows.features["objects"]["category"].feature.names == ["cat", "dog"]
        name = rows.features["objects"]["category"].feature.int2str
        found = {row["key"]: {**row["objects"], "category": name(row["objects"]["category"])} for row in rows}
        assert [found[loaded._reader.key(index)] for index in range(18)] == truth


def test_yolo_there_and_back(kept: dict[str, Path], tmp_path: Path) -> None:
    """An export in YOLO's layout is a source of the same boxes."""
    export_expanded(kept["boxes"], tmp_path / "yolo", "yolo")
    assert yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())["names"] == {0: "cat", 1: "dog"}
    expand(f"yolo:{tmp_path / 'yolo'}", tmp_path / "again", keep="boxes", method="cutout", ratio=1, cache_dir=tmp_path)
    names = {f"{key}.png": record for key, record in keyed(kept["boxes"]).items()}
    after = [record for record in records(tmp_path / "again") if not record.copy]
    assert {record.seed_origin for record in after} == {n for n, record in names.items() if record.objects.items}
    for record in after:
        wanted = names[record.seed_origin].objects
        assert [one.category for one in record.objects.items] == [one.category for one in wanted.items]
        assert np.allclose([o.box for o in record.objects.items], [o.box for o in wanted.items], atol=0.01)


def keyed(folder: Path) -> dict[str, Any]:
    loaded = load_expanded(folder)
    return {loaded._reader.key(index): loaded.provenance(index) for index in range(len(loaded))}


def records(folder: Path) -> list[Any]:
    return list(keyed(folder).values())


def test_the_same_objects_from_each_source(kept: dict[str, Path], tmp_path: Path, cache: Path) -> None:
    """COCO, YOLO and a Hugging Face column give copies of the same bytes and boxes, each class that of the largest."""
    wanted = [(r.image_sha256, r.class_name, r.objects) for r in records(kept["boxes"])]
    for number, source in enumerate((marked.yolo(tmp_path / "y"), marked.hugging_face(tmp_path / "h"))):
        expand(source, tmp_path / str(number), keep="boxes", cache_dir=tmp_path / "c", **QUICK)
        found = records(tmp_path / str(number))
        assert [(r.image_sha256, r.class_name) for r in found] == [one[:2] for one in wanted]
        for record, (_, _, objects) in zip(found, wanted, strict=True):
            assert np.allclose([o.box for o in record.objects.items], [o.box for o in objects.items], atol=0.002)


def test_bytes_follow_from_objects_alone(kept: dict[str, Path], tmp_path: Path, cache: Path) -> None:
    """Two workers, small shards and an empty cache give the same images; a box that moves gives others."""
    source = f"coco:{kept['seeds']}"
    expand(source, tmp_path / "x", keep="boxes", workers=2, samples_per_shard=4, cache_dir=tmp_path / "c", **QUICK)
    assert {k: r.image_sha256 for k, r in keyed(tmp_path / "x").items()} == {
        k: r.image_sha256 for k, r in keyed(kept["boxes"]).items()
    }
    content = marked.annotations()
    content["annotations"][0]["bbox"] = [15, 12, 30, 20]
    expand(marked.coco(tmp_path / "s", content), tmp_path / "y", keep="boxes", cache_dir=cache, **QUICK)
    before, after = keyed(kept["boxes"]), keyed(tmp_path / "y")
    differ = {after[key].seed_origin for key in after if after[key].image_sha256 != before[key].image_sha256}
    assert differ == {"0.png"}


def test_without_keep_it_is_refused_and_none_changes_no_byte(tmp_path: Path) -> None:
    """Every source with boxes; ``none`` is an expansion without a trace of them."""
    folder = tmp_path / "classes"
    for label in ("train", "other"):
        marked.images(folder / label)
    (folder / "train" / "_annotations.coco.json").write_text("{}")
    sources = (
        marked.coco(tmp_path / "c"),
        marked.yolo(tmp_path / "y"),
        marked.hugging_face(tmp_path / "h"),
        str(folder),
    )
    options: dict[str, Any] = {"ratio": 1, "method": "cutout", "cache_dir": tmp_path / "cache"}
    for number, source in enumerate(sources):
        with pytest.raises(gif_datasets.SourceError, match=r"has boxes in .* say keep=boxes or keep=masks"):
            expand(source, tmp_path / f"x{number}", **options)
        expand(source, tmp_path / f"x{number}", keep="none", **options)
        plan = json.loads((tmp_path / f"x{number}/plan.json").read_text())
        assert "objects" not in plan
        assert "keep" not in plan["recipe"]["options"]
        assert all(record.objects is None for record in records(tmp_path / f"x{number}"))
    with pytest.raises(
        gif_datasets.SourceError, match=r"has boxes in .*, which is not read, got keep=boxes; give coco:"
    ):
        expand(str(folder), tmp_path / "z", keep="boxes", **options)
    with pytest.raises(gif_datasets.SourceError, match="demo has no boxes, got keep=masks"):
        expand("demo", tmp_path / "z", keep="masks", **options)


@pytest.mark.parametrize("method", ["randaugment", "cutmix", "select:randaugment"])
def test_methods_that_move_are_refused(method: str) -> None:
    """In one line that names those that do not."""
    with pytest.raises(ConfigError, match=rf"'{method}' moves or mixes .* keep=boxes cannot hold; .* gif-unclip"):
        gif_datasets.ExpansionConfig(method=method, keep="boxes")
    gif_datasets.ExpansionConfig(method=method, keep="none")


STILL = [name for name, one in METHODS.items() if not one.moves and not one.selects and one.family != "rae"]
"""Methods of the embedded prior, and of none, that move nothing."""


@pytest.mark.parametrize("method", STILL)
def test_every_other_method_keeps_boxes(method: str, tmp_path: Path, cache: Path) -> None:
    """Each prior and each mask, whatever it makes of what lies outside."""
    source, few = marked.coco(tmp_path / "s"), {"steps": 1, "decode_steps": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at options that the method has no use for
        expanded = ExpandedDataset(source, ratio=1, method=method, keep="boxes", cache_dir=cache, **few)
    for index in range(6, 12):
        image, record = expanded[index][0], expanded.provenance(index)
        seed = expanded[index - 6][0]
        whole = seed if METHODS[method].family == "augment" else seen_by_copies(seed, image.width)
        assert record.objects is not None
        assert record.objects.size == image.size
        for one in record.objects.items:
            x, y, width, height = one.box
            part = (slice(math.floor(y), math.ceil(y + height)), slice(math.floor(x), math.ceil(x + width)))
            assert np.array_equal(np.asarray(image)[part], np.asarray(whole)[part])


def test_items_of_a_wrapped_dataset(tmp_path: Path) -> None:
    """A Hugging Face dataset yields copies with its own column, whose boxes are those of the copy."""
    dataset = marked.hugging_face(tmp_path / "h", label=True)
    expanded = ExpandedDataset(
        dataset, ratio=1, method="unclip", decode_steps=2, keep="boxes", cache_dir=tmp_path / "c"
    )
    assert expanded.classes == ("indoor", "outdoor")  # its own label comes first
    for index in range(6):
        assert expanded[index]["objects"] == dataset[index]["objects"]
        copy, size = expanded[6 + index], dataset[index]["image"].size
        wanted = [moved(box, size, copy["image"].width) for box in dataset[index]["objects"]["bbox"]]
        left = [place for place, box in enumerate(wanted) if box is not None]
        assert np.allclose(copy["objects"]["bbox"], [wanted[place] for place in left], atol=0.001)
        assert copy["objects"]["note"] == [dataset[index]["objects"]["note"][place] for place in left]
        assert copy["objects"].keys() == dataset[index]["objects"].keys()
    rows = expanded.to_hf()
    assert rows.features["objects"]["category"].feature.names == ["cat", "dog"]
    assert [len(row["bbox"]) for row in rows["objects"]] == [
        len(expanded.provenance(index).objects.items) for index in range(12)
    ]
    assert rows["id"][6:] == list(range(6))


def test_on_the_hub_as_a_column(kept: dict[str, Path], hub: HubServer, tmp_path: Path, monkeypatch: Any) -> None:
    """Parquet with an ``objects`` column, shards with it in the record; loaded back by name."""
    monkeypatch.setenv("HF_TOKEN", WRITER)
    for name, form in (("me/boxes-p", "parquet"), ("me/boxes-s", "shards")):
        gif_datasets.push_to_hub(kept["boxes"], name, form=form)
    rows = datasets.load_dataset("me/boxes-p", "expanded", split="train", cache_dir=str(tmp_path / "hf"))
    loaded = load_expanded("hub:me/boxes-s", objects=True)
    found = sorted(str(row["bbox"]) for row in rows["objects"])
    assert found == sorted(str([list(one.box) for one in objects.items]) for _, _, objects in loaded)


def test_a_reduced_source(tmp_path: Path) -> None:
    """``max_side`` scales boxes with the images, and a copy is made of what is left."""
    source = marked.coco(tmp_path / "s")
    expand(source, tmp_path / "x", keep="boxes", max_side=60, ratio=1, method="cutout", cache_dir=tmp_path / "c")
    for record in records(tmp_path / "x"):
        number = int(record.seed_origin[0])
        share = 60 / max(marked.sizes()[number])
        assert max(record.objects.size) == 60
        wanted = [[value * share for value in box] for _, box in marked.boxes_of(number)]
        assert np.allclose([one.box for one in record.objects.items], wanted, atol=0.001)


def test_an_expansion_is_expanded_again(kept: dict[str, Path], tmp_path: Path) -> None:
    """Its copies are seeds whose objects are kept; without a word it is refused."""
    options: dict[str, Any] = {"ratio": 1, "method": "gridmask", "cache_dir": tmp_path / "c"}
    with pytest.raises(gif_datasets.SourceError, match="has masks of its seeds and copies"):
        expand(str(kept["masks"]), tmp_path / "x", **options)
    expand(str(kept["masks"]), tmp_path / "x", keep="masks", **options)
    before = {record.image_sha256: record.objects for record in records(kept["masks"])}
    after = [record for record in records(tmp_path / "x") if record.copy == 0]
    assert {record.image_sha256: record.objects for record in after} == before


@pytest.mark.parametrize("keep", ["boxes", "masks"])
def test_a_set_with_objects_grows(keep: str, tmp_path: Path) -> None:
    """A box that moved makes its image another one; all others stay; the plan has the digest of what is marked now."""
    content, seeds = marked.annotations(), tmp_path / "s"
    content["images"].pop()
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 15]
    source, cache = marked.coco(seeds, content), tmp_path / "c"
    options: dict[str, Any] = {"keep": keep, "ratio": 1, "method": "cutout", "samples_per_shard": 2, "cache_dir": cache}
    expand(source, tmp_path / "x", **options)
    before = {(record.seed_index, record.copy): record for record in records(tmp_path / "x")}
    assert expand(source, tmp_path / "x", update=True, cache_dir=cache).generation == 1
    whole = marked.annotations()
    box = whole["annotations"][2]["bbox"]  # of image 1
    box[0] += 3
    whole["annotations"][2]["segmentation"] = [marked.outline(box)]
    marked.coco(seeds, whole)
    found = expand(source, tmp_path / "x", update=True, cache_dir=cache)
    assert (found.generation, found.added, found.withdrawn, found.left) == (2, 2, 1, ())
    assert verify(tmp_path / "x") == []
    after = {(record.seed_index, record.copy): record for record in records(tmp_path / "x")}
    assert {key: after[key] for key in before if key[0] != 1} == {key: before[key] for key in before if key[0] != 1}
    assert {key[0] for key in after} == {0, 2, 3, 4, 5, 6}
    moved_box = next(record for record in after.values() if record.seed_origin == "1.png" and not record.copy)
    assert list(moved_box.objects.items[0].box) == box
    expand(source, tmp_path / "once", **options)
    digests = [ExpandedFolder.open(tmp_path / name).manifest.plan.content["objects_digest"] for name in ("x", "once")]
    assert len(set(digests)) == 2  # other numbers
    whole["categories"].append({"id": 9, "name": "emu"})
    marked.coco(seeds, whole)
    with pytest.raises(PlanMismatch, match="objects"):
        expand(source, tmp_path / "x", update=True, cache_dir=cache)
    expand(source, tmp_path / "copies", originals=False, **options)
    with pytest.raises(PlanMismatch, match="lacks originals"):
        expand(source, tmp_path / "copies", update=True, cache_dir=cache)
    gif_datasets.withdraw(tmp_path / "x", ["0.png"], cache_dir=cache)
    assert verify(tmp_path / "x") == []


def test_what_is_not_followed_is_refused(kept: dict[str, Path], tmp_path: Path) -> None:
    """Exports and loads that would lose boxes, and joins of what keeps other things."""
    with pytest.raises(UsageError, match=r"boxes keeps boxes of .*cat.* and .*masks keeps masks"):
        load_expanded([kept["boxes"], kept["masks"]])
    expand("demo", tmp_path / "plain", ratio=1, prior="linear", limit=20, cache_dir=tmp_path / "c")
    with pytest.raises(UsageError, match="keeps no boxes, which yolo is for"):
        export_expanded(tmp_path / "plain", tmp_path / "y", "yolo")
    with pytest.raises(UsageError, match="keeps no objects"):
        load_expanded(tmp_path / "plain", objects=True)


def test_methods_of_one_source_are_joined(kept: dict[str, Path], tmp_path: Path) -> None:
    """Copies of both methods with their boxes, in one view and in one folder."""
    expand(f"coco:{kept['seeds']}", tmp_path / "x", keep="boxes", ratio=1, method="cutout", cache_dir=tmp_path / "c")
    joined = load_expanded([kept["boxes"], tmp_path / "x"], objects=True)
    assert len(joined) == 24
    assert all(objects.size == image.size for image, _, objects in joined)
    combine([ExpandedFolder.open(place) for place in (kept["boxes"], tmp_path / "x")], tmp_path / "both")
    assert verify(tmp_path / "both") == []
    assert [one.objects for one in records(tmp_path / "both")] == [objects for _, _, objects in joined]
