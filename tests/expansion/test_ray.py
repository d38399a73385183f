"""The Ray engine, on a cluster of real nodes on this machine: the local engine's bytes, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from helpers import OPTIONS, contents, stored
from PIL import Image
from ray.cluster_utils import Cluster
from ray_task import Task

import gif_datasets
from gif_datasets import ConfigError, EngineError, SourceError
from gif_datasets.expansion.engines.ray import MOST_LOSSES, _connected, run_ray
from gif_datasets.expansion.run import Summary

pytestmark = pytest.mark.filterwarnings("ignore:the cluster has had no free place")  # a busy machine starts slowly

DRIVER = """
import os, sys
import ray
import gif_datasets
variables = {"PYTHONPATH": os.environ["PYTHONPATH"]}
ray.init(sys.argv[3], runtime_env={"env_vars": variables, "worker_process_setup_hook": "ray_task.slow_down"})
gif_datasets.expand(sys.argv[1], sys.argv[2], engine="ray", cache_dir=sys.argv[4],
                    ratio=2, prior="linear", samples_per_shard=4)
"""


@pytest.fixture(scope="module")
def cluster(s3_server: str) -> Iterator[Cluster]:
    """Two nodes of one CPU each; the driver is on the first. Its processes see the S3 server's environment."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    path = os.pathsep.join(sys.path)  # the tests' own modules, for what is pickled by name
    ray.init(made.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    yield made
    ray.shutdown()
    made.shutdown()


def run(task: Task, count: int, **options: Any) -> list[tuple[int, str]]:
    return list(run_ray(task, range(count), **options))


@pytest.mark.parametrize("ratio", [2, {"ant": 3, "bee": 1, "crab": 2}], ids=["even", "by class"])
def test_same_bytes_as_the_local_engine(cluster: Cluster, ratio: Any, seed_folder: Path, tmp_path: Path) -> None:
    """Shard for shard, and the files that make the folder whole."""
    gif_datasets.expand(str(seed_folder), tmp_path / "local", cache_dir=tmp_path / "c1", **{**OPTIONS, "ratio": ratio})
    options = {**OPTIONS, "ratio": ratio, "engine": "ray", "cache_dir": tmp_path / "c2"}
    assert gif_datasets.expand(str(seed_folder), tmp_path / "ray", **options).generated == 24
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert gif_datasets.expand(str(seed_folder), tmp_path / "ray", **options).generated == 0


def test_an_update_gives_the_same_bytes_as_by_the_local_engine(
    cluster: Cluster, seed_folder: Path, tmp_path: Path, picture: Callable[[int], Image.Image]
) -> None:
    """With seeds that come, change and go; as a whole, and in parts that the last one finishes."""
    first = tmp_path / "local"
    gif_datasets.expand(str(seed_folder), first, cache_dir=tmp_path / "local-cache", **OPTIONS)
    folders = [shutil.copytree(first, tmp_path / name) for name in ("ray", "parts")]
    for number in range(6):
        picture(100 + number).save(seed_folder / "ant" / f"new-{number}.png")
    picture(110).save(seed_folder / "bee" / "1.png")
    (seed_folder / "crab" / "0.png").unlink()

    def update(out: Path, **options: Any) -> Summary:
        more: dict[str, Any] = {"update": True, "withdraw_missing": True, "cache_dir": tmp_path / f"{out.name}-cache"}
        return gif_datasets.expand(str(seed_folder), out, **more, **options)

    wanted = update(first)
    assert (wanted.generation, wanted.added, wanted.withdrawn, wanted.generated) == (2, 7, 2, 14)
    assert update(folders[0], engine="ray").generated == 14
    missing = [update(folders[1], engine="ray", part=(number, 3)).missing for number in range(3)]
    assert [count > 0 for count in missing] == [True, True, False]
    for folder in folders:
        assert contents(folder) == contents(first)


def test_into_an_object_store(cluster: Cluster, seed_folder: Path, tmp_path: Path) -> None:
    """The local engine's bytes as objects, put by an actor, which knows the store by its environment."""
    gif_datasets.expand(str(seed_folder), tmp_path / "local", cache_dir=tmp_path / "c", **OPTIONS)
    options = {**OPTIONS, "engine": "ray", "workers": 1, "cache_dir": tmp_path / "c"}
    gif_datasets.expand(str(seed_folder), "s3://bucket/ray", **options)
    assert stored("s3://bucket/ray") == contents(tmp_path / "local")


def test_both_nodes_work(cluster: Cluster, tmp_path: Path) -> None:
    """Every id once, on as many nodes as there are places, and not on more workers than were asked for."""
    found = run(Task(tmp_path, nodes=2), 12)
    assert sorted(item for item, _ in found) == list(range(12))
    assert len({node for _, node in found}) == 2
    assert len({node for _, node in run(Task(tmp_path), 4, workers=1)}) == 1


def test_more_workers_than_places_do_not_hang(cluster: Cluster, tmp_path: Path) -> None:
    """Those without a place get no work."""
    assert sorted(item for item, _ in run(Task(tmp_path), 9, workers=8)) == list(range(9))


def test_workers_may_share_a_gpu(cluster: Cluster, tmp_path: Path) -> None:
    """Two at half of one at once, on the only node that says it has one."""
    extra = cluster.add_node(num_cpus=1, num_gpus=1)
    cluster.wait_for_nodes()
    found = run(Task(tmp_path), 4, gpus=0.5)
    assert sorted(item for item, _ in found) == list(range(4))
    assert {node for _, node in found} == {extra.node_id}
    cluster.remove_node(extra)


def test_killed_workers_lose_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """A worker that is killed is replaced, and its id made again."""
    found = run(Task(tmp_path, dies_once=(0, 3, 7)), 10)
    assert sorted(item for item, _ in found) == list(range(10))


def test_an_id_that_always_kills_ends_the_run(cluster: Cluster, tmp_path: Path) -> None:
    """After so many workers, with its number."""
    with pytest.raises(EngineError, match=f"{MOST_LOSSES} workers died on shard 2"):
        run(Task(tmp_path, dies=(2,)), 4)


def test_what_was_given_with_an_id_that_kills_is_made(cluster: Cluster, tmp_path: Path) -> None:
    """By others: a worker is given several ids, and dies on the second."""
    found = run(Task(tmp_path, dies_once=(1,)), 24, workers=1)
    assert sorted(item for item, _ in found) == list(range(24))


def test_errors_arrive_as_they_are(cluster: Cluster, tmp_path: Path) -> None:
    """Ours by their class, others with the number of the shard."""
    with pytest.raises(SourceError, match="number 3"):
        run(Task(tmp_path, fails=(3,)), 5)
    with pytest.raises(EngineError, match="shard 4 failed: ZeroDivisionError: number 4"):
        run(Task(tmp_path, fails=(4,)), 5)


def test_killed_nodes_lose_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """A node that goes down in the middle: what it had begun is made by the others."""
    extra = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    results = run_ray(Task(tmp_path, nodes=3, seconds=0.3), range(24))
    found = [next(results)]  # all three have begun
    killer = threading.Timer(0.5, cluster.remove_node, (extra,), {"allow_graceful": False})
    killer.start()
    found.extend(results)
    killer.join()
    assert sorted(item for item, _ in found) == list(range(24))


def test_a_lost_driver_is_run_again(cluster: Cluster, seed_folder: Path, tmp_path: Path) -> None:
    """Kill -9 of the driver: the next run, of any engine, keeps the shards that are done."""
    gif_datasets.expand(str(seed_folder), tmp_path / "local", cache_dir=tmp_path / "c1", **OPTIONS)
    words = [str(seed_folder), str(tmp_path / "ray"), cluster.address, str(tmp_path / "c2")]
    path = os.pathsep.join(sys.path)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *words], env={**os.environ, "PYTHONPATH": path})
    state = tmp_path / "ray" / ".state"
    deadline = time.monotonic() + 180
    while len(list(state.glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    kept = len(list(state.glob("*.json")))
    assert 2 <= kept < 9
    gif_datasets.expand(str(seed_folder), tmp_path / "ray", engine="ray", cache_dir=tmp_path / "c3", **OPTIONS)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.parametrize("kind", ["workers", "node"])
def test_kills_leave_the_bytes_of_an_undisturbed_run(
    kind: str, cluster: Cluster, seed_folder: Path, tmp_path: Path
) -> None:
    """All workers are killed in the midst of an expansion, or one of three nodes goes down: nothing differs."""
    gif_datasets.expand(str(seed_folder), tmp_path / "local", cache_dir=tmp_path / "c1", **OPTIONS)
    extra = cluster.add_node(num_cpus=1) if kind == "node" else None
    cluster.wait_for_nodes()
    words = [str(seed_folder), str(tmp_path / "ray"), cluster.address, str(tmp_path / "c2")]
    path = os.pathsep.join(sys.path)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *words], env={**os.environ, "PYTHONPATH": path})
    state, killed = tmp_path / "ray" / ".state", 0
    deadline = time.monotonic() + 180
    while len(list(state.glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    if extra:
        cluster.remove_node(extra, allow_graceful=False)
    else:
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [""])[0].startswith("ray::_Holder"):
                process.kill()
                killed += 1
        assert killed
    assert driver.wait(180) == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.parametrize("address", [True, False])
def test_the_command(address: bool, cluster: Cluster, seed_folder: Path, tmp_path: Path) -> None:
    """`--engine ray` joins the cluster that is named; without, it starts one, though another runs on this machine."""
    gif_datasets.expand(str(seed_folder), tmp_path / "local", cache_dir=tmp_path / "c1", **OPTIONS)
    words = ["expand", str(seed_folder), "--out", str(tmp_path / "ray"), "--cache-dir", str(tmp_path / "c2")]
    words += ["--ratio", "2", "--prior", "linear", "--set", "samples_per_shard=4", "--engine", "ray", "--json"]
    words += ["--ray-address", cluster.address] if address else []
    run = [sys.executable, "-m", "gif_datasets", *words]
    told = subprocess.run(run, capture_output=True, text=True, timeout=240)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("{"), told.stdout
    assert json.loads(told.stdout)["generated"] == 24
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.parametrize("connected", [True, False])
def test_a_connection_of_its_own_is_closed(connected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller's is left; over one of its own Ray would go on telling, on stdout, what befalls the cluster."""
    told: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: connected)
    monkeypatch.setattr(ray, "init", lambda *words, **options: told.append("init"))
    monkeypatch.setattr(ray, "shutdown", lambda: told.append("shutdown"))
    with pytest.raises(EngineError), _connected("10.0.0.1:6379"):
        raise EngineError("a shard failed")
    assert told == ([] if connected else ["init", "shutdown"])


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address is named."""

    def refused(address: str, **options: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(EngineError, match=r"cannot reach a Ray cluster at '10\.0\.0\.1:6379': nobody answers"):
        list(run_ray(print, [1], address="10.0.0.1:6379"))


def test_wrong_options_are_named(seed_folder: Path, tmp_path: Path) -> None:
    """Before anything is started."""
    for options, words in (
        ({"engine": "spark"}, "spark"),
        ({"ray_address": "here:1"}, "engine 'local'"),
        ({"workers": 0}, "got 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            gif_datasets.expand(str(seed_folder), tmp_path / "out", **options)
