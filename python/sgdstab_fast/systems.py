"""Systems: what one SGD step does to a small displacement from an interpolating minimum.

With the neural-tangent Gram matrix K = G^T G (N x N, columns of G the gradients of the N model outputs) and loss
curvature 1, a step on example i multiplies the displacement by

    A_i   = I - eta e_i e_i^T K        in coordinates a, where w = G a           ("gram", dimension N)
    A_i^s = I - eta f_i f_i^T          in coordinates s = F^T a, where K = F F^T  ("factor", dimension r = rank K)

(Chemnitz & Engel 2025, equations 2.11 and 2.19). Both are similar, so they have the same exponents. The gram form
costs one dot product a step. The factor form is for a K with a kernel: kernel directions never move, and would hide
the decay of everything else. What counts as a kernel is decided on K scaled to unit diagonal, D^-1 K D^-1 with
D^2 = diag K: that scaling only rescales the coordinates, so a K whose examples differ by orders of magnitude is not
mistaken for a singular one.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._native import Coordinates, FloatArray, core

# 1 - eta K_ii within rounding of 0: the step is singular.
_SINGULAR = 2 * np.finfo(float).eps
_LARGEST_EIGENDECOMPOSITION = 1024
_SMALLEST_DIAGONAL = 1e-290
_LARGEST_STEP = 1e100  # eta K_ii, so that no product of a few steps overflows


class LinearizedSGD:
    """SGD near an interpolating minimum, linearised: x <- A_i x with i drawn uniformly.

    Parameters
    ----------
    gram : array_like, shape (N, N)
        Neural-tangent Gram matrix K_ij = grad f_i . grad f_j, symmetric positive semidefinite, for a loss with
        curvature 1 (for loss curvature c_i pass ``sqrt(c_i c_j) K_ij``). A float64 array in C or Fortran order,
        memory-mapped or not, is used in place: do not change it while the system is in use (checking that it is
        positive semidefinite takes another N x N doubles for a moment). If K is numerically rank
        deficient, the system goes to factor coordinates by itself; see `from_factor`.
    learning_rate : float
        Step size eta > 0.
    batch_size : int, optional
        Examples per step. Only 1 works so far.
    sampling, groups, probabilities, momentum, nesterov
        Not implemented beyond their defaults so far.

    Raises
    ------
    ValueError, TypeError
        If gram is not a real, finite, square, symmetric, positive semidefinite, non-zero matrix (beyond rounding in
        the precision that it comes in), or learning_rate is not positive and finite.
    NotImplementedError
        For the arguments that do not work yet.

    References
    ----------
    D. Chemnitz and M. Engel, "Characterizing Dynamical Stability of Stochastic Gradient Descent in
    Overparameterized Learning", JMLR 26(134), 2025, equations 2.11 and 2.19.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], 0.3)
    >>> system
    LinearizedSGD(n_examples=4, dimension=4, coordinates='gram', learning_rate=0.3, batch_size=1)
    >>> round(system.sum_of_exponents, 12)  # of all Lyapunov exponents, exactly
    -1.380365229466
    """

    def __init__(
        self,
        gram: Any,
        learning_rate: float,
        batch_size: int = 1,
        *,
        sampling: str = "iid",
        groups: Any = None,
        probabilities: Any = None,
        momentum: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        matrix, precision = validation.gram_matrix(gram)
        refuse_what_is_not_implemented(matrix.shape[0], batch_size, sampling, groups, probabilities, momentum, nesterov)
        self._set_up(*_choose_coordinates(matrix, precision), matrix.diagonal().copy(), learning_rate)

    @classmethod
    def from_factor(cls, features: Any, learning_rate: float) -> LinearizedSGD:
        """Build the system of K = F F^T from F, without forming K.

        More accurate than K when K is ill-conditioned, and cheaper when F has fewer columns than rows.

        Parameters
        ----------
        features : array_like, shape (N, r)
            F; row i is the gradient of the model's output on example i, or any rotation of it.
        learning_rate : float
            Step size eta > 0.

        Returns
        -------
        LinearizedSGD
            In factor coordinates, of dimension rank F.

        Raises
        ------
        ValueError, TypeError
            If features is not a real, finite, non-zero matrix, or learning_rate is not positive and finite.

        Examples
        --------
        >>> import sgdstab_fast as sf
        >>> sf.LinearizedSGD.from_factor([[1, 0], [1, 1], [0, 2]], 0.5).dimension
        2
        """
        matrix, precision = validation.matrix(features, "features")
        if matrix.shape[1] > matrix.shape[0]:
            # F = R^T Q^T with Q orthonormal: R^T has the same Gram matrix in N columns.
            matrix = np.ascontiguousarray(np.transpose(np.linalg.qr(matrix.T, mode="r")))
        norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
        if not norms.any():
            raise ValueError("features must not be zero: no direction feels the loss")
        # The row space of F is that of F with rows scaled to unit length, where the rank is decided.
        scaled = matrix[norms > 0] / norms[norms > 0, None]
        _, singular_values, directions = np.linalg.svd(scaled, full_matrices=False)
        rank = int((singular_values > max(matrix.shape) * precision * singular_values[0]).sum())
        if rank < matrix.shape[1]:
            matrix = matrix @ directions[:rank].T
        slowest = _bottom_direction(matrix)
        system = cls.__new__(cls)
        system._set_up(np.ascontiguousarray(matrix), "factor", slowest, norms**2, learning_rate)
        return system

    def _set_up(
        self,
        rows: FloatArray,
        coordinates: Coordinates,
        slowest: FloatArray,
        diagonal: FloatArray,
        learning_rate: float,
    ) -> None:
        self._learning_rate = validation.positive_number(learning_rate, "learning_rate")
        if diagonal.max() < _SMALLEST_DIAGONAL:
            raise ValueError(
                f"gram is too small to compute with: its diagonal reaches {diagonal.max()}; scale it up, and the "
                "learning rate down"
            )
        with np.errstate(over="ignore"):
            step = self._learning_rate * diagonal  # eta K_ii
        if not (step < _LARGEST_STEP).all():
            raise ValueError(
                f"learning_rate {learning_rate!r} is too large: times gram's diagonal, up to {diagonal.max()}, "
                f"it passes {_LARGEST_STEP}"
            )
        self._rows, self._coordinates, self._slowest, self._diagonal = rows, coordinates, slowest, diagonal
        self._log_determinants = log_abs_one_minus(step)
        self._gradients: FloatArray | None = None

    @property
    def rows(self) -> FloatArray:
        """K (N x N) in gram coordinates, F (N x dimension) in factor coordinates."""
        return self._rows

    @property
    def coordinates(self) -> Coordinates:
        """``"gram"`` or ``"factor"``."""
        return self._coordinates

    @property
    def learning_rate(self) -> float:
        """Step size eta."""
        return self._learning_rate

    @property
    def batch_size(self) -> int:
        """Examples per step."""
        return 1

    @property
    def n_examples(self) -> int:
        """Number of examples N."""
        return int(self._rows.shape[0])

    @property
    def dimension(self) -> int:
        """Number of Lyapunov exponents: the rank of K."""
        return int(self._rows.shape[1])

    @property
    def diagonal(self) -> FloatArray:
        """K_ii, shape (N,)."""
        return self._diagonal

    @property
    def log_determinants(self) -> FloatArray:
        """Log abs det A_i = log abs(1 - eta K_ii), shape (N,); -inf where the step is singular."""
        return self._log_determinants

    @property
    def sum_of_exponents(self) -> float:
        """Sum of all Lyapunov exponents, exactly: (1/N) sum_i log abs(1 - eta K_ii), in nats per step."""
        return float(self._log_determinants.mean())

    @property
    def fingerprint(self) -> str:
        """A digest of K's size and diagonal and of the learning rate, by which a result knows its system."""
        digest = hashlib.sha256(self._diagonal.tobytes() + np.float64(self._learning_rate).tobytes())
        return f"{self.coordinates}-{self.n_examples}x{self.dimension}-{digest.hexdigest()[:16]}"

    def with_learning_rate(self, learning_rate: float) -> LinearizedSGD:
        """Return the system of the same K at another learning rate, without looking at K again.

        Parameters
        ----------
        learning_rate : float
            Step size eta > 0.

        Returns
        -------
        LinearizedSGD

        Raises
        ------
        ValueError, TypeError
            If learning_rate is not positive and finite, or too large.

        Examples
        --------
        >>> import sgdstab_fast as sf
        >>> sf.LinearizedSGD([[2, 1], [1, 2]], 0.5).with_learning_rate(0.6).learning_rate
        0.6
        """
        system = LinearizedSGD.__new__(LinearizedSGD)
        system._set_up(self._rows, self._coordinates, self._slowest, self._diagonal, learning_rate)
        return system

    def part(self, examples: NDArray[np.intp]) -> LinearizedSGD:
        """Return the system of some examples alone, each of which it draws with probability 1 / len(examples)."""
        if self._coordinates == "factor":
            return LinearizedSGD.from_factor(self._rows[examples], self._learning_rate)
        gram = np.ascontiguousarray(self._rows[np.ix_(examples, examples)])
        diagonal = gram.diagonal().copy()
        scale = np.sqrt(diagonal)
        # What K itself has been found to be, symmetric and definite, its parts are.
        _, slowest = core.smallest_eigenvalue(matrix=gram / scale / scale[:, None], scale=scale)
        system = LinearizedSGD.__new__(LinearizedSGD)
        system._set_up(gram, "gram", slowest, diagonal, self._learning_rate)
        return system

    def isometric(self) -> LinearizedSGD:
        """Return the same system in factor coordinates, in which lengths are those of parameter space."""
        if self._coordinates == "factor":
            return self
        system = LinearizedSGD.__new__(LinearizedSGD)
        gradients = np.ascontiguousarray(self.gradients())
        system._set_up(gradients, "factor", self._slowest @ gradients, self._diagonal, self._learning_rate)
        return system

    def gradients(self) -> FloatArray:
        """Return F with K = F F^T, shape (N, dimension): row i is the gradient of example i, up to a rotation."""
        if self._coordinates == "factor":
            return self._rows
        if self._gradients is None:
            self._gradients = np.asarray(np.linalg.cholesky(self._rows))
        return self._gradients

    def gram_eigenvalues(self) -> FloatArray:
        """Return the non-zero eigenvalues of K, largest first, shape (dimension,)."""
        if self._coordinates == "factor":
            return np.asarray(np.linalg.svd(self._rows, compute_uv=False) ** 2)
        return np.asarray(np.maximum(np.linalg.eigvalsh(self._rows)[::-1], 0))

    def slow_directions(self, k: int) -> FloatArray:
        """Return directions that the mean step I - (eta/N) K shrinks least, slowest first: (dimension, at most k).

        They are where displacements linger when the learning rate is small, hence good starts. The bottom eigenvector
        of K costs nothing here; more take an eigendecomposition, which is only made up to a dimension of 1024.
        """
        if k == 1 or self.dimension > _LARGEST_EIGENDECOMPOSITION:
            return self._slowest[:, None]
        if self._coordinates == "factor":
            _, singular_values, directions = np.linalg.svd(self._rows, full_matrices=False)
            eigenvalues, vectors = singular_values**2, directions.T
        else:
            eigenvalues, vectors = np.linalg.eigh(self._rows)
        shrinkage = np.abs(1 - self._learning_rate / self.n_examples * eigenvalues)
        return np.asarray(vectors[:, np.argsort(-shrinkage, kind="stable")[:k]])

    def __repr__(self) -> str:
        return (
            f"LinearizedSGD(n_examples={self.n_examples}, dimension={self.dimension}, "
            f"coordinates={self.coordinates!r}, learning_rate={self.learning_rate}, batch_size={self.batch_size})"
        )


