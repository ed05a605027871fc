"""Can SGD settle at this minimum? A verdict, and the certificate that decided it.

Exact certificates come first, in order of cost (eta K_ii is the step on example i, B = 1):

- eta K_ii < 2 for all i: E |A s|^2 = |s|^2 - (1/N) sum_i eta (2 - eta K_ii) (f_i . s)^2 < |s|^2, so that Lambda(2) < 0;
  in the same way for all batches, in any order, without memory, if eta lambda_max(K_uu) < 2 for the blocks of K that
  belong to examples u (whatever the order, what N steps leave as long as it was has not been moved by any of them, and
  is zero);
- (1/N) sum_i log abs(1 - eta K_ii) > 0: so is the mean of all exponents, and lambda is at least that; of any system, if
  the sum of its exponents is known;
- lambda itself, where it has a closed form;
- Lambda(2) < 0, computed exactly: lambda <= Lambda(2) / 2 < 0 (Chemnitz & Engel 2025, proposition A.4);

and then the sign of lambda by simulation, with its confidence corrected for looking repeatedly.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast.exact.bounds import ROUNDING, bounds_of, largest_overshoot, lower_bound
from sgdstab_fast.exact.exponents import known_exponents
from sgdstab_fast.exact.mean_square import MeanSquareExponent, mean_square_exponent
from sgdstab_fast.exact.regularity import regularity_of
from sgdstab_fast.exponents.exponent import estimate_exponent
from sgdstab_fast.exponents.results import LyapunovExponent, Stability
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.printed import with_error
from sgdstab_fast.results.progress import Progress, reporter
from sgdstab_fast.simulation.keywords import RunKeywords, Unpack, options_of, run_options
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.systems.system import System, require_system

_SHORT = "every learning_rate * K_ii < 2"
_SHORT_GROUPS = "every learning_rate * lambda_max(K_uu) < 2"
# Known to be 0 for all purposes: reflections have lambda = 0 exactly, and no budget would find its sign.
_ZERO = 1e-13
_SMALL = 64  # dimension in which Lambda(2) costs nothing


@run_options(rtol=1e-2, atol=_ZERO, max_steps=100_000_000, n_chains=64)
def stability(
    system: System, *, exponent: bool = False, confidence: float = 0.99, **keywords: Unpack[RunKeywords]
) -> Stability:
    """Say whether SGD can settle at the minimum, on exact grounds where possible.

    Parameters
    ----------
    system : LinearizedSGD or MatrixEnsemble
        What a step does.
    exponent : bool, optional
        Whether to estimate lambda to the tolerances where an exact certificate decides too. By default nothing is
        simulated there, and only the bounds of lambda that are known are returned.
    confidence : float, optional
        With which a verdict by simulation is right, whenever the run stops.
    rtol, atol : float, optional
        For the standard error of lambda, as in `lyapunov_exponent`. Where no exact certificate decides, the run also
        stops as soon as the sign of lambda is known.
    max_steps : int, optional
        Steps of all chains together; without a decision by then the verdict is ``"undecided"``.
    **keywords
        Chains: see `RunKeywords`.

    Returns
    -------
    Stability
        The verdict (``"stable"``: lambda < 0, ``"unstable"``: lambda > 0, or ``"undecided"``), its certificate, bounds
        of lambda and, if it was estimated, lambda with its interval; Lambda(2) and the exponent of full-batch gradient
        descent, computed when they are asked for unless they decided; whether the minimum is regular and so what
        theorem B concludes (`Stability.theorem_b`), and the examples on which a step is longer than 2. Regularity
        is None for other steps than on single examples, where it is an open question; the mean square None where
        it has no closed form, and mu NaN for a MatrixEnsemble.

    Warns
    -----
    AccuracyWarning
        As `lyapunov_exponent` and `mean_square_exponent` do.

    References
    ----------
    Chemnitz & Engel 2025, theorem B and propositions A.3 and A.4.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> gram = [[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]]
    >>> result = sf.stability(sf.LinearizedSGD(gram, 0.41), rng=1)
    >>> result.verdict, result.certificate
    ('stable', 'mean-square exponent < 0')
    >>> result.lyapunov is None, result.bounds[1] < 0  # nothing was simulated: lambda <= Lambda(2) / 2 is known
    (True, True)
    >>> sf.stability(sf.LinearizedSGD(gram, 0.44), rng=1).verdict
    'unstable'
    """
    start = time.perf_counter()
    require_system(system)
    exponent = validation.flag(exponent, "exponent")
    confidence = validation.probability(confidence, "confidence")
    options = options_of(stability, keywords)
    so_far = _SoFar(system, options, start, confidence, _growing(system), _by_steps(system))
    so_far.make_known()
    has_closed_form = _takes_no_steps(system)
    low = lower_bound(system)
    so_far.narrow(low, bounds_of(system)[1])
    so_far.decided = so_far.decided or (_Decided("unstable", "mean of all exponents > 0") if low > 0 else None)
    so_far.make_known()
    if system.has_mean_square and (system.dimension <= _SMALL or not (so_far.decided or has_closed_form)):
        mean_square = so_far.mean_square = mean_square_exponent(system, progress=options.progress)
        so_far.narrow(-math.inf, mean_square.upper_bound / 2)
        if not (so_far.decided or has_closed_form) and mean_square.stable:
            so_far.decided = _Decided("stable", "mean-square exponent < 0")
        so_far.make_known()
    if exponent or has_closed_form or not so_far.decided:
        asked = options.within(sign_confidence=None if so_far.decided else confidence)
        known = f"{so_far.decided.verdict}: {so_far.decided.certificate}" if so_far.decided else ""
        # An interrupted run knows what it knew before.
        with suppress(Stopped), reporter(options.progress, options.budget.max_steps) as report:
            report(Progress(0, options.budget.max_steps, math.nan, math.nan, verdict=known))
            asked = replace(asked, progress=lambda state: report(replace(state, verdict=known)))
            lyapunov = so_far.lyapunov = estimate_exponent(system, asked, mean_square=so_far.mean_square)
            so_far.narrow(*lyapunov.bounds)
            so_far.decided = so_far.decided or _by_estimate(lyapunov, confidence)
        so_far.make_known()
    return replace(so_far.result(), regularity=regularity_of(system))


class _Decided(NamedTuple):
    verdict: str
    certificate: str
    confidence: float = 1.0


@dataclass
class _SoFar:
    """What is known of a system, which a call returns that is interrupted."""

    system: System
    options: Options
    start: float
    """When the call began."""
    confidence: float
    """With which a simulation is to decide."""
    growing_examples: NDArray[np.intp]
    decided: _Decided | None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    mean_square: MeanSquareExponent | None = None
    lyapunov: LyapunovExponent | None = None

    def narrow(self, low: float, high: float) -> None:
        """Take in bounds of lambda."""
        self.bounds = max(self.bounds[0], low), min(self.bounds[1], high)

    def make_known(self) -> None:
        """Say what the call would return now, if there is anything."""
        if self.decided or any(map(math.isfinite, self.bounds)):
            self.options.make_known(self.result())

    def result(self) -> Stability:
        """Return it, but for regularity."""
        undecided = _Decided("undecided", "none: interrupted before lambda was estimated", self.confidence)
        verdict, certificate, confidence = self.decided or undecided
        low, high = min(self.bounds), max(self.bounds)  # which rounding may have swapped
        lyapunov = self.lyapunov
        if lyapunov is not None:
            lyapunov = replace(lyapunov, bounds=(low, high), exponent=float(np.clip(lyapunov.exponent, low, high)))
        return Stability(
            system=self.system,
            verdict=verdict,
            certificate=certificate,
            confidence=confidence,
            bounds=(low, high),
            lyapunov=lyapunov,
            regularity=None,
            growing_examples=self.growing_examples,
            seconds=time.perf_counter() - self.start,
            known_mean_square=self.mean_square,
        )


def _takes_no_steps(system: System) -> bool:
    """Say whether lambda is known in closed form."""
    parts = [system] if system.is_full else [part.system for part in system.parts()]
    return all(known_exponents(part) is not None for part in parts)


def _growing(system: System) -> NDArray[np.intp]:
    """Return the examples on which a step alone makes some displacements grow."""
    curvatures = system.unit_curvatures()
    if curvatures is None:
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero(curvatures / system.batch_size > 2 * (1 + ROUNDING))


def _by_steps(system: System) -> _Decided | None:
    """Return what the lengths of steps decide, which cost nothing."""
    if largest_overshoot(system) < 2 * (1 - ROUNDING):
        return _Decided("stable", _SHORT_GROUPS if system.is_grouped else _SHORT)
    return None


def _by_estimate(lyapunov: LyapunovExponent, confidence: float) -> _Decided:
    """Return what the sign of lambda decides, which a run knows with a confidence and a closed form for certain."""
    exact = lyapunov.stopped_by == "closed form"
    confidence = 1.0 if exact else confidence
    if lyapunov.sign == 0:
        interval = lyapunov.confidence_interval()
        found = with_error(lyapunov.exponent, lyapunov.standard_error, lyapunov.degrees_of_freedom, interval)
        why = f"{found}, its sign not being known" if math.isfinite(lyapunov.standard_error) else found
        why = "0 to rounding, where theory claims nothing" if exact else why
        return _Decided("undecided", f"none: lambda = {why}", confidence)
    how = "closed form of lambda" if exact else f"simulation, confidence {confidence:g}"
    return _Decided("stable" if lyapunov.sign < 0 else "unstable", how, confidence)
