"""Second moments of noise that is alike on all examples: a closed form in place of an eigenvalue problem.

In isometric coordinates, with H = F^T F, second moments S of steps on single examples advance by

    Q(S) = S - (eta/N) (H S + S H) + (eta^2/N) F^T diag(x) F,    x_i = f_i . S f_i

(`operators.mean_square`). Let x be the same on all examples, 2 / eta. Then Q(S) = (1 - 2 eta sigma / N) S is

    (H - sigma) S + S (H - sigma) = 2 H,    solved by    S = H (H - sigma)^-1 = 1 + sigma (H - sigma)^-1

for every sigma below the smallest eigenvalue w of H: one inverse, and no eigenvectors. It is a metric in which slow
directions are long. Written with rows of K it is

    M = K (K - sigma)^-1 K = K + sigma + sigma^2 (K - sigma)^-1,    C = (K - sigma)^-1    (gram coordinates).

Where the diagonal of M is 2 / eta in the mean, sigma is the closest to that of the dominant second moment. It only has
to be close: any positive definite M is a metric.

Q keeps the order of forms. So if M_ii <= 2 / eta for all i then Q(S) <= (1 - 2 eta sigma / N) S, and

    lambda <= Lambda(2) / 2 <= -eta sigma / N.

With sigma = 0 that is the criterion eta K_ii <= 2 (Chemnitz & Engel 2025, proposition A.3). M_ii is known at all
sigma' = t sigma < sigma from that at sigma: q = (M_ii - K_ii) / sigma is a sum of c_a / (1 - sigma / w_a) with c_a >= 0
and a sum of at most 1, so that 1/q is concave and at least (1 - t) + t / q(sigma) in between.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.progress import tell_of
from sgdstab_fast.validation import row_blocks

_EPS = float(np.finfo(float).eps)
_KRYLOV, _SHIFT = 16, 0.9  # vectors for the smallest eigenvalue, and where they are looked for, relative
_BELOW = (1e-3, 1e-2, 0.1, 0.5)  # it, relative: the first at which a factorisation succeeds
_CLOSE = 0.05  # of the diagonal's mean to 2 / eta
_MOST_INVERSES = 6
_RESOLVED = 8.0  # times rounding, that the smallest eigenvalue must be


class UniformNoise(NamedTuple):
    """(H - sigma)^-1 and sigma."""

    inverse: FloatArray
    shift: float
    rounding: float
    """Relative error of the inverse."""

    def rate(self, learning_rate: float, diagonal: FloatArray, squared_norms: FloatArray) -> float:
        """Return the largest sigma' <= sigma at which M_ii <= 2 / eta for all i, or 0; given K_ii and M_ii at sigma."""
        room = 2 / learning_rate - diagonal * (1 + _RESOLVED * _EPS)
        if self.shift <= 0 or room.min() <= 0:
            return 0.0
        excess = (squared_norms - diagonal) * (1 + self.rounding) + _RESOLVED * _EPS * diagonal
        inverse = np.minimum(self.shift / excess, 1.0)  # 1 / q
        shares = room / (self.shift + room * (1 - inverse))
        return self.shift * min(float(shares.min()), 1.0)


def uniform_noise(form: FloatArray, slowest: FloatArray, learning_rate: float, trace: float, n: int) -> UniformNoise:
    """Return the inverse at the sigma of a learning rate.

    `form` is H, or K, (d, d) and symmetric; `slowest` close to its bottom eigenvector; `trace` that of K, of n rows.

    Raises `numpy.linalg.LinAlgError` if the smallest eigenvalue drowns in rounding.
    """
    tell_of(f"a metric of {n} examples")
    smallest = _smallest(form, slowest)
    for below in _BELOW:
        try:
            shift = most = (1 - below) * smallest
            inverse = _inverse(form, shift)
            break
        except np.linalg.LinAlgError:
            continue
    else:
        raise np.linalg.LinAlgError("no factorisation")
    # h(sigma) = (eta / 2) mean_i M_ii = 1; 1/h is concave and decreasing, so that Newton's iteration on it comes down
    # to the root from above.
    for _ in range(_MOST_INVERSES):
        d, inner = len(form), float(inverse.trace())
        mean = learning_rate / 2 / n * (trace + shift * d + shift**2 * inner)
        if (shift == most and mean <= 1) or abs(mean - 1) <= _CLOSE:
            break
        slope = learning_rate / 2 / n * (d + 2 * shift * inner + shift**2 * float(np.vdot(inverse, inverse)))
        shift = min(shift + mean * (1 - mean) / slope, most)
        inverse = _inverse(form, shift)
    # |H| |(H - sigma)^-1|, which is at least twice their product's rounding.
    condition = _norm(form) * _norm(inverse)
    return UniformNoise(inverse, shift, _EPS * condition)


def _smallest(form: FloatArray, slowest: FloatArray) -> float:
    """Return an upper bound of the smallest eigenvalue that is close to it: Lanczos' with a shifted inverse."""
    from scipy.linalg import lapack  # type: ignore[import-untyped]

    basis = np.empty((min(_KRYLOV, len(form)), len(form)))
    basis[0] = slowest / np.linalg.norm(slowest)
    smallest = float(basis[0] @ (form @ basis[0]))
    if not smallest > _RESOLVED * len(form) * _EPS * _norm(form):
        raise np.linalg.LinAlgError("the smallest eigenvalue drowns in rounding")
    factor = _factor(form, _SHIFT * smallest)
    for k in range(1, len(basis)):
        vector, _ = lapack.dpotrs(factor, basis[k - 1], lower=0)
        for _ in range(2):
            vector -= (basis[:k] @ vector) @ basis[:k]
        basis[k] = vector / np.linalg.norm(vector)
    return min(smallest, float(np.linalg.eigvalsh(basis @ form @ basis.T)[0]))


def _norm(form: FloatArray) -> float:
    """Return the largest sum of absolute values in a row, which no eigenvalue exceeds."""
    return max(float(np.abs(form[rows]).sum(axis=1).max()) for rows in row_blocks(form))


def _factor(form: FloatArray, shift: float) -> FloatArray:
    """Return Cholesky's factor of form - shift: R with R^T R, in the upper triangle of a Fortran array."""
    from scipy.linalg import lapack

    shifted = np.array(form, order="C", dtype=float)
    shifted[np.diag_indices_from(shifted)] -= shift
    factor, info = lapack.dpotrf(shifted.T, lower=0, clean=0, overwrite_a=1)
    if info != 0:
        raise np.linalg.LinAlgError("not positive definite")
    return np.asarray(factor)


def _inverse(form: FloatArray, shift: float) -> FloatArray:
    """Return (form - shift)^-1, exactly symmetric."""
    from scipy.linalg import lapack

    inverse, info = lapack.dpotri(_factor(form, shift), lower=0, overwrite_c=1)
    if info != 0 or not math.isfinite(float(inverse.diagonal().sum())):
        raise np.linalg.LinAlgError("not invertible")
    inverse = np.ascontiguousarray(inverse.T)  # of which the lower triangle is known
    for rows in row_blocks(inverse):
        corner = np.tril(inverse[rows, rows])
        inverse[rows, rows] = corner + np.tril(corner, -1).T
        inverse[rows, rows.stop :] = inverse[rows.stop :, rows].T
    return inverse
