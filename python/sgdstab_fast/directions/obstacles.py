"""What keeps directions from coming closer to each other, as far as it is known beforehand.

Products of reflections, rotations and multiples of them keep all angles in the metric M with A^T M A = c_A M. Where
there is such an M it is that of constant mean squared growth. Products that are powers of one matrix turn for ever if
its two largest eigenvalues are of one size.
"""

from __future__ import annotations

import numpy as np

from sgdstab_fast.exact.regularity import Regularity
from sgdstab_fast.systems.system import ExactExponents, System

ONE_DIRECTION = "there is only one direction"
REFLECTIONS = "steps are reflections, which bring no directions closer"
SIMILARITIES = "steps turn and scale all vectors alike, in some norm, which brings no directions closer"
TURNING = "products are powers of one matrix, whose two largest eigenvalues are of one size"
ANNIHILATION = "products of steps annihilate every displacement, and no direction is left"
_ROUNDING = 1e-9  # relative, of singular values; of exponents
_MOST_NUMBERS = 2**22  # in matrices that are looked at


def why_not_mixing(system: System, known: ExactExponents | None, regular: Regularity | None) -> str:
    """Return why directions do not come closer; empty if they may."""
    if regular is not None:
        return "" if regular.contracting else REFLECTIONS
    if are_turning(known):
        return TURNING
    return SIMILARITIES if known is None and _are_similarities(system) else ""


def are_turning(known: ExactExponents | None) -> bool:
    """Whether all products are powers of one matrix, whose two largest eigenvalues are of one size."""
    exponents = np.empty(0) if known is None else known.exponents
    return len(exponents) > 1 and bool(exponents[1] > exponents[0] - _ROUNDING)


def _are_similarities(system: System) -> bool:
    """Whether A^T M A is a multiple of M for all steps A."""
    outcomes = system.outcomes(_MOST_NUMBERS)
    forms = None if outcomes is None else system.second_moments(_ROUNDING)
    if outcomes is None or forms is None or not forms.converged:
        return False
    drawn, metric = outcomes.matrices[outcomes.probabilities > 0], (forms.metric + forms.metric.T) / 2
    try:
        root = np.linalg.cholesky(metric).T
    except np.linalg.LinAlgError:
        return False
    values = np.linalg.svd(root @ drawn @ np.linalg.inv(root), compute_uv=False)
    return bool((values[:, -1] > (1 - _ROUNDING) * values[:, 0]).all())
