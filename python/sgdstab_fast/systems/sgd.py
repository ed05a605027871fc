"""Systems: what one SGD step does to a small displacement from an interpolating minimum.

With the neural-tangent Gram matrix K = G^T G (N x N, columns of G the gradients of the N model outputs) and loss
curvature 1, a step on example i multiplies the displacement by

    A_i   = I - eta e_i e_i^T K        in coordinates a, where w = G a           ("gram", dimension N)
    A_i^s = I - eta f_i f_i^T          in coordinates s = F^T a, where K = F F^T  ("factor", dimension r = rank K)

(Chemnitz & Engel 2025, equations 2.11 and 2.19). Both are similar, so they have the same exponents;
`systems.coordinates` chooses between them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.given import given
from sgdstab_fast.results.storage import store_as
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.systems.batch_steps import BatchSteps
from sgdstab_fast.systems.coordinates import rows_of_gram
from sgdstab_fast.systems.recurrence import Recurrence, recurrence_of
from sgdstab_fast.systems.rows import Rows, rows_of_factor
from sgdstab_fast.systems.sampling import Law, row_weights, validated, weighted
from sgdstab_fast.systems.single_steps import SingleSteps
from sgdstab_fast.systems.system import FullBatches, Outcomes, Part, System, require_system


class LinearizedSGD(BatchSteps):
    """SGD near an interpolating minimum, linearised: x <- A_S x with a random batch S of examples.

    Parameters
    ----------
    gram : array_like, shape (N, N), or gram.Kernel
        Neural-tangent Gram matrix K_ij = grad f_i . grad f_j, symmetric positive semidefinite, for a loss with
        curvature 1 (for loss curvature c_i pass ``sqrt(c_i c_j) K_ij``). A kernel of `gram.from_torch` and its like
        brings its groups and the curvature of its loss; arrays of shape (N, N, m, m) or (N, m, N, m), of m outputs,
        are taken too. Values of float32, of whatever type, are known to that precision only, and what is below it is
        taken for the kernel of K, with a warning. K is copied, whatever its size, unless it is of float32 or float64,
        in C or Fortran order, and nothing can write it: memory-mapped for reading, or ``gram.flags.writeable = False``
        (checking that it is positive semidefinite takes another N x N doubles for a moment, of float32 half a K at
        most, and of its file some rows at a time). If K is numerically rank deficient, the
        system goes to factor coordinates by itself; see `from_factor`.
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
        Whether gradients are taken at x_t + b (x_t - x_{t-1}) instead; for momentum above 0.
    slow_cutoff : float, optional
        Treat eigenvectors of K with eigenvalues below slow_cutoff times the largest as its kernel, in which nothing
        moves: the system is then that of the fast directions, of lower rank. A lambda > 0 hardly notices, and is found
        sooner; one < 0 is another. By default all directions are kept.

    Raises
    ------
    ValueError, TypeError
        If gram is not a real, finite, square, symmetric, positive semidefinite, non-zero matrix (beyond rounding in
        the precision that it comes in), learning_rate is not positive and finite, or another argument is out of range
        or does not go with the others.
    MemoryError
        If what it takes is more than there is.

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

    is_plain = False
    """Whether a step is on one example, drawn uniformly and independently, without memory."""

    def __new__(
        cls,
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
        slow_cutoff: float | None = None,
    ) -> LinearizedSGD:
        """Return the system, as one of single examples where steps are on those alone: it knows more."""
        matrix, precision, groups = given(gram, groups)
        law = validated(len(matrix), batch_size, sampling, groups, probabilities)
        recurrence = recurrence_of(momentum, nesterov)
        weights = row_weights(law, len(matrix), step_scaling, scale)
        if weights is not None:
            # A_i = I - eta c_i e_i e_i^T K is similar to I - eta e_i e_i^T K', K' = c^(1/2) K c^(1/2).
            matrix = weighted(matrix, weights, np.sqrt(weights))
        rows = rows_of_gram(matrix, precision)
        n_active = int(np.count_nonzero(rows.diagonal))  # what has no gradient is not below any precision
        if precision > validation.DOUBLE and rows.rank < n_active:
            warn(
                f"{n_active - rows.rank} of {len(rows)} directions are below what the precision of gram, "
                f"{precision:.1g}, resolves, and are taken for its kernel: exponents of slow directions mean nothing; "
                "compute gram in float64"
            )
        return cls._of(_fast(rows, slow_cutoff), learning_rate, law, recurrence)

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
        slow_cutoff: float | None = None,
    ) -> LinearizedSGD:
        """Build the system of K = F F^T from F, without forming K.

        More accurate than K when K is ill-conditioned, and cheaper when F has fewer columns than rows.

        Parameters
        ----------
        features : array_like, shape (N, r)
            F; row i is the gradient of the model's output on example i, or any rotation of it. Copied, as gram is.
        learning_rate : float
            Step size eta > 0.
        batch_size, sampling, groups, probabilities, step_scaling, scale, momentum, nesterov, slow_cutoff
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
        law = validated(len(matrix), batch_size, sampling, groups, probabilities)
        recurrence = recurrence_of(momentum, nesterov)
        weights = row_weights(law, len(matrix), step_scaling, scale)
        if weights is not None:
            matrix = weighted(matrix, weights)
        return cls._of(_fast(rows_of_factor(matrix, precision), slow_cutoff), learning_rate, law, recurrence)

    @classmethod
    def _of(cls, rows: Rows, learning_rate: float, law: Law, recurrence: Recurrence) -> LinearizedSGD:
        rate = rows.checked_rate(learning_rate)
        kind = SingleExampleSGD if law.is_single and recurrence.is_plain else LinearizedSGD
        system: LinearizedSGD = object.__new__(kind)
        system._set_up(rows, rate, law, recurrence)
        return system

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave what has been computed behind."""
        return LinearizedSGD._of, tuple(self.fields().values())

    def fields(self) -> dict[str, Any]:
        """Return what it is made of, without what has been computed."""
        names = {"rows": "_rows", "learning_rate": "learning_rate", "law": "law", "recurrence": "recurrence"}
        return {name: getattr(self, each) for name, each in names.items()}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of K, the law, the optimiser and the learning rate, by which a result knows its system."""
        law = self.law
        parts = [self.recurrence.free, self.recurrence.readout, law.offsets, law.members, law.unit_probabilities]
        digest = hashlib.sha256(self._rows.digest + np.float64(self.learning_rate).tobytes())
        digest.update(f"{law.sampling}-{law.batch_size}-{law.n_units}".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
        return f"{self.coordinates}-{len(self._rows)}x{self.rank}-{digest.hexdigest()[:16]}"

    def gradients(self) -> FloatArray:
        """Return F with K = F F^T, shape (N, dimension): row i is the gradient of example i, up to a rotation."""
        return self._rows.gradients

    def gram_eigenvalues(self) -> FloatArray:
        """Return the non-zero eigenvalues of K, largest first, shape (dimension,)."""
        return self._rows.eigenvalues[::-1].copy()

    @property
    def log_determinants(self) -> FloatArray:
        """Log abs det A_i = log abs(1 - eta K_ii), shape (N,); -inf where the step is singular.

        For steps on single examples without memory.
        """
        return require_plain(self, "log_determinants").log_determinants

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
        return self._changed(learning_rate=learning_rate)

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
        return self._changed(recurrence=recurrence)

    def without_slow_directions(self, slow_cutoff: float) -> LinearizedSGD:
        """Return the system of the fast directions alone: what `slow_cutoff` of `LinearizedSGD` makes of it.

        Parameters
        ----------
        slow_cutoff : float
            Relative to the largest eigenvalue of K, from 0 to 1.

        Returns
        -------
        LinearizedSGD
            The system itself if it has no slower directions.

        Raises
        ------
        ValueError, TypeError
            If slow_cutoff is out of range.

        Examples
        --------
        >>> import sgdstab_fast as sf
        >>> sf.LinearizedSGD([[2, 1], [1, 2]], 0.5).without_slow_directions(0.5).dimension
        1
        """
        return self._changed(_fast(self._rows, slow_cutoff))

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
        checked = validated(self.n_examples, size, self.law.sampling if sampling is None else sampling)
        law = replace(self.law, batch_size=checked.batch_size, sampling=checked.sampling)
        return self._changed(law=law)

    def _changed(
        self,
        rows: Rows | None = None,
        *,
        learning_rate: float | None = None,
        law: Law | None = None,
        recurrence: Recurrence | None = None,
    ) -> LinearizedSGD:
        return LinearizedSGD._of(
            self._rows if rows is None else rows,
            self.learning_rate if learning_rate is None else learning_rate,
            self.law if law is None else law,
            self.recurrence if recurrence is None else recurrence,
        )

    def part(self, examples: NDArray[np.intp]) -> LinearizedSGD:
        """Return the plain system of some examples alone, each of which it draws with probability 1 / len(examples)."""
        require_plain(self, "part")
        rows = validation.indices(examples, "examples", self.n_examples)
        return self._changed(self._rows.restricted(rows), law=Law(rows.size))

    def with_slow_eigenvalues_raised(self, cutoff: float) -> LinearizedSGD:
        """Return the system of K with eigenvalues below cutoff times the largest raised to that: none decays slower."""
        cutoff = validation.nonnegative_number(cutoff, "cutoff")
        return self._changed(self._rows.with_slow_eigenvalues_raised(cutoff))

    def averaged(self) -> LinearizedSGD:
        """Return the system whose full step is the mean of the steps: with probabilities p_i, that of N p_i K_ij."""
        if self.law.probabilities is None:
            return self
        roots = np.sqrt(self.n_examples * self.law.probabilities[self._units])
        return self._changed(self._rows.scaled(roots), law=replace(self.law, probabilities=None))

    def in_own_units(self) -> LinearizedSGD:
        """Return the system of K / 2^n and eta 2^n in which K is about 1; itself unless K is far from that."""
        rows, n = self._rows.in_own_units
        if n == 0:
            return self
        other = self._changed(rows, learning_rate=math.ldexp(self.learning_rate, n))
        vars(other).update(fingerprint=self.fingerprint, setting=self.setting)  # chains go on as those of this
        return other

    def isometric(self) -> LinearizedSGD:
        """Return the same system in factor coordinates, in which lengths are those of parameter space."""
        rows = self._rows.isometric_rows
        return self if rows is self._rows else self._changed(rows)

    def parts(self) -> Sequence[Part[LinearizedSGD]]:
        """Return the blocks of K.

        Of single examples each is a system of its own; otherwise all have steps of the whole, of which those on none
        of a block's rows are idle.
        """
        rows = self._rows
        if rows.is_connected:
            return [Part(0, self, 1.0, rows.components[0])]
        return [
            Part(index, self._changed(block, law=law), share, members)
            for index, (members, block, (law, share)) in enumerate(
                zip(rows.components, rows.blocks, self._laws_of_parts(), strict=True)
            )
        ]

    def full_batches(self) -> FullBatches:
        """Return what full batches do, of examples weighted by their probabilities."""
        return FullBatches(self.averaged().rows_of_k, self.n_examples, self.learning_rate, self.recurrence)

    def __repr__(self) -> str:
        law, recurrence = self.law, self.recurrence
        others = f", sampling={law.sampling!r}" if law.sampling != "iid" else ""
        others += f", n_rows={len(self._rows)}" if law.n_units != len(self._rows) else ""
        others += ", probabilities=..." if law.probabilities is not None else ""
        others += f", slow_cutoff={self.slow_cutoff:g}" if self.slow_cutoff > 0 else ""
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


def _fast(rows: Rows, slow_cutoff: float | None) -> Rows:
    """Return the rows without slow directions."""
    if slow_cutoff is None:
        return rows
    cutoff = validation.nonnegative_number(slow_cutoff, "slow_cutoff")
    if cutoff >= 1:
        raise ValueError(f"slow_cutoff must be below 1, relative to the largest eigenvalue, not {slow_cutoff!r}")
    return rows.without_slow(cutoff) if cutoff > rows.slow_cutoff else rows


class SingleExampleSGD(SingleSteps, LinearizedSGD):
    """SGD on single examples, drawn uniformly and independently, without memory; what `LinearizedSGD` makes of it."""

    is_plain = True


def plain_of(system: System) -> SingleExampleSGD | None:
    """Return the system if it is SGD on single examples, of which more is known; else None."""
    return system if isinstance(system, SingleExampleSGD) else None


def require_plain(system: Any, what: str) -> SingleExampleSGD:
    """Refuse systems other than SGD on single examples, for what is about those; return the system."""
    require_system(system)
    plain = plain_of(system)
    if plain is None:
        raise ValueError(
            f"{what} is for SGD on single examples: batch_size=1, iid, without groups, probabilities and momentum; "
            f"not for {system!r}"
        )
    return plain


store_as("LinearizedSGD", LinearizedSGD.fields, LinearizedSGD._of, LinearizedSGD, SingleExampleSGD)
