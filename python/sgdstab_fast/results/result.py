"""What results say about how they came about, and what follows from exponents and their errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.chains import Chains
from sgdstab_fast.results.journal import Journal
from sgdstab_fast.results.storage import Savable, storable
from sgdstab_fast.statistics.intervals import interval
from sgdstab_fast.statistics.means import Measured

storable(Measured)

INTERRUPTED = "interrupt"
"""What stops a run that is no longer wanted."""
SHORT = ("max_steps", INTERRUPTED)
"""What stops a run short of its tolerances."""
EXACT = 2**31
"""Degrees of freedom of what is not sampled."""
CLOSED_FORM: Mapping[str, Any] = {
    "degrees_of_freedom": EXACT,
    "n_steps": 0,
    "n_chains": 0,
    "converged": True,
    "stopped_by": "closed form",
}
"""What a result that took no steps says about how it came about."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result(Savable):
    """A value: numbers, arrays and where they are from; some hold a system, which is a value too."""

    provenance: Mapping[str, Any]
    """Seed entropy, SIMD level, versions, method, and which system it is of."""
    journal: Journal | None = None
    """Of an interrupted call, from which ``resume=`` goes on; else None."""

    @property
    def setting(self) -> Mapping[str, Any]:
        """What a step of the system is, in few numbers, such as ``n_examples``, ``batch_size`` and ``learning_rate``.

        Momentum and how batches are drawn are there where they are not the usual. Empty in files of earlier releases.
        """
        return dict(self.provenance.get("setting", {}))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SampledResult(Result):
    """A result that may take a simulation."""

    n_steps: int
    """Steps of all chains together, walkers of populations each counted, pilots included; 0 without a simulation."""
    n_chains: int
    """Independent chains, streams or populations."""
    stopped_by: str
    """``"rtol"``, ``"atol"``, ``"sign"``, ``"max_steps"``, ``"interrupt"``, or ``"closed form"`` where nothing was
    simulated."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SimulatedEstimate(SampledResult):
    """An estimate from chains that ran until it was known well enough."""

    degrees_of_freedom: int | NDArray[np.int64]
    """Of the standard error, or of each."""
    steps_per_batch: int
    """Steps whose log growth is recorded together."""
    start_up_steps: int
    """Steps cut off at the start of every chain."""
    chain_disagreement: float
    """Variance between chain means over what the variance within chains predicts; about 1 when chains mix."""
    converged: bool
    """Whether a tolerance was met by chains that had left their start-up behind."""
    drifts: bool
    """Whether the chains were still leaving their start-up when the run ended."""
    steps_per_epoch: float
    """N / batch_size."""
    chains: Chains[Any] | None
    """The state at the end, from which to go on; None where nothing was simulated."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OneExponent(SimulatedEstimate):
    """An estimate of lambda, in nats per step."""

    degrees_of_freedom: int
    """Of the standard error."""
    exponent: float
    """lambda; below 0, SGD can converge to the minimum, above 0 it cannot."""
    standard_error: float
    """Of `exponent`."""
    effective_sample_size: float
    """Independent batches that would give the same standard error."""

    @property
    def per_epoch(self) -> float:
        """The exponent per epoch."""
        return self.exponent * self.steps_per_epoch

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the (low, high) that hold the exponent with probability `level` (Student's t)."""
        low, high = interval(self.exponent, self.standard_error, self.degrees_of_freedom, level)
        return float(low), float(high)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SeveralExponents(SampledResult):
    """Estimates of exponents, in nats per step; arrays of one shape unless said otherwise."""

    exponents: FloatArray
    """The exponents."""
    standard_errors: FloatArray
    """Of `exponents`."""
    degrees_of_freedom: int | NDArray[np.int64]
    """Of the standard errors, all or each."""
    effective_sample_size: FloatArray
    """Independent batches that would give the same standard errors; infinite where nothing was simulated."""
    steps_per_epoch: float | FloatArray
    """N / batch_size, of all or of each row."""

    @property
    def per_epoch(self) -> FloatArray:
        """The exponents per epoch."""
        return np.asarray((self.exponents.T * self.steps_per_epoch).T)

    def confidence_interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Return arrays (low, high); each exponent lies between its own with probability `level`."""
        return interval(self.exponents, self.standard_errors, self.degrees_of_freedom, level)
