"""Amounts of memory: what a user allows, in bytes, and how amounts are printed."""

from __future__ import annotations

import re
from typing import Any

from sgdstab_fast import validation

DOUBLE = 8  # bytes of a number
WORKSPACE = 24 * 2**20  # of libraries, bytes
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{ending}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for base, ending in ((1024, "iB"), (1000, "B"))
}


def bytes_of(value: Any, name: str = "memory") -> int:
    """Return a number of bytes, given as one or as text such as "512 MiB" or "2 GB"."""
    if not isinstance(value, str):
        return validation.integer(value, name)
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", value)
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if found is None or found[2].lower() not in units or not float(found[1]) > 0:
        raise ValueError(f"{name} must be a number of bytes or text such as '512 MiB', not {validation.shown(value)}")
    return int(float(found[1]) * units[found[2].lower()])


def text_of(n_bytes: float) -> str:
    """Return an amount in binary units, as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" or n_bytes >= 100 else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.3g} TiB"
