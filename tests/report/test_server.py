"""The page to look through samples and reject them: in a real browser, and whom its server turns away."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
from browser import Page

import gif_datasets
from gif_datasets import ConfigError, MissingExtra, load_expanded
from gif_datasets.cli import main
from gif_datasets.report import server
from gif_datasets.report.gallery import Gallery, Query, galleries
from gif_datasets.shards.expanded_folder import ExpandedFolder
from gif_datasets.shards.reader import ShardReader
from gif_datasets.shards.rejections import REJECTED, reject
from gif_datasets.types import no_progress


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 seeds of the package's own with two guided copies each, and 10 that are held out."""
    folder = tmp_path_factory.mktemp("browse") / "set"
    cache = tmp_path_factory.mktemp("cache")
    options = {
        "ratio": 2,
        "prior": "linear",
        "validation_share": 0.2,
        "samples_per_shard": 10,
        "measure_pictures": True,
    }
    gif_datasets.expand("demo", folder, limit=25, cache_dir=cache, **options)
    return folder


@pytest.fixture
def folder(made: Path) -> Iterator[Path]:
    """The same, with nothing rejected before and after."""
    yield made
    (made / REJECTED).unlink(missing_ok=True)


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Of the page that the command serves."""
    words = [sys.executable, "-m", "gif_datasets", "browse", str(folder), "--no-open"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def get(address: str, **headers: str) -> Any:
    """What the server answers."""
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
        content = answer.read()
        return json.loads(content) if answer.headers.get_content_type() == "application/json" else content


def post(address: str, value: Any, **headers: str) -> Any:
    request = urllib.request.Request(address, json.dumps(value).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


# --- in a browser -------------------------------------------------------------------------------------------------


def in_browser(address: str, tmp_path: Path, run: Callable[[Page], Any]) -> None:
    async def body() -> None:
        async with browser.opened(address, tmp_path / "profile") as page:
            await page.until("document.querySelectorAll('main figure').length > 0")
            await run(page)
            assert page.errors == []

    asyncio.run(body())


needs_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium or Chrome on the path")
SHOWN = "[...document.querySelectorAll('main figure')].map((f) => f.title.split(':')[0])"
LOADED = "[...document.querySelectorAll('main img')].every((i) => i.complete && i.naturalWidth === 32)"


@needs_browser
def test_reject_and_take_back(address: str, folder: Path, tmp_path: Path) -> None:
    """A click rejects, another takes back, z undoes; each is in the folder at once, and nothing else is changed."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    async def run(page: Page) -> None:
        await page.until(LOADED)
        first, second = (await page.value(SHOWN))[:2]
        for figure, rejected in ((1, 1), (2, 2), (1, 1)):
            await page.click(f"main figure:nth-child({figure})")
            await page.until(f"document.getElementById('rejected').textContent.startsWith('{rejected} ')")
            assert len(load_expanded(folder)) == 45 - rejected
        assert json.loads((folder / REJECTED).read_text())["rejected"] == [second]
        await page.press("z")
        await page.until("document.getElementById('rejected').textContent.startsWith('2 ')")
        assert json.loads((folder / REJECTED).read_text())["rejected"] == sorted([first, second])
        await page.choose("kind", "rejected")
        await page.until("document.getElementById('total').textContent === '2 samples.'")
        for _ in range(3):
            await page.press("z")
        await page.until("document.getElementById('rejected').textContent === ''")

    in_browser(address, tmp_path, run)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@needs_browser
def test_compare_with_the_seed(address: str, folder: Path, tmp_path: Path) -> None:
    """Enter opens a copy beside its seed; keys go on, reject and close."""

    async def run(page: Page) -> None:
        shown = await page.value(SHOWN)
        await page.value("document.querySelector('main figure').focus()")
        await page.press("Enter")
        await page.until("document.getElementById('closer').open")
        await page.until("document.querySelectorAll('dialog img').length === 2")
        assert shown[0] in await page.value("document.getElementById('one').textContent")
        reader = ShardReader(folder)
        record = reader.provenance(reader.index_of(shown[0]))
        assert f"seed: {record.class_name}" in await page.value("document.getElementById('seed').textContent")
        assert f"{record.consistency_after:.4f}" in await page.value("document.getElementById('scores').textContent")
        await page.press("ArrowRight")
        await page.until(f"document.getElementById('one').textContent.includes('{shown[1]}')")
        await page.press("x")
        await page.until("document.getElementById('verdict').textContent.startsWith('Take back')")
        await page.click("#close")
        await page.until("!document.getElementById('closer').open")
        assert json.loads((folder / REJECTED).read_text())["rejected"] == [shown[1]]

    in_browser(address, tmp_path, run)


