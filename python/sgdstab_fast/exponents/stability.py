"""Can SGD settle at this minimum? A verdict, and the certificate that decided it.

Exact certificates come first, in order of cost (eta K_ii is the step on example i, B = 1):

- eta K_ii < 2 for all i: E |A s|^2 = |s|^2 - (1/N) sum_i eta (2 - eta K_ii) (f_i . s)^2 < |s|^2, so that Lambda(2) < 0;
  in the same way for all batches, in any order, without memory, if eta lambda_max(K_uu) < 2 for the blocks of K that
  belong to examples u;
- (1/N) sum_i log abs(1 - eta K_ii) > 0: so is the mean of all exponents, and lambda is at least that; of any system, if
  the sum of its exponents is known;
- Lambda(2) < 0, computed exactly: lambda <= Lambda(2) / 2 < 0 (Chemnitz & Engel 2025, proposition A.4);

and then the sign of lambda by simulation, with its confidence corrected for looking repeatedly.
"""

from __future__ import annotations

import time

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast.exact.full_batches import full_batch_exponent
from sgdstab_fast.exact.mean_square import MeanSquareExponent, mean_square_exponent
from sgdstab_fast.exact.regularity import regularity_of
from sgdstab_fast.exponents.exponent import estimate_exponent
from sgdstab_fast.exponents.results import LyapunovExponent, Stability
from sgdstab_fast.simulation.keywords import RunKeywords, Unpack, options_of, run_options
from sgdstab_fast.systems.system import System, require_system

# 2 - eta K_ii, and the mean of log abs(1 - eta K_ii), must differ from 0 by more than rounding to decide anything.
_ROUNDING = 16 * float(np.finfo(float).eps)
_SHORT = "every learning_rate * K_ii < 2"
_SHORT_GROUPS = "every learning_rate * lambda_max(K_uu) < 2"
# Known to be 0 for all purposes: reflections have lambda = 0 exactly, and no budget would find its sign.
_ZERO = 1e-13


@run_options(rtol=1e-2, atol=_ZERO, max_steps=100_000_000, n_chains=64)
def stability(system: System, *, confidence: float = 0.99, **keywords: Unpack[RunKeywords]) -> Stability:
    """Say whether SGD can settle at the minimum, on exact grounds where possible.

    Parameters
    ----------
    system : LinearizedSGD or MatrixEnsemble
        What a step does.
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
        The verdict (``"stable"``: lambda < 0, ``"unstable"``: lambda > 0, or ``"undecided"``), its certificate, lambda
        with its interval, Lambda(2), the exponent of full-batch gradient descent, whether the minimum is regular and so
        what theorem B concludes (`Stability.theorem_b`), and the examples on which a step is longer than 2. Regularity
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
    >>> sf.stability(sf.LinearizedSGD(gram, 0.44), rng=1).verdict
    'unstable'
    """
    start = time.perf_counter()
    require_system(system)
    confidence = validation.probability(confidence, "confidence")
    options = options_of(stability, keywords)
    mean_square = mean_square_exponent(system) if system.has_mean_square else None
    decided = _exactly(system, mean_square)
    asked = options.within(sign_confidence=None if decided else confidence)
    lyapunov = estimate_exponent(system, asked, mean_square=mean_square)
    verdict, certificate = decided or _by_simulation(lyapunov, confidence)
    curvatures, growing = system.unit_curvatures(), np.empty(0, dtype=np.intp)
    if curvatures is not None:
        growing = np.flatnonzero(curvatures / system.batch_size > 2 * (1 + _ROUNDING))
    return Stability(
        verdict=verdict,
        certificate=certificate,
        confidence=1.0 if decided or lyapunov.stopped_by == "closed form" else confidence,
        lyapunov=lyapunov,
        mean_square=mean_square,
        gd=full_batch_exponent(system),
        regularity=regularity_of(system),
        growing_examples=growing,
        seconds=time.perf_counter() - start,
    )


def _never_lengthens(system: System) -> bool:
    """Say whether no step on a single example lengthens anything, so that their means over batches do not either.

    Whatever the order, what N steps leave as long as it was has not been moved by any of them, and is zero.
    """
    curvatures = system.unit_curvatures()
    return curvatures is not None and float(curvatures.max()) < 2 * (1 - _ROUNDING)


def _exactly(system: System, mean_square: MeanSquareExponent | None) -> tuple[str, str] | None:
    """Return verdict and certificate, if an exact one decides."""
    if _never_lengthens(system):
        return "stable", _SHORT_GROUPS if system.is_grouped else _SHORT
    sizes = np.abs(system.step_sizes)
    total = system.sum_of_exponents
    if total > _ROUNDING * (1 + float(sizes[np.isfinite(sizes)].max(initial=0.0)) * system.dimension):
        return "unstable", "mean of all exponents > 0"
    if mean_square is not None and mean_square.stable:
        return "stable", "mean-square exponent < 0"
    return None


def _by_simulation(lyapunov: LyapunovExponent, confidence: float) -> tuple[str, str]:
    exact = lyapunov.stopped_by == "closed form"
    how = "closed form of lambda" if exact else f"simulation, confidence {confidence:g}"
    if lyapunov.sign == 0:
        return "undecided", f"none: lambda = {lyapunov.exponent:.3g} ± {lyapunov.standard_error:.1g}"
    return ("stable" if lyapunov.sign < 0 else "unstable"), how
