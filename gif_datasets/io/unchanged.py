"""Whether a file is the one that was read before: while its size, its inode and its times of change are the same."""

from __future__ import annotations

import os
from typing import TypeAlias

SETTLED = 2 * 10**9
"""Nanoseconds for which a file must be unchanged: a later change may otherwise have the same time."""

Status: TypeAlias = "tuple[int, int, int, int]"
"""Of a file: its size, the times of change of content and of inode, and its inode."""


def status_of(found: os.stat_result) -> Status:
    """What is the same while a file is."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def is_settled(status: Status, now: int) -> bool:
    """Whether a file had long been unchanged at a time, in nanoseconds, so that any change since then shows."""
    return max(status[1:3]) < now - SETTLED
