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
import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.functions import Coordinates, FloatArray, core
from sgdstab_fast.systems import sampling as laws
from sgdstab_fast.systems.batch_steps import SampledSteps
from sgdstab_fast.systems.components import components
from sgdstab_fast.systems.recurrence import Recurrence, with_momentum
from sgdstab_fast.systems.sampling import Law
from sgdstab_fast.systems.system import (
    LARGEST_ENUMERATION,
    Call,
    ExactExponents,
    GrowthCall,
    Outcomes,
    QuadraticForms,
    System,
)

# 1 - eta K_ii within rounding of 0: the step is singular.
_SINGULAR = 2 * np.finfo(float).eps
_LARGEST_EIGENDECOMPOSITION = 1024
_SMALLEST_DIAGONAL = 1e-290
# Fewer examples than this, some of them with abs(1 - eta K_ii) below that: a few steps may shrink a whole vector as
# much.
_FEW_EXAMPLES, _NEARLY_SINGULAR = 32, 1e-2
_LARGEST_STEP = 1e100  # eta K_ii, so that no product of a few steps overflows


class LinearizedSGD(System):
    """SGD near an interpolating minimum, linearised: x <- A_S x with a random batch S of examples.

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
        Examples B per step, 1 to N; their gradients are averaged.
    sampling : {"iid", "with_replacement", "epoch", "cyclic"}, optional
        Batches are uniform subsets, independent of each other (``"iid"``); B independent examples, some of them perhaps
        twice (``"with_replacement"``, of any B); all examples in a random order, B at a time, then in another order,
        with the last batch of an epoch averaged over its own size (``"epoch"``: random reshuffling); or the same
        order for ever, that of the rows (``"cyclic"``).
    groups : array_like, shape (N rows,), optional
        For models with several outputs: labels that tell which rows of K belong to the same training example. They are
        drawn together, and N counts examples. By default every row is an example of its own.
    probabilities : array_like, shape (N,), optional
        Importance sampling: of every example in a draw, in the order in which groups first appear, for ``batch_size=1``
        or ``sampling="with_replacement"``. Positive, of sum 1.
    step_scaling : {"unbiased", "equal"}, optional
        With probabilities p_i: whether the step on example i has the size eta / (N p_i), which makes the mean step that
        of uniform draws, or eta.
    scale : float, optional
        By which the loss of an example differs from half the sum of its squared errors: its curvature. 2 for squared
        errors without the half; 2/m where the loss averages them over m outputs, as ``torch.nn.MSELoss`` does.
    momentum : float, optional
        b in [0, 1), of heavy-ball momentum, x_{t+1} = x_t - eta grad + b (x_t - x_{t-1}): ``torch.optim.SGD`` without
        dampening. The state has 2 r dimensions, r the rank of K.
    nesterov : bool, optional
        Whether gradients are taken at x_t + b (x_t - x_{t-1}) instead.

    Raises
    ------
    ValueError, TypeError
        If gram is not a real, finite, square, symmetric, positive semidefinite, non-zero matrix (beyond rounding in
        the precision that it comes in), learning_rate is not positive and finite, or another argument is out of range
        or does not go with the others.

    References
    ----------
    D. Chemnitz and M. Engel, "Characterizing Dynamical Stability of Stochastic Gradient Descent in
    Overparameterized Learning", JMLR 26(134), 2025, equations 2.11 and 2.19 and section 2.7; R. Mulayoff and
    T. Michaeli, "Exact Mean Square Linear Stability Analysis for SGD", arXiv 2306.07850; `recurrence` has momentum.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], 0.3)
    >>> system
    LinearizedSGD(n_examples=4, dimension=4, coordinates='gram', learning_rate=0.3, batch_size=1)
    >>> round(system.sum_of_exponents, 12)  # of all Lyapunov exponents, exactly
    -1.380365229466
    >>> sf.LinearizedSGD([[2, 1], [1, 2]], 0.5, 2, sampling="with_replacement", momentum=0.9).dimension
    4
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
        step_scaling: str = "unbiased",
        scale: float = 1.0,
        momentum: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        matrix, precision = validation.gram_matrix(gram)
        law = laws.validated(len(matrix), batch_size, sampling, groups, probabilities)
        recurrence = recurrence_of(momentum, nesterov)
        weights = _row_weights(law, len(matrix), step_scaling, scale)
        if weights is not None:
            # A_i = I - eta c_i e_i e_i^T K is similar to I - eta e_i e_i^T K', K' = c^(1/2) K c^(1/2).
            matrix = np.sqrt(weights) * matrix * np.sqrt(weights)[:, None]
        rows, coordinates, slowest = _choose_coordinates(matrix, precision)
        self._set_up(rows, coordinates, slowest, matrix.diagonal().copy(), learning_rate, law, recurrence)

    @classmethod
    def from_factor(
        cls,
        features: Any,
        learning_rate: float,
        batch_size: int = 1,
        *,
        sampling: str = "iid",
        groups: Any = None,
        probabilities: Any = None,
        step_scaling: str = "unbiased",
        scale: float = 1.0,
        momentum: float = 0.0,
        nesterov: bool = False,
    ) -> LinearizedSGD:
        """Build the system of K = F F^T from F, without forming K.

        More accurate than K when K is ill-conditioned, and cheaper when F has fewer columns than rows.

        Parameters
        ----------
        features : array_like, shape (N, r)
            F; row i is the gradient of the model's output on example i, or any rotation of it.
        learning_rate : float
            Step size eta > 0.
        batch_size, sampling, groups, probabilities, step_scaling, scale, momentum, nesterov
            As for `LinearizedSGD`.

        Returns
        -------
        LinearizedSGD
            In factor coordinates, of dimension rank F, or twice that with momentum.

        Raises
        ------
        ValueError, TypeError
            If features is not a real, finite, non-zero matrix, or another argument is out of range.

        Examples
        --------
        >>> import sgdstab_fast as sf
        >>> sf.LinearizedSGD.from_factor([[1, 0], [1, 1], [0, 2]], 0.5).dimension
        2
        """
        matrix, precision = validation.matrix(features, "features")
        law = laws.validated(len(matrix), batch_size, sampling, groups, probabilities)
        recurrence = recurrence_of(momentum, nesterov)
        weights = _row_weights(law, len(matrix), step_scaling, scale)
        if weights is not None:
            matrix = np.sqrt(weights)[:, None] * matrix
        return cls._from_factor(matrix, precision, learning_rate, law, recurrence)

    @classmethod
    def _from_factor(
        cls, matrix: FloatArray, precision: float, learning_rate: float, law: Law, recurrence: Recurrence
    ) -> LinearizedSGD:
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
        system._set_up(np.ascontiguousarray(matrix), "factor", slowest, norms**2, learning_rate, law, recurrence)
        return system

    def _set_up(
        self,
        rows: FloatArray,
        coordinates: Coordinates,
        slowest: FloatArray,
        diagonal: FloatArray,
        learning_rate: float,
        law: Law,
        recurrence: Recurrence,
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
        self._steps = SampledSteps(rows, coordinates, self._learning_rate, law, recurrence)
        self._log_determinants = log_abs_one_minus(step) if self.is_plain else np.empty(0)
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
        return self.law.batch_size

    @property
    def law(self) -> Law:
        """How batches are drawn."""
        return self._steps.law

    @property
    def recurrence(self) -> Recurrence:
        """What the optimiser does besides taking gradient steps."""
        return self._steps.recurrence

    @property
    def steps(self) -> SampledSteps:
        """What a step does, for the core."""
        return self._steps

    @property
    def is_plain(self) -> bool:
        """Whether a step is on one example, drawn uniformly and independently, without memory."""
        return self.law.is_single and self.recurrence.is_plain

    @property
    def n_examples(self) -> int:
        """Number of examples N, of which several rows of K may belong to each."""
        return self.law.n_units

    @property
    def dimension(self) -> int:
        """Number of Lyapunov exponents: the rank of K, or twice that with momentum."""
        return self._steps.dimension

    @property
    def rank(self) -> int:
        """The rank of K."""
        return int(self._rows.shape[1])

    @property
    def steps_per_epoch(self) -> float:
        """N / B, rounded up where epochs are: their last batch may be smaller."""
        return self.n_examples / self.batch_size if self.law.is_independent else self.law.steps_per_epoch

    @property
    def diagonal(self) -> FloatArray:
        """K_ii, one for each row."""
        return self._diagonal

    @property
    def log_determinants(self) -> FloatArray:
        """Log abs det A_i = log abs(1 - eta K_ii), shape (N,); -inf where the step is singular.

        For steps on single examples without memory.
        """
        require_plain(self, "log_determinants")
        return self._log_determinants

    @property
    def step_sizes(self) -> FloatArray:
        """Logarithms of what steps do to lengths, or a bound."""
        return self._log_determinants if self.is_plain else self._steps.step_sizes

    @property
    def sum_of_exponents(self) -> float:
        """Sum of all Lyapunov exponents, exactly, in nats per step: the mean of log abs det A_S over batches S.

        (1/N) sum_i log abs(1 - eta K_ii) for batches of one. NaN where there are too many batches to go through.
        """
        return float(self._log_determinants.mean()) if self.is_plain else self._steps.sum_of_exponents()

    @property
    def rows_per_step(self) -> float:
        """Rows of a batch, on average."""
        return self._steps.rows_per_step

    @property
    def random_share(self) -> float:
        """How much of starts near slow directions is random: little, where momentum would carry velocities on."""
        return self._steps.random_share

    @property
    def n_draws(self) -> int:
        """N."""
        return self.n_examples

    @property
    def rounding(self) -> float:
        """What rounding of K v may do to the growth of a step."""
        return float(np.finfo(float).eps) * min(1.0, self._learning_rate * float(self._diagonal.mean()))

    @property
    def grain(self) -> int:
        """Steps after which draws begin anew."""
        return 1 if self.law.is_independent else self.law.steps_per_epoch

    def matrices(self) -> Outcomes:
        """Return all matrices that a step may be, where there are few.

        Returns
        -------
        Outcomes
            ``matrices`` (n, d, d) with their ``probabilities`` (n,), and ``n_steps``, which is 1, or the steps of an
            epoch where the matrices are those of whole epochs. In the coordinates of the system.

        Raises
        ------
        ValueError
            If there are too many.

        Examples
        --------
        >>> import sgdstab_fast as sf
        >>> sf.LinearizedSGD([[2, 0, 1], [0, 3, 1], [1, 1, 2]], 0.5, 2).matrices().matrices.shape
        (3, 3, 3)
        """
        found = self.outcomes()
        if found is None:
            raise ValueError(f"there are too many matrices to list: {self.law.n_batches:.3g} of {self.dimension} rows")
        return found

    def outcomes(self, most: int = LARGEST_ENUMERATION) -> Outcomes | None:
        """Return all matrices, if they have at most so many entries together."""
        return self._steps.outcomes(most)

    def vectors_call(self) -> Call:
        """Return what advances vectors."""
        if not self.is_plain:
            return self._steps.vectors_call()
        arguments = {
            "rows": self._rows,
            "coordinates": self._coordinates,
            "learning_rate": self._learning_rate,
            "careful": is_nearly_singular(self._log_determinants),
        }
        return Call("advance_vectors", arguments, 1e-8 + 1.3e-10 * self.rank)

    def frames_call(self) -> Call:
        """Return what advances frames."""
        return Call("advance_frames", {**self._steps.arguments, "log_determinants": self._log_determinants}, 0.0)

    def growth_call(self, metrics: list[FloatArray]) -> GrowthCall:
        """Return what evaluates growth in metrics; of plain systems none, which have more to say (`metrics`)."""
        if not self.is_plain:
            return self._steps.growth_call(metrics)
        none = np.empty((0, self.rank, self.rank))
        return GrowthCall({"metrics": none, "diagonals": np.empty((0, self.n_examples))}, 0, 0.0)

    def metrics(self, tolerance: float) -> tuple[list[FloatArray], FloatArray | None]:
        """Return metrics for anchored growth, and a covariance to start from."""
        return self._steps.metrics(tolerance)

    def second_moments(self, tolerance: float) -> QuadraticForms | None:
        """Return Lambda(2) and its forms, of a K that does not fall into blocks."""
        return self._steps.second_moments(tolerance)

    def exact_exponents(self) -> ExactExponents | None:
        """Return the exponents where every step, or every epoch, is the same."""
        return None if self.is_plain else self._steps.exact_exponents()

    def parts(self) -> list[System]:
        """Return the systems of the blocks of K, with steps of the whole: a step on none of a block's rows is idle."""
        found = components(self)
        if len(found) == 1 and found[0].size == len(self._diagonal):
            return [self]
        return [self.with_rows(rows) for rows in found]

    @property
    def fingerprint(self) -> str:
        """A digest of K's size and diagonal and of the learning rate, by which a result knows its system."""
        digest = hashlib.sha256(self._diagonal.tobytes() + np.float64(self._learning_rate).tobytes())
        if not self.is_plain:
            digest.update(self._steps.digest())
        return f"{self.coordinates}-{len(self._rows)}x{self.rank}-{digest.hexdigest()[:16]}"

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
        return self._changed(learning_rate, self.law, self.recurrence)

    def with_recurrence(self, recurrence: Recurrence) -> LinearizedSGD:
        """Return the system of the same K, learning rate and batches with another optimiser.

        Parameters
        ----------
        recurrence : Recurrence
            What the optimiser does besides taking gradient steps.

        Returns
        -------
        LinearizedSGD

        Examples
        --------
        >>> import numpy as np
        >>> import sgdstab_fast as sf
        >>> decay = sf.Recurrence(free=np.array([[0.99]]), readout=np.array([1.0]))  # weight decay
        >>> system = sf.LinearizedSGD([[2, 1], [1, 2]], 0.5).with_recurrence(decay)
        >>> round(system.sum_of_exponents, 6)  # 2 log 0.99 + the mean of log abs(1 - 0.5 K_ii / 0.99)
        -4.615221
        """
        if not isinstance(recurrence, Recurrence):
            raise TypeError(f"recurrence must be a Recurrence, not {type(recurrence).__name__}")
        return self._changed(self._learning_rate, self.law, recurrence)

    def with_batches(self, batch_size: int | None = None, *, sampling: str | None = None) -> LinearizedSGD:
        """Return the system of the same K, learning rate, groups and optimiser with other batches.

        Parameters
        ----------
        batch_size, sampling
            As for `LinearizedSGD`; by default those of the system.

        Returns
        -------
        LinearizedSGD

        Raises
        ------
        ValueError, TypeError
            As `LinearizedSGD` does; if the system has probabilities, whose steps are scaled to go with them.

        Examples
        --------
        >>> import sgdstab_fast as sf
        >>> sf.LinearizedSGD([[2, 1], [1, 2]], 0.5).with_batches(2).batch_size
        2
        """
        if self.law.probabilities is not None:
            raise ValueError("a system with probabilities cannot change its batches: make another one")
        size = self.batch_size if batch_size is None else batch_size
        checked = laws.validated(self.n_examples, size, self.law.sampling if sampling is None else sampling)
        law = replace(self.law, batch_size=checked.batch_size, sampling=checked.sampling)
        return self._changed(self._learning_rate, law, self.recurrence)

    def _changed(self, learning_rate: float, law: Law, recurrence: Recurrence) -> LinearizedSGD:
        system = LinearizedSGD.__new__(LinearizedSGD)
        system._set_up(self._rows, self._coordinates, self._slowest, self._diagonal, learning_rate, law, recurrence)
        return system

    def part(self, examples: NDArray[np.intp]) -> LinearizedSGD:
        """Return the plain system of some examples alone, each of which it draws with probability 1 / len(examples)."""
        require_plain(self, "part")
        return self._with_rows(examples, Law(len(examples)))

    def with_rows(self, rows: NDArray[np.intp]) -> LinearizedSGD:
        """Return the system where there are only some of the rows, drawn as before."""
        return self._with_rows(rows, self.law.restricted(rows, len(self._rows)))

    def _with_rows(self, rows: NDArray[np.intp], law: Law) -> LinearizedSGD:
        if self._coordinates == "factor":
            precision = float(np.finfo(float).eps)
            return LinearizedSGD._from_factor(self._rows[rows], precision, self._learning_rate, law, self.recurrence)
        gram = np.ascontiguousarray(self._rows[np.ix_(rows, rows)])
        diagonal = gram.diagonal().copy()
        scale = np.sqrt(diagonal)
        # What K itself has been found to be, symmetric and definite, its parts are.
        _, slowest = core.smallest_eigenvalue(matrix=gram / scale / scale[:, None], scale=scale)
        system = LinearizedSGD.__new__(LinearizedSGD)
        system._set_up(gram, "gram", slowest, diagonal, self._learning_rate, law, self.recurrence)
        return system

    def averaged(self) -> LinearizedSGD:
        """Return the system whose full step is the mean of the steps: with probabilities p_i, that of N p_i K_ij."""
        if self.law.probabilities is None:
            return self
        weights = np.sqrt(self.n_examples * self.law.probabilities[self.law.units_of_rows(len(self._rows))])
        rows = weights[:, None] * self._rows
        rows = rows * weights if self._coordinates == "gram" else rows
        system, law = LinearizedSGD.__new__(LinearizedSGD), replace(self.law, probabilities=None)
        system._set_up(
            rows,
            self._coordinates,
            self._slowest,
            weights**2 * self._diagonal,
            self._learning_rate,
            law,
            self.recurrence,
        )
        return system

    def isometric(self) -> LinearizedSGD:
        """Return the same system in factor coordinates, in which lengths are those of parameter space."""
        if self._coordinates == "factor":
            return self
        system = LinearizedSGD.__new__(LinearizedSGD)
        gradients = np.ascontiguousarray(self.gradients())
        slowest = self._slowest @ gradients
        system._set_up(gradients, "factor", slowest, self._diagonal, self._learning_rate, self.law, self.recurrence)
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
        if not self.is_plain:
            return self._steps.slow_directions(self._slow_displacements(min(k, self.rank)))
        return self._slow_displacements(k)

    def _slow_displacements(self, k: int) -> FloatArray:
        if k == 1 or self.rank > _LARGEST_EIGENDECOMPOSITION:
            return (
                self._slowest[:, None] / np.linalg.norm(self._slowest) if not self.is_plain else self._slowest[:, None]
            )
        if self._coordinates == "factor":
            _, singular_values, directions = np.linalg.svd(self._rows, full_matrices=False)
            eigenvalues, vectors = singular_values**2, directions.T
        else:
            eigenvalues, vectors = np.linalg.eigh(self._rows)
        shrinkage = np.abs(1 - self._learning_rate / self.n_examples * eigenvalues)
        return np.asarray(vectors[:, np.argsort(-shrinkage, kind="stable")[:k]])

    def __repr__(self) -> str:
        law, recurrence = self.law, self.recurrence
        others = f", sampling={law.sampling!r}" if law.sampling != "iid" else ""
        others += f", n_rows={len(self._rows)}" if law.n_units != len(self._rows) else ""
        others += ", probabilities=..." if law.probabilities is not None else ""
        if recurrence.levels == 2 and recurrence.free[1, 0] == 1:
            others += f", momentum={-recurrence.free[0, 1]:g}"
            others += ", nesterov=True" if recurrence.readout[1] != 0 else ""
        elif not recurrence.is_plain:
            others += f", recurrence of {recurrence.levels} levels"
        return (
            f"LinearizedSGD(n_examples={self.n_examples}, dimension={self.dimension}, "
            f"coordinates={self.coordinates!r}, learning_rate={self.learning_rate}, batch_size={self.batch_size}"
            f"{others})"
        )


