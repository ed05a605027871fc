"""Populations of weighted vectors, resampled where few of them carry the weight; `weighted_vectors` says why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.moments.populations import LEAST_SHARE
from sgdstab_fast.results.storage import storable

Advance = Callable[[FloatArray, int, int], tuple[FloatArray, FloatArray]]
"""(vectors (n, 1, d), first_step, n_steps) -> (vectors of unit length, log growth (n,)), of chains 0, .., n - 1."""

_LEAST_EIGENVALUE = 1e-3  # of a metric that weights are taken in, over the mean one


class AnnihilatedError(Exception):
    """No walker has any weight left, or one has infinite weight."""


@storable
@dataclass(frozen=True)
class Batch:
    """What populations have done over some looks; shape (n_populations,) each."""

    log_growth: FloatArray
    """log g; -inf if nothing is left."""
    control: FloatArray
    effective: FloatArray
    separation: FloatArray
    """How much closer second vectors have come, logarithm; of the populations that carry them."""
    spread: float
    """Relative variance of what a look multiplies weights by, the mean over looks."""

    def followed_by(self, other: Batch, trend: float) -> Batch:
        """Return what a batch of both has done; `trend` is p / 2 log rho over this one, for the control variate."""
        return Batch(
            self.log_growth + other.log_growth,
            self.control + np.exp(self.log_growth - trend) * other.control,
            (self.effective + other.effective) / 2,
            self.separation + other.separation if len(other.separation) > 0 else other.separation,
            (self.spread + other.spread) / 2,
        )


@storable
@dataclass(frozen=True)
class WalkersState:
    """Where walkers are."""

    vectors: FloatArray
    log_weights: FloatArray
    squares: FloatArray
    sizes: FloatArray
    beside: FloatArray
    step: int
    n_steps: int
    random: dict[str, Any]
    """The state of what resamples them."""


class Populations:
    """Populations of walkers."""

    def __init__(
        self,
        advance: Advance,
        order: float,
        metric: FloatArray | None,
        mean_square: float | None,
        vectors: FloatArray,
        beside: FloatArray,
        rng: np.random.Generator,
        floor: FloatArray | None = None,
    ) -> None:
        self.order, self.mean_square, self.n_steps, self._step = order, mean_square, 0, 0
        self._advance, self._metric, self._rng = advance, metric, rng
        self._floor, self._ridge = floor, 0.0 if metric is None else _ridge(metric, floor)
        self._log_weights: FloatArray = np.zeros(vectors.shape[:2])
        vectors = vectors.reshape(-1, vectors.shape[2])
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self._squares, self._sizes = self._measured(self._vectors)
        self.beside: FloatArray = _orthogonal(beside, self._vectors[: len(beside)])[0]

    def _measured(self, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return |s|_M^2, and the squares of the norm that weights are taken in."""
        squares = _squares(vectors, self._metric)
        return squares, squares + (self._ridge * _squares(vectors, self._floor) if self._ridge > 0 else 0.0)

    @property
    def shape(self) -> tuple[int, int]:
        """Populations, and walkers of each."""
        n_populations, size = self._log_weights.shape
        return n_populations, size

    @property
    def n_streams(self) -> int:
        """Vectors that a step advances."""
        return len(self._vectors) + len(self.beside)

    def state(self) -> WalkersState:
        """Return where walkers are; they go on from there in place."""
        return WalkersState(
            vectors=self._vectors.copy(),
            log_weights=self._log_weights.copy(),
            squares=self._squares.copy(),
            sizes=self._sizes.copy(),
            beside=self.beside.copy(),
            step=self._step,
            n_steps=self.n_steps,
            random=dict(self._rng.bit_generator.state),
        )

    def go_on_from(self, state: WalkersState) -> None:
        """Put walkers where they were."""
        self._vectors, self._log_weights = state.vectors.copy(), state.log_weights.copy()
        self._squares, self._sizes, self.beside = state.squares.copy(), state.sizes.copy(), state.beside.copy()
        self._step, self.n_steps = state.step, state.n_steps
        self._rng.bit_generator.state = state.random

    def trend(self, n_steps: int) -> float:
        """Return p / 2 log rho over so many steps, 0 if it is not known."""
        return 0.0 if self.mean_square is None else self.order / 2 * self.mean_square * n_steps

    def batch(self, n_looks: int, n_steps: int) -> Batch:
        """Advance all by n_looks times n_steps."""
        n_populations, size = self.shape
        total, control, effective = np.zeros((3, n_populations))
        separation, spread = np.zeros(len(self.beside) // size), 0.0
        for look in range(n_looks):
            advanced, log_growth = self._advance(self._vectors[:, None], self._step, n_steps)
            dead = np.isneginf(log_growth)
            self.n_steps += n_steps * self.n_streams
            if dead.any() and (self.order < 0 or dead.all()):
                raise AnnihilatedError
            vectors = np.where(dead[:, None], self._vectors, advanced[:, 0])
            squares, after = self._measured(vectors)
            before = self._sizes
            with np.errstate(divide="ignore"):  # of lengths below the smallest number
                changes = (self.order * (log_growth + np.log(after / before) / 2)).reshape(self.shape)
            factors = np.exp(changes - changes.max())
            spread += float(factors.var() / factors.mean() ** 2) / n_looks
            if self.mean_square is not None:
                # Each weighted by what came before it: at p = 2 they add up to the growth less its mean.
                so_far = total - self.trend(n_steps * look)
                with np.errstate(over="ignore", invalid="ignore"):
                    weights = np.exp(self._log_weights + so_far[:, None])
                    growth = np.exp(2 * log_growth - self.mean_square * n_steps)
                    parts = weights * ((squares * growth - self._squares) / before).reshape(self.shape)
                    control += parts.mean(axis=1)
            log_weights = self._log_weights + changes
            lost: NDArray[np.bool_] = np.asarray(np.isneginf(log_weights).all(axis=1))
            log_weights[lost] = 0.0
            log_mean = np.logaddexp.reduce(log_weights, axis=1) - math.log(size)
            total += np.where(lost, -math.inf, log_mean)
            self._vectors, self._squares, self._sizes = vectors, squares, after
            self._log_weights = log_weights - log_mean[:, None]
            weights = np.exp(self._log_weights)
            if len(self.beside) > 0:
                separation += self._separate(log_growth, weights, n_steps)
            self._step += n_steps
            effective += size / (weights**2).mean(axis=1) / n_looks
            self._resample(weights)
            self._restart(lost)
        return Batch(total, control, effective, separation, spread)

    def _separate(self, log_growth: FloatArray, weights: FloatArray, n_steps: int) -> FloatArray:
        """Advance second vectors, and return weighted means over walkers of how much closer they have come."""
        n = len(self.beside)
        advanced, beside_growth = self._advance(self.beside[:, None], self._step, n_steps)
        gone = np.isneginf(beside_growth)
        self.beside, sines = _orthogonal(np.where(gone[:, None], self.beside, advanced[:, 0]), self._vectors[:n])
        with np.errstate(divide="ignore", invalid="ignore"):
            closer = np.where(gone, math.inf, log_growth[:n] - beside_growth - np.log(sines))
            shares = weights[: n // weights.shape[1]]
            return np.asarray(np.where(shares > 0, shares * closer.reshape(shares.shape), 0.0).mean(axis=1))

    def _resample(self, weights: FloatArray) -> None:
        """Resample, systematically, populations whose weights are worth too few walkers."""
        size = weights.shape[1]
        offsets = self._rng.random(len(weights))  # one each, so that none depends on what others do
        for c in np.flatnonzero((weights**2).mean(axis=1) * LEAST_SHARE > 1).tolist():
            cumulative = np.cumsum(weights[c])
            places = (np.arange(size) + offsets[c]) * (cumulative[-1] / size)
            last = int(np.flatnonzero(weights[c])[-1])
            parents = c * size + np.minimum(np.searchsorted(cumulative, places, side="right"), last)
            slots = slice(c * size, (c + 1) * size)
            for values in (self._vectors, self._squares, self._sizes):
                values[slots] = values[parents]
            if slots.stop <= len(self.beside):
                self.beside[slots] = self.beside[parents]
            self._log_weights[c] = 0.0

    def _restart(self, lost: NDArray[np.bool_]) -> None:
        """Give populations of which nothing is left random directions."""
        slots = np.repeat(lost, self.shape[1])
        if slots.any():
            vectors = self._rng.standard_normal((int(slots.sum()), self._vectors.shape[1]))
            self._vectors[slots] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            self._squares, self._sizes = self._measured(self._vectors)


def _ridge(metric: FloatArray, floor: FloatArray | None) -> float:
    """Return how much of a form to add to the metric: weights of vectors that it does not see would know no bounds."""
    if floor is not None:
        root = np.linalg.inv(np.linalg.cholesky(floor))
        metric = root @ metric @ root.T
    return max(_LEAST_EIGENVALUE * float(np.trace(metric)) / len(metric) - float(np.linalg.eigvalsh(metric)[0]), 0.0)


def _squares(vectors: FloatArray, metric: FloatArray | None) -> FloatArray:
    """Return |s|_M^2 of unit vectors (n, d)."""
    return np.ones(len(vectors)) if metric is None else np.asarray(((vectors @ metric) * vectors).sum(axis=1))


def _orthogonal(vectors: FloatArray, to: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return unit vectors along the parts of vectors (n, d) orthogonal to unit ones, and how long these are."""
    rest = vectors - (vectors * to).sum(axis=1, keepdims=True) * to
    lengths = np.linalg.norm(rest, axis=1)
    # A vector that is parallel stays so: of one dimension, or where steps leave one direction.
    kept = np.where(lengths[:, None] > 0, rest, vectors)
    return kept / np.linalg.norm(kept, axis=1, keepdims=True), lengths
