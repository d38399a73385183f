"""Freed memory is kept by processes of ours, and by nobody who only imports the library."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gif_datasets.io.devices import is_fast_in_bfloat16, memory_of

FLAGS = Path("/proc/cpuinfo")
FAULTS = """
import resource, sys
import torch, gif_datasets
from gif_datasets.io.devices import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(10):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_freed_memory_is_reused() -> None:
    """64 MB, made and freed ten times: mapped anew each time by default, and never again when kept."""
    untuned = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    default, kept = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how], env=untuned)) for how in ("default", "kept")
    )
    assert kept < default / 10


def test_memory_of_the_machine_is_more_than_this_process_uses() -> None:
    """In bytes."""
    assert memory_of("cpu") * (os.cpu_count() or 1) > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.skipif(not FLAGS.exists(), reason="Linux says which instructions there are")
def test_bfloat16_where_the_processor_has_it() -> None:
    """By the flags that the kernel names: AVX-512 on x86; emulation elsewhere is ten times slower than float32."""
    flags = set(FLAGS.read_text().split())
    if platform.machine() == "x86_64":
        assert is_fast_in_bfloat16("cpu") == ({"avx512bw", "avx512vl", "avx512dq"} <= flags)
    assert not is_fast_in_bfloat16("mps")
