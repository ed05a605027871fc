"""Rare outcomes: what a run that has hardly met them cannot know, told from their probabilities.

To first order in its probability p_i an outcome A_i of a step adds p_i h_i to the exponent,

    h_i = E log abs(w . A_i v) / abs(w . v) - lambda,

v and w being directions of the products and of those of transposed matrices, both stationary without it (Y. Peres,
"Analytic dependence of Lyapunov exponents on transition probabilities", Lecture Notes in Mathematics 1486, 1991). Where
growth is a mean over outcomes it has E log |A_i v| / |v| already, and lacks the rest: what the direction A_i v owes to
v until it is forgotten. Chains that have met the outcome have that too, and show in their spread what it varies by.
So an allowance is made for outcomes of the largest abs h_i that all chains together have hardly met, if most of what
varies is theirs.

If w . A_i v is 0 to rounding, as for a quarter turn among diagonal matrices, A_i v is not forgotten before such an
outcome comes again, and there is no such series: chains relax as slowly as these outcomes come, and the exponent may be
as low as the mean of all exponents. It is then the mean over the second half of chains, without control variates, whose
means are 0 in stationary chains only. Where they come before a component of v has faded to 0, growth is the largest of
several random walks, and too large by about the spread of one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import PILOTS
from sgdstab_fast.results.chains import Chains, FrameRecords, VectorRecords
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.run import Run
from sgdstab_fast.simulation.starts import normals
from sgdstab_fast.simulation.task import advance
from sgdstab_fast.simulation.vectors import companions_task, vectors_task
from sgdstab_fast.statistics.estimates import Estimate, batch_means
from sgdstab_fast.systems.ensemble import MatrixEnsemble
from sgdstab_fast.systems.system import Outcomes, System

# Times that a chain meets an outcome that is not rare: the second for outcomes that are unusual in themselves.
_HARDLY, _OFTEN, _UNUSUAL = 100.0, 1000.0, 1e-3
_FADING = 6.0  # times that such outcomes come until what nothing else lets be forgotten is a third of what it was
_MET = 6.0  # times that all together meet what they know
_MOST_OF_IT = 0.1  # of what varies
_FORGOTTEN = 400.0  # relaxation times of directions of transposed products
_CORNER = 100.0  # more than rounding leaves of a logarithm: 36 or so
_FLUSHED = 645.0  # logarithm of what the core takes for 0
_SOMETIMES = 0.02  # of directions
_LEAST = 1e-300
_TRANSPOSED, _MOST_NUMBERS = 32, 2**20  # chains, and numbers in all overlaps
_STEPS_PER_BATCH = 256
_MOST_LEADING = 6  # exponents that are looked at; the next ones are taken to be like the last of them


class RareOutcomes:
    """An estimate of chains that allows for outcomes which are rare beside their lengths."""

    def __init__(
        self,
        system: System,
        options: Options,
        estimate: Callable[[Chains[VectorRecords]], Estimate],
        first_chain: int,
    ) -> None:
        self._system, self._options, self._estimate = system, options, estimate
        self._influences = _Influences(system, options, first_chain + PILOTS.stop - _TRANSPOSED)
        self._allowance, self._probability = 0.0, 0.0

    def __call__(self, chains: Chains[VectorRecords]) -> Estimate:
        """Estimate lambda."""
        found, self._allowance = self._estimate(chains), 0.0
        n_steps = chains.n_batches * chains.steps_per_batch
        rare = min(_OFTEN / n_steps, max(_HARDLY / n_steps, _UNUSUAL)) if n_steps else 0.0
        outcomes = self._system.rare_outcomes(rare) if rare else None
        if outcomes is None or not np.isfinite(found.mean).all():
            return found
        gap, n_transposed = found.gap, n_steps
        if 0 < gap < math.inf:
            n_transposed = min(n_steps, math.ceil(_FORGOTTEN / gap))
        influences, for_ever = (each[0] for each in self._influences.of(chains.states[:, :1], outcomes, n_transposed))
        probabilities = outcomes.probabilities
        self._probability = float(probabilities[(for_ever > _SOMETIMES) & (probabilities < rare)].sum())
        if self._probability > 0:
            self._allowance = self._reach(found) * math.exp(-self._probability * n_steps / _FADING)
            half, before = chains.n_batches // 2, found
            late = batch_means(chains.records.log_growth[:, half:, :1], chains.steps_per_batch)
            if not self._probability * _FLUSHED <= gap < math.inf:
                self._allowance = max(self._allowance, math.sqrt(chains.n_chains) * float(late.standard_error[0]))
            found = replace(late, start_up=late.start_up + half, gap=before.gap, mixed=before.mixed)
            if before.standard_error[0] > late.standard_error[0]:  # which allows for more
                found = before
        else:
            self._allowance, self._probability = _hardly_met(probabilities, influences, n_steps * chains.n_chains)
        if self._allowance == 0:
            return found
        return replace(
            found,
            standard_error=np.hypot(found.standard_error, self._allowance),
            bias_allowance=math.hypot(found.bias_allowance or 0.0, self._allowance),
        )

    def _reach(self, found: Estimate) -> float:
        """Return by how much lambda may be lower at most: it is no lower than the mean of all exponents."""
        mean, sizes = self._system.sum_of_exponents / self._system.dimension, self._system.step_sizes
        lowest = mean if math.isfinite(mean) else sizes[np.isfinite(sizes)].min(initial=math.inf)
        return max(float(found.mean[0]) - float(lowest), 0.0) if math.isfinite(lowest) else math.inf

    def warn(self, done: Run[VectorRecords]) -> None:
        """Warn if the error bar is what it is because of rare outcomes."""
        if 2 * self._allowance > done.error > self._options.budget.rtol * done.size:
            steps = 10 * _FADING / self._probability * done.chains.n_chains
            warn(
                f"outcomes of probability {self._probability:.1g} have hardly come up, and may change the exponent by "
                f"{self._allowance:.1g}, which the standard error allows for: it takes a max_steps of {steps:.0e} to "
                "meet them often"
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
        outcomes = self._system.rare_outcomes(_HARDLY / n_steps) if n_steps else None
        if outcomes is None or np.isnan(found.mean).any():
            return found
        finite, probabilities = np.isfinite(found.mean), outcomes.probabilities
        leading = min(int(finite.sum()), _MOST_LEADING)
        if leading == 0:
            return found
        frames = np.ascontiguousarray(chains.states[:, :, :leading].transpose(0, 2, 1))
        gaps = np.abs(np.diff(found.mean[finite]))
        n_transposed = min(n_steps, math.ceil(_FORGOTTEN / gaps.min())) if gaps.size and gaps.min() > 0 else n_steps
        influences, for_ever = self._influences.of(frames, outcomes, n_transposed)
        persistent = (for_ever.max(axis=0) > _SOMETIMES) & (probabilities * n_steps < _HARDLY)
        sums = [_hardly_met(probabilities, each, n_steps * chains.n_chains)[0] for each in influences]
        allowance = np.array(sums) + np.array([0.0, *sums[:-1]])
        if persistent.any():
            sizes = self._system.step_sizes
            spread = float(np.ptp(sizes[np.isfinite(sizes)]))
            allowance += spread * math.exp(-float(probabilities[persistent].sum()) * n_steps / _FADING)
        every = np.where(finite, np.pad(allowance, (0, max(len(finite) - leading, 0)), mode="edge")[: len(finite)], 0.0)
        return replace(found, standard_error=np.hypot(found.standard_error, every))


class _Influences:
    """h_i of directions, or of the spans of the first j vectors of frames, for which the formula holds with volumes."""

    def __init__(self, system: System, options: Options, first_chain: int) -> None:
        self._system, self._options, self._first = system, options, first_chain
        self._transposed: Chains[VectorRecords] | None = None

    def of(self, states: FloatArray, outcomes: Outcomes, n_steps: int) -> tuple[FloatArray, FloatArray]:
        """Return h_i, or what evaluated growth lacks of it if that is more, and how often it is remembered for ever.

        `states` has the shape (n_chains, k, dimension), what is returned (k, n): of the first 1, .., k vectors.
        """
        k = states.shape[1]
        v = self._system.isometric_vectors(states.reshape(-1, states.shape[2])).reshape(states.shape)
        w = self._directions_of_transposed(outcomes, k, n_steps)
        n_pairs = int(np.clip(_MOST_NUMBERS // (k * k * outcomes.matrices[:, 0].size), 8, len(v) * len(w)))
        pairs = np.arange(n_pairs)
        v, w = v[pairs % len(v)], w[(pairs + pairs // len(v)) % len(w)]
        v = np.linalg.qr(v.swapaxes(1, 2))[0].swapaxes(1, 2)
        images = np.einsum("iab,nkb->nika", outcomes.matrices, v, optimize=True)
        before, after = np.einsum("nka,nla->nkl", v, w), np.einsum("nika,nla->nikl", images, w, optimize=True)
        influences, for_ever = np.empty((k, len(outcomes.probabilities))), np.empty((k, len(outcomes.probabilities)))
        for j in range(1, k + 1):
            squares = np.einsum("nika,nila->nikl", images[:, :, :j], images[:, :, :j])
            lengths = _log_volume(squares) / 2
            overlaps = _log_volume(after[:, :, :j, :j]) - _log_volume(before[:, :j, :j])[:, None]
            for_ever[j - 1] = (np.abs(overlaps - lengths) > _CORNER).mean(axis=0)
            found = np.array([overlaps.mean(axis=0), (overlaps - lengths).mean(axis=0)])
            found -= found @ outcomes.probabilities[:, None]
            influences[j - 1] = np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0)[0]
        return influences, for_ever

    def _directions_of_transposed(self, outcomes: Outcomes, k: int, n_steps: int) -> FloatArray:
        """Return directions after so many steps of transposed matrices, whatever was asked for before."""
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


def _hardly_met(probabilities: FloatArray, influences: FloatArray, n_steps: int) -> tuple[float, float]:
    """Return what outcomes add that are hardly met in so many steps, and their probability.

    If they have most of what varies; else nothing.
    """
    order = np.argsort(-np.abs(influences))
    hardly_met = order[np.cumsum(probabilities[order]) * n_steps < _MET]
    parts = probabilities * influences**2
    if not hardly_met.size or parts[hardly_met].sum() <= _MOST_OF_IT * parts.sum():
        return 0.0, 0.0
    return float(probabilities[hardly_met] @ np.abs(influences[hardly_met])), float(probabilities[hardly_met].sum())


def _log_volume(matrices: FloatArray) -> FloatArray:
    """Return log abs det, bounded below."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.maximum(np.linalg.slogdet(matrices)[1], math.log(_LEAST)))
