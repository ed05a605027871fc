"""How second moments of displacements grow from step to step: the dominant eigenvalue of a map on N x N matrices.

Second moments S = E[s s^T] advance by Q(S) = E[A S A^T]. In isometric coordinates and in the eigenbasis of
K = U diag(w) U^T that is a diagonal map plus one of rank N: with u_a = eta w_a / N, for steps on single examples,

    Q(S)_ab = q_ab S_ab + (eta^2 / N) sum_i x_i (k_i k_i^T)_ab,    x_i = k_i^T S k_i,   (k_i)_a = U_ia sqrt(w_a),
    q_ab    = 1 - u_a - u_b

(Mulayoff & Michaeli, arXiv 2306.07850, equations 12 and 20; `operators.second_moments` has batches). Hence rho(Q) is
the largest z above all q_ab at which the entrywise non-negative, symmetric N x N matrix

    R(z)_ij = (eta^2 / N) sum_ab U_ia U_ib U_ja U_jb w_a w_b / (z - q_ab)

has the Perron eigenvalue 1. Its Perron vector is x, and S_ab = sqrt(w_a w_b) Y_ab / (z - q_ab) with Y = U^T diag(x) U.

Near the pole z = max q, where small learning rates lead, z - q_ab is never formed by subtraction: z = max q + delta,
and with u the smallest u_a, where q is largest,

    z - q_ab = delta + (u_a - u) + (u_b - u).

R decreases in delta, so that the delta(x) at which x^T R x = x^T x lies below the solution for every x, and its error
is quadratic in that of x. An outer iteration computes delta(x), an inner one improves x by a few Lanczos steps.

Y and the resolvent are symmetric: of both only `operators.strips` are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.operators.krylov import improved_perron_vector, overlooked_vector
from sgdstab_fast.operators.strips import strips
from sgdstab_fast.results.progress import tell_of

_EPS = float(np.finfo(float).eps)
_MOST_NEWTON_STEPS, _SMALL_STEP = 60, 1e-8
_MOST_TRIES = 100
_SMALLEST = 1e-290  # so that its reciprocal stays finite
_SLOWEST = 1e-140  # u_a
_NEGLIGIBLE = 1e-100  # noise, relative to the largest step
_APART = 1e-6  # parts of x, one beside another
_ADMIXTURE, _LITTLE = 0.1, 1e-6  # of all examples to the start, one from scratch or a guess


@dataclass(frozen=True, eq=False)
class MeanSquareSolution:
    """The dominant eigenvalue rho of Q, and how well it is known."""

    growth: float
    """rho - 1."""
    exponent: float
    """log rho."""
    error: float
    """Estimated error of the exponent."""
    residual: float
    """|R x - x| / |x|, hence how far S is from satisfying Q(S) = rho S."""
    moment_of_vector: Callable[[], FloatArray]
    """What computes `moment`, which few ask for."""
    vector: FloatArray
    """The Perron vector x, of unit length."""
    delta: float = 0.0
    """z - max q, in units of the largest u_a."""
    gap: float = 0.0
    """How far below 1 the next eigenvalue of R is, at most; 0 if it is not known."""
    n_applications: int = 0
    """Products R x."""
    n_iterations: int = 0
    """Outer iterations."""
    stopped_by: str = "closed form"
    """``"residual"``, ``"max_applications"`` or ``"closed form"``."""

    @cached_property
    def moment(self) -> FloatArray:
        """Y_ab / (z - q_ab), up to a factor; S is sqrt(w_a w_b) times that."""
        return self.moment_of_vector()


@dataclass(frozen=True, eq=False)
class MeanSquareOperator:
    """The map Q of examples that feel each other, which may be a part of those that steps are drawn from.

    With example weights omega it is the map (1/N) sum_i omega_i A_i S A_i: `vectors` and `eigenvalues` then are those
    of Omega^(1/2) K Omega^(1/2), R gets the factor (omega_i omega_j)^(-1/2), and q has the mean of omega in place of 1.
    """

    vectors: FloatArray
    """U, shape (n, rank), n <= N."""
    eigenvalues: FloatArray
    """w > 0, ascending, shape (rank,)."""
    learning_rate: float
    """eta."""
    n_examples: int
    """N, of which each is drawn with probability 1/N; those without a row in U leave displacements alone."""
    example_weights: FloatArray | None = None
    """omega > 0, shape (n,)."""

    # Everything below is in units of the largest u_a, so that steps of 1e100 do not overflow.

    @cached_property
    def _unit(self) -> float:
        return float(self.learning_rate * self.eigenvalues[-1] / self.n_examples)

    @cached_property
    def _rates(self) -> FloatArray:
        """u_a."""
        # Products of slower ones would be 0; they stand still anyway.
        return np.asarray(np.maximum(self.eigenvalues / self.eigenvalues[-1], _SLOWEST))

    _corner = 0
    """The a at which q_aa is largest of all q_ab."""

    @cached_property
    def _scale(self) -> FloatArray:
        """omega^(-1/2)."""
        n = len(self.vectors)
        return (
            np.ones(n)
            if self.example_weights is None
            else np.asarray(1 / np.sqrt(np.maximum(self.example_weights, _SMALLEST)))
        )

    def _diagonal_map(self, a: int) -> float:
        """q_aa minus the mean of omega."""
        u = self._unit * float(self._rates[a])
        return -2 * u

    def _distances(self, delta: float, rows: slice, columns: slice) -> FloatArray:
        """Return z - q_ab = delta + (max q - q_ab) for some a and b."""
        above = self._rates - self._rates[self._corner]
        return np.asarray(above[rows, None] + (above[columns] + delta))

    @property
    def _coupling(self) -> float:
        """The factor of R: eta^2 w_a w_b / N is this times the product of the u."""
        return self.n_examples * self._unit

    def solve(
        self,
        tolerance: float,
        max_applications: int,
        start: FloatArray | None = None,
        *,
        delta: float = 0.0,
        gap: float = 0.0,
    ) -> MeanSquareSolution:
        """Iterate until the relative residual of R x = x is below the tolerance.

        `start` is a guess of the Perron vector, such as that of a neighbouring learning rate, and `delta` and `gap` are
        guesses of these.
        """
        if len(self.eigenvalues) == 1:
            return self._one_direction()
        if self._coupling < _NEGLIGIBLE:
            return self._without_noise()
        n, rank = self.vectors.shape
        y, resolvent, scratch = np.empty((rank, rank)), np.empty((rank, rank)), np.empty((n, rank))

        def product(vector: FloatArray) -> FloatArray:
            self._moments(vector, y, scratch)
            return self._finish(resolvent, y, scratch)

        # At small learning rates the noise hardly moves the eigenvector of the diagonal map; at large ones all
        # examples count. The larger delta(x) is the closer one. A start that misses nothing cannot end at an
        # eigenvector that is not Perron's.
        if start is None:
            x, ones = self.vectors[:, self._corner] ** 2, np.ones(n)
            if self._root(ones, y, scratch)[0] > self._root(x, y, scratch)[0]:
                x = ones
            x = x / np.linalg.norm(x) + _ADMIXTURE / math.sqrt(n)
        else:
            x = np.abs(start) / np.linalg.norm(start) + _LITTLE / math.sqrt(n)
        n_applications = n_iterations = 0
        while True:
            x /= np.linalg.norm(x)
            delta, sensitivity = self._root(x, y, scratch, delta)
            self._resolvent(delta, resolvent)
            image = self._finish(resolvent, y, scratch)
            n_applications += 1
            residual = float(np.linalg.norm(image - x))
            tell_of(f"Lambda(2) of {n} examples", n_iterations, residual, tolerance)
            if residual <= tolerance and x.min() < _APART * x.max() and n_applications < max_applications:
                # Of examples that hardly feel each other, some may have been overlooked.
                most = max_applications - n_applications
                other, applied = overlooked_vector(product, x, np.ones(n) / math.sqrt(n), most)
                n_applications += applied
                if other is not None:
                    x = np.abs(other)
                    continue
            if residual <= tolerance or n_applications >= max_applications:
                break
            n_iterations += 1
            goal = max(0.2 * tolerance, min(residual**2, 0.1 * residual))
            most = max_applications - n_applications
            x, gap, applied = improved_perron_vector(product, x, image, goal=goal, most=most)
            n_applications += applied
        if residual <= tolerance:
            # Quadratic in the residual if the next eigenvalue is known to be far.
            error = sensitivity * min(residual, 4 * residual**2 / gap if gap > 0 else math.inf)
        else:
            error = self._upper_bound(x, delta, resolvent, y, scratch) - delta
        return self._solution(
            delta,
            error,
            residual=residual,
            moment_of_vector=lambda: self.moment(x, delta),
            vector=x,
            gap=gap,
            n_applications=n_applications,
            n_iterations=n_iterations,
            stopped_by="residual" if residual <= tolerance else "max_applications",
        )

    def moment(self, vector: FloatArray, delta: float) -> FloatArray:
        """Return Y_ab / (z - q_ab), given what a solution knows."""
        scaled = self.vectors * np.sqrt(vector * self._scale)[:, None]
        moment = np.asarray(scaled.T @ scaled)
        for rows, _ in strips(len(self.eigenvalues)):
            moment[rows] /= self._distances(delta, rows, slice(None))
        return moment

    def threshold(self, tolerance: float, max_applications: int) -> tuple[float, float, bool]:
        """Return the learning rate at which rho = 1, its numerical error, and whether the iteration converged.

        For p = 1 and no weights.

        At z = 1 the gaps and delta add up to u_a + u_b, and R(1) is eta / 2 times

            T_ij = 2 sum_ab U_ia U_ib U_ja U_jb w_a w_b / (w_a + w_b),    with T 1 = diag K,

        so that rho < 1 for eta < 2 / lambda_max(T). This operator's own learning rate does not matter.
        """
        n, rank = self.vectors.shape
        y, resolvent, scratch = np.empty((rank, rank)), np.empty((rank, rank)), np.empty((n, rank))
        rates = np.maximum(self._rates, _SMALLEST)
        for rows, columns in strips(len(self.eigenvalues)):
            np.divide(rates[columns], rates[rows, None] + rates[columns], out=resolvent[rows, columns])
            resolvent[rows, columns] *= self._rates[rows, None]

        def product(vector: FloatArray) -> FloatArray:
            """Return T x / (2 w), w the largest eigenvalue."""
            self._moments(vector, y, scratch)
            return self._finish(resolvent, y, scratch) / self._coupling

        x, gap, n_applications = np.ones(n) / math.sqrt(n), 0.0, 0
        while True:
            image = product(x)
            n_applications += 1
            value = float(x @ image)
            residual = float(np.linalg.norm(image - value * x))
            tell_of(f"zero of Lambda(2) of {n} examples", n_applications, residual / value, tolerance)
            if residual <= tolerance * value or n_applications >= max_applications:
                break
            goal = 0.2 * tolerance * value
            x, gap, applied = improved_perron_vector(
                product, x, image, goal=goal, most=max_applications - n_applications
            )
            x /= np.linalg.norm(x)
            n_applications += applied
        if residual <= tolerance * value:
            error = min(residual, residual**2 / gap if gap > 0 else math.inf) + 4 * _EPS * value
        else:  # T x <= c x for one positive x bounds the Perron eigenvalue by c
            x = x + _ADMIXTURE / math.sqrt(n)
            error = float((product(x) / x).max()) - value
        threshold = 1 / (value * float(self.eigenvalues[-1]))
        return threshold, threshold * error / value, residual <= tolerance * value

    def _upper_bound(
        self, x: FloatArray, delta: float, resolvent: FloatArray, y: FloatArray, scratch: FloatArray
    ) -> float:
        """Return a delta above the solution: R x <= x for one positive x bounds the Perron eigenvalue by 1."""
        x, step = x + _ADMIXTURE / math.sqrt(len(x)), delta / 8
        for _ in range(_MOST_TRIES):
            self._moments(x, y, scratch)
            self._resolvent(delta + step, resolvent)
            if (self._finish(resolvent, y, scratch) <= x).all():
                return delta + step
            step *= 4
        return math.inf

    def _moments(self, x: FloatArray, y: FloatArray, scratch: FloatArray) -> None:
        """Y = U^T diag(omega^(-1/2) x) U."""
        np.multiply(self.vectors, (x * self._scale)[:, None], out=scratch)
        for rows, columns in strips(len(self.eigenvalues)):
            np.matmul(self.vectors[:, rows].T, scratch[:, columns], out=y[rows, columns])

    def _resolvent(self, delta: float, out: FloatArray) -> None:
        """Fill in u_a u_b / (delta + gap_ab)."""
        for rows, columns in strips(len(self.eigenvalues)):
            np.divide(self._rates[columns], self._distances(delta, rows, columns), out=out[rows, columns])
            out[rows, columns] *= self._rates[rows, None]

    def _finish(self, resolvent: FloatArray, y: FloatArray, scratch: FloatArray) -> FloatArray:
        """Return R x, given Y, which is overwritten."""
        n, found = len(self.vectors), np.zeros(len(self.vectors))
        for rows, columns in strips(len(self.eigenvalues)):
            strip = y[rows, columns]
            strip *= resolvent[rows, columns]
            strip[:, : len(strip)] /= 2  # on the diagonal, where the others come twice
            product = scratch.reshape(-1)[: n * len(strip)].reshape(n, len(strip))
            np.matmul(self.vectors[:, columns], strip.T, out=product)
            found += np.einsum("ia,ia->i", product, self.vectors[:, rows])
        return np.asarray(2 * self._coupling * self._scale * found)

    def _root(self, x: FloatArray, y: FloatArray, scratch: FloatArray, guess: float = 0.0) -> tuple[float, float]:
        """Return the delta at which x^T R x = x^T x, and its change per relative change of R; leave Y in y.

        With weights W_ab = w_a w_b Y_ab^2 the equation is f(delta) = sum_ab W_ab / (delta + gap_ab) = const. As 1/f is
        concave, Newton's iteration on 1/f climbs to the root from every start below it, where one step from above ends.
        """
        self._moments(x, y, scratch)
        rank = len(y)
        weights = scratch.reshape(-1)[: rank * rank].reshape(rank, rank)
        corner = total = moment = 0.0
        for rows, columns in strips(len(self.eigenvalues)):
            block, gaps = weights[rows, columns], self._distances(0.0, rows, columns)
            np.multiply(y[rows, columns], y[rows, columns], out=block)
            block *= self._rates[columns]
            block *= self._rates[rows, None]
            block[:, len(block) :] *= 2  # those below the diagonal
            corner += float(block[gaps == 0].sum())
            total += float(block.sum())
            moment += float(np.einsum("ab,ab->", block, gaps))
        if total == 0:  # of a direction whose parts in the others are below floating point
            return _SMALLEST, 0.0
        target = float(x @ x) / self._coupling
        # Below the root: the poles alone, and all gaps at their mean (Jensen's inequality).
        lowest = max(corner / target, total / target - moment / total, _SMALLEST)
        delta = max(lowest, guess)
        for _ in range(_MOST_NEWTON_STEPS):
            value = slope = 0.0
            for rows, columns in strips(len(self.eigenvalues)):
                shares = self._distances(delta, rows, columns)
                np.reciprocal(shares, out=shares)
                terms = weights[rows, columns] * shares
                value += float(terms.sum())
                shares *= delta
                slope += float(np.vdot(terms, shares))
            # slope is -delta f'(delta), which neither overflows nor vanishes
            step = delta * (value / target - 1) * (value / slope)
            delta = max(lowest, delta + step)
            if abs(step) <= _SMALL_STEP * delta:  # of Newton's iteration: what is left goes with its square
                break
        return delta, delta * target / slope

    def _solution(self, delta: float, delta_error: float, **attributes: Any) -> MeanSquareSolution:
        """Return the solution at z = max q + delta, delta in units of the largest u."""
        weights = self.example_weights
        offset = 0.0 if weights is None else float((weights - 1).sum()) / self.n_examples
        diagonal, lift = self._diagonal_map(self._corner), self._unit * delta
        growth = max(offset + diagonal + lift, -1.0)
        error = self._unit * delta_error + 8 * _EPS * (abs(offset) + abs(diagonal) + lift)
        with np.errstate(divide="ignore"):
            return MeanSquareSolution(
                growth=growth,
                exponent=float(np.log1p(growth)),
                error=float(np.divide(error, 1 + growth)),
                delta=delta,
                **attributes,
            )

    def _without_noise(self) -> MeanSquareSolution:
        """Return the largest q, where rounding swallows the noise."""
        moment = np.zeros((len(self.eigenvalues),) * 2)
        moment[self._corner, self._corner] = 1
        vector = self.vectors[:, self._corner] ** 2
        vector /= np.linalg.norm(vector)
        return self._solution(0.0, 0.0, residual=0.0, moment_of_vector=lambda: moment, vector=vector)

    def _one_direction(self) -> MeanSquareSolution:
        """One dimension, where each step is a number: 1 - eta k_i."""
        weights, untouched = self._scale**-2, self.n_examples - len(self.vectors)
        steps, p = (
            self.learning_rate * self.eigenvalues[0] * (self._scale * self.vectors[:, 0]) ** 2,
            1 / self.n_examples,
        )
        growth = p * float((weights - 1 + weights * steps * (steps - 2)).sum())
        # From squares, a small rho does not come out of cancellation; a factor within rounding of 0 is 0.
        factors = np.where(np.abs(1 - steps) < 8 * _EPS, 0, np.abs(1 - steps))
        rho = p * (float(weights @ factors**2) + untouched)
        change = p * float(weights @ (factors * steps))
        with np.errstate(divide="ignore"):
            exponent = float(np.log1p(growth) if growth > -0.5 else np.log(rho))
        error = 8 * _EPS * change / rho if rho > 0 else 0.0
        vector = factors / np.linalg.norm(factors) if factors.any() else np.full(len(factors), len(factors) ** -0.5)
        one = np.ones((1, 1))
        return MeanSquareSolution(growth, exponent, error, residual=0.0, moment_of_vector=lambda: one, vector=vector)
