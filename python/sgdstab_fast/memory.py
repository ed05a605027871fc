"""Memory: whether what a call needs is there, before it is taken.

Operating systems promise more memory than they have, and end the process that comes to use it. So what takes a multiple
of N^2 numbers, or a state for every chain, asks here first. Figures of what is needed are measured: bench/memory.py.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Mapping
from pathlib import Path

BYTES_OF_DOUBLE = 8
_SPARE = 64 * 2**20  # bytes that are left to whatever else there is
_SMALL = 16 * 2**20  # bytes that are not asked for
_INFORMATION, _GROUPS, _CONTROL = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def require(what: str, needs: Mapping[str, float]) -> None:
    """Raise a MemoryError if what needs some bytes finds fewer; `needs` say what for, and which option asks for it."""
    needed = sum(needs.values())
    if needed < _SMALL:
        return
    free = available() - _SPARE
    if needed > free:
        each = ", ".join(f"{text_of(size)} for {name}" for name, size in needs.items())
        raise MemoryError(f"{what} needs {text_of(needed)} of memory, and {text_of(max(free, 0))} are free: {each}")


def available() -> float:
    """Return how many bytes this process may still take; infinity where the system does not say."""
    return min(_of_machine(), _of_control_group(), _of_limit())


def give_back() -> None:
    """Hand what is freed back to the system: glibc keeps blocks of up to 32 MiB, with holes where others were."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def text_of(n_bytes: float) -> str:
    """Return an amount in binary units, as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" or n_bytes >= 100 else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.3g} TiB"


def _of_machine() -> float:
    try:
        for line in _INFORMATION.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return math.inf


def _of_control_group() -> float:
    """Return what a container, or a job of a scheduler, leaves: less its files, which make room."""
    try:
        groups = [line.split(":", 2) for line in _GROUPS.read_text().splitlines()]
    except OSError:
        return math.inf
    free = math.inf
    for _, controllers, path in groups:
        if controllers not in ("", "memory"):
            continue
        root = _CONTROL / controllers
        most, used = (
            ("memory.max", "memory.current") if not controllers else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        for folder in (root / path.lstrip("/"), root):
            try:
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                files = int(counts.get("inactive_file", 0)) + int(counts.get("active_file", 0))
                free = min(free, int((folder / most).read_text()) - int((folder / used).read_text()) + files)
            except (OSError, ValueError):  # "max"
                continue
    return free


def _of_limit() -> float:
    """Return what `ulimit -v` leaves."""
    if sys.platform == "win32":
        return math.inf
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return math.inf
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        used = 0
    return float(limit - used)