@needs_browser
def test_by_class_and_criterion(address: str, folder: Path, tmp_path: Path) -> None:
    """What is shown is of the class, and in the order, that was chosen; also with seeds, and of the other split."""
    gallery = Gallery(ExpandedFolder.open(folder), "train", no_progress)
    keys = gallery.reader.key

    async def run(page: Page) -> None:
        await page.choose("sort", "consistency_after")
        wanted = [keys(int(i)) for i in gallery.chosen(Query(kind="synthetic", sort="consistency_after"))]
        await page.until(f"JSON.stringify({SHOWN}) === {json.dumps(json.dumps(wanted, separators=(',', ':')))}")
        await page.choose("label", "3")
        wanted = [keys(int(i)) for i in gallery.chosen(Query(3, "synthetic", "consistency_after"))]
        await page.until(f"JSON.stringify({SHOWN}) === {json.dumps(json.dumps(wanted, separators=(',', ':')))}")
        await page.click("[name=together]")
        seeds = len({key.split("-")[1] for key in wanted})
        await page.until(f"document.querySelectorAll('.family').length === {seeds}")
        assert await page.value("document.querySelectorAll('.family figure').length") == 3 * seeds
        await page.click("[name=together]")
        await page.choose("kind", "all")
        await page.choose("split", "validation")
        await page.until("document.querySelectorAll('main figure').length === 10")
        await page.until(LOADED)
        await page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
        assert await page.value("document.documentElement.scrollWidth <= 360")

    in_browser(address, tmp_path, run)


# --- the server ---------------------------------------------------------------------------------------------------


def test_strangers_are_turned_away(address: str, folder: Path) -> None:
    """Without the token, under another name, or from another site's page nothing is shown and nothing written."""
    root = "/".join(address.split("/")[:3])
    assert get(f"{address}set")["rejected"] == 0
    key = get(f"{address}samples?count=1")["rows"][0]["key"]
    wanted = {"split": "train", "keys": [key], "rejected": True}
    for place, headers in (
        (f"{root}/set", {}),
        (f"{root}/", {}),
        (f"{root}/{'x' * 22}/set", {}),
        (f"{address}set", {"Host": "evil.example"}),
        (f"{address}set", {"Origin": "http://evil.example"}),
        (f"{address}set", {"Origin": "null"}),
    ):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(place, **headers)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        post(f"{address}reject", wanted, Origin="http://evil.example")
    assert not (folder / REJECTED).exists()
    assert post(f"{address}reject", wanted, Origin=root) == {"rejected": 1}


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("samples?kind=odd", "unknown kind"),
        ("samples?label=99", "no class 99"),
        ("samples?label=-1", "not a number"),
        ("samples?sort=beauty", "nothing is known of"),
        ("samples?split=test", "no split"),
        ("samples?start=1e9", "not a number"),
        ("seeds?count=%F0%9F%A6%80", "not a number"),
        ("family?seed=", "not a number"),
    ],
)
def test_bad_wishes(address: str, path: str, problem: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"{address}{path}")
    assert caught.value.code == 400
    assert problem in json.loads(caught.value.read())["error"]


@pytest.mark.parametrize(
    "value",
    [7, {}, {"split": "train", "keys": ["no"], "rejected": True}, {"split": "train", "keys": [], "rejected": 1}],
)
def test_bad_verdicts(address: str, folder: Path, value: Any) -> None:
    """A key that is no sample's is refused, and nothing written."""
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post(f"{address}reject", value)
    assert not (folder / REJECTED).exists()


def test_pictures_are_those_of_the_shards(address: str, folder: Path) -> None:
    reader = ShardReader(folder)
    for number in (0, 21, 44):
        assert get(f"{address}picture/train/{number}") == reader.image_bytes(number)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{address}picture/train/45")