def require_system(system: Any) -> None:
    """Refuse what is not a system."""
    if not isinstance(system, System):
        raise TypeError(f"system must be a LinearizedSGD or a MatrixEnsemble, not {type(system).__name__}")


def require_plain(system: Any, what: str) -> None:
    """Refuse systems other than SGD on single examples, for what is about those."""
    require_system(system)
    if not isinstance(system, LinearizedSGD) or not system.is_plain:
        raise ValueError(
            f"{what} is for SGD on single examples: batch_size=1, iid, without groups, probabilities and momentum; "
            f"not for {system!r}"
        )


def is_nearly_singular(log_determinants: FloatArray) -> bool:
    """Say whether a few steps may shrink a whole vector by many orders, given log abs(1 - eta K_ii)."""
    return log_determinants.size < _FEW_EXAMPLES and float(log_determinants.min()) < math.log(_NEARLY_SINGULAR)


def recurrence_of(momentum: Any, nesterov: Any) -> Recurrence:
    """Return the recurrence of heavy-ball or Nesterov momentum, checked."""
    value = validation.nonnegative_number(momentum, "momentum")
    if value >= 1:
        raise ValueError(f"momentum must be less than 1, not {momentum!r}")
    if not isinstance(nesterov, (bool, np.bool_)):
        raise TypeError(f"nesterov must be True or False, not {nesterov!r}")
    return with_momentum(value, bool(nesterov))


def _row_weights(law: Law, n_rows: int, step_scaling: Any, scale: Any) -> FloatArray | None:
    """Return the factors of the steps on rows, shape (n_rows,); None if all are 1."""
    scaling = validation.choice(step_scaling, "step_scaling", ("unbiased", "equal"))
    factor = validation.positive_number(scale, "scale")
    if law.probabilities is None or scaling == "equal":
        return None if factor == 1 else np.full(n_rows, factor)
    weights = factor / (law.n_units * law.probabilities)
    return np.asarray(weights[law.units_of_rows(n_rows)])


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
