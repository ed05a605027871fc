"""Panels: lambda at many learning rates of one K, all driven by the same streams.

Learning rates go in panels of 16 neighbours, the lanes that the core advances side by side. A chain has one stream of
examples, which all learning rates share (common random numbers): estimates then vary smoothly with the learning rate,
and their differences are far better known than they are themselves. What the lanes of a chain say is one sample.

Any positive definite matrix is a valid metric for anchored growth, so that mean-square metrics are not needed at every
learning rate: those of a few anchors do, and metrics on both sides of a learning rate combine to less variance than its
own one leaves (digits of tests/data at eta = 0.496: a standard error 50 times smaller). The range is cut into
intervals at the ends of panels; an interval has mean-square metrics at its ends and at anchors between them and, beyond
the edge of stability, in its middle those that hold rare steps down (`sgdstab_fast.metrics`). Chains start nearly
stationary at the anchors, and between them by interpolation.

All panels take the same steps, and evaluations a fixed share of the time: fewer would waste steps where growth is
correlated over a few steps only, more would not help where it is correlated over many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._native import FloatArray, core
from sgdstab_fast.control_variates import anchored_means, combined
from sgdstab_fast.mean_square import MeanSquareFamily
from sgdstab_fast.metrics import Metrics, initial_vectors, intermittency_metrics, metric_with_norms
from sgdstab_fast.mixing import LEAST_COMPANIONS, N_COMPANIONS, Mixing, first_resolved
from sgdstab_fast.one_block import COMPANION_STREAMS, MOST_BETWEEN_NORMALISATIONS, How, is_nearly_singular
from sgdstab_fast.rounds import Chains, Kernel, grid_of_looks, overflow_safe_steps
from sgdstab_fast.statistics import Estimate
from sgdstab_fast.systems import LinearizedSGD

N_LANES = core.n_lanes
_MAX_BATCHES = 256  # a chain: there are records for every learning rate
_LEAST_RATIO = 1.04  # of the learning rates at the ends of the anchors: closer ones say the same
_NARROW = 1.15  # intervals are at least that wide, panels may be narrower
_BETWEEN_ANCHORS, _MOST_INNER = 1.3, 3
_TOLERANCE = 1e-4  # of metrics
_EVALUATION_SHARE = 0.25  # time of evaluations over that of steps
_LEAST_EVALUATIONS = 8  # of every chain


@dataclass(frozen=True, eq=False)
class Anchor:
    """A metric of some learning rate, and the vectors that start there."""

    learning_rate: float
    metric: FloatArray
    squared_norms: FloatArray
    """M_ii or f_i . M f_i, shape (N,)."""
    covariance: FloatArray | None
    """None for the metrics that hold rare steps down, which nothing starts from."""


@dataclass(frozen=True, eq=False)
class Anchors:
    """The metrics of all panels, in the order of their learning rates."""

    anchors: list[Anchor]
    windows: NDArray[np.int64]
    """First anchor and number of metrics, the norm of K included, of every panel; shape (n_panels, 2)."""

    def of_panels(self, n_panels: int) -> Anchors:
        """Return the same anchors for other panels, all of which use all of them."""
        return Anchors(self.anchors, np.array([[0, len(self.anchors) + 1]] * n_panels, dtype=np.int64))


def padded(learning_rates: FloatArray) -> FloatArray:
    """Return ascending learning rates as panels, (n_panels, N_LANES), the last one repeated."""
    n_panels = -(-learning_rates.size // N_LANES)
    return np.pad(learning_rates, (0, n_panels * N_LANES - learning_rates.size), mode="edge").reshape(n_panels, N_LANES)


def anchors_for(system: LinearizedSGD, family: MeanSquareFamily | None, learning_rates: FloatArray) -> Anchors:
    """Return the metrics for ascending learning rates; without a family, the norm of K alone."""
    panels = padded(learning_rates)
    if family is None:
        return Anchors([], np.array([[0, 1]] * len(panels), dtype=np.int64))
    anchors: list[Anchor] = []
    windows = []
    for low, high, n_panels in _intervals(panels[:, 0], float(panels[-1, -1])):
        first = max(len(anchors) - 1, 0)  # that of the end of the interval before
        middle = system.with_learning_rate(math.sqrt(low * high))
        held_down = intermittency_metrics(middle, _TOLERANCE)
        inner = math.ceil(math.log(high / low) / math.log(_BETWEEN_ANCHORS)) - 1
        inner = int(np.clip(inner, 0 if held_down else 1, _MOST_INNER))
        rates = np.geomspace(low, high, inner + 2)
        for rate in map(float, rates):
            if rate == rates[-1]:
                anchors += [Anchor(middle.learning_rate, *each, None) for each in held_down]
            if rate > rates[0] or not anchors:
                metric, covariance = family.forms(rate, _TOLERANCE)
                anchors.append(Anchor(rate, *metric_with_norms(system, metric), covariance))
        windows += [[first, len(anchors) - first + 1]] * n_panels
    return Anchors(anchors, np.array(windows, dtype=np.int64))


def _intervals(starts: FloatArray, end: float) -> Iterator[tuple[float, float, int]]:
    """Yield (lowest, highest learning rate, number of panels): panels that are narrow share one."""
    edges, first = [*map(float, starts), end], 0
    for index in range(1, len(edges)):
        if index == len(edges) - 1 or (edges[index] >= _NARROW * edges[first] and end >= _NARROW * edges[index]):
            low, high = edges[first], edges[index]
            if high < _LEAST_RATIO * low and first == 0 and index == len(edges) - 1:
                middle = math.sqrt(low * high)
                low, high = middle / math.sqrt(_LEAST_RATIO), middle * math.sqrt(_LEAST_RATIO)
            yield low, high, index - first
            first = index


def kernel_for(system: LinearizedSGD, learning_rates: FloatArray, anchors: Anchors | None) -> Kernel:
    """Return the kernel for ascending learning rates; without anchors nothing is evaluated."""
    panels = padded(learning_rates)
    n, d = system.rows.shape
    determinants = [system.with_learning_rate(float(rate)).log_determinants for rate in learning_rates]
    count = int(anchors.windows[:, 1].max()) if anchors is not None else 0
    diagonals = np.zeros((len(panels), count, n))
    if anchors is not None:
        for panel, (first, n_metrics) in enumerate(anchors.windows):
            diagonals[panel, 0] = system.diagonal
            for m in range(1, n_metrics):
                diagonals[panel, m] = anchors.anchors[first + m - 1].squared_norms
    matrices = [] if anchors is None else [anchor.metric for anchor in anchors.anchors]
    products = panels.size * d * (1 if system.coordinates == "gram" else 2)
    return Kernel(
        name="advance_panels",
        states="panels",
        arguments={
            "rows": system.rows,
            "coordinates": system.coordinates,
            "learning_rates": panels,
            "metrics": np.array(matrices).reshape(len(matrices), d, d),
            "windows": np.empty(0, dtype=np.int64) if anchors is None else anchors.windows,
            "diagonals": diagonals,
            "renormalise_every": min(*map(overflow_safe_steps, determinants), MOST_BETWEEN_NORMALISATIONS),
            "spacing": 1,
            "careful": any(is_nearly_singular(each) for each in determinants),
        },
        seconds_per_step=(1 + _EVALUATION_SHARE) * (2e-9 * len(panels) + 4e-11 * products),  # measured, on one thread
        chains_per_item=1,
    )


def chains_for(
    system: LinearizedSGD, learning_rates: FloatArray, anchors: Anchors, how: How, first_chain: int
) -> Chains:
    """Return chains, and companions that carry a second vector for every learning rate."""
    panels = padded(learning_rates)
    n_companions = min(N_COMPANIONS, how.budget.max_steps - how.n_chains)
    n_companions = n_companions if n_companions >= LEAST_COMPANIONS else 0
    count = int(anchors.windows[:, 1].max())
    most = how.budget.max_steps // (how.n_chains + n_companions)
    spacing = min(max(1, round(count * system.n_examples / _EVALUATION_SHARE)), max(1, most // _LEAST_EVALUATIONS))
    steps_per_batch = spacing * max(1, most // (spacing * _MAX_BATCHES))

    def chains(n_chains: int, k: int, first: int, n_metrics: int) -> Chains:
        return Chains(
            key=how.seed.key,
            states=_initial_panels(system, panels, anchors, how, n_chains, k, first),
            steps_per_batch=steps_per_batch,
            records=tuple(np.empty((n_chains, 0, len(panels), size, N_LANES)) for size in (k, n_metrics)),
            first_chain=first,
        )

    rounding = float(np.finfo(float).eps) * min(1.0, float(panels.max() * system.diagonal.mean()))
    return replace(
        chains(how.n_chains, 1, first_chain, count),
        spacing=spacing,
        n_examples=system.n_examples,
        rounding=rounding,
        companions=chains(n_companions, 2, first_chain + COMPANION_STREAMS, 0) if n_companions > 0 else None,
    )


def _initial_panels(
    system: LinearizedSGD, panels: FloatArray, anchors: Anchors, how: How, n_chains: int, k: int, first_chain: int
) -> FloatArray:
    """Return the vectors to start from, shape (n_chains, n_panels, k, dimension, N_LANES).

    Those of an anchor have its dominant second moment, and normal numbers that all anchors share; signs do not matter.
    """
    starts: list[tuple[float, FloatArray | None]] = [
        (each.learning_rate, each.covariance) for each in anchors.anchors if each.covariance is not None
    ]
    known: dict[float, FloatArray] = {}
    for learning_rate, covariance in starts or [(1.0, None)]:
        metrics = Metrics(np.empty((0, 0, 0)), np.empty((0, 0)), covariance)
        vectors = initial_vectors(system, metrics, how.seed.key, n_chains, k, first_chain)
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        if known:
            before = known[max(known)]
            vectors *= np.copysign(1.0, np.einsum("ckd,ckd->ck", vectors, before))[:, :, None]
        known[learning_rate] = vectors
    rates = np.array(sorted(known))
    states = np.empty((n_chains, *panels.shape[:1], k, system.dimension, N_LANES))
    for panel, lane in np.ndindex(panels.shape):
        position = float(np.interp(panels[panel, lane], rates, np.arange(rates.size)))
        below, share = int(position), position - int(position)
        vectors = (1 - share) * known[rates[below]]
        if share > 0:
            vectors = vectors + share * known[rates[below + 1]]
        states[:, panel, :, :, lane] = vectors
    return states


def _growth(chains: Chains, anchors: Anchors, index: int) -> FloatArray:
    """Return anchored growth per step at one learning rate, in all its metrics: (n_chains, n_batches, n_metrics)."""
    panel, lane = divmod(index, N_LANES)
    evaluations = chains.steps_per_batch // chains.spacing
    return np.asarray(chains.records[1][:, :, panel, : anchors.windows[panel, 1], lane] / evaluations)


def combined_growth(chains: Chains, anchors: Anchors, index: int, estimate: Estimate) -> FloatArray:
    """Return the growth whose mean an estimate is, at one learning rate: (n_chains, n_batches)."""
    return combined(_growth(chains, anchors, index)[:, estimate.start_up :], 4)


@dataclass(frozen=True)
class Zero:
    """The first zero of lambda between learning rates, interpolated; NaN if there is none."""

    value: float
    standard_error: float
    """What that of lambda makes of it; neighbours share their streams, so that their errors are nearly the same."""
    bend: float
    """How far parabolas and lines through a third neighbour move it from where the line through two has it."""


def first_zero(
    learning_rates: FloatArray, exponents: FloatArray, standard_errors: FloatArray, *, extrapolate: bool = False
) -> Zero:
    """Interpolate the first zero of lambda.

    Where lambda has one sign throughout, the line through the two outermost may be followed.
    """
    above = np.flatnonzero(exponents > 0)
    right = int(above[0]) if above.size else exponents.size
    if extrapolate:
        right = min(max(right, 1), exponents.size - 1)
    nothing = Zero(math.nan, math.nan, math.nan)
    if not 0 < right < exponents.size:
        return nothing
    low, high = map(float, learning_rates[right - 1 : right + 1])
    before, after = map(float, exponents[right - 1 : right + 1])
    slope = (after - before) / (high - low)
    if not 0 < slope < math.inf:
        return nothing
    value = low - before / slope
    error = float(np.interp(value, [low, high], standard_errors[right - 1 : right + 1])) / slope
    # lambda(x) = line(x) + bend (x - low) (x - high), with a third learning rate on either side
    moved, bends = [0.0], []
    for third, end in ((right - 2, right - 1), (right + 1, right)):
        if 0 <= third < exponents.size and np.isfinite(exponents[third]) and low < value < high:
            x, rise = float(learning_rates[third]), float(exponents[third] - exponents[end])
            bends.append((exponents[third] - before - slope * (x - low)) / ((x - low) * (x - high)))
            if rise * (x - learning_rates[end]) > 0:  # the line from that side
                root = learning_rates[end] - exponents[end] * (x - learning_rates[end]) / rise
                moved.append(float(np.clip(root, low, high)) - value)
    bend = float(np.mean(bends)) if bends else 0.0
    at_value, slope_there = bend * (value - low) * (value - high), slope + bend * (2 * value - low - high)
    if slope_there > slope / 4:
        moved[0] = float(np.clip(value - at_value / slope_there, low, high)) - value if low < value < high else 0.0
    return Zero(value + moved[0], error, max(map(abs, moved)))


def estimate_at(chains: Chains, anchors: Anchors, index: int) -> Estimate:
    """Estimate lambda at one learning rate."""
    panel, lane = divmod(index, N_LANES)
    mixing = Mixing(math.nan, 0.0, 0)
    if chains.companions is not None:
        log_growth = chains.companions.records[0][:, :, panel, :, lane]
        mixing = first_resolved(log_growth, chains.steps_per_batch, grid_of_looks(chains.companions.n_batches))
    growth = _growth(chains, anchors, index)
    return anchored_means(growth, chains.steps_per_batch, mixing, chains.n_examples, chains.rounding)


def estimates(chains: Chains, anchors: Anchors, n_learning_rates: int) -> list[Estimate]:
    """Estimate lambda at every learning rate."""
    return [estimate_at(chains, anchors, index) for index in range(n_learning_rates)]


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
    )


def scales(exponents: FloatArray) -> FloatArray:
    """Return the magnitudes of a curve: the largest of each point and its neighbours, so that a zero has one too."""
    sizes = np.abs(exponents)
    padded_sizes = np.pad(np.where(np.isfinite(sizes), sizes, 0.0), 1, mode="edge")
    around = np.maximum(padded_sizes[:-2], padded_sizes[2:])
    return np.asarray(np.where(np.isnan(sizes), np.nan, np.maximum(sizes, around)))
