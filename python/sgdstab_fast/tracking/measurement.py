"""What is measured of a Gram matrix on the way, and what carries over from one point to the next.

`measured` is a function of its arguments: what is asked for, K, and what is known from the point before. All points
take the same random numbers, and the search for the almost-sure rate starts from the one that the point before found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.seeds import Seed
from sgdstab_fast.exact.full_batches import extreme_eigenvalues, full_batch_exponent, gd_threshold
from sgdstab_fast.exact.mean_square import MeanSquareExponent, mean_square_exponent
from sgdstab_fast.exponents.exponent import lyapunov_exponent
from sgdstab_fast.exponents.results import LyapunovExponent, LyapunovSpectrum, Stability
from sgdstab_fast.exponents.spectrum import lyapunov_spectrum
from sgdstab_fast.exponents.stability import stability
from sgdstab_fast.learning_rates.critical import critical_learning_rate
from sgdstab_fast.learning_rates.results import CriticalLearningRate
from sgdstab_fast.nonlinear.edge_measures import edge_measures
from sgdstab_fast.results.warnings import collected
from sgdstab_fast.systems.from_gram import steps_of
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.tracking.point import DIVERGED, Point

FAST = 1e-3
"""Directions whose eigenvalues are at least this share of the largest one are the fast ones."""
_BELOW, _ROUNDING = "learning rate below the critical one in mean square", 1e-9
_LARGEST = 1e20  # learning rate times K, of a network that has not diverged
_EPOCH = 0.1  # growth over an epoch, in nats, whose relative tolerance is the absolute one of smaller growth
_MOST_STEPS, _LEAST_STEPS = 20_000_000, 32_768  # of what is simulated
_MOST_OF_SEARCH = 200_000_000
_SECONDS_PER_STEP, _PER_PRODUCT = 4e-8, 8e-11  # a guess, before the first run
_CAUTION = 1.5  # by which a run may be slower than the last one
_FIRST_EXPONENTS = 4
_LEVEL = 0.95
Found = TypeVar("Found")


@dataclass(frozen=True)
class Settings:
    """What is measured, and how well."""

    learning_rate: float
    batch_size: int
    sampling: str
    momentum: float
    nesterov: bool
    quantities: tuple[str, ...]
    rtol: float
    seconds: float | None
    seed: Seed
    n_threads: int | None


@dataclass(frozen=True)
class Carried:
    """What carries over from a point to the next."""

    n_rows: int = 0
    """Of K; 0 before the first point."""
    almost_sure: CriticalLearningRate | None = None
    seconds_per_step: dict[str, float] = field(default_factory=dict)
    """Of what was simulated, by quantity."""


class Given(NamedTuple):
    """What a point is made of, checked."""

    step: int
    learning_rate: float
    batch_size: int
    gram: Any
    """A kernel or an array; None where there is none yet."""
    n_rows: int
    residuals: Any
    """Gradients of the loss in the outputs, for a loss of curvature 1; None where they are not known."""
    loss: float | None
    groups: Any


def started(settings: Settings, given: Given) -> Point:
    """Return a point at which nothing has been measured."""
    return Point(
        step=given.step,
        learning_rate=given.learning_rate,
        batch_size=given.batch_size,
        momentum=settings.momentum,
        loss=math.nan if given.loss is None else given.loss,
    )


def diverged(point: Point, why: str, seconds: float) -> Point:
    """Return the point of a network that is not finite."""
    notes = (f"the network has diverged: {why}",)
    return replace(point, verdict=DIVERGED, certificate=why, notes=notes, seconds=seconds)


def measured(settings: Settings, given: Given, before: Carried) -> tuple[Point, Carried]:
    """Return what was asked for at a point, and what carries over to the next."""
    began = time.perf_counter()
    point, matrix = started(settings, given), np.asarray(given.gram)
    if not np.isfinite(matrix).all():
        return diverged(point, "K is not finite", time.perf_counter() - began), before
    if matrix.ndim == 2 and not float(matrix.diagonal().max()) * given.learning_rate < _LARGEST:
        return diverged(point, f"learning_rate times K is beyond {_LARGEST:g}", time.perf_counter() - began), before
    if not matrix.any():
        nothing: dict[str, Any] = {"critical_mean_square": math.inf, "critical_almost_sure": math.inf}
        point = replace(point, **nothing, critical_gd=math.inf, sharpness=0.0, verdict="undecided")
        point = replace(point, certificate="K is zero: nothing moves", seconds=time.perf_counter() - began)
        return point, replace(before, n_rows=given.n_rows)
    here = _Here(settings, given, before, began)
    columns: dict[str, Any] = {}
    with collected() as notes:
        for name, measure in _MEASURES.items():
            if name in settings.quantities:
                try:
                    columns |= measure(here)
                except np.linalg.LinAlgError as error:  # of numbers at the end of floating point
                    here.notes.append(f"{name} is not known: {error}")
                    columns |= {"verdict": "undecided", "certificate": str(error)} if name == "verdict" else {}
                here.n_to_simulate -= name in _SIMULATED
    # Of a point that was cut short nothing else is to be expected.
    told = [note for note in dict.fromkeys(notes) if settings.seconds is None or "max_steps" not in note]
    point = replace(point, **columns, n_examples=here.system.n_examples, notes=(*here.notes, *told))
    point = replace(point, seconds=time.perf_counter() - began)
    return point, here.carried


class _Here:
    """A point, with what several quantities share."""

    def __init__(self, settings: Settings, given: Given, before: Carried, started: float) -> None:
        self.settings, self.given, self.before = settings, given, before
        self.carried = replace(before, n_rows=given.n_rows, seconds_per_step=dict(before.seconds_per_step))
        self.notes: list[str] = []
        self._ends = math.inf if settings.seconds is None else started + settings.seconds
        self.n_to_simulate = sum(name in settings.quantities for name in _SIMULATED)
        self.system = LinearizedSGD(
            given.gram,
            given.learning_rate,
            given.batch_size,
            sampling=settings.sampling,
            groups=given.groups,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        )

    @property
    def epoch(self) -> float:
        """Absolute tolerance of exponents."""
        return self.settings.rtol * _EPOCH / self.system.steps_per_epoch

    @property
    def rng(self) -> np.random.SeedSequence:
        """The same numbers at every point."""
        seed = self.settings.seed
        return np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key)

    @cached_property
    def fast(self) -> LinearizedSGD:
        """The system of the fast directions."""
        return self.system.without_slow_directions(FAST)

    @cached_property
    def mean_square(self) -> MeanSquareExponent | None:
        """Lambda(2), where it has a closed form."""
        if not self.system.has_mean_square:
            return None
        known = self.stability.mean_square if {"verdict", "exponent"} & set(self.settings.quantities) else None
        return known or mean_square_exponent(self.system)

    @cached_property
    def stability(self) -> Stability:
        """The verdict, and lambda if it was asked for or decides."""
        wanted = "exponent" in self.settings.quantities
        return self._simulated(
            "exponent",
            _MOST_STEPS,
            lambda most: stability(
                self.system, exponent=wanted, rtol=self.settings.rtol, atol=self.epoch, max_steps=most, **self._how
            ),
            lambda found: 0 if found.lyapunov is None else found.lyapunov.n_steps,
        )

    @property
    def _how(self) -> dict[str, Any]:
        return {"rng": self.rng, "n_threads": self.settings.n_threads}

    def fast_exponent(self) -> LyapunovExponent:
        """Estimate lambda of the fast directions."""
        return self._simulated(
            "fast_exponent",
            _MOST_STEPS,
            lambda most: lyapunov_exponent(
                self.fast, rtol=self.settings.rtol, atol=self.epoch, max_steps=most, **self._how
            ),
            lambda found: found.n_steps,
        )

    def almost_sure(self) -> CriticalLearningRate:
        """Find the almost-sure rate, from that of the point before."""
        found = self._simulated(
            "critical_almost_sure",
            _MOST_OF_SEARCH,
            lambda most: critical_learning_rate(
                self.system,
                "almost-sure",
                rtol=self.settings.rtol,
                max_steps=most,
                start=self._start,
                **self._how,
            ),
            lambda found: found.n_steps,
        )
        self.carried = replace(self.carried, almost_sure=found)
        return found

    @property
    def _start(self) -> CriticalLearningRate | None:
        """The almost-sure rate of the point before, unless its batches were others."""
        before = self.before.almost_sure
        return None if before is None or before.steps != steps_of(self.system) else before

    def positive_exponents(self) -> float:
        """Count exponents above 0, all of which are those of fast directions."""
        if self.stability.verdict == "stable":
            return 0.0
        k, n = _FIRST_EXPONENTS, self.fast.dimension
        while True:
            found = self._exponents(min(k, n))
            if k >= n or found.confidence_interval(_LEVEL)[1][-1] < 0:
                return float((found.exponents > 0).sum())
            k *= 2

    def _exponents(self, k: int) -> LyapunovSpectrum:
        rtol, atol = 5 * self.settings.rtol, 5 * self.epoch
        return self._simulated(
            "n_positive_exponents",
            _MOST_STEPS,
            lambda most: lyapunov_spectrum(self.fast, k, rtol=rtol, atol=atol, max_steps=most, **self._how),
            lambda found: found.n_steps,
        )

    def _simulated(self, name: str, most: int, run: Callable[[int], Found], steps_of: Callable[[Found], int]) -> Found:
        """Simulate, with no more steps than there is time for."""
        known = self.carried.seconds_per_step
        started = time.perf_counter()
        if math.isfinite(self._ends):
            share = max(self._ends - started, 0.0) / max(self.n_to_simulate, 1)
            system = self.system
            guess = _SECONDS_PER_STEP + _PER_PRODUCT * system.batch_size * system.dimension
            most = int(min(most, max(share / (_CAUTION * known.get(name, guess)), _LEAST_STEPS)))
        found = run(most)
        if (n_steps := steps_of(found)) > 0:
            known[name] = (time.perf_counter() - started) / n_steps
        return found


def _sharpness(here: _Here) -> dict[str, Any]:
    critical = gd_threshold(here.system)
    return {
        "sharpness": extreme_eigenvalues(here.system)[1] / here.system.n_examples,
        "critical_gd": critical,
        "gd_ratio": critical / here.given.learning_rate,
        "gd_exponent": full_batch_exponent(here.system),
    }


def _largest_step(here: _Here) -> dict[str, Any]:
    steps = here.system.example_curvatures() / here.given.batch_size
    return {"largest_step": float(steps.max()), "n_growing_examples": float((steps > 2).sum())}


def _mean_square_rate(here: _Here) -> dict[str, Any]:
    if not here.system.has_mean_square:
        here.notes.append("critical_mean_square is not known without simulation for these batches")
        return {}
    found = critical_learning_rate(here.system, "mean-square").value
    ratio = found / here.given.learning_rate
    known = {"verdict": "stable", "certificate": _BELOW} if ratio > 1 + _ROUNDING else {}
    return {"critical_mean_square": found, "mean_square_ratio": ratio, **known}


def _mean_square_exponent(here: _Here) -> dict[str, Any]:
    found = here.mean_square
    return {} if found is None else {"mean_square_exponent": found.exponent}


def _edge_measures(here: _Here) -> dict[str, Any]:
    given = here.given
    if given.residuals is None:
        here.notes.append("batch_sharpness and its like need residuals: pass residuals=, or targets to from_torch")
        return {}
    if here.settings.sampling in ("with_replacement", "cyclic"):
        here.notes.append(
            f"batch_sharpness and its like are of uniform subsets, not of {here.settings.sampling} batches"
        )
        return {}
    found = edge_measures(
        given.gram, given.residuals, given.batch_size, groups=given.groups, rtol=here.settings.rtol, rng=here.rng
    )
    return {
        "batch_sharpness": found.batch_sharpness,
        "batch_sharpness_standard_error": found.batch_sharpness_standard_error,
        "batch_sharpness_ratio": found.batch_sharpness_ratio,
        "gradient_noise_interaction": found.gradient_noise_interaction,
        "interaction_aware_sharpness": found.interaction_aware_sharpness,
    }


def _verdict(here: _Here) -> dict[str, Any]:
    return {"verdict": here.stability.verdict, "certificate": here.stability.certificate}


def _exponent(here: _Here) -> dict[str, Any]:
    found = here.stability.lyapunov
    return {} if found is None else {"exponent": found.exponent, "standard_error": found.standard_error}


def _fast_exponent(here: _Here) -> dict[str, Any]:
    found = here.fast_exponent()
    return {"fast_exponent": found.exponent, "fast_standard_error": found.standard_error}


def _positive_exponents(here: _Here) -> dict[str, Any]:
    return {"n_positive_exponents": here.positive_exponents()}


def _almost_sure_rate(here: _Here) -> dict[str, Any]:
    found, rate = here.almost_sure(), here.given.learning_rate
    if not math.isfinite(found.standard_error):
        here.notes.append("critical_almost_sure is not known: there was no time to find it")
        return {}
    return {
        "critical_almost_sure": found.value,
        "critical_almost_sure_standard_error": found.standard_error,
        "almost_sure_ratio": found.value / rate,
        "almost_sure_ratio_standard_error": found.standard_error / rate,
    }


# By the first of their columns, cheap ones first.
_MEASURES: dict[str, Callable[[_Here], dict[str, Any]]] = {
    "sharpness": _sharpness,
    "largest_step": _largest_step,
    "critical_mean_square": _mean_square_rate,
    "batch_sharpness": _edge_measures,
    "mean_square_exponent": _mean_square_exponent,
    "verdict": _verdict,
    "exponent": _exponent,
    "n_positive_exponents": _positive_exponents,
    "fast_exponent": _fast_exponent,
    "critical_almost_sure": _almost_sure_rate,
}
QUANTITIES = tuple(_MEASURES)
"""Everything that a tracker measures."""
_SIMULATED = ("verdict", "exponent", "n_positive_exponents", "fast_exponent", "critical_almost_sure")
ECONOMY = ("sharpness", "largest_step", "critical_mean_square", "batch_sharpness", "mean_square_exponent")
"""What needs no simulation."""


def chosen(value: Any) -> tuple[str, ...]:
    """Return the names of quantities that a user asked for."""
    if isinstance(value, str) and value in ("all", "economy"):
        return QUANTITIES if value == "all" else ECONOMY
    is_list = isinstance(value, (list, tuple, set, frozenset))
    names = list(value) if is_list else [value]
    for name in names:
        if not isinstance(name, str) or name not in QUANTITIES:
            raise ValueError(
                f"quantities must be 'all', 'economy' or some of {', '.join(QUANTITIES)}, not {validation.shown(name)}"
            )
    return tuple(names)
