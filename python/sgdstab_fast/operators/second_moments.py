"""Second moments under every law of independent batches and every linear recurrence, without simulation.

A state z has `levels` blocks, and a step with a batch of B units u, each with rows k_i in isometric coordinates, is

    z -> (F (x) I) z - (eta / B) e_1 (x) sum_u G_u (h^T (x) I) z,    G_u = sum_(i in u) k_i k_i^T,    H = sum_u p_u G_u.

With p = (N - B) / (B (N - 1)) for batches without replacement, 1 / B for draws with replacement, 1 for B = 1 and 0 for
B = N, and with M = F (x) I - eta e_1 h^T (x) H, second moments S = E[z z^T] advance by the positive map

    Q(S) = M S M^T + p eta^2 e_1 e_1^T (x) (sum_u p_u G_u S_hh G_u - H S_hh H),    S_hh = (h^T (x) I) S (h (x) I)

(for one level Mulayoff & Michaeli, arXiv 2306.07850, equations 12 and 20). With row weights pi_i = N p_u and
Pi^(1/2) K Pi^(1/2) = U diag(w) U^T, H has the eigenvalues w_a / N. In its eigenbasis, with u_a = eta w_a / N and
M_a = F - u_a e_1 h^T, blocks S_ab of shape levels x levels advance by

    L_ab = M_a (x) M_b - p u_a u_b (e_1 (x) e_1) (h (x) h)^T,

each for itself, apart from the term of rank n, sum_u. Hence rho(Q) is the largest z at which the symmetric map

    R(z) X = BlockDiag_u( V [ (V^T X V) o p N u_a u_b g_ab(z) ] V^T ),    V = Pi^(-1/4) U,
    g_ab(z) = (h (x) h)^T (z - L_ab)^-1 (e_1 (x) e_1),

of symmetric matrices X_u, one for every unit, has the largest eigenvalue 1. With Z = V^T X V then

    S_ab = sqrt(w_a w_b) Z_ab (z - L_ab)^-1 (e_1 (x) e_1),

and the eigenvector of the adjoint map has (z - L_ab)^-T (h (x) h) in its place. rho(Q) is at least rho(M)^2, from where
Newton's iteration for the reciprocal of the eigenvalue, concave for one level, climbs.

Levels are replaced by the first one and the differences between neighbours, so that 1 - L_ab, and z - 1 in place of z,
keep their relative accuracy at small steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.functions import Coordinates, FloatArray

__all__ = ["SecondMoments", "gd_exponent_of", "gd_threshold_of", "mean_square_threshold", "second_moments"]

IntArray = NDArray[np.intp]

_EPS = float(np.finfo(float).eps)
_COINCIDING = 1e-6  # rates of stability, relative to those of order 1
_MOST_NEWTON_STEPS = 100
_MOST_LANCZOS_STEPS = 24
_NEAR = 1.1  # to 1, for a start
_ADMIXTURE = 0.1  # of all units to the start


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """The dominant eigenvalue rho of Q, its eigenvector and that of its adjoint."""

    exponent: float
    """log rho."""
    growth: float
    """rho - 1."""
    error: float
    """Estimated error of the exponent."""
    residual: float
    """|R X - X| / |X|."""
    converged: bool
    n_applications: int
    """Products R X."""
    n_iterations: int
    """Values of z tried."""
    metric: FloatArray
    """E[M^T metric M] = rho metric, level-major, in the coordinates of the system; largest diagonal entry 1."""
    covariance: FloatArray
    """E[M covariance M^T] = rho covariance, likewise."""


def second_moments(
    rows: FloatArray,
    coordinates: Coordinates,
    learning_rate: float,
    noise: float,
    n_units: int,
    members: IntArray,
    offsets: IntArray,
    probabilities: FloatArray | None,
    free: FloatArray,
    readout: FloatArray,
    *,
    tolerance: float = 1e-11,
    max_applications: int = 1000,
) -> SecondMoments:
    """Compute the mean-square exponent Lambda(2) = log rho(Q), the metric and the covariance.

    Parameters
    ----------
    rows : array, shape (n, n) or (n, r)
        K in gram coordinates, a factor of full column rank in factor coordinates.
    coordinates : {"gram", "factor"}
        Of states, level by level: a with s = K^(1/2) a, or s.
    learning_rate : float
        eta.
    noise : float
        p.
    n_units : int
        N.
    members, offsets : array of int, shape (n,) and (N + 1,)
        Unit u owns the rows members[offsets[u]:offsets[u + 1]].
    probabilities : array, shape (N,), optional
        p_u; uniform by default.
    free, readout : array, shape (levels, levels) and (levels,)
        F and h.
    tolerance : float
        For the relative residual of R X = X; the error of the exponent is quadratic in it.
    max_applications : int
        Products R X to make at most.

    Returns
    -------
    SecondMoments
        Nats per step; -inf if every product of steps annihilates every state in the mean.
    """
    units = _Units(rows, coordinates, n_units, members, offsets, probabilities)
    pairs = _Pairs(units.eigenvalues / n_units, noise if n_units > 1 else 0.0, n_units, free, readout)
    growths, radii = pairs.of_means(learning_rate)
    corner = int(growths.argmax())
    lowest = float(growths[corner])
    if pairs.noise == 0:
        exponent = 2 * _log_radius(lowest, float(radii[corner]))
        error, forms = pairs.one_direction(learning_rate, corner)
        solution = _Solution(lowest, 0.0, 0.0, True, 0, 0, np.empty(0))
    else:
        solution = _solve(
            units,
            lambda growth, diagonal: pairs.weights(growth, learning_rate, by_growth=True, diagonal=diagonal),
            lowest,
            pairs.uncertainty(learning_rate, corner),
            corner,
            tolerance,
            max_applications,
        )
        rho = 1 + solution.root
        error = solution.error + _EPS * learning_rate * float(pairs.rates[-1])
        exponent, error = (math.log1p(solution.root), error / rho) if rho > error else (-math.inf, 0.0)
        forms = pairs.forms(solution.root, learning_rate, units.moments(solution.vector))
    metric, covariance = units.in_coordinates(*forms)
    return SecondMoments(
        exponent=exponent,
        growth=solution.root,
        error=error,
        residual=solution.residual,
        converged=solution.converged,
        n_applications=solution.n_applications,
        n_iterations=solution.n_iterations,
        metric=metric,
        covariance=covariance,
    )


def mean_square_threshold(
    rows: FloatArray,
    coordinates: Coordinates,
    noise: float,
    n_units: int,
    members: IntArray,
    offsets: IntArray,
    probabilities: FloatArray | None,
    free: FloatArray,
    readout: FloatArray,
    *,
    tolerance: float = 1e-11,
    max_applications: int = 1000,
) -> tuple[float, float]:
    """Return the smallest learning rate at which rho(Q) = 1, and its numerical error.

    The largest eigenvalue of R(1) vanishes at small learning rates, and is 1 or more at the threshold of full batches.
    Arguments are those of `second_moments`.
    """
    units = _Units(rows, coordinates, n_units, members, offsets, probabilities)
    pairs = _Pairs(units.eigenvalues / n_units, noise if n_units > 1 else 0.0, n_units, free, readout)
    highest = gd_threshold_of(units.eigenvalues, n_units, free, readout)
    if pairs.noise == 0:
        return highest, 16 * _EPS * highest
    # R(1) depends on 1 / eta as R does on z.
    solution = _solve(
        units,
        lambda inverse, diagonal: pairs.weights(0.0, 1 / inverse, by_growth=False, diagonal=diagonal),
        1 / highest,
        64 * _EPS / highest if len(readout) > 1 else 0.0,  # as `gd_threshold_of` knows it
        len(units.eigenvalues) - 1,
        tolerance,
        max_applications,
    )
    threshold = 1 / solution.root
    return threshold, threshold * (threshold * solution.error + _EPS)


def gd_exponent_of(
    eigenvalues: FloatArray, learning_rate: float, n_units: int, free: FloatArray, readout: FloatArray
) -> float:
    """Return mu = max_a log rho(M_a), the exponent of full batches, for the eigenvalues w of K."""
    pairs = _Pairs(np.asarray(eigenvalues, dtype=np.float64) / n_units, 0.0, n_units, free, readout)
    growths, radii = pairs.of_means(learning_rate)
    return _log_radius(float(growths.max()), float(radii.max()))


def gd_threshold_of(eigenvalues: FloatArray, n_units: int, free: FloatArray, readout: FloatArray) -> float:
    """Return the smallest learning rate at which full batches are unstable: rho(M_a) = 1 for the largest w.

    There M_a (x) M_a has the eigenvalue 1: a quadratic eigenvalue problem in u.
    """
    from scipy.linalg import eigvals  # type: ignore[import-untyped]

    constant, linear, square = _Pairs(np.ones(1), 0.0, 1, free, readout).of_full_batches
    one, zero = np.eye(len(square)), np.zeros_like(square)
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = eigvals(np.block([[zero, one], [-constant, -linear]]), np.block([[one, zero], [zero, square]]))
    real = np.isfinite(roots) & (np.abs(roots.imag) <= _COINCIDING * np.abs(roots)) & (roots.real > _COINCIDING)
    u = float(roots.real[real].min(initial=math.inf))
    # Where M_a itself has the eigenvalue -1, 1 = u h^T (1 + F)^-1 e_1.
    response = float(readout @ np.linalg.solve(np.eye(len(readout)) + free, np.eye(len(readout))[0]))
    u = 1 / response if abs(u * response - 1) < _COINCIDING else u
    return u * n_units / float(np.max(eigenvalues))


def _log_radius(growth: float, radius: float) -> float:
    """Return log |lambda|, given |lambda|^2 - 1 and |lambda|."""
    if radius <= 8 * _EPS:
        return -math.inf
    return 0.5 * math.log1p(growth) if growth > -0.5 else math.log(radius)


class _Units:
    """V = Pi^(-1/4) U, its rows unit by unit, and the products with it."""

    def __init__(
        self,
        rows: FloatArray,
        coordinates: Coordinates,
        n_units: int,
        members: IntArray,
        offsets: IntArray,
        probabilities: FloatArray | None,
    ) -> None:
        sizes = np.diff(offsets)
        weights = np.ones(len(members))
        if probabilities is not None:
            weights[members] = np.repeat(n_units * np.asarray(probabilities), sizes)
        self._roots, self.total_weight = np.sqrt(weights), float(weights.sum())
        self._directions: FloatArray | None = None
        if coordinates == "gram":
            self.eigenvalues, self._vectors = np.linalg.eigh(self._roots[:, None] * rows * self._roots)
            self.eigenvalues = np.maximum(self.eigenvalues, _EPS * self.eigenvalues[-1])
        else:
            vectors, values, directions = np.linalg.svd(self._roots[:, None] * rows, full_matrices=False)
            self.eigenvalues, self._vectors = values[::-1] ** 2, np.ascontiguousarray(vectors[:, ::-1])
            self._directions = np.ascontiguousarray(directions[::-1].T)
        order = np.argsort(sizes, kind="stable")
        sorted_members = np.concatenate([members[offsets[u] : offsets[u + 1]] for u in order])
        self._rows = self._vectors[sorted_members] / np.sqrt(self._roots[sorted_members])[:, None]
        self._scratch = np.empty_like(self._rows)
        # Units of one size are rows of one stack: (first row, first entry of X, their number, their size).
        self._stacks: list[tuple[int, int, int, int]] = []
        row = entry = 0
        for size, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
            self._stacks.append((row, entry, int(count), int(size)))
            row, entry = row + int(count * size), entry + int(count * size**2)
        self._n_entries = entry

    def _stacked(self, matrix: FloatArray) -> list[tuple[FloatArray, slice]]:
        """Return rows of the units of every size, shape (number, size, r), and where their X is."""
        return [
            (matrix[row : row + count * size].reshape(count, size, -1), slice(entry, entry + count * size**2))
            for row, entry, count, size in self._stacks
        ]

    def moments(self, vector: FloatArray) -> FloatArray:
        """Z = V^T X V."""
        for (own, entries), (out, _) in zip(self._stacked(self._rows), self._stacked(self._scratch), strict=True):
            count, size, _ = own.shape
            np.matmul(vector[entries].reshape(count, size, size), own, out=out)
        return np.asarray(self._rows.T @ self._scratch)

    def blocks(self, form: FloatArray) -> FloatArray:
        """BlockDiag_u(V form V^T)."""
        np.matmul(self._rows, form, out=self._scratch)
        vector = np.empty(self._n_entries)
        for (own, entries), (image, _) in zip(self._stacked(self._rows), self._stacked(self._scratch), strict=True):
            vector[entries] = np.matmul(image, own.transpose(0, 2, 1)).ravel()
        return vector

    def start(self, corner: int, *, everywhere: bool) -> FloatArray:
        """Return X of one direction of the mean step and a share of all, or of all and a share of one."""
        form = np.zeros((self._rows.shape[1],) * 2)
        form[corner, corner] = 1
        parts = [each / np.linalg.norm(each) for each in (self.blocks(form), self.blocks(np.eye(len(form))))]
        most, rest = parts[::-1] if everywhere else parts
        mixed = most + _ADMIXTURE * rest
        return np.asarray(mixed / np.linalg.norm(mixed))

    def are_positive(self, vector: FloatArray) -> bool:
        """Whether all X_u are positive semidefinite, up to rounding and the error of a small gap."""
        return all(
            np.linalg.eigvalsh(vector[entries].reshape(len(own), own.shape[1], -1)).min() >= -_COINCIDING
            for own, entries in self._stacked(self._rows)
        )

    def in_coordinates(self, metric: FloatArray, covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the forms, both divided by sqrt(w_a w_b), in the system's coordinates."""
        rates = self.eigenvalues / self.eigenvalues[-1]
        roots = np.sqrt(rates)
        if self._directions is not None:
            weights = roots * roots[:, None]
            return _assembled(self._directions, metric * weights), _assembled(self._directions, covariance * weights)
        outer, inner = self._vectors / self._roots[:, None], self._vectors * self._roots[:, None]
        return _assembled(outer, metric * rates * rates[:, None]), _assembled(inner, covariance)


