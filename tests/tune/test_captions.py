"""Captions: their file, contexts that are drawn across classes, tuning on them, and words where there are none."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import gif_datasets
from gif_datasets import ConfigError, ExpandedDataset, ExpansionConfig
from gif_datasets.captions import as_csv, context_of, read_captions, read_contexts
from gif_datasets.cli import main
from gif_datasets.errors import PlanMismatch
from gif_datasets.priors import find_prior, load_prior
from gif_datasets.shards.card import MOST_ITEMS, option_text
from gif_datasets.shards.manifest import read_manifest
from gif_datasets.shards.verify import verify
from gif_datasets.tune import conditions
from gif_datasets.tune.fine_tune import tune

LINES = (
    "name,caption\n"
    "ant/0.png,a photo of an Ant on a leaf\n"
    'bee/1.png,"a {} in flight, seen from below"\n'
    "crab/2.png,wet sand\n"
)
CONTEXTS = ("a photo of an {} on a leaf", "a {} in flight, seen from below", "{}, wet sand")


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    (tmp_path / "captions.csv").write_text(LINES)
    return tmp_path / "captions.csv"


def test_both_forms_say_the_same(captions: Path, tmp_path: Path) -> None:
    """CSV, with an editor's byte order mark or not, and JSON Lines; classes from folders, or a column."""
    assert tuple(read_captions(captions).values()) == CONTEXTS
    marked = tmp_path / "marked.csv"
    marked.write_bytes(b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode())
    assert read_captions(marked) == read_captions(captions)
    rows = [
        {"name": "row 7", "class": "ant", "caption": "a photo of an  Ant\non a leaf", "more": 1},
        {"name": "row 8", "caption": CONTEXTS[1]},
        {"name": "row 9", "caption": "wet sand"},
    ]
    lines = tmp_path / "captions.jsonl"
    lines.write_text("\n\n".join(map(json.dumps, rows)))
    assert tuple(read_captions(lines).values()) == CONTEXTS
    assert read_contexts(str(lines)) == read_contexts(str(captions)) == tuple(sorted(CONTEXTS))


@given(st.text(min_size=1, max_size=60), st.text(max_size=12))
def test_a_context_has_the_class_once(caption: str, name: str) -> None:
    """Whatever the caption and the class are, unless the caption itself says where."""
    text = caption.replace("{}", "").replace("\0", "")
    assert context_of(text, name.replace("\0", "")).count("{}") == 1


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}/[^\0\r\n]{1,9}", fullmatch=True), st.just("a {} on grass")))
def test_what_is_written_is_read(found: dict[str, str]) -> None:
    """Names with commas and quotation marks, too."""
    if found:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "c.csv"
            path.write_bytes(as_csv(found))
            assert read_captions(path) == found


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"file,text\na,b\n", "must name the columns name and caption"),
        ("a.csv", b"name,caption\n", "have no rows"),
        ("a.csv", b"name,caption\na/0.png\n", "line 2: each has a name and a caption"),
        ("a.csv", b"name,caption\na/0.png,x\na/0.png,y\n", "line 3: 'a/0.png' has another caption before"),
        ("a.csv", b"name,caption\na/0.png,{} and {}\n", "line 2: contexts must each have exactly one {}"),
        ("a.csv", b"name,caption\na/0.png," + b"x" * 600 + b"\n", "at most 500 printable characters"),
        ("a.csv", b"name,caption\na/0.png,a\x1b[31m\n", "printable"),
        ("a.csv", b'name,caption\na/0.png,"open\n', "cannot read the captions"),
        ("a.csv", b"\xff\xfe\x00", "cannot read the captions"),
        ("a.csv", None, "No such file"),
        ("a.jsonl", b"[1]\n", "line 1 is not an object"),
        ("a.jsonl", b"{", "cannot read the captions"),
        ("a.jsonl", b'{"name": "a", "caption": "b", "class": 3}', "class must be a text, got 3"),
        ("a.jsonl", b"[" * 100_000, "cannot read the captions"),
    ],
)
def test_other_files_are_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    """In one line that says where, before anything is loaded."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace("{", r"\{")):
        ExpansionConfig(method="sd", contexts=str(tmp_path / name))


class Recorded:
    """A pipeline, and the prompts that it was called with."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline, self.prompts = pipeline, list[str]()

    def __call__(self, **arguments: Any) -> Any:
        self.prompts += arguments["prompt"]
        return self.pipeline(**arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)


def test_contexts_of_all_classes_are_drawn(captions: Path) -> None:
    """Each copy's prompt is a context of an image of any class, with the name of its own; the same each time."""
    config = ExpansionConfig(method="sd", contexts=str(captions), ratio=6, decode_steps=2, decode_batch=6)
    prior: Any = load_prior(find_prior("embedded"), "sd", torch.device("cpu"), config)
    prior.pipeline = Recorded(prior.pipeline)
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    latents = prior.encode(images)
    starts = [prior.start(images, latents, ["golden_dog", "cat"], ["k1", "k2"], config) for _ in range(2)]
    assert torch.equal(*starts)
    prompts = prior.pipeline.prompts[:12]
    assert prompts == prior.pipeline.prompts[12:]
    for part, name in ((prompts[:6], "golden dog"), (prompts[6:], "cat")):
        assert set(part) <= {context.replace("{}", name) for context in CONTEXTS}
        assert len(set(part)) > 1


