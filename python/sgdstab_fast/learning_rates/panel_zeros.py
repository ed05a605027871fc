"""Panels that close in on the first zero of lambda: what one of them says, and what is kept of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import first_of_panel
from sgdstab_fast.curves.zeros import Zero, first_zero
from sgdstab_fast.exact.mean_square_family import MeanSquareFamily
from sgdstab_fast.learning_rates.panels import (
    Anchors,
    combined_growth,
    estimate_at,
    estimates,
    joined,
    run_panels,
)
from sgdstab_fast.results.chains import Chains, PanelRecords
from sgdstab_fast.results.result import INTERRUPTED
from sgdstab_fast.results.storage import storable
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.statistics.estimates import Estimate
from sgdstab_fast.statistics.means import mean_of
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import Part

storable(Zero)
_SURE = 4.0  # standard errors


@dataclass(frozen=True)
class _Found:
    """What a panel says about the first zero of lambda."""

    zero: Zero
    below: float
    """The highest learning rate before it at which lambda is surely negative, or the lowest of all."""
    above: float
    """The lowest after it at which lambda is surely positive, or the highest of all."""
    nearest: Estimate
    """Of lambda, at the learning rate next to it."""

    @property
    def estimate(self) -> Estimate:
        """The zero as an estimate, for a run to stop by."""
        mean, error = np.array([self.zero.value]), np.array([self.zero.standard_error])
        return replace(self.nearest, mean=mean, standard_error=error, details=self)


@storable
@dataclass(frozen=True)
class Panel:
    """What is left of a panel."""

    zero: Zero
    below: float
    above: float
    slope: float
    """d lambda / d eta at the zero."""
    slope_error: float
    degrees_of_freedom: int
    n_steps: int
    stopped_by: str


def panel_of(
    block: Part[LinearizedSGD],
    family: MeanSquareFamily | None,
    rates: FloatArray,
    anchors: Anchors,
    panel: int,
    options: Options,
) -> Panel:
    """Run a panel."""

    def zero(chains: Chains[PanelRecords]) -> Estimate:
        return _find_zero(rates, chains, anchors).estimate

    done = run_panels(
        block.system,
        family,
        rates,
        anchors,
        options,
        first_of_panel(block.index, panel),
        zero,
        "critical learning rate",
    )
    found: _Found = done.estimate.details
    slope = math.nan, math.nan
    if done.stopped_by != INTERRUPTED:  # which is answered at once
        slope = _slope(done.chains, anchors, rates, found.zero)
    return Panel(
        found.zero,
        found.below,
        found.above,
        *slope,
        done.estimate.degrees_of_freedom,
        done.chains.n_steps,
        done.stopped_by,
    )


def _find_zero(rates: FloatArray, chains: Chains[PanelRecords], anchors: Anchors) -> _Found:
    """Look for the first zero of lambda, from the lowest learning rate up to where lambda is surely positive."""
    each: list[Estimate] = []
    for index in range(rates.size):
        each.append(estimate_at(chains, anchors, index))
        if index > 1 and each[-1].mean[0] > _SURE * each[-1].standard_error[0]:
            break
    every, seen = joined(each), rates[: len(each)]
    zero = first_zero(seen, every.mean, every.standard_error, extrapolate=True)
    surely_negative = seen[(every.mean < -_SURE * every.standard_error) & (seen < zero.value)]
    surely_positive = seen[(every.mean > _SURE * every.standard_error) & (seen > zero.value)]
    return _Found(
        zero=zero,
        below=float(max(surely_negative, default=rates[0])),
        above=float(min(surely_positive, default=rates[-1])),
        nearest=each[int(np.argmin(np.abs(seen - zero.value)))] if math.isfinite(zero.value) else each[0],
    )


def _slope(chains: Chains[PanelRecords], anchors: Anchors, rates: FloatArray, zero: Zero) -> tuple[float, float]:
    """Return d lambda / d eta at the zero, with its standard error: the slope of the parabola of least squares.

    The error includes what the slope changes by if only the half of the learning rates next to the zero are fitted.
    """
    found = estimates(chains, anchors, rates.size)
    if not all(np.isfinite(each.mean[0]) for each in found) or not rates[0] <= zero.value <= rates[-1]:
        return math.nan, math.nan
    means = np.array([combined_growth(chains, anchors, i, each).mean(axis=1) for i, each in enumerate(found)])
    scale = float(rates[-1] - rates[0])
    x = (rates - zero.value) / scale

    def slopes(these: NDArray[np.intp]) -> FloatArray:
        return np.asarray(np.linalg.pinv(np.vander(x[these], 3))[1] @ means[these] / scale)

    every = slopes(np.arange(rates.size))
    near = slopes(np.argsort(np.abs(x))[: rates.size // 2])
    value, sampling = mean_of(every)
    return value, math.hypot(sampling, float((near - every).mean()))
