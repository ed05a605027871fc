"""Mixing: how long chains remember where they started, from the gap between the two largest exponents.

Two vectors under the same steps turn towards each other like exp(-(lambda_1 - lambda_2) n) (Chemnitz & Engel 2025,
lemma 3.10, after Le Page): that is how fast a chain forgets its start. A few companion chains carry a second vector;
the difference D_n of the logarithms of their Gram-Schmidt norms grows by the gap per step. Where the two exponents are
equal, or so close that the chains are too short to tell, D_n wanders like a random walk instead. A singular step may
take both vectors to one line: from then on all is forgotten, at a rate of such steps that is seen from when they came.

Moments and directions go by this; for lambda and sweeps twins decide (`statistics.twins`), and the gap says how
independent pieces of chains are and whether a start has been forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.statistics.estimates import grouped

N_COMPANIONS, LEAST_COMPANIONS = 16, 8
# Standard errors. A random walk kept from below 0, as D_n is where exponents are equal, comes to 1.3 +- 1 of them.
_SEPARATION = 5.0
# Relaxation times cut off: a start that is off by a standard deviation then is off by a sixth of an error.
_START_UP = 3.0
_LENGTH = 2 * _START_UP  # relaxation times after which chains count as mixed


@dataclass(frozen=True)
class Mixing:
    """What companion chains say about mixing."""

    gap: float
    """lambda_1 - lambda_2, nats per step, or the rate at which singular steps forget all; NaN without companions."""
    separation: float
    """Growth of D_n over the second half of the companions' run, in its standard errors."""
    n_steps: int
    """Steps of each companion that it was measured over."""
    fluctuation: float = 0.0
    """Variance of D_n per step."""

    @property
    def separated(self) -> bool:
        """Whether the two exponents differ, as far as companions can tell: otherwise nothing is known of mixing."""
        return self.separation >= _SEPARATION

    @property
    def resolved(self) -> bool:
        """Whether chains of this length mix."""
        return self.separated and self.gap * self.n_steps >= _LENGTH

    @property
    def start_up_steps(self) -> int:
        """Steps after which a start is forgotten; of no use unless separated."""
        return math.ceil(min(_START_UP / self.gap, 2.0**62)) if self.gap > 0 else 2**62

    @property
    def relaxation_time(self) -> float:
        """Steps after which a chain has forgotten where it was; infinite unless separated.

        1 / gap where D_n grows steadily; where it wanders, by a variance of s^2 a step, 2 s^2 / gap^2 more.
        """
        if not self.separated:
            return math.inf
        if self.gap == 0:
            return math.inf
        return 1 / self.gap + 2 * self.fluctuation / self.gap / self.gap if math.isfinite(self.gap) else 0.0

    def bias(self, drift: float, n_steps: int) -> float:
        """Return how far a mean over n_steps is off, if what its halves differ by, `drift`, relaxes at the gap's rate.

        For b exp(-t) over 0..y, with y = gap n_steps, the mean is (1 + e^(-y/2)) / (2 (1 - e^(-y/2))) times the
        difference.
        """
        left = math.exp(-self.gap * n_steps / 2)
        return abs(drift) * (1 + left) / (2 * (1 - left)) if left < 1 else math.inf


def measure(log_growth: FloatArray, steps_per_batch: int) -> Mixing:
    """Estimate mixing from the log growth of companions, of shape (n_companions, n_batches, 2).

    From the second half: first the second vector has to find its own direction.
    """
    n_batches = log_growth.shape[1]
    n_steps = n_batches * steps_per_batch
    with np.errstate(invalid="ignore"):
        difference = log_growth[:, :, 0] - log_growth[:, :, 1]
    lost = np.isposinf(difference)
    n_lost = int(lost.any(axis=1).sum())
    if 2 * n_lost >= len(lost) > 0:
        # Of times with an exponential law, some of them longer than was watched.
        return Mixing(n_lost / ((n_lost + int((~lost).sum())) * steps_per_batch), math.inf, n_steps)
    difference = difference[~lost.any(axis=1)]
    if not np.isfinite(difference).all():
        return Mixing(math.nan, 0.0, n_steps)
    quarters = grouped(difference[:, n_batches // 2 :, None], 2)[:, 0]
    mean, spread = float(quarters.mean()), float(quarters.std(ddof=1))
    separation = math.sqrt(len(quarters)) * mean / spread if spread > 0 else math.copysign(math.inf, mean)
    length = (n_batches - n_batches // 2) // 2  # batches of a quarter
    return Mixing(mean / steps_per_batch, separation, n_steps, spread**2 * length / steps_per_batch)


def first_resolved(log_growth: FloatArray, steps_per_batch: int, looks: list[int]) -> Mixing:
    """Return what was known at the first of the looks (batches done) at which mixing is resolved, else at the last.

    So that it does not depend on how much further the companions happened to go.
    """
    mixing = Mixing(math.nan, 0.0, 0)
    for look in looks:
        mixing = measure(log_growth[:, :look], steps_per_batch)
        if mixing.resolved:
            break
    return mixing
