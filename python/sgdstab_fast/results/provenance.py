"""Provenance: what it takes to get the same bits again."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from sgdstab_fast._core.build import __version__
from sgdstab_fast._core.functions import core
from sgdstab_fast._core.seeds import Seed


def versions() -> dict[str, str]:
    """Return the versions of what a result came out of."""
    return {"sgdstab_fast": __version__, "numpy": np.__version__, "python": platform.python_version()}


class Described(Protocol):
    """What results can be of: a system."""

    @property
    def fingerprint(self) -> str:
        """By which a result knows its system."""

    @property
    def setting(self) -> Mapping[str, Any]:
        """What a step is, in few numbers."""


def origin(system: Described) -> dict[str, Any]:
    """Return what a result says about its system."""
    return {"system": system.fingerprint, "setting": dict(system.setting)}


def provenance(seed: Seed, method: str, system: Described) -> dict[str, Any]:
    """Return what it takes to get the same bits again."""
    return {
        "seed_entropy": seed.entropy,
        "spawn_key": seed.spawn_key,
        "stream_key": seed.key,
        "method": method,
        **origin(system),
        "simd_level": core.simd_level,
        **versions(),
    }
