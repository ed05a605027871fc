"""Provenance: what it takes to get the same bits again."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from sgdstab_fast._core.build import __version__
from sgdstab_fast._core.functions import core
from sgdstab_fast._core.seeds import Seed


def versions() -> dict[str, str]:
    """Return the versions of what a result came out of."""
    return {"sgdstab_fast": __version__, "numpy": np.__version__, "python": platform.python_version()}


def provenance(seed: Seed, method: str, fingerprint: str) -> dict[str, Any]:
    """Return what it takes to get the same bits again."""
    return {
        "seed_entropy": seed.entropy,
        "spawn_key": seed.spawn_key,
        "stream_key": seed.key,
        "method": method,
        "system": fingerprint,
        "simd_level": core.simd_level,
        **versions(),
    }
