"""What the core is told, as data: tuples of arrays and numbers that can be pickled and kept by a worker.

`cpp/bindings/arguments.hpp` makes them the core's structs, which have the same names. Arrays are contiguous float64 or
int64, and are not copied; None is for no array. Steps and metrics are the same throughout a run, states and streams go
on, options are what estimators choose.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
AnyFloatArray = NDArray[np.float64] | NDArray[np.float32]
StreamKey = tuple[int, int]
Coordinates = Literal["gram", "factor"]
_Int64Array = NDArray[np.int64]


class Rows(NamedTuple):
    """Rows of K, or of F with K = F F^T."""

    array: AnyFloatArray
    """Shape (n, r); of float32 for vectors alone."""
    coordinates: Coordinates


class Law(NamedTuple):
    """How batches are drawn."""

    sampling: str
    batch_size: int
    n_units: int
    cumulative: FloatArray | None = None
    """Cumulative probabilities of units, shape (n_units,); None if they are all the same."""
    offsets: _Int64Array | None = None
    """Unit u owns the rows members[offsets[u] : offsets[u + 1]]; None: row u."""
    members: _Int64Array | None = None


class Recurrence(NamedTuple):
    """What an optimiser remembers: F and h, log abs det F, and h^T F^-1 e_1."""

    free: FloatArray
    readout: FloatArray
    log_determinant: float
    feedback: float


class SingleSteps(NamedTuple):
    """Steps on single examples, drawn uniformly, without memory."""

    rows: Rows
    learning_rate: float


class BatchSteps(NamedTuple):
    """Steps on batches, with a memory."""

    rows: Rows
    learning_rate: float
    law: Law
    recurrence: Recurrence


class MatrixSet(NamedTuple):
    """Steps that draw matrices of a set."""

    panels: FloatArray | None
    """For vectors: rows of matrices, n_lanes at a time, transposed, shape (n, n_panels, d, n_lanes)."""
    matrices: FloatArray | None
    """For frames, shape (n, d, d)."""
    probabilities: FloatArray
    cumulative: FloatArray | None = None
    """None if probabilities are all the same."""


class PanelSteps(NamedTuple):
    """Steps on single examples, at a learning rate for every lane of every panel."""

    rows: Rows
    learning_rates: FloatArray
    """Shape (n_panels, n_lanes)."""


class SingleMetrics(NamedTuple):
    """Metrics for steps on single examples, the norm of K first."""

    matrices: FloatArray
    """All but the first, shape (n_metrics - 1, d, d)."""
    diagonals: FloatArray
    """M_ii or f_i . M f_i, shape (n_metrics, n)."""


class BatchMetrics(NamedTuple):
    """Metrics for steps on batches."""

    matrices: FloatArray
    """Shape (n_metrics, d, d)."""
    couplings: FloatArray
    """Inner products of what rows move, shape (n_metrics, n, n)."""
    probabilities: FloatArray
    """Of each unit in a draw."""
    n_trials: int
    """Batches drawn for an evaluation; 0 for batches of one."""


class MatrixMetrics(NamedTuple):
    """Metrics M = R^T R for sets of matrices."""

    roots: FloatArray
    """R and R A_i / s, shape (n_metrics, 1 + n, d, d)."""
    log_scale: float
    """Log s."""


class PanelMetrics(NamedTuple):
    """Metrics of panels, which share some."""

    matrices: FloatArray
    """Shape (n_matrices, d, d)."""
    windows: _Int64Array | None
    """First matrix and number of metrics, with the norm of K, of every panel: shape (n_panels, 2)."""
    diagonals: FloatArray
    """M_ii or f_i . M f_i, shape (n_panels, most, n)."""


class FrameMetrics(NamedTuple):
    """Metrics M = L L^T for frames, of steps on single examples, and what is known of determinants."""

    log_determinants: FloatArray | None = None
    """Log abs det of the step on each example, or of each matrix; None where the core computes those of batches."""
    columns: int = 1
    """Leading columns of a frame whose growth is evaluated."""
    roots: FloatArray | None = None
    """L^T, shape (n_metrics, d, d)."""
    gradients: FloatArray | None = None
    """K L^-T or F L^-T, shape (n_metrics, n, d)."""
    images: FloatArray | None = None
    """L or F L, shape (n_metrics, n, d)."""
    diagonals: FloatArray | None = None
    """M_ii or f_i . M f_i, shape (n_metrics, n)."""


class Gauge(NamedTuple):
    """A metric that steps are tilted by."""

    gram: FloatArray
    """K, shape (n, n)."""
    coupling: FloatArray | None
    """M or F M F^T, shape (n, n); None for the norm of K, and so is the metric."""
    metric: FloatArray | None
    diagonal: FloatArray


class PopulationMetrics(NamedTuple):
    """Metrics of populations: `SingleMetrics`, and a gauge if steps are tilted."""

    matrices: FloatArray
    diagonals: FloatArray
    gauge: Gauge | None = None


class Stream(NamedTuple):
    """Which steps to take: batches of steps, of chains from `first_chain` on, each with a stream of its own."""

    key: StreamKey
    first_chain: int
    first_step: int
    n_batches: int
    steps_per_batch: int


class VectorOptions(NamedTuple):
    """How vectors advance."""

    renormalise_every: int
    spacing: int
    """Steps between evaluations of growth."""
    careful: bool
    """Whether steps are taken one by one: a few may shrink a vector by many orders."""
    record: bool
    """Whether the first vector of each chain is recorded after each batch."""


class PanelOptions(NamedTuple):
    """How panels advance, as of `VectorOptions`."""

    renormalise_every: int
    spacing: int
    careful: bool


class FrameOptions(NamedTuple):
    """How frames advance."""

    block: int
    """Rows whose steps are taken together."""
    period: int
    """Steps between orthonormalisations."""
    careful: bool
    """Whether frames are orthonormalised column by column, twice."""
    null_ratio: float
    """What is left of a column, relative, below which it is linearly dependent."""
    least_ratio: float
    """What steps may leave of a column; where they leave less they are taken again, half as many."""


class PopulationOptions(NamedTuple):
    """How populations advance."""

    order: float
    renormalise_every: int
    careful: bool
    least_share: float
    """Of effective walkers, below which they are resampled."""
    n_passive: int
    """Vectors of a walker that take its tilted steps and do not count: one or none."""


Steps = SingleSteps | BatchSteps | MatrixSet
VectorMetrics = SingleMetrics | BatchMetrics | MatrixMetrics
