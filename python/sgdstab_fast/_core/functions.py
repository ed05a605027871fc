"""The compiled core: chooses the variant that this processor runs, and types its functions.

The only file that imports the extension modules. ``SGDSTAB_SIMD`` (``v2``, ``v3``, ``v4`` or ``auto``) overrides
the choice.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core import _cpu
from sgdstab_fast._core.arguments import (
    FloatArray,
    FrameMetrics,
    FrameOptions,
    PanelMetrics,
    PanelOptions,
    PanelSteps,
    PopulationMetrics,
    PopulationOptions,
    SingleSteps,
    Steps,
    Stream,
    StreamKey,
    VectorMetrics,
    VectorOptions,
)

_MODULE = "sgdstab_fast._core._core_{}"


class Core(Protocol):
    """What every variant of the core offers; ``cpp/bindings`` defines it."""

    n_lanes: int
    simd_level: str
    eigen_version: str
    compiler: str
    arguments: dict[str, tuple[str, ...]]
    """Names of the fields of every tuple of `_core.arguments`, as the core reads them."""

    def philox4x64(self, counter: list[int], key: list[int]) -> list[int]:
        """Return the Philox4x64-10 block of a counter."""

    def examples(
        self, *, key: StreamKey, chain: int, first_step: int, n_steps: int, n_examples: int
    ) -> NDArray[np.uint32]:
        """Return the examples that a chain draws."""

    def advance_vectors(
        self,
        steps: Steps,
        metrics: VectorMetrics,
        vectors: FloatArray,
        stream: Stream,
        options: VectorOptions,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Advance chains of k vectors each, (n_chains, k, dimension), in place.

        Returns (vectors, log_growth, growth, directions): the last, of shape (n_chains, n_batches, dimension), are the
        first vector of each chain after each batch, or of shape (n_chains, n_batches, 0) unless recorded.
        """

    def advance_panels(
        self,
        steps: PanelSteps,
        metrics: PanelMetrics,
        panels: FloatArray,
        stream: Stream,
        options: PanelOptions,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Advance chains of k vectors for every learning rate, in place: (panels, log_growth, growth).

        Panels have the shape (n_chains, n_panels, k, dimension, n_lanes).
        """

    def advance_populations(
        self,
        steps: SingleSteps,
        metrics: PopulationMetrics,
        walkers: FloatArray,
        stream: Stream,
        options: PopulationOptions,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Advance populations of weighted walkers in place.

        Returns (walkers, log_growth, effective_size, norms, excess, separation). Walkers have the shape
        (n_populations, size, n_vectors * dimension + 2): vectors, log weight, log norm.
        """

    def advance_frames(
        self,
        steps: Steps,
        metrics: FrameMetrics,
        frames: FloatArray,
        stream: Stream,
        options: FrameOptions,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Advance chains of one frame each, in place: (frames, log_growth, log_determinant, smallest_ratio, growth)."""

    def smallest_eigenvalue(self, *, matrix: FloatArray, scale: FloatArray) -> tuple[float, FloatArray]:
        """Return an estimate from above of a symmetric matrix's smallest eigenvalue, 0 if it is not definite.

        Also the eigenvector of diag(scale) matrix diag(scale) to its smallest eigenvalue. Overwrites the matrix.
        """


def simd_levels() -> list[str]:
    """Return the compiled SIMD levels that this processor and operating system run, best first."""
    return [level for level in _cpu.simd_levels() if importlib.util.find_spec(_MODULE.format(level)) is not None]


def _load() -> Core:
    supported = simd_levels()
    if not supported:
        runs = " ".join(_cpu.simd_levels()) or "none of them"
        raise ImportError(
            f"sgdstab_fast was not compiled for this processor, which runs, of the SIMD levels v2 v3 v4, {runs}: "
            "install a wheel, which has all three (v2 is SSE4.2)"
        )
    requested = os.environ.get("SGDSTAB_SIMD", "auto")
    if requested != "auto" and requested not in supported:
        raise ImportError(
            f"SGDSTAB_SIMD is {requested!r}; this installation has for this machine {', '.join(map(repr, supported))} "
            "or 'auto'"
        )
    level = supported[0] if requested == "auto" else requested
    module: Any = importlib.import_module(_MODULE.format(level))
    return cast(Core, module)


core = _load()
