"""Twins: chains that take the same steps as others, from other starts, and show what those still owe to theirs.

With g the growth whose mean is the exponent, E g of a chain that started anywhere tends to the exponent, and so does
that of its twin. Under the same steps directions meet (Chemnitz & Engel 2025, lemma 3.10, after Le Page), after which
the two do the same, so that the mean difference

    b = E sum_{t >= d} (g_twin(t) - g(t)) / (n - d)

of n batches without the first d is known well long before either is (couplings of this kind are those of P. Jacob,
J. O'Leary and Y. Atchade, "Unbiased Markov chain Monte Carlo methods with couplings", J. R. Stat. Soc. B 82, 2020).

The exponent is the largest growth that any start leads to: a twin that grows faster tells how far chains may be below
the exponent; one that grows more slowly is on its way itself, as slow directions of K are nearly for ever, and tells
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.statistics.intervals import ERRORS_IN_HALF, student_quantile
from sgdstab_fast.statistics.means import standard_errors

MOST_TWINS = 16
N_KINDS = 2
_LEVEL = 0.95
_RULE_OF_THREE = 3.0
_LAST = 1 / 4  # of the batches of twins, by which those that chains have more are judged


class Unseen(NamedTuple):
    """What means may lack of what mixtures gain, nats per step, to be added to standard errors; each of shape (n,)."""

    gain: FloatArray
    margin: FloatArray
    """Within which it is known."""


def kinds(n_twins: int) -> list[range]:
    """Return which of n_twins start as mixtures and as slow directions: one half each."""
    each = max(-(-n_twins // N_KINDS), 1)
    return [range(n_twins)[first : first + each] for first in range(0, n_twins, each)]


@dataclass(frozen=True, eq=False)
class Twins:
    """How twins of several kinds grow compared with their chains, from the first batch on."""

    growth: FloatArray
    """Of the twins, shape (n_twins, n_batches, n_metrics); twin c is that of chain c."""

    @property
    def n_batches(self) -> int:
        """Batches of twins; chains may have more."""
        return int(self.growth.shape[1])

    def differences(self, growth: FloatArray) -> FloatArray:
        """Return the growth of twins less that of chains, (n_chains, n_batches, n_metrics), over twins' batches."""
        n_twins, n_batches, _ = self.growth.shape
        return np.asarray(self.growth - growth[:n_twins, :n_batches])

    def bias(self, differences: FloatArray, first: int, n_batches: int) -> float:
        """Return how far below the exponent the mean of chains over the batches from `first` to n_batches may be.

        Twins that have fewer batches are taken to go on as in their last quarter.
        """
        known = differences.shape[1]
        # Batches that have been merged until few are left are those of twins that had met their chains.
        last = differences[:, known - int(_LAST * known) :].mean(axis=1) if known >= 1 / _LAST else 0.0
        sums = differences[:, first:].sum(axis=1) + max(n_batches - max(known, first), 0) * last
        means = sums / (n_batches - first)
        # On its way up a slow start grows fast in length, whoever leads in the end.
        columns = (slice(2), slice(1))
        return max(_upper_bound(means[kind, which]) for kind, which in zip(kinds(len(means)), columns, strict=False))

    def unseen(self, differences: FloatArray, n_batches: int) -> Unseen:
        """Return by what means over n_batches of chains, all together, may be off because it has not happened.

        Differences have the shape (n_twins, n_batches, n). A chain that were thrown into a mixture would from there on
        grow by more or less than it does, as its twin has, by the sum of their differences. What has not happened in
        n_batches happens less often than 3 / n_batches, at a level of 95%.
        """
        mixtures, *_ = kinds(len(differences))
        sums = _RULE_OF_THREE / ERRORS_IN_HALF / n_batches * differences[mixtures].sum(axis=1)
        return Unseen(sums.mean(axis=0), ERRORS_IN_HALF * standard_errors(sums) if len(sums) > 1 else 0 * sums[0])


def _upper_bound(differences: FloatArray) -> float:
    """Return what the means of independent differences, (n, n_metrics), hardly exceed, and at least 0."""
    mean = differences.mean(axis=0)
    if len(differences) == 1:
        return float((np.abs(mean) + np.maximum(mean, 0.0)).max())
    errors = student_quantile(_LEVEL, len(differences) - 1) * standard_errors(differences)
    return max(float((mean + errors).max()), 0.0)
