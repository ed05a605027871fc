r"""Self-stabilisation: at the edge gradient descent oscillates, and the oscillation takes sharpness down again.

With S the largest eigenvalue of the Hessian and u its eigenvector, alpha = -grad L . grad S > 0 says how fast training
sharpens, and beta = |P_u grad S|^2, P_u the projector on what is orthogonal to u, how fast an oscillation x along u
flattens. With y = S - 2 / eta (A. Damian, E. Nichani and J. D. Lee, "Self-Stabilization", arXiv 2209.15594, equation 3)

    x -> -(1 + eta y) x,    y -> y + eta (alpha - beta x^2 / 2).

In between steps this is an oscillator, |x|' = eta |x| y and y' = eta (alpha - beta x^2 / 2), around |x| = delta, y = 0
with delta = sqrt(2 alpha / beta), whose small oscillations take 2 pi / (eta sqrt(2 alpha)) steps. It keeps

    E = y^2 + (beta / 2) x^2 - 2 alpha log |x|,

so with r = x / delta the farthest point of an orbit has r^2 - log r^2 = r_0^2 - log r_0^2 + y_0^2 / alpha, r > 1
(Lambert's function, lower branch), and the largest y has y^2 = y_0^2 + alpha (r_0^2 - log r_0^2 - 1). The map itself
spirals outward slowly: its multipliers at the centre are 1 +- i eta sqrt(2 alpha). In the mean x^2 = delta^2, which
lifts the loss by delta^2 / eta. Noise of variance sigma^2 a step along u feeds x, so that less curvature does: the gap

    mean of 2 / eta - S = eta beta sigma^2 / (4 alpha)

(arXiv 2604.21016; E x^2 = delta^2 stays where 2 eta y delta^2 + eta^2 sigma^2 = 0, to leading order).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.printed import as_text
from sgdstab_fast.results.provenance import versions
from sgdstab_fast.results.result import Result

_MOST_NEWTON_STEPS = 100


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SelfStabilization(Result):
    """How sharpness and oscillation balance at the edge, as `self_stabilization` returns it."""

    learning_rate: float
    """eta."""
    alpha: float
    """-grad L . grad S: how fast training sharpens, per unit of time eta."""
    beta: float
    """|P_u grad S|^2: how fast oscillations flatten."""
    noise_variance: float
    """Variance of the gradient's noise along u; 0 without."""

    @property
    def delta(self) -> float:
        """Size of the oscillation x along u that keeps sharpness where it is, sqrt(2 alpha / beta)."""
        return math.sqrt(2 * self.alpha / self.beta)

    @property
    def period(self) -> float:
        """Steps of a small cycle of sharpness and oscillation, 2 pi / (eta sqrt(2 alpha))."""
        return 2 * math.pi / self.learning_rate / math.sqrt(2 * self.alpha)

    @property
    def multiplier(self) -> float:
        """What a step multiplies the size of small cycles by, |1 + i eta sqrt(2 alpha)|: they grow slowly."""
        return math.hypot(1, self.learning_rate * math.sqrt(2 * self.alpha))

    @property
    def loss_elevation(self) -> float:
        """By how much the mean loss is above that without oscillation, delta^2 / eta."""
        return self.delta * self.delta / self.learning_rate

    @property
    def sharpness_gap(self) -> float:
        """By how much noise keeps the mean sharpness below 2 / eta: eta beta noise_variance / (4 alpha)."""
        return self.learning_rate * self.beta * self.noise_variance / (4 * self.alpha)

    def __repr__(self) -> str:
        return (
            f"SelfStabilization(delta={as_text(self.delta)}, period={as_text(self.period)}, "
            f"loss_elevation={as_text(self.loss_elevation)}, sharpness_gap={as_text(self.sharpness_gap)})"
        )

    def trajectory(self, x0: float, y0: float, n_steps: int) -> FloatArray:
        """Return x and y = S - 2 / eta of the reduced map from a start on, shape (n_steps + 1, 2)."""
        x, y = validation.real_number(x0, "x0"), validation.real_number(y0, "y0")
        found = np.empty((validation.integer(n_steps, "n_steps", low=0) + 1, 2))
        eta, alpha, beta = self.learning_rate, self.alpha, self.beta
        for row in found:
            row[:] = x, y
            x, y = -(1 + eta * y) * x, y + eta * (alpha - beta * x * x / 2)
        return found

    def largest_excursion(self, x0: float, y0: float) -> tuple[float, float]:
        """Return the largest |x| and y of the orbit through a point, between steps: small steps come close to them."""
        x, y = validation.real_number(x0, "x0"), validation.real_number(y0, "y0")
        if x == 0:
            raise ValueError("x0 must not be 0: without oscillation sharpness rises for ever")
        ratio = abs(x) / self.delta
        level = max(ratio * ratio - 2 * (math.log(abs(x)) - math.log(self.delta)) + y * y / self.alpha, 1.0)
        farthest = level + math.log(level) + 1  # beyond the root of a convex function: Newton's steps come down
        for _ in range(_MOST_NEWTON_STEPS):
            after = farthest - (farthest - math.log(farthest) - level) / (1 - 1 / farthest)
            if not 1 < after < farthest:
                break
            farthest = after
        return self.delta * math.sqrt(farthest), math.sqrt(max(self.alpha * (level - 1), 0.0))


def self_stabilization(
    alpha: float, beta: float, learning_rate: float, *, noise_variance: float = 0.0
) -> SelfStabilization:
    """Say how gradient descent balances at the edge of stability, where sharpness is 2 over the learning rate.

    Parameters
    ----------
    alpha : float
        Progressive sharpening, -grad L . grad S with S the sharpness, positive.
    beta : float
        Self-stabilisation, the squared length of what of grad S is orthogonal to the top eigenvector, positive.
    learning_rate : float
        eta.
    noise_variance : float, optional
        Of the stochastic gradient along the top eigenvector; of batches of B, about 1/B of that of single examples.

    Returns
    -------
    SelfStabilization
        Size of the oscillation, period in steps, elevation of the loss, gap of the sharpness; orbits.

    Raises
    ------
    ValueError, TypeError
        If an argument is not positive (`noise_variance`: negative). Where alpha is negative sharpness falls by itself.

    References
    ----------
    A. Damian, E. Nichani and J. D. Lee, "Self-Stabilization: The Implicit Bias of Gradient Descent at the Edge of
    Stability", arXiv 2209.15594; for the gap with noise, arXiv 2604.21016.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> found = sf.nonlinear.self_stabilization(0.01, 1.0, 0.1)
    >>> round(found.delta, 6), round(found.period, 3)
    (0.141421, 444.288)
    >>> [round(value, 6) for value in found.largest_excursion(0.05, 0.0)]
    [0.262293, 0.109747]
    """
    found = SelfStabilization(
        alpha=validation.positive_number(alpha, "alpha"),
        beta=validation.positive_number(beta, "beta"),
        learning_rate=validation.positive_number(learning_rate, "learning_rate"),
        noise_variance=validation.nonnegative_number(noise_variance, "noise_variance"),
        provenance={"method": "self-stabilisation", **versions()},
    )
    known = (found.delta, found.period, found.loss_elevation, found.sharpness_gap)
    if not all(map(math.isfinite, known)) or not (found.delta > 0 and found.period > 0):
        raise ValueError(
            f"alpha, beta, learning_rate and noise_variance are too far from 1 to compute with: {found.alpha:.3g}, "
            f"{found.beta:.3g}, {found.learning_rate:.3g} and {found.noise_variance:.3g}"
        )
    return found
