"""Panels: lambda at many learning rates of one K, all driven by the same streams.

Learning rates go in panels of 16 neighbours, the lanes that the core advances side by side. A chain has one stream of
examples, which all learning rates share (common random numbers): estimates then vary smoothly with the learning rate,
and their differences are far better known than they are themselves. What the lanes of a chain say is one sample.

Any positive definite matrix is a valid metric for anchored growth, so that mean-square metrics are not needed at every
learning rate: those of a few anchors do, and metrics on both sides of a learning rate combine to less variance than its
own one leaves (digits of tests/data at eta = 0.496: a standard error 50 times smaller). The range is cut into
intervals at the ends of panels; an interval has mean-square metrics at its ends and at anchors between them and, beyond
the edge of stability, in its middle those that hold rare steps down (`systems.growth`). Starts are another
matter: where another direction takes over between two learning rates, what starts in between is far from stationary.

All panels take the same steps, and evaluations a fixed share of the time: fewer would waste steps where growth is
correlated over a few steps only, more would not help where it is correlated over many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import memory
from sgdstab_fast._core import arguments
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.functions import core
from sgdstab_fast.curves.zeros import scales
from sgdstab_fast.exact.mean_square_family import MeanSquareFamily
from sgdstab_fast.memory import BYTES_OF_DOUBLE
from sgdstab_fast.results.chains import Chains, PanelRecords
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.run import Run, run
from sgdstab_fast.simulation.starts import n_twins_of, spread_from, starts
from sgdstab_fast.simulation.task import Task
from sgdstab_fast.simulation.vectors import MOST_BETWEEN_NORMALISATIONS
from sgdstab_fast.statistics.anchored import AnchoredGrowth
from sgdstab_fast.statistics.estimates import Estimate
from sgdstab_fast.statistics.mixing import Mixing, measure
from sgdstab_fast.statistics.twins import Twins
from sgdstab_fast.systems.growth import LARGEST_DIMENSION, TOLERANCE
from sgdstab_fast.systems.sgd import LinearizedSGD, require_plain
from sgdstab_fast.systems.single_steps import cancellation_of, is_nearly_singular
from sgdstab_fast.systems.system import overflow_safe_steps

N_LANES = core.n_lanes
_START_APART = 1.005  # ratio of learning rates with starts of their own
_LEAST_RATIO = 1.04  # of the learning rates at the ends of the anchors: closer ones say the same
_NARROW = 1.15  # intervals are at least that wide, panels may be narrower
_BETWEEN_ANCHORS, _MOST_INNER = 1.3, 3
# Time of evaluations over that of steps, of one panel and of several: alone it is mostly near a zero of lambda, where
# growth is not correlated for long.
_EVALUATION_SHARE, _OF_SEVERAL = 0.5, 0.25
_LEAST_EVALUATIONS = 16  # of every chain


@dataclass(frozen=True, eq=False)
class Anchors:
    """The metrics of all panels, in the order of the learning rates that they come from."""

    metrics: FloatArray
    """Shape (n_metrics, dimension, dimension)."""
    squared_norms: FloatArray
    """M_ii or f_i . M f_i, shape (n_metrics, N)."""
    windows: NDArray[np.int64]
    """First metric of every panel and how many it has, the norm of K included; shape (n_panels, 2)."""


def family_of(system: LinearizedSGD) -> MeanSquareFamily | None:
    """Return what knows the mean square at all learning rates; None where K is too large for it."""
    return MeanSquareFamily(system.rows_of_k, system.learning_rate) if system.dimension <= LARGEST_DIMENSION else None


def padded(learning_rates: FloatArray) -> FloatArray:
    """Return ascending learning rates as panels, (n_panels, N_LANES), the last one repeated."""
    n_panels = -(-learning_rates.size // N_LANES)
    return np.pad(learning_rates, (0, n_panels * N_LANES - learning_rates.size), mode="edge").reshape(n_panels, N_LANES)


def anchors_for(system: LinearizedSGD, family: MeanSquareFamily | None, learning_rates: FloatArray) -> Anchors:
    """Return the metrics for ascending learning rates; without a family, the norm of K alone."""
    panels = padded(learning_rates)
    n, d = system.rows_of_k.stored.shape
    if family is None:
        return Anchors(np.empty((0, d, d)), np.empty((0, n)), np.array([[0, 1]] * len(panels), dtype=np.int64))
    found: list[tuple[FloatArray, FloatArray]] = []
    windows, plain = [], require_plain(system, "learning rates side by side")
    for low, high, n_panels in _intervals(panels[:, 0], float(panels[-1, -1])):
        first = max(len(found) - 1, 0)  # that of the end of the interval before
        middle = system.with_learning_rate(low * math.sqrt(high / low))
        held_down = require_plain(middle, "learning rates side by side").intermittency_metrics()
        inner = math.ceil(math.log(high / low) / math.log(_BETWEEN_ANCHORS)) - 1
        inner = int(np.clip(inner, 0 if held_down else 1, _MOST_INNER))
        rates = (low * np.geomspace(1, high / low, inner + 2)).tolist()  # in any unit of K
        for rate in rates if not found else rates[1:]:
            if rate == rates[-1]:
                found += held_down
            found.append(plain.metric_with_norms(family.metric(rate, TOLERANCE)))
        windows += [[first, len(found) - first + 1]] * n_panels
    metrics, squared_norms = zip(*found, strict=True)
    return Anchors(np.array(metrics), np.array(squared_norms), np.array(windows, dtype=np.int64))


def _intervals(starts: FloatArray, end: float) -> Iterator[tuple[float, float, int]]:
    """Yield (lowest, highest learning rate, number of panels): panels that are narrow share one."""
    edges, first = [*map(float, starts), end], 0
    for index in range(1, len(edges)):
        if index == len(edges) - 1 or (edges[index] >= _NARROW * edges[first] and end >= _NARROW * edges[index]):
            low, high = edges[first], edges[index]
            if high < _LEAST_RATIO * low and first == 0 and index == len(edges) - 1:
                middle = low * math.sqrt(high / low)
                low, high = middle / math.sqrt(_LEAST_RATIO), middle * math.sqrt(_LEAST_RATIO)
            yield low, high, index - first
            first = index


def _task(system: LinearizedSGD, learning_rates: FloatArray, anchors: Anchors, spacing: int) -> Task[PanelRecords]:
    """Return what advances chains at ascending learning rates."""
    panels = padded(learning_rates)
    n, d = system.rows_of_k.stored.shape
    determinants = [system.with_learning_rate(float(rate)).log_determinants for rate in learning_rates]
    count = int(anchors.windows[:, 1].max())
    diagonals = np.zeros((len(panels), count, n))
    for panel, (first, n_metrics) in enumerate(anchors.windows):
        diagonals[panel, 0] = system.diagonal
        for m in range(1, n_metrics):
            diagonals[panel, m] = anchors.squared_norms[first + m - 1]
    # Measured, on one thread.
    seconds_per_step = 1e-8 * len(panels) + 4e-11 * panels.size * d * system.rows_of_k.products_per_step
    seconds_per_evaluation = panels.size * count * n * (1e-9 + 3e-11 * d)
    return Task(
        function="advance_panels",
        steps=arguments.PanelSteps(system.rows_of_k.for_core, panels),
        metrics=arguments.PanelMetrics(anchors.metrics, anchors.windows, diagonals),
        options=arguments.PanelOptions(
            renormalise_every=min(*map(overflow_safe_steps, determinants), MOST_BETWEEN_NORMALISATIONS),
            spacing=spacing,
            careful=any(is_nearly_singular(each) for each in determinants),
        ),
        records=PanelRecords,
        seconds_per_step=seconds_per_step + seconds_per_evaluation / spacing,
        chains_per_item=16,
    )


def _chains(
    system: LinearizedSGD,
    family: MeanSquareFamily | None,
    learning_rates: FloatArray,
    anchors: Anchors,
    options: Options,
    first_chain: int,
) -> Chains[PanelRecords]:
    """Return chains, and twins of the first of them that carry a second vector, at every learning rate."""
    panels, n_twins = padded(learning_rates), n_twins_of(options)
    count = int(anchors.windows[:, 1].max())
    most = options.budget.max_steps // (options.n_chains + n_twins)
    share = _EVALUATION_SHARE if len(panels) == 1 else _OF_SEVERAL
    spacing = min(max(1, round(count * system.n_examples / share)), max(1, most // _LEAST_EVALUATIONS))
    states = _initial_panels(system, family, panels, options, first_chain, n_twins)

    def empty(its_states: FloatArray) -> PanelRecords:
        return PanelRecords.empty(len(its_states), len(panels), its_states.shape[2], count, N_LANES)

    chains = Chains(
        key=options.seed.key,
        states=states[0],
        steps_per_batch=spacing,
        records=empty(states[0]),
        first_chain=first_chain,
        spacing=spacing,
        n_examples=system.n_examples,
        rounding=float(np.finfo(float).eps) * min(1.0, float(panels.max() * system.diagonal.mean())),
        cancellation=max(
            cancellation_of(system.with_learning_rate(float(rate)).log_determinants) for rate in learning_rates
        ),
        start=system.slow_directions(1)[:, 0] if family is None else None,
    )
    return chains.with_twins(states[1], empty(states[1])) if n_twins > 0 else chains


def _initial_panels(
    system: LinearizedSGD,
    family: MeanSquareFamily | None,
    panels: FloatArray,
    options: Options,
    first_chain: int,
    n_twins: int,
) -> tuple[FloatArray, FloatArray]:
    """Return what chains and twins start from, of the shape (n_chains, n_panels, k, dimension, N_LANES) each.

    Vectors start with the dominant second moment of their own learning rate, from numbers that all learning rates
    share, those between close neighbours by interpolation. Signs do not matter, and follow the neighbour's.
    """
    rates = np.unique(panels)
    begins = [float(rates[0])]
    for rate in rates[1:].tolist():
        if rate >= _START_APART * begins[-1] or rate == rates[-1]:
            begins.append(rate)
    shape = (len(panels), system.dimension, N_LANES)
    each = BYTES_OF_DOUBLE * math.prod(shape)
    memory.require(
        "a sweep",
        {
            f"{options.n_chains} chains (n_chains) at {rates.size} learning rates": each
            * (options.n_chains + 2 * n_twins)
        },
    )
    states = [np.empty((n, shape[0], k, *shape[1:])) for n, k in ((options.n_chains, 1), (n_twins, 2))]
    before: list[FloatArray] = []
    for index, rate in enumerate(begins):
        covariance = None if family is None else family.covariance(rate, TOLERANCE)
        found = starts(system.with_learning_rate(rate), covariance, options.seed.key, options.n_chains, first_chain)
        here = [found.chains, found.twins(n_twins)]
        for group, vectors in enumerate(here):
            if before:
                vectors *= np.copysign(1.0, np.einsum("ckd,ckd->ck", vectors, before[group]))[:, :, None]
        low = begins[max(index - 1, 0)]
        for panel, lane in np.argwhere((panels >= low) & (panels <= rate)):
            share = (panels[panel, lane] - low) / (rate - low) if rate > low else 1.0
            for group, vectors in enumerate(here):
                mixture = share * vectors + (1 - share) * before[group] if before else vectors
                states[group][:, panel, :, :, lane] = mixture
        before = here
    return states[0], states[1]


def run_panels(
    system: LinearizedSGD,
    family: MeanSquareFamily | None,
    learning_rates: FloatArray,
    anchors: Anchors,
    options: Options,
    first_chain: int,
    estimate: Callable[[Chains[PanelRecords]], Estimate],
    label: str,
) -> Run[PanelRecords]:
    """Advance chains at ascending learning rates until the estimate meets a tolerance, or the budget is used up."""
    chains = _chains(system, family, learning_rates, anchors, options, first_chain)
    task = _task(system, learning_rates, anchors, chains.spacing)
    return run(chains, task, estimate, options, companion_task=task, label=label)


def _growth(chains: Chains[PanelRecords], anchors: Anchors, index: int) -> FloatArray:
    """Return anchored growth per step at one learning rate, in all its metrics: (n_chains, n_batches, n_metrics).

    Where K is nearly singular, metrics of another learning rate may be singular to rounding for the vectors of this
    one, and their growth not a number.
    """
    panel, lane = divmod(index, N_LANES)
    evaluations = chains.steps_per_batch // chains.spacing
    return np.asarray(chains.records.growth[:, :, panel, : anchors.windows[panel, 1], lane] / evaluations)


def _of_use(growth: FloatArray) -> NDArray[np.bool_]:
    """Return which metrics have numbers; all of them if none has."""
    numbers = ~np.isnan(growth).any(axis=(0, 1))
    return np.asarray(numbers if numbers.any() else ~numbers)


def _anchored(chains: Chains[PanelRecords], anchors: Anchors, index: int) -> AnchoredGrowth:
    """Return what chains say of one learning rate."""
    panel, lane = divmod(index, N_LANES)
    growth = _growth(chains, anchors, index)
    of_use = _of_use(growth)
    mixing, twins, companions = Mixing(math.nan, 0.0, 0), None, chains.companions
    if companions is not None and companions.n_batches > 0:
        mixing = measure(companions.records.log_growth[:, :, panel, :, lane], companions.steps_per_batch)
        its_growth = _growth(companions.as_coarse_as(chains), anchors, index)[:, :, of_use]
        twins = Twins(its_growth) if np.isfinite(its_growth).all() else None
    steps = chains.steps_per_batch
    spread = spread_from(chains.start, chains.states[:, panel, 0, :, lane])
    return AnchoredGrowth(growth[:, :, of_use], steps, mixing, chains.rounding_of_growth, twins, spread)


def combined_growth(chains: Chains[PanelRecords], anchors: Anchors, index: int, estimate: Estimate) -> FloatArray:
    """Return the growth whose mean an estimate is, at one learning rate: (n_chains, n_batches)."""
    return _anchored(chains, anchors, index).series(estimate.start_up)


def estimate_at(
    chains: Chains[PanelRecords], anchors: Anchors, index: int, least_start_up: int = 0, highest: float = math.inf
) -> Estimate:
    """Estimate lambda at one learning rate, at most `highest`, with at least so many batches cut off."""
    return _anchored(chains, anchors, index).estimate(highest=highest, least_start_up=least_start_up)


def estimates(
    chains: Chains[PanelRecords], anchors: Anchors, n_learning_rates: int, highest: FloatArray | None = None
) -> list[Estimate]:
    """Estimate lambda at every learning rate, from the same batches, so that neighbours have the same noise.

    `highest` is what each is at most.
    """
    most = np.full(n_learning_rates, math.inf) if highest is None else highest
    found = [estimate_at(chains, anchors, index, 0, float(most[index])) for index in range(n_learning_rates)]
    start_up = max(each.start_up for each in found)
    return [
        each if each.start_up == start_up else estimate_at(chains, anchors, index, start_up, float(most[index]))
        for index, each in enumerate(found)
    ]


def joined(found: list[Estimate]) -> Estimate:
    """Return what estimates at several learning rates say together."""
    worst = max(found, key=lambda each: abs(each.drift))
    allowances = [each.bias_allowance for each in found if each.bias_allowance is not None]
    mean = np.concatenate([each.mean for each in found])
    return replace(
        worst,
        mean=mean,
        standard_error=np.concatenate([each.standard_error for each in found]),
        effective_sample_size=np.concatenate([each.effective_sample_size for each in found]),
        bias_allowance=max(allowances) if len(allowances) == len(found) else None,
        mixed=all(each.mixed for each in found),
        scales=scales(mean),
        is_curve=True,
    )