def test_contexts_are_part_of_keys_and_records(captions: Path, seed_folder: Path, tmp_path: Path) -> None:
    """By content, not by path; without them nothing has another key; the folder says what they were."""
    plain, own = ExpansionConfig(method="sd"), ExpansionConfig(method="sd", contexts=str(captions))
    assert "contexts" not in plain.to_json()
    assert own.to_json()["contexts"] == tuple(sorted(CONTEXTS))
    options: dict[str, Any] = {"method": "sd", "ratio": 1, "decode_steps": 2, "cache_dir": tmp_path / "c"}
    keys = []
    for contexts in ((), str(captions), CONTEXTS[:1]):
        made = ExpandedDataset(str(seed_folder), contexts=contexts, **options)
        keys.append(made.plan.recipe.cache_key(made.plan.seeds[0], 1))
    assert len(set(keys)) == 3
    out = tmp_path / "out"
    gif_datasets.expand(str(seed_folder), out, contexts=str(captions), **options)
    captions.unlink()
    assert tuple(read_manifest(out).options["contexts"]) == tuple(sorted(CONTEXTS))
    assert verify(out) == []
    assert CONTEXTS[0] in (out / "README.md").read_text()
    with pytest.raises(PlanMismatch):
        gif_datasets.expand(str(seed_folder), out, **options)


@pytest.mark.parametrize("method", ["gif-unclip", "mae", "cutout", "select:unclip"])
def test_priors_that_read_no_text_refuse_contexts(method: str, captions: Path) -> None:
    """They would do nothing there."""
    with pytest.raises(ConfigError, match=r"contexts are for priors that read text.*gif-sd, sd"):
        ExpansionConfig(method=method, contexts=str(captions))


def test_long_lists_are_cut_where_people_read_them() -> None:
    """A preset's 50 prompts are whole."""
    assert option_text(["a"] * MOST_ITEMS) == json.dumps(["a"] * MOST_ITEMS)
    assert option_text(["a"] * (MOST_ITEMS + 3)).endswith('"a", ... 3 more]')


def test_tuning_reads_each_images_own_caption(
    captions: Path, seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images with a caption are seen under it, the others under a prompt; another file is another tuning."""
    seen, read = set[str](), conditions.of_texts

    def spy(pipeline: Any, texts: Any, *more: Any) -> Any:
        seen.update(texts)
        return read(pipeline, texts, *more)

    monkeypatch.setattr(conditions, "of_texts", spy)
    quick: dict[str, Any] = {"family": "sd", "steps": 6, "every": 3, "batch_size": 4, "held_out": 0.25, "device": "cpu"}
    found = tune(str(seed_folder), tmp_path / "tuned", captions=str(captions), prompts=("one {}",), **quick)
    assert found.steps == 6
    own = {"a photo of an ant on a leaf", "a bee in flight, seen from below", "crab, wet sand"}
    assert seen <= {"", "one ant", "one bee", "one crab", *own}
    assert seen & own
    assert seen - own - {""}
    assert "of 3 of these and of the held-out images" in (tmp_path / "tuned" / "README.md").read_text()
    captions.write_text(LINES.replace("leaf", "stone"))
    with pytest.raises(PlanMismatch):
        tune(str(seed_folder), tmp_path / "tuned", captions=str(captions), prompts=("one {}",), **quick)
    for options, message in (
        ({"family": "unclip"}, "decoders that read text, and 'embedded' tunes its unclip one; give --family sd"),
        ({"captions": _other(tmp_path)}, r"names no image of seeds; it names 'x/9.png'.*'ant/0.png'"),
    ):
        with pytest.raises(ConfigError, match=message):
            tune(str(seed_folder), tmp_path / "o", **{**quick, "captions": str(captions), **options})


def _other(folder: Path) -> str:
    (folder / "other.csv").write_text("name,caption\nx/9.png,grass\n")
    return str(folder / "other.csv")


def test_words_stand_in_for_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each image, the same each time, that `contexts` and `tune` read; not over a file of somebody's."""
    network = tmp_path / "network.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=4).state_dict(), network)
    files = [tmp_path / name for name in ("a.csv", "b.csv")]
    for path in files:
        assert main(["captions", "photos", "--out", str(path), "--limit", "24", "--device", "cpu"]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "24 captions" in capsys.readouterr().out
    found = read_captions(files[0])
    assert len(found) == 24
    assert len(set(found.values())) > 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExpansionConfig(method="gif-sd", contexts=str(files[0]))
    for more, message in (
        ([str(files[0])], "is there already"),
        ([str(tmp_path / "c.txt")], "must end in .csv"),
        ([str(tmp_path / "c.csv"), "--prior", "linear"], "has no CLIP"),
        ([str(tmp_path / "c.csv"), "--guide", f"timm:resnet10t?checkpoint={network}"], "reads no text"),
    ):
        assert main(["captions", "photos", "--out", *more]) == 2
        assert message in capsys.readouterr().err