def require_system(system: Any) -> None:
    """Refuse what is not a system."""
    if not isinstance(system, LinearizedSGD):
        raise TypeError(f"system must be a LinearizedSGD, not {type(system).__name__}")


def system_of(gram: Any, learning_rate: float, batch_size: Any = 1) -> LinearizedSGD:
    """Return the system of a K, given as an array or as a system of it, at a learning rate and batch size."""
    if not isinstance(gram, LinearizedSGD):
        return LinearizedSGD(gram, learning_rate, batch_size)
    refuse_what_is_not_implemented(gram.n_examples, batch_size)
    return gram.with_learning_rate(learning_rate)


def refuse_what_is_not_implemented(
    n_examples: int,
    batch_size: Any = 1,
    sampling: Any = "iid",
    groups: Any = None,
    probabilities: Any = None,
    momentum: Any = 0.0,
    nesterov: Any = False,
) -> None:
    """Check the arguments of a system that have to be their defaults so far."""
    validation.integer(batch_size, "batch_size", high=n_examples)
    momentum = validation.real_number(momentum, "momentum")
    given = {
        "batch_size": (batch_size, batch_size == 1),
        "sampling": (sampling, sampling == "iid"),
        "groups": (groups, groups is None),
        "probabilities": (probabilities, probabilities is None),
        "momentum": (momentum, momentum == 0),
        "nesterov": (nesterov, nesterov is False),
    }
    for name, (value, is_default) in given.items():
        if not is_default:
            raise NotImplementedError(f"{name}={value!r} is not implemented yet")


