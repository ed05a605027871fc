"""Rare outcomes: what a run that has hardly met them cannot know, told from their probabilities.

To first order in its probability p_i an outcome A_i of a step adds p_i h_i to the exponent,

    h_i = E log abs(w . A_i v) / abs(w . v) - lambda,

v and w being directions of the products and of those of transposed matrices, both stationary without it (Y. Peres,
"Analytic dependence of Lyapunov exponents on transition probabilities", Lecture Notes in Mathematics 1486, 1991). Where
growth is a mean over outcomes it has E log |A_i v| / |v| already, and lacks the rest: what the direction A_i v owes to
v until it is forgotten. Chains that have met the outcome have that too, and show in their spread what it varies by.
So an allowance is made for outcomes of the largest abs h_i that all chains together have hardly met, if most of what
varies is theirs.

If w . A_i v is 0 to rounding, as for a quarter turn among diagonal matrices, there is no such series: what the step has
done is not forgotten before such an outcome comes again, 1/p steps later, by when the direction that takes over is
smaller than the other by exp(gap / p). So

- before such outcomes have come several times, the exponent may be as low as the mean of all exponents;
- beyond what numbers hold, or what rounding has in place of 0, the exponent is that of another product: all parts are
  told apart only in runs between outcomes that are shorter than that (`exponents.logarithms` has no such limit).

Where the system permutes classes of coordinates, and chains are in one of them, parts in others do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.chains import Chains, FrameRecords, VectorRecords
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.simulation.run import Run
from sgdstab_fast.simulation.starts import normals
from sgdstab_fast.simulation.task import advance
from sgdstab_fast.simulation.vectors import companions_task, vectors_task
from sgdstab_fast.statistics.estimates import Estimate, RareAllowance
from sgdstab_fast.systems.ensemble import MatrixEnsemble
from sgdstab_fast.systems.system import Outcomes, System

# Times that a chain meets an outcome that is not rare: the second for outcomes that are unusual in themselves.
_HARDLY, _OFTEN, _UNUSUAL = 100.0, 1000.0, 1e-3
_FADING = 6.0  # times that such outcomes come until what nothing else lets be forgotten is a third of what it was
_MET = 6.0  # times that all together meet what they know
_MOST_OF_IT = 0.1  # of what varies
_FORGOTTEN, _MOST_STEPS = 400.0, 2**14  # relaxation times of directions of transposed products, and steps
_ROUNDED, _SMALLER = 31.0, 45.0  # logarithm that rounding leaves of 0 at most, and that it leaves at least
_FLUSHED = 645.0  # logarithm of what the core takes for 0
_DEEP, _SOME = 5.0, 0.01  # what overlaps hardly come to by chance, and part of what would be rounding
_HELD = 6.0  # times a mean logarithm, beyond which is next to nothing
_SOMETIMES = 0.02  # of directions
_WEIGHT = 3.0  # times what is lost of logarithms, that exponents may be off by: it takes longer to be regained
_FEW_OUTCOMES = 256
_LEAST = 1e-300
_TRANSPOSED, _MOST_NUMBERS = 128, 2**20  # chains, and numbers in all overlaps
_STEPS_PER_BATCH = 256
_MOST_LEADING = 6  # exponents that are looked at; the next ones are taken to be like the last of them


class RareOutcomes:
    """An estimate of chains that allows for outcomes which are rare beside their lengths, or what numbers hold.

    `first_chain` is the first stream of directions of transposed products. Of several exponents the first is lambda.
    """

    def __init__(
        self,
        system: System,
        options: Options,
        estimate: Callable[[Chains[VectorRecords]], Estimate],
        first_chain: int,
    ) -> None:
        self._system, self._estimate = system, estimate
        self._influences = _Influences(system, options, first_chain)
        everywhere = np.ones((1, system.dimension))
        self._is_confined = not system.confined(everywhere, everywhere).all()

    def __call__(self, chains: Chains[VectorRecords]) -> Estimate:
        """Estimate lambda."""
        found = self._estimate(chains)
        n_steps = chains.n_batches * chains.steps_per_batch
        if n_steps == 0 or not np.isfinite(found.mean).all():
            return found
        spread = _spread(self._system)
        gap = found.gap if 0 < found.gap < math.inf else spread
        outcomes = _rare_outcomes(
            self._system, min(_OFTEN / n_steps, max(_HARDLY / n_steps, _UNUSUAL)), 0.0 if self._is_confined else spread
        )
        if outcomes is None:
            return found
        n_transposed = min(n_steps, math.ceil(_FORGOTTEN / gap)) if gap > 0 else n_steps
        seen = self._influences.of(chains.states[:, :1], outcomes, n_transposed)
        lowest = self._system.sum_of_exponents / self._system.dimension
        reach = max(float(found.mean[0]) - lowest, 0.0) if math.isfinite(lowest) else spread
        lost = np.zeros_like(seen.lost[0]) if self._is_confined else seen.lost[0]
        rare = _allowance(
            outcomes.probabilities, seen._replace(lost=lost[None]), 0, (reach, spread), n_steps, chains.n_chains
        )
        if rare.allowance == 0:
            return found
        return replace(
            found,
            standard_error=np.hypot(found.standard_error, rare.allowance),
            bias_allowance=None if found.bias_allowance is None else math.hypot(found.bias_allowance, rare.allowance),
            rare=rare,
        )


class RareOutcomesOfFrames:
    """The same for spectra: sums of the j leading exponents, of volumes, are like the one of lengths."""

    def __init__(
        self, system: System, options: Options, estimate: Callable[[Chains[FrameRecords]], Estimate], first_chain: int
    ) -> None:
        self._system, self._estimate = system, estimate
        self._influences = _Influences(system, options, first_chain)

    def __call__(self, chains: Chains[FrameRecords]) -> Estimate:
        """Estimate exponents."""
        found = self._estimate(chains)
        n_steps = chains.n_batches * chains.steps_per_batch
        finite = np.isfinite(found.mean)
        leading = min(int(finite.sum()), _MOST_LEADING)
        if n_steps == 0 or np.isnan(found.mean).any() or leading == 0:
            return found
        gaps = np.abs(np.diff(found.mean[finite]))
        spread = _spread(self._system)
        outcomes = _rare_outcomes(self._system, _HARDLY / n_steps, spread)
        if outcomes is None:
            return found
        frames = np.ascontiguousarray(chains.states[:, :, :leading].transpose(0, 2, 1))
        n_transposed = min(n_steps, math.ceil(_FORGOTTEN / gaps.min())) if gaps.size and gaps.min() > 0 else n_steps
        seen, probabilities = self._influences.of(frames, outcomes, n_transposed), outcomes.probabilities
        every = [_allowance(probabilities, seen, j, (spread, spread), n_steps, chains.n_chains) for j in range(leading)]
        sums = [each.allowance for each in every]
        allowance = np.array(sums) + np.array([0.0, *sums[:-1]])
        if not allowance.any():
            return found
        allowance = np.where(
            finite, np.pad(allowance, (0, max(len(finite) - leading, 0)), mode="edge")[: len(finite)], 0.0
        )
        of_each = found.of_exponents
        return replace(
            found,
            standard_error=np.hypot(found.standard_error, allowance),
            of_exponents=None
            if of_each is None
            else of_each._replace(bias_allowance=np.hypot(of_each.bias_allowance, allowance)),
            rare=max(every, key=lambda each: each.allowance),
        )


def warn_of_rare(done: Run[Any], budget: Budget) -> None:
    """Warn if error bars are what they are because of rare outcomes."""
    rare, short = done.estimate.rare, ~budget.met(done.sizes, done.estimate.standard_error)
    if rare is None or not short.any() or 2 * rare.allowance <= done.estimate.standard_error[short].max():
        return
    if rare.is_lost:
        warn(
            f"between outcomes of probability {rare.probability:.1g} parts of vectors become smaller than numbers can "
            f"tell, which may change exponents by {rare.allowance:.1g}, as the standard error allows for, and no "
            "max_steps helps: where the other matrices are diagonal, logarithms are taken instead"
        )
        return
    steps = 10 * _FADING / rare.probability * done.chains.n_chains
    warn(
        f"outcomes of probability {rare.probability:.1g} have hardly come up, and may change the exponent by "
        f"{rare.allowance:.1g}, which the standard error allows for: it takes a max_steps of {steps:.0e} to "
        "meet them often"
    )


def _spread(system: System) -> float:
    """Return by how much a step stretches some directions more than others do, at most."""
    sizes = system.step_sizes[np.isfinite(system.step_sizes)]
    return float(np.ptp(sizes)) if sizes.size else 0.0


def _rare_outcomes(system: System, rare: float, gap: float) -> Outcomes | None:
    """Return all outcomes if some are rare, or, if there are few, rare beside what numbers hold."""
    outcomes = system.rare_outcomes(max(rare, _HELD * gap / _ROUNDED if gap < math.inf else 0.0))
    if outcomes is None or (len(outcomes.probabilities) > _FEW_OUTCOMES and outcomes.probabilities.min() >= rare):
        return None
    return outcomes


class _Seen(NamedTuple):
    """What outcomes do to directions, or volumes of the first 1, .., k vectors of frames; shape (k, n)."""

    influences: FloatArray
    """h_i, or what evaluated growth lacks of it if that is more."""
    for_ever: FloatArray
    """Share of directions that are remembered for ever."""
    lost: FloatArray
    """By how much what took over was smaller, beyond what numbers hold: a mean of logarithms."""


def _allowance(
    probabilities: FloatArray, seen: _Seen, j: int, most: tuple[float, float], n_steps: int, n_chains: int
) -> RareAllowance:
    """Return what outcomes may add that are remembered for ever, or beyond what numbers hold, or have hardly come.

    The former two at most so much.
    """
    persistent = seen.for_ever[j] > _SOMETIMES
    probability = float(probabilities[persistent].sum())
    unseen = most[0] * math.exp(-probability * n_steps / _FADING) if probability > 0 else 0.0
    lost = min(_WEIGHT * float(probabilities @ seen.lost[j]), most[1])
    hardly = _hardly_met(probabilities, seen.influences[j], n_steps * n_chains)
    if probability == 0 and hardly.allowance >= lost:
        return hardly
    return RareAllowance(max(lost, unseen), probability or float(probabilities[seen.lost[j] > 0].sum()), lost > unseen)


def _beyond(depths: FloatArray) -> FloatArray:
    """Return E max(D - h, 0) of logarithms D with an exponential tail, from samples, (n_samples, n).

    Where rounding has something in place of 0, none is much larger than h = 31, and the others are when numbers end.
    """
    found = np.zeros(depths.shape[1])
    for i, each in enumerate(depths.T):
        deep = each[each > _DEEP]
        if deep.size <= _SOMETIMES * each.size:
            continue
        is_rounding = (deep > _SMALLER).sum() <= _SOME * (deep > _ROUNDED).sum()
        held, middle = _ROUNDED if is_rounding else _FLUSHED, float(np.median(deep))
        ended = int(((deep > middle) & (deep < held)).sum())
        total = float(np.minimum(deep[deep > middle], held).sum() - (deep > middle).sum() * middle)
        if middle >= held or (ended == 0 and total > 0):
            found[i] = math.inf
        elif total > 0:
            mean = total / ended  # of what is cut off at h
            found[i] = (deep > middle).mean() * deep.size / each.size * mean * math.exp((middle - held) / mean)
    return found


class _Influences:
    """h_i of directions, or of the spans of the first j vectors of frames, for which the formula holds with volumes."""

    def __init__(self, system: System, options: Options, first_chain: int) -> None:
        self._system, self._options, self._first = system, options, first_chain
        self._transposed: Chains[VectorRecords] | None = None

    def of(self, states: FloatArray, outcomes: Outcomes, n_steps: int) -> _Seen:
        """Return what outcomes do to states, of shape (n_chains, k, dimension)."""
        k = states.shape[1]
        v = self._system.isometric_vectors(states.reshape(-1, states.shape[2])).reshape(states.shape)
        w = self._directions_of_transposed(outcomes, k, n_steps)
        n_pairs = int(np.clip(_MOST_NUMBERS // (k * k * outcomes.matrices[:, 0].size), 8, len(v) * len(w)))
        pairs = np.arange(n_pairs)
        v, w = v[pairs % len(v)], w[(pairs + pairs // len(v)) % len(w)]
        v = np.linalg.qr(v.swapaxes(1, 2))[0].swapaxes(1, 2)
        images = np.einsum("iab,nkb->nika", outcomes.matrices, v, optimize=True)
        before, after = np.einsum("nka,nla->nkl", v, w), np.einsum("nika,nla->nikl", images, w, optimize=True)
        seen = _Seen(*np.empty((3, k, len(outcomes.probabilities))))
        for j in range(1, k + 1):
            squares = np.einsum("nika,nila->nikl", images[:, :, :j], images[:, :, :j])
            lengths = _log_volume(squares) / 2
            overlaps = _log_volume(after[:, :, :j, :j]) - _log_volume(before[:, :j, :j])[:, None]
            seen.for_ever[j - 1] = (lengths - overlaps > _ROUNDED).mean(axis=0)
            seen.lost[j - 1] = _beyond(lengths - overlaps)
            found = np.array([overlaps.mean(axis=0), (overlaps - lengths).mean(axis=0)])
            found -= found @ outcomes.probabilities[:, None]
            seen.influences[j - 1] = np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0)[0]
        return seen

    def _directions_of_transposed(self, outcomes: Outcomes, k: int, n_steps: int) -> FloatArray:
        """Return directions after so many steps of transposed matrices, whatever was asked for before."""
        n_steps = min(n_steps, _MOST_STEPS)
        transposed = MatrixEnsemble(outcomes.matrices.swapaxes(1, 2).copy(), outcomes.probabilities)
        n_batches, chains = math.ceil(n_steps / _STEPS_PER_BATCH), self._transposed
        if chains is None or chains.states.shape[1] != k or chains.next_step > n_batches * _STEPS_PER_BATCH:
            key = self._options.seed.key
            chains = Chains(
                key=key,
                states=normals(key, _TRANSPOSED, (k, transposed.dimension), self._first),
                steps_per_batch=_STEPS_PER_BATCH,
                records=VectorRecords.empty(_TRANSPOSED, k, 0),
                first_chain=self._first,
            )
        if (missing := n_batches - chains.next_step // _STEPS_PER_BATCH) > 0:
            task = companions_task(transposed, vectors_task(transposed, transposed.no_growth))
            done = advance(chains, task, missing, self._options.workers)
            nothing = VectorRecords.empty(_TRANSPOSED, k, 0)  # of what they have recorded nothing is needed
            chains = replace(done, records=nothing, first_step=done.next_step)
        self._transposed = chains
        return np.asarray(chains.states)


def _hardly_met(probabilities: FloatArray, influences: FloatArray, n_steps: int) -> RareAllowance:
    """Return what outcomes add that are hardly met in so many steps, if they have most of what varies; else nothing."""
    order = np.argsort(-np.abs(influences))
    hardly_met = order[np.cumsum(probabilities[order]) * n_steps < _MET]
    parts = probabilities * influences**2
    if not hardly_met.size or parts[hardly_met].sum() <= _MOST_OF_IT * parts.sum():
        return RareAllowance(0.0, 0.0, is_lost=False)
    allowance = float(probabilities[hardly_met] @ np.abs(influences[hardly_met]))
    return RareAllowance(allowance, float(probabilities[hardly_met].sum()), is_lost=False)


def _log_volume(matrices: FloatArray) -> FloatArray:
    """Return log abs det, bounded below."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.maximum(np.linalg.slogdet(matrices)[1], math.log(_LEAST)))
