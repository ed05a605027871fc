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
as much as the gap lower. It is then the mean over the second half of chains, without control variates, whose means are
0 in stationary chains only. Where they come before a component of v has faded to 0, growth is the largest of several
random walks, and too large by about the spread of one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import PILOTS
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.run import Run
from sgdstab_fast.simulation.starts import normals
from sgdstab_fast.simulation.task import advance
from sgdstab_fast.simulation.vectors import vectors_task
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
_TRANSPOSED, _MOST_NUMBERS = 32, 2**22  # chains, and numbers in all overlaps
_STEPS_PER_BATCH = 256


class RareOutcomes:
    """An estimate of chains that allows for outcomes which are rare beside their lengths."""

    def __init__(
        self,
        system: System,
        options: Options,
        estimate: Callable[[Chains[VectorRecords]], Estimate],
        first_chain: int,
    ) -> None:
        self._system, self._options, self._estimate, self._first = system, options, estimate, first_chain
        self._transposed: Chains[VectorRecords] | None = None
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
        else:
            sizes = self._system.step_sizes
            gap = float(np.ptp(sizes[np.isfinite(sizes)])) if np.isfinite(sizes).any() else math.inf
        influences, for_ever = self._influences(chains, outcomes, n_transposed)
        probabilities = outcomes.probabilities
        self._probability = float(probabilities[(for_ever > _SOMETIMES) & (probabilities < rare)].sum())
        if self._probability > 0:
            self._allowance = gap * math.exp(-self._probability * n_steps / _FADING)
            half, before = chains.n_batches // 2, found
            late = batch_means(chains.records.log_growth[:, half:, :1], chains.steps_per_batch)
            if self._probability * _FLUSHED > gap:
                self._allowance = max(self._allowance, math.sqrt(chains.n_chains) * float(late.standard_error[0]))
            found = replace(late, start_up=late.start_up + half, gap=before.gap, mixed=before.mixed)
            if before.standard_error[0] > late.standard_error[0]:  # which allows for more
                found = before
        else:
            self._allowance = self._hardly_met(probabilities, influences, n_steps * chains.n_chains)
        if self._allowance == 0:
            return found
        return replace(
            found,
            standard_error=np.hypot(found.standard_error, self._allowance),
            bias_allowance=math.hypot(found.bias_allowance or 0.0, self._allowance),
        )

    def warn(self, done: Run[VectorRecords]) -> None:
        """Warn if the error bar is what it is because of rare outcomes."""
        if 2 * self._allowance > done.error > self._options.budget.rtol * done.size:
            steps = 10 * _FADING / self._probability * done.chains.n_chains
            warn(
                f"outcomes of probability {self._probability:.1g} have hardly come up, and may change the exponent by "
                f"{self._allowance:.1g}, which the standard error allows for: it takes a max_steps of {steps:.0e} to "
                "meet them often"
            )

    def _influences(
        self, chains: Chains[VectorRecords], outcomes: Outcomes, n_steps: int
    ) -> tuple[FloatArray, FloatArray]:
        """Return h_i, or what evaluated growth lacks of it if that is more, and how often it is remembered for ever."""
        v = self._system.isometric_vectors(chains.states[:, 0])
        w = self._directions_of_transposed(outcomes, n_steps)
        n_pairs = int(np.clip(_MOST_NUMBERS // outcomes.matrices[:, 0].size, 8, len(v) * len(w)))
        pairs = np.arange(n_pairs)
        v, w = v[pairs % len(v)], w[(pairs + pairs // len(v)) % len(w)]
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        images = np.einsum("iab,nb->nia", outcomes.matrices, v, optimize=True)
        lengths = _log(np.sqrt(np.einsum("nia,nia->ni", images, images)))
        overlaps = _log(np.abs(np.einsum("nia,na->ni", images, w))) - _log(np.abs(np.einsum("na,na->n", v, w)))[:, None]
        for_ever = (np.abs(overlaps - lengths) > _CORNER).mean(axis=0)
        found = np.array([overlaps.mean(axis=0), (overlaps - lengths).mean(axis=0)])
        found -= found @ outcomes.probabilities[:, None]
        return np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0)[0], for_ever

    def _directions_of_transposed(self, outcomes: Outcomes, n_steps: int) -> FloatArray:
        """Return directions after so many steps of transposed matrices."""
        transposed = MatrixEnsemble(outcomes.matrices.swapaxes(1, 2).copy(), outcomes.probabilities)
        if self._transposed is None:
            key, first = self._options.seed.key, self._first + PILOTS.stop - _TRANSPOSED
            self._transposed = Chains(
                key=key,
                states=normals(key, _TRANSPOSED, (1, transposed.dimension), first),
                steps_per_batch=_STEPS_PER_BATCH,
                records=VectorRecords.empty(_TRANSPOSED, 1, 0),
                first_chain=first,
            )
        missing = math.ceil(n_steps / _STEPS_PER_BATCH) - self._transposed.n_batches
        if missing > 0:
            task = vectors_task(transposed, transposed.no_growth)
            self._transposed = advance(self._transposed, task, missing, self._options.workers)
        return np.asarray(self._transposed.states[:, 0])

    def _hardly_met(self, probabilities: FloatArray, influences: FloatArray, n_steps: int) -> float:
        """Return what outcomes add that are hardly met in so many steps, if they have most of what varies."""
        order = np.argsort(-np.abs(influences))
        hardly_met = order[np.cumsum(probabilities[order]) * n_steps < _MET]
        parts = probabilities * influences**2
        if not hardly_met.size or parts[hardly_met].sum() <= _MOST_OF_IT * parts.sum():
            return 0.0
        self._probability = float(probabilities[hardly_met].sum())
        return float(probabilities[hardly_met] @ np.abs(influences[hardly_met]))


def _log(sizes: FloatArray) -> FloatArray:
    return np.asarray(np.log(np.maximum(sizes, _LEAST)))