def log_abs_one_minus(x: FloatArray) -> FloatArray:
    """Return log abs(1 - x), accurate for small x; -inf where 1 - x is zero to rounding."""
    with np.errstate(divide="ignore"):
        logs = np.where(np.abs(x) < 0.5, np.log1p(-np.minimum(x, 0.5)), np.log(np.abs(1 - x)))
    return np.where(np.abs(1 - x) <= _SINGULAR, -np.inf, logs)


def _bottom_direction(features: FloatArray) -> FloatArray:
    """Return the bottom eigenvector of F^T F."""
    return np.asarray(np.linalg.svd(features, full_matrices=False)[2][-1])


def _choose_coordinates(gram: FloatArray, precision: float) -> tuple[FloatArray, Coordinates, FloatArray]:
    """Return (rows, coordinates, slowest direction); refuse a K that is zero or indefinite.

    K itself if it has full rank, else F (N x r) with K = F F^T.
    """
    n = gram.shape[0]
    scale = np.sqrt(gram.diagonal())
    active = np.flatnonzero(scale)  # examples with a gradient
    if not active.size:
        raise ValueError("gram must not be zero: no direction feels the loss")
    noise = n * precision  # what rounding can do to eigenvalues of a matrix with unit diagonal
    if active.size == n:
        scaled = np.divide(gram, scale)
        scaled /= scale[:, None]
        smallest, slowest = core.smallest_eigenvalue(matrix=scaled, scale=scale)
        if smallest > 10 * noise:
            return gram, "gram", slowest
        del scaled
    elif np.abs(gram[scale == 0]).max() > 0:
        i, j = np.argwhere((scale == 0)[:, None] & (gram != 0))[0]
        raise ValueError(
            f"gram must be positive semidefinite, but gram[{i}, {i}] is 0 and gram[{i}, {j}] is {gram[i, j]}"
        )
    scaled = gram[np.ix_(active, active)] / scale[active] / scale[active, None]
    eigenvalues, vectors = np.linalg.eigh(scaled)
    if eigenvalues[0] < -10 * noise:
        raise ValueError(
            f"gram must be positive semidefinite, but has the eigenvalue {np.linalg.eigvalsh(gram)[0]}; scaled to "
            f"unit diagonal it has {eigenvalues[0]}, beyond rounding ({noise:.1e})"
        )
    # Examples that are nearly copies of each other have eigenvalues up to n, and rounding goes with the largest.
    kept = eigenvalues > max(noise, 4 * precision * eigenvalues[-1])
    if kept.sum() == n:
        return gram, "gram", np.linalg.eigh(gram)[1][:, 0].copy()
    features = np.zeros((n, int(kept.sum())))
    features[active] = scale[active, None] * vectors[:, kept] * np.sqrt(eigenvalues[kept])
    return features, "factor", _bottom_direction(features)
