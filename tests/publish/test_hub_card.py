"""Cards: what they say of each method, what user text cannot do in them, and the configuration that goes along."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

import gif_datasets
from gif_datasets import ConfigError, ExpansionConfig
from gif_datasets.methods import METHODS
from gif_datasets.publish import contents
from gif_datasets.publish.hub_card import Rights, _hub_name
from gif_datasets.shards import card
from gif_datasets.shards import manifest as manifests
from gif_datasets.shards.card_yaml import card_yaml
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.types import no_progress

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "me/bees"
HOSTILE = [
    "<script>alert(1)</script>",
    "[x](http://evil.example)",
    "http://evil.example/a",
    "www.evil.example",
    "me@evil.example",
    "`code` **bold** ~~gone~~",
    "&lt;b&gt; &amp;",
    "a | b",
    "# no",
    "\u202egnp.exe\u0000\u0007",
    "![x](y.png)",
]


def expanded(source: Path, out: Path, **options: Any) -> Path:
    gif_datasets.expand(str(source), out, **{"ratio": 1, "prior": "linear", **options})
    return out


def packed(folder: Path, form: str = "shards", rights: Rights | None = None, edited: bool = False) -> contents.Contents:
    opened = ExpandedFolder.open(folder)
    with contents.picture_files(opened, form, no_progress) as pictures:
        return contents.collect(opened, NAME, pictures, rights or Rights(), None, "2026-01-02", edited, no_progress)


def card_of(files: contents.Contents) -> str:
    return contents.text_of(files["README.md"])


@pytest.mark.parametrize(
    ("method", "says", "says_not"),
    [
        ("gif-unclip", ["optimised for class consistency", "a model imagined", "before guidance", "The prior:"], []),
        ("unclip", ["nothing was optimised", "a model imagined"], ["optimised for class"]),
        ("randaugment", ["real image under `randaugment`"], ["imagined them", "optimised", "| consistency |"]),
        ("select:cutout", ["under `cutout`", "Each copy was drawn several times"], ["imagined them", "optimised"]),
    ],
)
def test_a_card_tells_how_its_method_works(
    method: str, says: list[str], says_not: list[str], seed_folder: Path, tmp_path: Path
) -> None:
    """Neither card claims guidance, or a model, where there was none."""
    folder = expanded(seed_folder, tmp_path / "out", method=method)
    for text in ((folder / "README.md").read_text(), card_of(packed(folder))):
        joined = " ".join(text.split())
        assert METHODS[method].how in joined
        assert not [words for words in says_not if words in joined]
    assert not [words for words in says if words not in joined]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=20) | st.sampled_from(["no", "1e3", "02691156", "~", "null", "y"])))
def test_metadata_is_read_back(names: list[str]) -> None:
    """Whatever characters are in it; a text that another reader takes for a number is quoted."""
    value = {"names": {str(index): name for index, name in enumerate(names)}, "again": [names, names], "size": 3}
    text = card_yaml(value)
    assert yaml.safe_load(text) == value
    assert text.isascii()


def test_numbers_of_other_readers_are_quoted() -> None:
    """YAML 1.2, which the Hub reads, knows other numbers than PyYAML."""
    assert card_yaml({"a": ["1e3", "02691156", "no", "ant", "data/train-*.tar"]}) == (
        'a:\n- "1e3"\n- "02691156"\n- \'no\'\n- ant\n- data/train-*.tar\n'
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_user_text_is_text(text: str) -> None:
    """As a browser shows it, it is the text itself: no tag, no link, no picture, and nothing that turns the line."""
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(f"Classes: {card.plain(text)}, bee").strip()
    inside = rendered.removeprefix("<p>").removesuffix("</p>")
    assert "<" not in inside
    assert not {"\u202e", "\u0000", "\u0007"} & set(inside)


@pytest.mark.parametrize("text", HOSTILE)
def test_user_text_stays_in_its_cell(text: str) -> None:
    """In a table's code span, too, and with nothing in it that does not show."""
    table = card.option_table({"templates": [text]}, {"first": text})
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(table)
    assert rendered.count("<tr>") == 3
    assert rendered.count("<td>") == 4
    assert not {"<script", "<img", "<a ", "<b>"} & {tag for tag in ("<script", "<img", "<a ", "<b>") if tag in rendered}
    assert not {"\u202e", "\u0000", "\u0007"} & set(rendered)