def _assembled(frame: FloatArray, blocks: FloatArray) -> FloatArray:
    """Return frame blocks_ij frame^T for every pair of levels, symmetric, with largest diagonal entry 1."""
    size = len(blocks) * len(frame)
    form = ((frame @ blocks) @ frame.T).transpose(0, 2, 1, 3).reshape(size, size)
    form = form + form.T
    return np.asarray(form / form.diagonal().max())


class _Pairs:
    """1 - L_ab for all a <= b, a sum of parts times 1, u_a, u_b and u_a u_b."""

    _degrees = np.array([0.0, 1.0, 1.0, 2.0])

    def __init__(self, rates: FloatArray, noise: float, n_units: int, free: FloatArray, readout: FloatArray) -> None:
        free, readout = np.atleast_2d(np.asarray(free, dtype=np.float64)), np.atleast_1d(readout)
        self.rates, self.noise, self._n_units = rates, noise, n_units
        levels = len(free)
        # y_0 = z_0, y_l = z_(l - 1) - z_l
        self._differences = np.eye(levels, k=-1) - np.eye(levels)
        self._differences[0, 0] = 1
        self._back = np.linalg.inv(self._differences)
        self._free = _rounded(self._differences @ free @ self._back)
        self._readout = _rounded(readout @ self._back)
        self._kick = self._differences[:, 0]
        step = np.outer(self._kick, self._readout)
        one, free = np.eye(levels**2), self._free
        parts = [one - np.kron(free, free), np.kron(step, free), np.kron(free, step), (noise - 1) * np.kron(step, step)]
        self._parts = np.array(parts).reshape(4, -1)
        swapped = one.reshape(levels, levels, -1).swapaxes(0, 1).reshape(one.shape)
        self._antisymmetric = (one - swapped).ravel() / 2
        self._kicks, self._readouts = np.kron(self._kick, self._kick), np.kron(self._readout, self._readout)
        self._first, self._second = np.triu_indices(len(rates))

    @property
    def of_full_batches(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The coefficients of 1 - L_aa in u_a."""
        constant, left, right, square = self._parts.reshape(4, len(self._kicks), len(self._kicks))
        return constant, left + right, square

    def of_means(self, learning_rate: float) -> tuple[FloatArray, FloatArray]:
        """Return |lambda|^2 - 1 and |lambda| of the eigenvalues lambda of M_a of largest modulus."""
        away = np.linalg.eigvals(np.eye(len(self._free)) - self._means(learning_rate))  # 1 - lambda
        growths = away.real * (away.real - 2) + away.imag**2
        return growths.max(axis=1), np.abs(1 - away).max(axis=1)

    def _means(self, learning_rate: float) -> FloatArray:
        steps = learning_rate * self.rates[:, None, None]
        return np.asarray(self._free - steps * np.outer(self._kick, self._readout))

    def one_direction(self, learning_rate: float, a: int) -> tuple[float, tuple[FloatArray, FloatArray]]:
        """Return the error of log rho, and metric and covariance, without noise: those of M_a alone."""
        left, right, radius, change = self._leading(learning_rate, a)
        blocks = np.zeros((2, *self._free.shape, len(self.rates), len(self.rates)))
        for form, vector in zip(blocks, (left, right), strict=True):
            form[..., a, a] = np.outer(vector, vector.conj()).real
        return 2 * change / radius if radius > change else 0.0, self._in_levels(*blocks)

    def uncertainty(self, learning_rate: float, a: int) -> float:
        """Return the error of rho(M_a)^2."""
        *_, radius, change = self._leading(learning_rate, a)
        return (2 * radius + change) * change if len(self._free) > 1 else 0.0

    def _leading(self, learning_rate: float, a: int) -> tuple[FloatArray, FloatArray, float, float]:
        """Return left and right eigenvectors of M_a for its lambda of largest modulus, |lambda| and its error."""
        from scipy.linalg import eig

        values, left, right = eig(self._means(learning_rate)[a], left=True)
        k = int(np.abs(values).argmax())
        # Near a double eigenvalue the change is a square root.
        change = 8 * _EPS / max(float(abs(left[:, k].conj() @ right[:, k])), math.sqrt(_EPS))
        return left[:, k], right[:, k], float(abs(values[k])), change

    def weights(self, growth: float, learning_rate: float, *, by_growth: bool, diagonal: bool = False) -> FloatArray:
        """Return p N u_a u_b g_ab, its derivative in z or in 1 / eta, and its rounding, shape (3, r, r) or (3, r)."""
        first, second = (np.arange(len(self.rates)),) * 2 if diagonal else (self._first, self._second)
        powers, matrices, metrics, covariances = self._resolvents(growth, learning_rate, first, second)
        values = covariances @ self._readouts
        outer = (metrics[:, :, None] * covariances[:, None, :]).reshape(matrices.shape)
        if by_growth:
            slopes = -np.einsum("ki,ki->k", metrics, covariances)
        else:
            slopes = np.einsum("ki,ki->k", powers * self._degrees, outer @ self._parts.T)
            slopes = learning_rate * (slopes - 2 * values)
        rounding = 16 * _EPS * np.einsum("ki,ki->k", np.abs(outer, out=outer), np.abs(matrices, out=matrices))
        entries = self.noise * self._n_units * powers[:, 3] * np.array([values, slopes, rounding])
        if diagonal:
            return np.asarray(entries)
        full = np.empty((3, len(self.rates), len(self.rates)))
        full[:, first, second] = full[:, second, first] = entries
        return full

    def _resolvents(
        self, growth: float, learning_rate: float, first: IntArray, second: IntArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return 1, u_a, u_b and u_a u_b, z - L_ab, (z - L_ab)^-T (h (x) h) and (z - L_ab)^-1 (e_1 (x) e_1)."""
        u, size = learning_rate * self.rates, len(self._kicks)
        powers = np.stack([np.ones(len(first)), u[first], u[second], u[first] * u[second]], axis=1)
        matrices = powers @ self._parts
        matrices[:, :: size + 1] += growth
        # L_aa has eigenvalues near rho(M)^2 on antisymmetric blocks, which second moments have not.
        matrices[np.abs(u[first] - u[second]) <= 8 * _EPS * u[-1]] += (1 + abs(growth)) * self._antisymmetric
        inverses = _inverses(matrices.reshape(-1, size, size)).reshape(matrices.shape)
        columns = np.kron(np.eye(size), self._kicks[:, None])
        both = inverses @ np.hstack([np.kron(self._readouts[:, None], np.eye(size)), columns])
        return powers, matrices, both[:, :size], both[:, size:]

    def forms(self, growth: float, learning_rate: float, moments: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return metric and covariance divided by sqrt(w_a w_b), shape (levels, levels, r, r), given Z."""
        levels, n = len(self._free), len(self.rates)
        vectors = self._resolvents(growth, learning_rate, self._first, self._second)[2:]
        blocks = np.empty((2, levels, levels, n, n))
        for form, each in zip(blocks, vectors, strict=True):
            squares = np.moveaxis(each.reshape(-1, levels, levels), 0, 2)
            form[..., self._first, self._second] = squares
            form[..., self._second, self._first] = squares.swapaxes(0, 1)
        return self._in_levels(*(blocks * moments))

    def _in_levels(self, metric: FloatArray, covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return forms of the levels, given those of their differences."""
        forward, back = self._differences, self._back
        return (
            np.einsum("ji,jkab,kl->ilab", forward, metric, forward),
            np.einsum("ij,jkab,lk->ilab", back, covariance, back),
        )


def _inverses(matrices: FloatArray) -> FloatArray:
    """Return the inverses of a stack of matrices."""
    n = matrices.shape[-1]
    if n == 1:
        return np.asarray(1 / matrices)
    try:
        return np.asarray(np.linalg.inv(matrices))
    except np.linalg.LinAlgError:  # at an eigenvalue of L_ab, to the last digit
        return np.asarray(np.linalg.inv(matrices + 4 * _EPS * np.abs(matrices).max() * np.eye(n)))


def _rounded(coefficients: FloatArray) -> FloatArray:
    """Return whole numbers for what differs from them by rounding alone, such as (1 + b) - b."""
    whole = np.rint(coefficients)
    return np.where(np.abs(coefficients - whole) <= 4 * _EPS, whole, coefficients)


@dataclass(frozen=True, eq=False)
class _Solution:
    """Where the largest eigenvalue of R is 1."""

    root: float
    error: float
    residual: float
    converged: bool
    n_applications: int
    n_iterations: int
    vector: FloatArray


def _solve(
    units: _Units,
    weights: Callable[[float, bool], FloatArray],
    lowest: float,
    uncertainty: float,
    corner: int,
    tolerance: float,
    most: int,
) -> _Solution:
    """Find the t at which the largest eigenvalue theta of R, which decreases in t, is 1.

    `lowest` is a bound from below, `uncertainty` its error, `corner` the slowest direction.
    """
    t, low, high, gap = lowest + uncertainty, lowest - uncertainty, math.inf, 0.0
    nudge = max(uncertainty, _EPS * abs(lowest))
    # X_u = pi_u^(1/2) I has Z = I, and its Rayleigh quotient is below theta.
    for _ in range(_MOST_NEWTON_STEPS):
        values, slopes, _ = weights(t, True)
        theta, slope = values.sum() / units.total_weight, slopes.sum() / units.total_weight
        if not (theta > _NEAR and slope < 0 and (values > 0).all()):
            break
        t += float(theta * (1 - theta) / slope)
    x = units.start(corner, everywhere=t > lowest + uncertainty)
    n_applications = n_iterations = 0
    while True:
        values, slopes, roundings = weights(t, False)
        n_iterations += 1
        if n_iterations < _MOST_NEWTON_STEPS and not (values.diagonal() > 0).all():  # below a pole
            low, nudge = t, 2 * nudge
            t = min(t + nudge, (low + high) / 2)
            continue

        def product(vector: FloatArray, values: FloatArray = values) -> FloatArray:
            return units.blocks(units.moments(vector) * values)

        image = product(x)
        n_applications += 1
        theta = float(x @ image)
        residual = float(np.linalg.norm(image - x))
        done = residual <= tolerance or n_applications >= most or n_iterations >= _MOST_NEWTON_STEPS
        goal = max(0.2 * tolerance, 0.1 * abs(theta - 1))
        while not done and np.linalg.norm(image - theta * x) > goal and n_applications < most:
            x, image, gap, applied = _improved(product, x, image, goal, most - n_applications)
            n_applications += applied
            theta = float(x @ image)
        moments = units.moments(x)
        square = moments * moments
        slope = float(np.vdot(square, slopes))
        if slope < 0:
            after = t + theta * (1 - theta) / slope
        else:  # on the way to a pole just below
            after, nudge = t + nudge, 4 * nudge
        if theta >= 1:
            # Newton's steps do not pass the root from here: a bound that they do was not one of the largest eigenvalue.
            low, high = max(low, t), high if after <= high else math.inf
        else:
            high = min(high, t)
        if not low <= after <= high:
            after = (low + high) / 2
        rounding = float(np.vdot(square, roundings)) / abs(slope) if slope < 0 else 0.0
        resolved = residual > tolerance and abs(after - t) <= max(rounding, _EPS * abs(t)) and (slope < 0 or theta < 1)
        after = t if resolved else after
        if done or resolved:
            break
        t = after
    distance = float(np.linalg.norm(image - theta * x))
    # Second moments are positive semidefinite: what is not belongs to another eigenvalue.
    converged = (residual <= tolerance or resolved) and units.are_positive(x)
    quadratic = 4 * distance**2 / gap if gap > 0 else math.inf
    error = min(distance, quadratic) if converged else residual
    error = error / -slope + rounding if slope < 0 else 0.0
    if after - lowest <= 2 * uncertainty:
        error += 2 * uncertainty
    return _Solution(after, error, residual, converged, n_applications, n_iterations, x)


def _improved(
    product: Callable[[FloatArray], FloatArray], x: FloatArray, image: FloatArray, goal: float, most: int
) -> tuple[FloatArray, FloatArray, float, int]:
    """Return a vector closer to the leading eigenvector, its image, the gap below and the products made: Lanczos."""
    basis, images = [x], [image]
    while True:
        rest = images[-1]
        for _ in range(2):  # orthogonal to all, to rounding
            for vector in basis:
                rest = rest - (vector @ rest) * vector
        size = float(np.linalg.norm(rest))
        projected = np.array(basis) @ np.array(images).T
        ritz, vectors = np.linalg.eigh((projected + projected.T) / 2)
        if size * abs(vectors[-1, -1]) <= 0.5 * goal or len(basis) > min(most, _MOST_LANCZOS_STEPS):
            break
        basis.append(rest / size)
        images.append(product(basis[-1]))
    leading = vectors[:, -1] * (1 if vectors[0, -1] >= 0 else -1)
    x, image = leading @ np.array(basis), leading @ np.array(images)
    length = float(np.linalg.norm(x))
    gap = float(ritz[-1] - ritz[-2]) if len(ritz) > 1 else 0.0
    return x / length, image / length, gap, len(basis) - 1
