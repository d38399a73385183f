"""Fixtures shared by all tests. No test reaches the network, and none shares a cache with another."""

from __future__ import annotations

import os
import socket
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from PIL import Image

# tests run on every core, each in its own process: threads of theirs would only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
# huggingface_hub and datasets read these once, when they are imported: they speak to the Hub of hub_server.py, by LFS
# unless a test says otherwise, with nobody's token and a cache of their own
_HUB = HubServer()
_HF_HOME = tempfile.TemporaryDirectory(prefix="gif-datasets-tests-")
os.environ.update(HF_ENDPOINT=_HUB.url, HF_HOME=_HF_HOME.name, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
# hf_xet waits by itself, for minutes, and cannot be told by a test that nobody does
os.environ.update(
    HF_XET_CLIENT_RETRY_MAX_ATTEMPTS="1", HF_XET_CLIENT_RETRY_BASE_DELAY="10ms", HF_XET_CLIENT_READ_TIMEOUT="1s"
)
os.environ["CROISSANT_CACHE"] = str(Path(_HF_HOME.name) / "croissant")
for _name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(_name, None)


UNIT = {
    "data/test_buffers",
    "data/test_order",
    "data/test_spans",
    "guidance/test_guide",
    "io/test_cache_store",
    "io/test_decode",
    "io/test_digests",
    "io/test_fuzz_parsers",
    "io/test_images",
    "publish/test_hub_card",
    "report/test_metrics",
    "sources/test_seed_table",
    "sources/test_sources",
    "test_public_api",
}
"""Test files of the unit tier: functions and values, in seconds. Other files are components, unless marked slow."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put every test into its tier, and skip the slow ones unless they are asked for."""
    unit = {Path(__file__).parent / f"{name}.py" for name in UNIT}
    for item in items:
        if item.get_closest_marker("slow"):
            if "slow" not in config.getoption("markexpr"):
                item.add_marker(pytest.mark.skip(reason="takes minutes and gigabytes; run: pytest -m slow"))
        elif item.path in unit:
            item.add_marker(pytest.mark.unit)
        else:
            item.add_marker(pytest.mark.component)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """The Hub of these tests, empty."""
    _HUB.reset()
    yield _HUB
    _HUB.reset()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """An S3 server with a bucket named so; the environment says where it is, as it would of any other."""
    import fsspec
    from moto.server import ThreadedMotoServer

    made = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        # moto keeps its buckets in this process, whatever server shows them
        urllib.request.urlopen(f"{variables['AWS_ENDPOINT_URL']}/moto-api/reset", data=b"").close()
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # kept by arguments, which the environment is not of
        fsspec.filesystem("s3").mkdir("bucket")
        yield variables["AWS_ENDPOINT_URL"]
    made.stop()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf-datasets"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and str(address[0]) not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise AssertionError(f"a test tried to reach {address}")
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def picture() -> Callable[[int], Image.Image]:
    """Make a smooth random 32 x 32 picture from a number."""

    def make(number: int) -> Image.Image:
        small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC)

    return make


@pytest.fixture
def seed_folder(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    """A folder of three classes with four pictures each."""
    folder = tmp_path / "seeds"
    for label, name in enumerate(("ant", "bee", "crab")):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            picture(10 * label + i).save(folder / name / f"{i}.png")
    return folder
