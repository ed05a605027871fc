"""Anchored means: one exponent from anchored growth in several metrics (`statistics.control_variates`).

The error bar comes from the means of whole chains. Nothing here assumes that chains mix within their length; it is
checked, and paid for where it fails: with the drift between the halves of the run, if there is one, and

- where chains have twins (`statistics.twins`), with what those gain on them, and with what has not been seen;
- of others the gap between two exponents is known at the most (`statistics.mixing`). If they are too short to mix,
  they pay with that drift and its error, extrapolated over the relaxation still to come, but no more than the spread of
  g over all that the chains have visited; and with that spread if nothing is known about their relaxation.

Lengths in one norm alone, as those of averages, also change by what vectors become beside what they started as, for
better or worse, which twins need not show. By how much growth differs from the first half of the run to the second is
more than what it still is off by, and counts until chains are seen to mix. Metrics in which lengths are alike have no
need of it.

A direction by itself gains length while others come to it by the noise of the steps. Chains that start so, where the
dominant second moment is not known, and so do their twins, have all in all gained less than log(1 / cos), where cos is
what is left of the start in their directions: a third of it, where many slow directions are alike. It counts until
chains are seen to mix.

The exponent is the largest growth that any start leads to. What chains owe to their starts, and bursts that they have
not seen, make it larger than their mean, but not than a bound that is known without them, as half of Lambda(2) is. What
a mixture loses it had gained before, when it came about; beyond that its gain is uncertain in both directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.statistics.control_variates import combined, weights_of_chains
from sgdstab_fast.statistics.estimates import (
    MIN_SAMPLES,
    Estimate,
    chain_disagreement,
    drift,
    effective_sample_size,
    grouped,
    unknown,
)
from sgdstab_fast.statistics.intervals import ERRORS_IN_HALF
from sgdstab_fast.statistics.means import mean_of
from sgdstab_fast.statistics.mixing import Mixing
from sgdstab_fast.statistics.twins import Twins

_PIECES = 4  # of a chain for each one that counts for the error bar: weights may be fitted to correlated ones
_RELAXATION_TIMES = 5  # that a piece of a chain must last to count as independent of the next
_COUNTED = 1e-3  # of what each metric may lack: far less than weights of use are worth, and more than huge ones
_NEGLIGIBLE = 1 / 2  # of a standard error
_FEW_CHAINS = 16  # fewer do not show the spread of what they have not visited
_DRIFT = 4.0  # standard errors: a false alarm in 1e4


@dataclass(frozen=True)
class Rounding:
    """What rounding does to an evaluation, a mean over the next steps: to log f / 2, where a step leaves f of a square.

    The logarithm of a factor f has the error eps / f. Factors with the mean logarithm 2 g may be as small as exp(2 N g)
    where one step does it all; how small they are whatever the vector may be known as well.
    """

    least: float
    """What it does at the least."""
    n_steps: int
    """That an evaluation is a mean over; 0 where none cancels."""
    cancellation: float = math.inf
    """The mean of 1 / f over them at the most."""

    def error(self, mean: float) -> float:
        """Return the error of a mean."""
        eps, n = float(np.finfo(float).eps), self.n_steps
        if n == 0:
            return max(self.least, eps * abs(mean))
        smallest = math.exp(min(max(-2 * n * mean, 0.0), 80.0)) / n
        return max(self.least, eps * abs(mean), 4 * eps * min(smallest, self.cancellation))


@dataclass(frozen=True, eq=False)
class AnchoredGrowth:
    """Anchored growth of chains, and what is known of how they mix."""

    growth: FloatArray
    """Means over the evaluations of batches, shape (n_chains, n_batches, n_metrics)."""
    steps_per_batch: int
    mixing: Mixing
    rounding: Rounding
    twins: Twins | None = None
    spreading: float = 0.0
    """log(1 / cos) of the angles of chains with the single direction that they started as, if they did."""

    def estimate(self, *, highest: float = math.inf, least_start_up: int = 0, spread: float | None = None) -> Estimate:
        """Estimate the exponent, which is no larger than `highest`.

        At least so many batches are cut off where twins say how many. `spread` is what chains that do not mix at all
        may be off by, that of all samples by default; it serves those without twins.
        """
        if self.growth.shape[1] == 0:
            return unknown(1)
        if not np.isfinite(self.growth).all():
            return self._annihilated()
        return self._by_gap(spread) if self.twins is None else self._by_twins(self.twins, highest, least_start_up)

    def series(self, start_up: int) -> FloatArray:
        """Return the growth whose mean the estimate is, (n_chains, n_batches), after so many batches."""
        # No rule that looks at the series itself: where rare excursions carry the variance, that would choose among
        # them.
        return combined(self.growth[:, start_up:], _PIECES * self._n_groups, self._unseen_of_metrics)

    def _annihilated(self) -> Estimate:
        if np.isnan(self.growth).any() or np.isposinf(self.growth).any():
            return unknown(1)
        return replace(
            unknown(1),
            mean=np.array([-math.inf]),
            standard_error=np.zeros(1),
            effective_sample_size=np.array([math.inf]),
            bias_allowance=0.0,
            mixed=True,
        )

    @property
    def _n_groups(self) -> int:
        """Of few chains, pieces count as independent if they are several relaxation times long."""
        n_chains, n_batches, _ = self.growth.shape
        pieces = n_batches * self.steps_per_batch / max(_RELAXATION_TIMES * self.mixing.relaxation_time, 1.0)
        return max(1, int(min(math.ceil(MIN_SAMPLES / n_chains), pieces)))

    @cached_property
    def _differences(self) -> FloatArray:
        """Growth of twins less that of chains."""
        assert self.twins is not None
        return self.twins.differences(self.growth)

    @cached_property
    def _unseen_of_metrics(self) -> FloatArray | None:
        """What each metric by itself may lack."""
        if self.twins is None:
            return None
        n_chains, n_batches, _ = self.growth.shape
        gain, margin = self.twins.unseen(self._differences, n_chains * n_batches)
        return _COUNTED * (np.abs(gain) + margin)

    def _by_gap(self, spread: float | None) -> Estimate:
        mixing, (n_chains, n_batches, _) = self.mixing, self.growth.shape
        series = self.series(start_up := start_up_batches(mixing, n_batches, self.steps_per_batch))
        bias = 0.0
        if not mixing.resolved:
            # No more than the spread of all that the chains have seen, and less if what drifts is seen to relax.
            difference, difference_error, _ = _drift(series)
            drifted, n_steps = math.hypot(difference, difference_error), series.shape[1] * self.steps_per_batch
            extrapolated = mixing.bias(drifted, n_steps) if mixing.separated else math.inf
            seen = (float(series.std()) if spread is None else spread) if n_chains >= _FEW_CHAINS else math.inf
            bias = min(extrapolated, seen)
        return self._estimate(series, start_up, bias, mixed=mixing.resolved)

    def _by_twins(self, twins: Twins, highest: float, least_start_up: int) -> Estimate:
        """Cut off so many batches that statistical error and bias together are least."""
        growth, (n_chains, n_batches, n_metrics) = self.growth, self.growth.shape
        if n_metrics == 1:
            least_start_up = max(least_start_up, start_up_batches(self.mixing, n_batches, self.steps_per_batch))
        weights = weights_of_chains(growth[:, n_batches // 2 :], _PIECES * self._n_groups, self._unseen_of_metrics)
        each = self._differences
        # Of metrics combined by chains' weights, and of the first one, that of lengths in parameter space. What tells
        # two starts apart by their lengths is nothing in metrics that are long in directions that both have.
        differences = np.stack([np.einsum("cbm,cm->cb", each, weights[: len(each)]), each[:, :, 0]], axis=2)
        means = np.einsum("cbm,cm->c", growth, weights) / n_batches
        variance = mean_of(means).standard_error ** 2 if n_chains > 1 else 0.0
        candidates = [first for first in (n_batches * eighths // 8 for eighths in range(5)) if first >= least_start_up]
        biases = {first: twins.bias(differences, first, n_batches) for first in candidates}
        start_up = min(biases, key=lambda first: variance * n_batches / (n_batches - first) + biases[first] ** 2)
        series = self.series(start_up)
        # What is known for certain lies within a confidence interval.
        room = max(highest - float(series.mean()), 0.0) / ERRORS_IN_HALF
        (gain, in_length), (margin, of_length) = twins.unseen(differences, series.size)
        unseen = max(margin, min(max(gain + margin, in_length + of_length), room))
        bias = min(biases[start_up], room)
        if not self.mixing.resolved:
            bias = max(bias, self.spreading / (ERRORS_IN_HALF * series.shape[1] * self.steps_per_batch))
            if n_metrics == 1:
                bias = max(bias, abs(_drift(series)[0]))
        return self._estimate(series, start_up, bias, unseen=unseen)

    def _estimate(
        self, series: FloatArray, start_up: int, bias: float, *, unseen: float = 0.0, mixed: bool | None = None
    ) -> Estimate:
        samples = grouped(series[:, :, None], self._n_groups)[:, 0]
        mean, standard_error = mean_of(samples)
        standard_error = max(standard_error, self.rounding.error(mean))
        difference, _, scaled_drift = _drift(series)
        if abs(scaled_drift) > _DRIFT:
            bias = max(bias, abs(difference))
        mixed = bias <= _NEGLIGIBLE * standard_error < math.inf if mixed is None else mixed
        # Chains that vary by far more than what they may have missed have not missed it.
        unseen = unseen if unseen > _NEGLIGIBLE * standard_error else 0.0
        errors = np.array([math.hypot(standard_error, unseen, bias)])
        return Estimate(
            mean=np.array([mean]),
            standard_error=errors,
            degrees_of_freedom=max(len(samples) - 1, 1),
            start_up=start_up,
            effective_sample_size=effective_sample_size(series[:, :, None], errors),
            drift=scaled_drift,
            top_drift=scaled_drift,
            chain_disagreement=chain_disagreement(series),
            bias_allowance=bias,
            mixed=mixed,
            gap=self.mixing.gap,
        )


def start_up_batches(mixing: Mixing, n_batches: int, steps_per_batch: int) -> int:
    """Return how many of n_batches to cut off at the start of every chain, by the gap."""
    return min(math.ceil(mixing.start_up_steps / steps_per_batch), n_batches // 2) if mixing.resolved else 0


def _drift(series: FloatArray) -> tuple[float, float, float]:
    """Return second half less first half, its error and their ratio."""
    difference, error, scaled = (float(value[0]) for value in drift(series[:, :, None]))
    return difference, error, scaled