@settings(max_examples=50, deadline=None)
@given(
    templates=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda t: t.replace("{}", "") + "{}"),
        min_size=1,
        max_size=3,
    ),
    epsilon=st.floats(0, 10),
    originals=st.booleans(),
)
def test_the_configuration_is_read_back(templates: list[str], epsilon: float, originals: bool) -> None:
    """Whatever characters are in it."""
    config = ExpansionConfig(templates=tuple(templates), epsilon=epsilon, originals=originals)
    lines = [
        f"{name} = {contents._toml(value)}"
        for name, value in ((name, list(v) if isinstance(v, tuple) else v) for name, v in config.to_json().items())
        if value is not None
    ]
    assert ExpansionConfig.build(tomllib.loads("\n".join(lines))) == config


def test_the_configuration_says_what_else_it_takes(seed_folder: Path, tmp_path: Path) -> None:
    """A limit, a validation source and the device are no options, and decide the plan too."""
    held = tmp_path / "held" / "ant"
    held.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(held / "x.png")
    folder = expanded(seed_folder, tmp_path / "out", limit=6, validation=str(held.parent))
    text = contents.configuration(manifests.read_manifest(folder))
    assert "--device cpu --limit 6 --validation SOURCE2" in text
    whole = expanded(seed_folder, tmp_path / "whole", limit=1000)
    assert "--limit" not in contents.configuration(manifests.read_manifest(whole))


def edit(folder: Path) -> None:
    path = folder / "README.md"
    path.write_text(path.read_text().replace("---\n", "---\nlicense: mit\n", 1) + "\nMine.\n")


def test_an_edited_card_describes_what_is_published(seed_folder: Path, tmp_path: Path) -> None:
    """With shards it goes as it is; Parquet gets metadata of its own, under the same licence, above the edited text."""
    folder = expanded(seed_folder, tmp_path / "out")
    edit(folder)
    assert card_of(packed(folder, edited=True)) == (folder / "README.md").read_text()
    text = card_of(packed(folder, "parquet", edited=True))
    found = yaml.safe_load(text.split("---\n")[1])
    assert found["license"] == "mit"
    paths = [path for config in found["configs"] for part in config["data_files"] for path in part["path"]]
    assert paths
    assert all(path.endswith(".parquet") for path in paths)
    assert text.endswith("\nMine.\n")
    assert "data/train-*.tar" not in text.split("---\n")[1]


@pytest.mark.parametrize("form", ["shards", "parquet"])
def test_licences_beside_an_edited_card_are_refused(form: str, seed_folder: Path, tmp_path: Path) -> None:
    """They would show nowhere."""
    folder = expanded(seed_folder, tmp_path / "out")
    edit(folder)
    with pytest.raises(ConfigError, match=r"README\.md was edited"):
        packed(folder, form, Rights(source="cc-by-4.0"), edited=True)


def test_the_source_is_named_where_it_has_a_name() -> None:
    """On the Hub, of either kind; a path has none."""
    assert [
        _hub_name(name)
        for name in ("hf:me/bees", "hub:me/bees", "hf:beans", "bees", "hf:../x", "hf:/home/me/x", "hf:a/b/c")
    ] == [
        "me/bees",
        "me/bees",
        "beans",
        "",
        "",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("licence", "words"),
    [("apache-2.0", "keep its notices"), ("openrail", "list of uses"), ("cc-by-sa-4.0", "same licence"), ("x", "")],
)
def test_licences_say_what_they_ask(licence: str, words: str, seed_folder: Path, tmp_path: Path) -> None:
    """As far as their names tell."""
    text = card_of(packed(expanded(seed_folder, tmp_path / "out"), rights=Rights(source=licence)))
    line = next(line for line in text.splitlines() if line.startswith("- Seed images:"))
    assert words in line
    assert ("Its conditions include" in line) == bool(words)
