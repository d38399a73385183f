"""The machine's memory: how much there is, and how a process of ours keeps what it has used."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from typing import Any

from gif_datasets.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt(3)
_LARGEST_BLOCK = 1 << 30
_NEVER = (1 << 31) - 1

MOST_WORKERS = 8  # processes on one machine by default; each holds a prior: 1 GB for the embedded one


def usable_cpus(most: int = MOST_WORKERS) -> int:
    """CPUs that this process may use, at most ``most``."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, most)


def memory_of(device: str) -> int:
    """Memory of a device, bytes: the accelerator's memory, or a worker's share of the machine's."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // min(os.cpu_count() or 1, MOST_WORKERS)


def is_fast_in_bfloat16(device: str) -> bool:
    """Whether a device has instructions for bfloat16; one that emulates it is several times slower than in float32."""
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fast_autocast(device: str) -> Any:
    """Autocast to bfloat16 where that is faster; elsewhere a context that changes nothing."""
    import torch

    return torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=is_fast_in_bfloat16(device))


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of giving it back to the kernel; does nothing elsewhere.

    By default every large tensor is mapped when allocated and unmapped when it is freed, and a convolutional network
    on a CPU spends two fifths of its time on page faults (``recipes/benchmarks/allocator.py``). It is a setting of the
    whole process, so only the command line and worker processes call this, never a library import.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # no glibc
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)


def resolve_device(device: str) -> str:
    """``auto`` to the best device there is; others are checked."""
    if device == "cpu":
        return device
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present.get(device.partition(":")[0], False):
        raise ConfigError(
            f"device {device!r} is not available here; available: {', '.join(d for d in present if present[d])}"
        )
    return device
