"""Kill -9 at random moments, while a finished folder is updated, loses seeds, is merged with another, or pushed again.

    python recipes/faults/kill_changes.py --kills 70                        70 of each
    python recipes/faults/kill_changes.py --kills 70 --changes merge        of some alone

After each kill the folder must be the old state or the new one, file by file, and whole to `verify`; of a merge, both
parts must be as they were, and the whole must not be there, or be finished. The repository (on the small Hub of the
tests) must have all shards of the one state or of the other. The same is run again until it ends, and then the state
must be that of a run that nobody disturbed; the cache must have nothing of what was withdrawn. Prints JSON; exit code 1
if any of it fails.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

OPTIONS: dict[str, Any] = {"method": "cutmix", "ratio": 3, "samples_per_shard": 8}
OTHER_OPTIONS: dict[str, Any] = {**OPTIONS, "method": "randaugment", "ratio": 2}
_fork = multiprocessing.get_context("fork")  # so that a process is at work at once, not importing for seconds


@dataclass(frozen=True)
class Change:
    """Something that is killed.

    Attributes:
        name: What to call it.
        act: Does it, in a folder that :attr:`begin` has made.
        begin: Makes a folder's old state.
        state: What of a folder must be old or new.
        problems: What else is wrong with it.
    """

    name: str
    act: Callable[[Path], None]
    begin: Callable[[Path], None]
    state: Callable[[Path], Any]
    problems: Callable[[Path], list[str]]


def draw(folder: Path, numbers: range) -> None:
    """Pictures of noise, in three classes."""
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        place = folder / f"class-{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02d}.png")


def shown(folder: Path) -> dict[str, bytes]:
    """All files that are not hidden, by name."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    names = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    return {str(name): (folder / name).read_bytes() for name in names}


def finished(folder: Path) -> dict[str, bytes]:
    """The files of a folder, if it is finished."""
    return {} if not (folder / "manifest.json").exists() else shown(folder)


def killed(act: Callable[[], None], after: float) -> bool:
    """Run something in a process of its own, and kill it; returns whether it was killed before it had ended well."""
    process = _fork.Process(target=act)
    process.start()
    time.sleep(after)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"nobody killed a process that ended with {process.exitcode}; see its traceback")
    return process.exitcode != 0


def disturbed(change: Change, work: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kill a change so often; returns what was found."""
    for place in (work / "warm", work / "undisturbed"):  # what the first one imports takes no time of the others
        change.begin(place)
        old, begun = change.state(place), time.monotonic()
        change.act(place)
        alone, new = time.monotonic() - begun, change.state(place)
    problems, states, sets = change.problems(work / "undisturbed"), [0, 0], 0
    while sum(states) < kills:
        place = work / str(sets)
        change.begin(place)
        while sum(states) < kills and killed(partial(change.act, place), chance.uniform(0, 1.2 * alone)):
            problems += change.problems(place)
            found = change.state(place)
            if found not in (old, new):
                problems.append(f"{change.name}: neither the old state nor the new one")
            states[found == new] += 1
        change.act(place)
        if change.state(place) != new:
            problems.append(f"{change.name}: the same again does not finish it")
        shutil.rmtree(place)
        sets += 1
    return {"kills": sum(states), "found_old": states[0], "found_new": states[1], "sets": sets, "problems": problems}


def changes(base: Path, source: Path, hub: Any) -> list[Change]:
    """An update with new, edited and missing pictures; a withdrawal; a merge; and a push of what the update made."""
    import gif_datasets
    from gif_datasets.io.cache.store import open_cache
    from gif_datasets.shards.verify import verify

    def begin(place: Path) -> None:
        shutil.copytree(base, place)

    def update(place: Path) -> None:
        gif_datasets.expand(str(source), place / "out", update=True, withdraw_missing=True, cache_dir=place / "cache")

    def withdraw(place: Path) -> None:
        gif_datasets.withdraw(place / "out", ["class-1/04.png", "class-2/05.png"], cache_dir=place / "cache")

    def merge(place: Path) -> None:
        gif_datasets.merge_parts([place / "out", place / "other"], place / "both")

    def begin_push(place: Path) -> None:
        begin(place)
        gif_datasets.push_to_hub(place / "out", f"me/{place.name}")
        update(place)

    def push(place: Path) -> None:
        gif_datasets.push_to_hub(place / "out", f"me/{place.name}")

    def damage(place: Path) -> list[str]:
        cache = open_cache(place / "cache")
        return [*verify(place / "out", cache=cache), *cache.verify().damaged]

    def local(place: Path) -> Any:
        return shown(place / "out")

    def merged(place: Path) -> Any:
        return shown(place / "out"), shown(place / "other"), finished(place / "both")

    def damage_of_merged(place: Path) -> list[str]:
        return verify(place / "both") if finished(place / "both") else []

    def published(place: Path) -> Any:
        files = hub.head(f"me/{place.name}").files
        return sorted((name, file.oid) for name, file in files.items() if name.endswith((".tar", ".safetensors")))

    return [
        Change("update", update, begin, local, damage),
        Change("withdraw", withdraw, begin, local, damage),
        Change("merge", merge, begin, merged, damage_of_merged),
        Change("push", push, begin_push, published, lambda _: []),
    ]


def small_hub(work: Path) -> Any:
    """The Hub of the tests, which huggingface_hub speaks to if it was not imported before."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from hub_server import serve

    return serve(work / "hf")


def main(kills: int = 70, rng_seed: int = 0, hub: Any = None, names: Sequence[str] = ()) -> dict[str, Any]:
    """Kill each change, or those of some names, so often.

    ``hub`` is the one that huggingface_hub speaks to already, if there is one.
    """
    chance = random.Random(rng_seed)
    with tempfile.TemporaryDirectory() as place:
        work, source = Path(place), Path(place) / "source"
        hub = hub or small_hub(work)
        import gif_datasets

        draw(source, range(24))
        base = work / "base"
        gif_datasets.expand(str(source), base / "out", cache_dir=base / "cache", **OPTIONS)
        gif_datasets.expand(str(source), base / "other", cache_dir=base / "cache", **OTHER_OPTIONS)
        draw(source, range(24, 30))
        (source / "class-0" / "03.png").unlink()
        shutil.copy(source / "class-1" / "01.png", source / "class-2" / "02.png")
        found = {
            change.name: disturbed(change, work / change.name, kills, chance)
            for change in changes(base, source, hub)
            if change.name in names or not names
        }
    return {**found, "ok": not any(one["problems"] for one in found.values())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=70, help="how many of each (default: 70)")
    parser.add_argument("--rng-seed", type=int, default=0, help="another number kills at other moments")
    parser.add_argument("--changes", nargs="+", default=(), dest="names", help="which are killed (default: all)")
    result = main(**vars(parser.parse_args()))
    print(json.dumps(result, indent=1))
    sys.exit(0 if result["ok"] else 1)
