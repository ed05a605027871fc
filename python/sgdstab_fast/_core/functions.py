"""The compiled core: chooses the variant that this processor runs, and types its functions.

The only file that imports the extension modules. ``SGDSTAB_SIMD`` (``v2``, ``v3``, ``v4`` or ``auto``) overrides
the choice.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core import _cpu

__all__ = ["Coordinates", "FloatArray", "StreamKey", "core", "simd_levels"]

FloatArray = NDArray[np.float64]
StreamKey = tuple[int, int]
Coordinates = Literal["gram", "factor"]


class Core(Protocol):
    """What every variant of the core offers; ``cpp/bindings/core.cpp`` defines it."""

    n_lanes: int
    simd_level: str
    eigen_version: str
    compiler: str

    def philox4x64(self, counter: list[int], key: list[int]) -> list[int]:
        """Return the Philox4x64-10 block of a counter."""

    def examples(
        self, *, key: StreamKey, chain: int, first_step: int, n_steps: int, n_examples: int
    ) -> NDArray[np.uint32]:
        """Return the examples that a chain draws."""

    def advance_vectors(
        self,
        *,
        rows: FloatArray,
        coordinates: Coordinates,
        learning_rate: float,
        metrics: FloatArray,
        diagonals: FloatArray,
        vectors: FloatArray,
        key: StreamKey,
        first_chain: int,
        first_step: int,
        n_batches: int,
        steps_per_batch: int,
        renormalise_every: int,
        spacing: int,
        careful: bool,
        record: bool,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Advance chains of k vectors each, (n_chains, k, dimension), in place.

        Returns (vectors, log_growth, growth, directions): the last, of shape (n_chains, n_batches, dimension), are the
        first vector of each chain after each batch, or of shape (n_chains, n_batches, 0) unless recorded.
        """

    def advance_sampled_vectors(
        self,
        *,
        rows: FloatArray,
        coordinates: Coordinates,
        learning_rate: float,
        sampling: str,
        batch_size: int,
        n_units: int,
        cumulative: FloatArray,
        offsets: NDArray[np.int64],
        members: NDArray[np.int64],
        free: FloatArray,
        readout: FloatArray,
        log_determinant: float,
        feedback: float,
        metrics: FloatArray,
        couplings: FloatArray,
        probabilities: FloatArray,
        n_trials: int,
        vectors: FloatArray,
        key: StreamKey,
        first_chain: int,
        first_step: int,
        n_batches: int,
        steps_per_batch: int,
        renormalise_every: int,
        spacing: int,
        record: bool,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Do the same for chains that draw batches, with a memory; growth in one or three columns a metric."""

    def advance_matrix_vectors(
        self,
        *,
        panels: FloatArray,
        probabilities: FloatArray,
        cumulative: FloatArray,
        roots: FloatArray,
        log_scale: float,
        vectors: FloatArray,
        key: StreamKey,
        first_chain: int,
        first_step: int,
        n_batches: int,
        steps_per_batch: int,
        renormalise_every: int,
        spacing: int,
        record: bool,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Do the same for chains that draw matrices of a set."""

    def advance_panels(
        self,
        *,
        rows: FloatArray,
        coordinates: Coordinates,
        learning_rates: FloatArray,
        metrics: FloatArray,
        windows: NDArray[np.int64],
        diagonals: FloatArray,
        panels: FloatArray,
        key: StreamKey,
        first_chain: int,
        first_step: int,
        n_batches: int,
        steps_per_batch: int,
        renormalise_every: int,
        spacing: int,
        careful: bool,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Advance chains of k vectors for every learning rate, in place: (panels, log_growth, growth).

        Panels have the shape (n_chains, n_panels, k, dimension, n_lanes), learning rates (n_panels, n_lanes).
        """

    def advance_populations(
        self,
        *,
        rows: FloatArray,
        coordinates: Coordinates,
        learning_rate: float,
        order: float,
        metrics: FloatArray,
        diagonals: FloatArray,
        gauge_gram: FloatArray,
        gauge_coupling: FloatArray,
        gauge_metric: FloatArray,
        gauge_diagonal: FloatArray,
        walkers: FloatArray,
        key: StreamKey,
        first_chain: int,
        first_step: int,
        n_batches: int,
        steps_per_batch: int,
        renormalise_every: int,
        careful: bool,
        least_share: float,
        n_passive: int,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Advance populations of weighted walkers in place.

        Returns (walkers, log_growth, effective_size, norms, excess, separation). Walkers have the shape
        (n_populations, size, n_vectors * dimension + 2): vectors, log weight, log norm.
        """

    def advance_frames(
        self,
        *,
        rows: FloatArray,
        coordinates: Coordinates,
        learning_rate: float,
        sampling: str,
        batch_size: int,
        n_units: int,
        cumulative: FloatArray,
        offsets: NDArray[np.int64],
        members: NDArray[np.int64],
        free: FloatArray,
        readout: FloatArray,
        log_determinant: float,
        feedback: float,
        log_determinants: FloatArray,
        roots: FloatArray,
        gradients: FloatArray,
        images: FloatArray,
        diagonals: FloatArray,
        evaluated: int,
        frames: FloatArray,
        key: StreamKey,
        first_chain: int,
        first_step: int,
        n_batches: int,
        steps_per_batch: int,
        block: int,
        period: int,
        careful: bool,
        null_ratio: float,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Advance chains of one frame each, in place: (frames, log_growth, log_determinant, smallest_ratio, growth)."""

    def advance_matrix_frames(
        self,
        *,
        matrices: FloatArray,
        probabilities: FloatArray,
        cumulative: FloatArray,
        log_determinants: FloatArray,
        frames: FloatArray,
        key: StreamKey,
        first_chain: int,
        first_step: int,
        n_batches: int,
        steps_per_batch: int,
        period: int,
        careful: bool,
        null_ratio: float,
        n_threads: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Do the same for chains that draw matrices of a set."""

    def smallest_eigenvalue(self, *, matrix: FloatArray, scale: FloatArray) -> tuple[float, FloatArray]:
        """Return an estimate from above of a symmetric matrix's smallest eigenvalue, 0 if it is not definite.

        Also the eigenvector of diag(scale) matrix diag(scale) to its smallest eigenvalue. Overwrites the matrix.
        """


def simd_levels() -> list[str]:
    """Return the SIMD levels that this processor and operating system run, best first."""
    return _cpu.simd_levels()


def _load() -> Core:
    supported = simd_levels()
    if not supported:
        raise ImportError("sgdstab_fast needs an x86-64-v2 processor (SSE4.2) or another architecture")
    requested = os.environ.get("SGDSTAB_SIMD", "auto")
    if requested != "auto" and requested not in supported:
        raise ImportError(
            f"SGDSTAB_SIMD is {requested!r}; this machine runs {', '.join(map(repr, supported))} or 'auto'"
        )
    level = supported[0] if requested == "auto" else requested
    module: Any = importlib.import_module(f"sgdstab_fast._core._core_{level}")
    return cast(Core, module)


core = _load()
