"""The first zero of lambda where learning rates do not share their steps: lambda is read off at one after the other.

Growth is measured in the metrics of a neighbouring learning rate: exponents do not depend on them, and they hardly
change over a few percent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from sgdstab_fast.exact.full_batches import gd_threshold
from sgdstab_fast.exact.zeros import LARGEST_RANK, mean_square_zero
from sgdstab_fast.exponents.exponent import estimate_exponent
from sgdstab_fast.exponents.results import LyapunovExponent
from sgdstab_fast.learning_rates.results import CriticalLearningRate, known_rate
from sgdstab_fast.learning_rates.zeros import Reading, Readings, bracket, bracket_between, zero_between
from sgdstab_fast.results.progress import reporter
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.systems.growth import Growth
from sgdstab_fast.systems.sgd import LinearizedSGD

_FIRST_FACTOR = 1.1  # times what is surely stable, where lambda is looked at first
_SAME_METRICS = 0.04  # relative distance of learning rates
_START_WITHIN, _SURE = 0.02, 4.0  # of what an earlier result says, and standard errors


def search_by_readings(
    system: LinearizedSGD, bounds: tuple[float, float], options: Options, start: CriticalLearningRate | None
) -> CriticalLearningRate:
    """Search for the zero with lambda at one learning rate at a time, first where that of another K was."""
    metrics: dict[float, Growth] = {}

    def growth_at(learning_rate: float) -> Growth:
        # Of a learning rate alone: readings that were done before the search was cut are not done again.
        anchor = first * math.exp(round(math.log(learning_rate / first) / _SAME_METRICS) * _SAME_METRICS)
        if anchor not in metrics:
            metrics[anchor] = replace(system.with_learning_rate(anchor).growth(), upper_bound=math.inf)
        return metrics[anchor]

    def at(learning_rate: float, its: Options, run: LyapunovExponent | None) -> Reading:
        here = system.with_learning_rate(learning_rate)
        found = estimate_exponent(here, its, run, growth=growth_at(learning_rate))
        value, error, allowance = found.exponent, found.standard_error, found.bias_allowance
        run = None if found.chains is None else found
        return Reading(value, error, found.n_steps, found.degrees_of_freedom, allowance, run)

    low, high = bounds
    first = low * _FIRST_FACTOR
    if low == 0 or not system.is_independent:
        # Without replacement or with it, epochs or not: thresholds are of the same order.
        alike = system.with_batches(sampling="iid")
        threshold = mean_square_zero(alike) if alike.rank <= LARGEST_RANK else None
        first = max(first, gd_threshold(alike) / 8 if threshold is None else threshold[0])
    made_of: Mapping[str, object] = provenance(options.seed, "anchored", system)
    if start is not None:
        made_of = {**made_of, "start": start.provenance["system"]}
    known = known_rate(first, "almost-sure", "first zero of lambda", made_of, bounds=bounds)
    with reporter(options.progress, options.budget.max_steps, "critical learning rate") as report:
        function = Readings(at, options, report, options.n_chains)
        found = None if start is None or low == 0 else _around(function, start, low, high)
        return zero_between(function, known, *(found or bracket(function, first, low, high)))


def _around(
    function: Readings, start: CriticalLearningRate, low: float, high: float
) -> tuple[float, float, float] | None:
    """Return learning rates beside where the zero of another K was, if signs there are sure, as `bracket` does.

    As far above what bounds it from below as it was.
    """
    if not (start.bounds[0] > 0 and math.isfinite(start.value)):
        return None
    middle, width = start.value / start.bounds[0] * low, _START_WITHIN + _SURE * start.standard_error / start.value
    return bracket_between(function, max((1 - width) * middle, low), min((1 + width) * middle, high), low)