def test_what_another_wrote_is_kept(address: str, folder: Path) -> None:
    """Rejections that were made elsewhere in the meantime stay."""
    first, second = (row["key"] for row in get(f"{address}samples?count=2")["rows"])
    reject(folder, [first])
    assert post(f"{address}reject", {"split": "train", "keys": [second], "rejected": True}) == {"rejected": 2}


def test_gallery_agrees_with_the_records(folder: Path) -> None:
    """Every choice is that of a plain loop over the records."""
    reject(folder, [ShardReader(folder).key(30), ShardReader(folder, "validation").key(2)])
    for split, gallery in galleries(folder, no_progress).items():
        reader = ShardReader(folder, split, whole=True)
        records = [reader.provenance(i) for i in range(len(reader))]
        out = {30} if split == "train" else {2}
        assert [gallery.to_json(i)["origin"] for i in (0, len(records) - 1)] == [
            records[i].seed_origin for i in (0, -1)
        ]
        kinds = {
            "all": lambda i, r: True,
            "original": lambda i, r: not r.synthetic,
            "synthetic": lambda i, r: r.synthetic,
            "kept": lambda i, r, out=out: i not in out,
            "rejected": lambda i, r, out=out: i in out,
            "failed": lambda i, r: not r.passed,
        }
        for kind, keep in kinds.items():
            for label in (None, 3):
                wanted = [i for i, r in enumerate(records) if keep(i, r) and label in (None, r.label)]
                assert gallery.chosen(Query(label, kind)).tolist() == wanted
                for name in gallery.scores:
                    found = gallery.chosen(Query(label, kind, name, True))
                    values = np.array([getattr(records[i], name) for i in found])
                    assert sorted(found.tolist()) == wanted
                    assert (np.diff(values) <= 0).all()


# --- the command --------------------------------------------------------------------------------------------------


def test_bad_use(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is none, a port that is none or taken, and a missing library, each in a line."""
    assert main(["browse", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["browse", str(tmp_path)]) == 2
    assert "not an expanded folder" in capsys.readouterr().err
    assert main(["browse", str(folder), "--port", "70000"]) == 2
    assert "cannot listen on port 70000" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "gif_datasets.report.server", raising=False)
    assert main(["browse", str(folder)]) == 2
    assert "gif_datasets[browse]" in capsys.readouterr().err


def test_errors_name_what_is_known(folder: Path) -> None:
    gallery = Gallery(ExpandedFolder.open(folder), "train", no_progress)
    with pytest.raises(ConfigError, match="known: all, original"):
        gallery.chosen(Query(kind="odd"))
    assert issubclass(MissingExtra, gif_datasets.GifDatasetsError)


BODIES = {
    "deep": b"[" * 100_000,
    "deep within": b'{"split": "train", "rejected": true, "keys": ' + b"[" * 200 + b"]" * 200 + b"}",
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "no object": b"[1]",
    "keys of another type": b'{"split": "train", "keys": [{}], "rejected": true}',
    "split of another type": b'{"split": [1], "keys": [], "rejected": true}',
    "too long": b"0" * 3_000_000,
}


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=nonsense", "text/plain"])
def test_bad_requests_are_answered(address: str, folder: Path, kind: str) -> None:
    """None is an error of the server, and every answer has the headers that protect the page."""
    wanted = set(server._HEADERS)
    asked: list[tuple[str, bytes | None]] = [("reject", body) for body in BODIES.values()]
    asked += [("nothing", None), ("picture/train/999999999", None), ("picture/x/1", None), ("reject", None)]
    for path, body in asked:
        request = urllib.request.Request(address + path, body, {"Content-Type": kind})
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(request)
        assert 400 <= told.value.code < 500, (path, body)
        assert wanted <= set(told.value.headers), (path, body)
    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.urlopen(address.rpartition("/")[0].rpartition("/")[0] + "/another-token/")
    assert told.value.code == 403
    assert wanted <= set(told.value.headers)
    with urllib.request.urlopen(address) as answer:
        assert wanted <= set(answer.headers)
    assert not (folder / REJECTED).exists()
