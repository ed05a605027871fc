"""Moment exponents of random products in the plane, by the transfer operator on the projective line.

Matrices A_1, ..., A_m of the plane are drawn with probabilities q_i, and

    Lambda(p) = lim (1/n) log E |A_{i_n} ... A_{i_1}|^p

is log of the spectral radius of (P f)(v) = sum_i q_i f(A_i v) on functions with f(t v) = |t|^p f(v), hence on functions
of the direction alone. Directions are cut into panels, on each of which v(x) = e + x h e', -1 <= x <= 1, with its
middle e, e' orthogonal to it, and h the tangent of half its angle; f(v(x)) is a polynomial in x there. If A v(x) lies
on the panel k, then with the gauge g = |e_k . A v(x)|

    f(A v(x)) = g^p f_k(x'),    x' = (e'_k . A v(x)) / (h_k e_k . A v(x)):

for even p no larger than its degree f is such a polynomial, and Lambda(p) exact. Neighbours share the node between
them: small steps do not leave their panel otherwise. P - 1 is formed rather than P, for steps so small that Lambda is.

*With a cone*, arcs D that all A_i map into themselves and that stay away from all repelling directions, f is analytic
on D, and nothing outside matters. D is found as the arcs that separate attracting directions, and their images, from
repelling ones, and their preimages. Moments of vectors in D and of norms agree, for every p.

*Without*, f on all directions is only Hoelder continuous. Where A_i has eigenvalues mu_1, mu_2 of directions that
attract and repel, f is like |theta - theta_i|^beta,

    beta = (log q_i - Lambda + p log |mu_2|) / (log |mu_2| - log |mu_1|)  >=  p,

near the latter, and like that at its preimages. If some beta <= 0, vectors near there grow faster than norms do; they
do so at all p <= -1, where |e . v|^p is not integrable.

At p = 0, where f is 1, it is stationary measures that are rough. Where A_i maps the direction that attracts under A_j,
and others like it, of probability q together, to the one that repels under them, it stays there for 1 / (1 - q) steps
on average, or more if others swap both directions, which counts as q too. In a share h^beta of that time, where beta =
-log q / (log |mu_1| - log |mu_2|), it is nearer to it than the narrowest panel, h, and Lambda' as much in doubt.

Panels are halved where that matters most to the eigenvalue: with its eigenvectors l and r, l . r = 1, by the sum of
abs(l) on the panel times the last coefficients of r.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgdstab_fast._core.arguments import FloatArray

_EPS = float(np.finfo(float).eps)
_N = 16  # nodes of a panel
_NODES = -np.cos(np.pi * np.arange(_N) / (_N - 1))
_BASIS: FloatArray = np.polynomial.chebyshev.chebvander(_NODES, _N - 1).astype(float)
_TO_COEFFICIENTS = np.linalg.inv(_BASIS)
_WIDEST, _NARROWEST = math.pi / 4, 1e-12  # panels
_NEAR = np.array([1e-3, 1e-2, 1e-1])  # where a panel that ends at a singular direction is cut
_MOST_PANELS, _MOST_IMAGES, _MOST_ROUNDS = 400, 200_000, 40
_MOST_ARCS, _MOST_STEPS = 8, 200
_SAME = 1e-11  # angle
_MOST_SINGULAR = 100
_MOST_RESTARTS, _APART = 30, 1e-6
_MOST_CHECKS, _RARE, _FAR = 6, 1e-3, 1e2
_SMALLEST_ORDER = 0.03  # below which f is too close to a constant to show where it is rough
_SMALLEST_BETA = 0.25
_TARGETS, _NOISE = (8 * _EPS, 500 * _EPS), 5000 * _EPS  # with a cone or not, relative to a step
_TOLERANCE, _ROUNDING = 1e-6, 1e-8


@dataclass(frozen=True)
class PlaneExponent:
    """Lambda(p) of products in the plane."""

    exponent: float
    """Lambda(p)."""
    error: float
    """Its estimated numerical error, from two resolutions, what the finer one misses, and rounding."""
    converged: bool
    """Whether it is Lambda(p) to 1e-6, relative to itself or to 1e-3 p times the size of a step."""
    derivative: float
    """Lambda'(p); at p = 0 the Lyapunov exponent."""
    derivative_error: float
    """Its estimated numerical error; infinite at even p > 0 without a cone, where no panel shows what it needs."""


_UNKNOWN = PlaneExponent(math.nan, math.inf, False, math.nan, math.inf)


class ProjectiveLine:
    """Random products of given matrices of the plane.

    Parameters
    ----------
    matrices : array_like, shape (m, 2, 2)
        A_i, which may be singular.
    probabilities : array_like, shape (m,)
        q_i, of sum 1.

    Attributes
    ----------
    has_cone : bool
        Whether arcs of directions are mapped into themselves, away from all repelling directions.
    """

    def __init__(self, matrices: ArrayLike, probabilities: ArrayLike) -> None:
        matrices = np.array(matrices, dtype=float)
        probabilities = np.array(probabilities, dtype=float)
        if matrices.ndim != 3 or matrices.shape[1:] != (2, 2) or probabilities.shape != matrices.shape[:1]:
            raise ValueError("matrices must have the shape (m, 2, 2), and probabilities the shape (m,)")
        if not (np.isfinite(matrices).all() and (probabilities > 0).all() and abs(probabilities.sum() - 1) < 1e-9):
            raise ValueError("matrices must be finite, and probabilities positive and of sum 1")
        power = round(math.log2(max(float(np.abs(matrices).max()), 1e-300)))
        self._matrices, self._log_scale = np.ldexp(matrices, -power), math.log(2) * power
        self._probabilities = probabilities
        self._steps = self._matrices - np.eye(2)
        self._size = float(probabilities @ np.minimum(np.linalg.norm(self._steps, axis=(1, 2)), 1))
        self._hyperbolic, attracting, repelling, self._eigenvalues = _fixed_directions(self._matrices)
        arcs = _invariant_arcs(self._matrices, attracting, repelling)
        self.has_cone = arcs is not None
        if arcs is None:
            self._singular = _with_preimages(self._matrices, repelling)
            first = self._singular[: max(1, min(len(self._singular), 8))]
            origin = float(first[0]) if first.size else 0.0
            edges = np.unique(np.append((first - origin) % math.pi, [0.0, math.pi]))
            edges = edges[np.append(np.diff(edges) > 1e-9, True)]
            edges[0] = 0.0
            self._singular = np.append((self._singular - origin) % math.pi, [0, math.pi][: 2 * first.size])
            arcs = np.column_stack([edges[:-1], edges[1:]])
        else:
            origin = (arcs[0, 0] + arcs[-1, 1] - math.pi) / 2  # in a gap
            arcs = arcs - origin
            self._singular = np.empty(0)
        self._origin = origin
        self._panels = np.concatenate([_cut(arc, math.ceil((arc[1] - arc[0]) / _WIDEST)) for arc in arcs])

    def exponent(self, order: float) -> PlaneExponent:
        """Return Lambda(p).

        Parameters
        ----------
        order : float
            p, of either sign.

        Returns
        -------
        PlaneExponent
            What is not `converged` must be found in another way: say by simulation.
        """
        largest = np.linalg.norm(self._matrices, ord=2, axis=(1, 2))
        least = np.linalg.norm(self._matrices, ord=-2, axis=(1, 2))
        with np.errstate(divide="ignore"):
            low, high = float(np.log(least.min())), float(np.log(largest.max()))
        if high - low <= 100 * _EPS:  # isometries
            middle, error = (low + high) / 2, (high - low) / 2 + _EPS
            return self._result(order, order * middle, abs(order) * error, middle, error)
        if not self.has_cone and order + 1 < _SMALLEST_BETA:
            return _UNKNOWN
        result = _UNKNOWN
        with np.errstate(all="ignore"), suppress(np.linalg.LinAlgError, RuntimeError, ArithmeticError):
            result = self._refined(order)
        return replace(result, exponent=0.0, error=0.0, converged=True) if order == 0 else result

    def _result(self, order: float, value: float, error: float, slope: float, slope_error: float) -> PlaneExponent:
        """Return what is known, in the scale of the matrices given."""
        exponent = value + order * self._log_scale
        error += _EPS * abs(order * self._log_scale)
        fine = error <= _TOLERANCE * max(abs(exponent), 1e-3 * abs(order) * self._size)
        return PlaneExponent(exponent, error, bool(fine), slope + self._log_scale, slope_error)

    def _refined(self, order: float) -> PlaneExponent:
        """Refine panels until the eigenvalue is as good as it gets."""
        guide = math.copysign(max(abs(order), _SMALLEST_ORDER), order)
        panels, most = self._panels, max(min(_MOST_PANELS, _MOST_IMAGES // (_N * len(self._matrices))), 8)
        solutions = [self._solved(panels, guide)]
        meshes = [panels]
        if self._grows_nearby(order, solutions[0].growth):
            return _UNKNOWN
        entries = _EPS / max(self._size, _EPS)  # rounding of what a step changes
        target = max(_TARGETS[0 if self.has_cone else 1], entries / 10)
        for _ in range(_MOST_ROUNDS):
            each, room = solutions[-1].missed, most - len(panels)
            wanted = (each > max(target / len(each), 1e-3 * each.max())) & (np.ptp(panels, axis=1) > _NARROWEST)
            stalled = len(solutions) > 1 and max(_NOISE, entries) > each.sum() > solutions[-2].missed.sum() / 2
            if each.sum() <= target or stalled or each[wanted].sum() < each.sum() / 2 or room <= 0:
                break
            chosen = np.zeros(len(each), dtype=bool)
            chosen[np.argsort(-each * wanted)[: min(room, int(wanted.sum()))]] = True
            panels = _refine(panels, chosen, self._singular)
            meshes.append(panels)
            solutions.append(self._solved(panels, guide))
        missed = [float(solution.missed.sum()) for solution in solutions[-2:]]
        gain = min(1.0, 10 * missed[-1] / max(missed[0], _EPS**2))  # of the last refinement
        unresolved = self._size * missed[-1]
        distance = abs(guide - 2 * round(guide / 2))  # from where f does not show how rough others nearby are
        distance = abs(guide) if self.has_cone else distance
        unresolved_slope = unresolved / distance if distance else math.inf
        if order != guide:  # f - 1 is proportional to p
            solutions = [self._solved(panels, order) for panels in meshes[-2:]]
            unresolved *= abs(order / guide)
            # Small measures matter to Lambda', and not to eigenvalues: panels are fine if halves agree.
            for _ in range(_MOST_CHECKS if self._probabilities.min() < _RARE else 0):
                panels = _refine(panels, np.ones(len(panels), dtype=bool), self._singular)
                finer = self._solved(panels, order) if len(panels) <= most else solutions[-1]
                if finer is solutions[-1] or abs(finer.slope - solutions[-1].slope) > _FAR:
                    break  # two eigenvalues are the same to rounding
                gain = 1.0
                solutions.append(finer)
                if abs(finer.slope - solutions[-2].slope) <= target:
                    break
        last, before = solutions[-1], solutions[max(len(solutions) - 2, 0)]
        growth = 1 + last.growth
        if not (growth > 0 and last.positive):
            return _UNKNOWN
        value = math.log1p(last.growth)
        error = (gain * abs(last.growth - before.growth) + unresolved + last.rounding) / growth + _EPS * abs(order)
        unresolved_slope += last.missed_slope + last.rounding
        if abs(order) < _SMALLEST_BETA and not self.has_cone:
            unresolved_slope += growth * self._stays_unresolved()
        slopes = [solution.slope for solution in (solutions[-3:] if gain == 1 else [before, last])]
        slope_error = gain * (max(slopes) - min(slopes)) + unresolved_slope / growth
        result = self._result(order, value, error, last.slope, slope_error + _EPS)
        return _UNKNOWN if self._grows_nearby(order, last.growth) else result

    def _stays_unresolved(self) -> float:
        """Return what Lambda' lacks of the time spent nearer to repelling directions than panels show."""
        lacking = 0.0
        for j in np.flatnonzero(self._hyperbolic):
            _, attracting, repelling, _ = _fixed_directions(self._matrices[[j]])
            along, across = (np.append(np.cos(angle), np.sin(angle)) for angle in (attracting, repelling))
            of_along, of_across = self._matrices @ along, self._matrices @ across
            stay = _parallel(of_along, along) & _parallel(of_across, across)
            turned = _parallel(of_along, across) & ~stay
            q, swapped = float(self._probabilities[stay].sum()), turned & _parallel(of_across, along)
            ratios = np.linalg.norm(of_along[stay], axis=1) / np.linalg.norm(of_across[stay], axis=1)
            gap = float(self._probabilities[stay] @ np.log(ratios)) / q
            if turned.any() and gap > 0:
                beta = -math.log(min(q + float(self._probabilities[swapped].sum()), 1.0)) / gap
                lacking = max(lacking, gap * _NARROWEST**beta if beta < _SMALLEST_BETA else 0.0)
        return lacking

    def _grows_nearby(self, order: float, growth: float) -> bool:
        """Return whether vectors near a repelling direction may grow faster than norms: beta is not well above 0."""
        if self.has_cone or order >= 0 or growth <= -1:
            return False
        first, second = np.log(self._eigenvalues)  # a kernel has -inf
        beta = np.log(self._probabilities[self._hyperbolic]) - math.log1p(growth) + order * second
        beta = np.where(np.isfinite(second), beta / (second - first), order)
        return bool((beta < _SMALLEST_BETA).any())

    def _solved(self, panels: FloatArray, order: float) -> _Solution:
        """Find the largest eigenvalue of P - 1 on panels."""
        from scipy.linalg import eig  # type: ignore[import-untyped]
        from scipy.sparse import csr_array, diags_array  # type: ignore[import-untyped]

        middles, tangents = self._origin + panels.mean(axis=1), np.tan(np.ptp(panels, axis=1) / 2)
        along = np.column_stack([np.cos(middles), np.sin(middles)])
        across = np.column_stack([-along[:, 1], along[:, 0]])
        scales = np.hypot(1, tangents[:, None] * _NODES) ** order  # f(v(x)) / f(v(x) / |v(x)|), shape (panels, _N)
        nodes = _numbered(panels)
        _, first = np.unique(nodes, return_index=True)
        here, k = np.divmod(first, _N)  # a panel and its node, for each
        x, n = _NODES[k], len(first)
        vectors = along[here] + (x * tangents[here])[:, None] * across[here]
        moves = np.einsum("iab,nb->nia", self._steps, vectors)  # all (nodes, m, ...)
        images = np.einsum("iab,nb->nia", self._matrices, vectors)
        angles = (np.arctan2(images[..., 1], images[..., 0]) - self._origin) % math.pi
        there = np.searchsorted((panels[1:, 0] + panels[:-1, 1]) / 2, angles)

        # On its own panel 1 + d is the gauge, and dx = x' - x; T' and T' - T are polynomials there and at x.
        d = np.einsum("nia,na->ni", moves, along[here])
        stays = (there == here[:, None]) & (d > -0.5)
        dx = (np.einsum("nia,na->ni", moves, across[here]) / tangents[here][:, None] - x[:, None] * d) / (1 + d)
        gauge = np.einsum("nia,nia->ni", images, along[there])
        other = np.einsum("nia,nia->ni", images, across[there]) / (tangents[there] * gauge)
        kernel = np.abs(images).max(axis=2) <= 4 * _EPS * np.abs(self._matrices).max(axis=(1, 2))
        log_gauge = np.where(kernel, -math.inf, np.where(stays, np.log1p(d), np.log(np.abs(gauge))))
        x_there = np.clip(np.where(kernel, 0.0, np.where(stays, x[:, None] + dx, other)), -1.01, 1.01)
        values = np.polynomial.chebyshev.chebvander(x_there, _N - 1)
        change = _changes(x_there, np.where(stays, dx, 0.0), _BASIS[k])
        log_power = order * log_gauge if order else np.zeros_like(log_gauge)
        weights = self._probabilities * np.exp(log_power)
        excess = np.where(stays, self._probabilities * np.expm1(log_power), weights)
        entries = excess[..., None] * values + np.where(stays, self._probabilities, 0)[..., None] * change
        entries = (entries @ _TO_COEFFICIENTS) * scales[there] / scales[here, k][:, None, None]
        starts = np.arange(n + 1) * entries[0].size
        matrix = csr_array((entries.ravel(), nodes[there].ravel(), starts), shape=(n, n))
        matrix = csr_array(matrix - diags_array(np.where(stays, 0, self._probabilities).sum(axis=1)))
        if not np.isfinite(matrix.data).all():
            raise FloatingPointError

        if n <= 4 * _N:
            eigenvalues, lefts, rights = eig(matrix.toarray(), left=True)
            chosen = int(np.argmax(eigenvalues.real))
            left, right = lefts[:, chosen].real, rights[:, chosen].real
        else:
            above = float(matrix.sum(axis=1).max()) + _APART * self._size  # f >= 0: none is above max (P f / f) - 1
            right = _eigenvector(matrix, above, self._size)
            left = _eigenvector(csr_array(matrix.T), above, self._size)
        right = right / right[np.argmax(np.abs(right))]
        left = left / (left @ right)
        growth = float(left @ (matrix @ right))
        profiles = right[nodes] * scales
        coefficients = profiles @ _TO_COEFFICIENTS.T
        lengths = np.log(np.hypot(1, tangents[:, None] * _NODES))
        changes = np.einsum("ni,nik,nik->n", np.where(kernel, 0, weights * log_gauge), values, coefficients[there])
        changes += np.einsum("ni,nik,nik->n", weights, values, ((profiles * lengths) @ _TO_COEFFICIENTS.T)[there])
        derivative = changes / scales[here, k] - lengths[here, k] * (matrix @ right + right)
        masses = np.abs(left)[nodes].sum(axis=1)
        return _Solution(
            growth=growth,
            slope=float(left @ derivative) / (1 + growth),
            missed_slope=float(masses @ np.abs((derivative[nodes] * scales) @ _TO_COEFFICIENTS[-2:].T).max(axis=1)),
            missed=masses * np.abs(coefficients[:, -2:]).max(axis=1),
            rounding=_EPS * float(np.abs(left) @ (abs(matrix) @ np.abs(right))),
            positive=bool((right > -_ROUNDING).all()),
        )


@dataclass(frozen=True, eq=False)
class _Solution:
    """The largest eigenvalue on some panels."""

    growth: float
    """exp Lambda - 1."""
    slope: float
    """Lambda'."""
    missed_slope: float
    missed: FloatArray
    """How much more of the eigenvalue polynomials of a higher degree might see, from each panel."""
    rounding: float
    positive: bool
    """Whether its eigenfunction is."""


def _numbered(panels: FloatArray) -> NDArray[np.int64]:
    """Return numbers of nodes, shape (panels, _N): panels share those at their ends, also around the circle."""
    joined = np.append(0, panels[1:, 0] == panels[:-1, 1])
    numbers = (np.arange(len(panels)) * _N - np.cumsum(joined))[:, None] + np.arange(_N)
    if panels[-1, 1] - panels[0, 0] == math.pi:
        numbers[-1, -1] = 0
    return np.asarray(numbers)


def _eigenvector(matrix: Any, above: float, size: float) -> FloatArray:
    """Return the eigenvector of the largest eigenvalue, which is below some number, in steps of some size."""
    from scipy.sparse import csc_array, eye_array
    from scipy.sparse.linalg import ArpackNoConvergence, eigs  # type: ignore[import-untyped]

    start = np.ones(matrix.shape[0])
    options = {"k": 1, "v0": start, "tol": 1e-13, "maxiter": _MOST_RESTARTS}
    with suppress(ArpackNoConvergence):  # tolerances are relative to the eigenvalue, hence not near 0
        values, vectors = eigs(matrix + size * eye_array(len(start)), which="LR", **options)
        if values[0].imag == 0 and values[0].real <= above + size:
            return np.asarray(vectors[:, 0].real)
    # small steps, or nearly isometries
    return np.asarray(eigs(csc_array(matrix), sigma=above, **options)[1][:, 0].real)


def _changes(x_there: FloatArray, dx: FloatArray, basis: FloatArray) -> FloatArray:
    """Return T_k(x') - T_k(x) without cancellation, by the recurrence of T_k."""
    changes = [np.zeros_like(dx), dx]
    for k in range(1, _N - 1):
        changes.append(2 * (x_there * changes[k] + dx * basis[:, None, k]) - changes[k - 1])
    return np.stack(changes, axis=-1)


def _parallel(vectors: FloatArray, direction: FloatArray) -> NDArray[np.bool_]:
    """Return which vectors are multiples of another, as far as panels can tell."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(direction)
    return np.asarray(np.abs(vectors @ [-direction[1], direction[0]]) <= _SAME * lengths)


def _angles(vectors: FloatArray) -> FloatArray:
    """Return the directions of vectors, in [0, pi)."""
    return np.asarray(np.arctan2(vectors[..., 1], vectors[..., 0]) % math.pi)


def _images(matrices: FloatArray, angles: FloatArray) -> FloatArray:
    """Return where all matrices map directions to; the kernel of a singular one has no image."""
    vectors = np.einsum("iab,bn->ina", matrices, np.array([np.cos(angles), np.sin(angles)]))
    return _angles(vectors[np.abs(vectors).max(axis=-1) > 10 * _EPS * np.abs(matrices).max(axis=(1, 2))[:, None]])


def _adjugates(matrices: FloatArray) -> FloatArray:
    """Return A^-1 det A: where directions come from."""
    (a, b), (c, d) = np.moveaxis(matrices, 0, -1)
    return np.moveaxis(np.array([[d, -b], [-c, a]]), -1, 0)


def _fixed_directions(matrices: FloatArray) -> tuple[NDArray[np.bool_], FloatArray, FloatArray, FloatArray]:
    """Return which matrices have one direction that attracts and one that repels, both, and abs(mu_1), abs(mu_2)."""
    (a, b), (c, d) = np.moveaxis(matrices, 0, -1)
    mean, half = (a + d) / 2, (a - d) / 2
    square = half**2 + b * c  # mu = mean +- its root
    root = np.copysign(np.sqrt(np.maximum(square, 0)), mean)
    chosen = (np.abs(mean) > 0) & (square > 0)
    mean, half, b, c, root = (part[chosen] for part in (mean, half, b, c, root))
    directions = []
    for value in (root, -root):  # of [[half, b], [c, -half]]: one of two multiples does not cancel
        first = (value * half >= 0)[:, None]
        directions.append(_angles(np.where(first, np.stack([value + half, c], -1), np.stack([b, value - half], -1))))
    large = np.abs(mean + root)
    determinants = np.abs(np.linalg.det(matrices[chosen]))
    small = np.where(determinants > 4 * _EPS * large**2, determinants / large, 0.0)
    return chosen, directions[0], directions[1], np.array([large, small])


def _invariant_arcs(matrices: FloatArray, attracting: FloatArray, repelling: FloatArray) -> FloatArray | None:
    """Return arcs, shape (k, 2), mapped into themselves, if some keep away from all that repels; k is small.

    Arcs around attracting directions are separated by repelling ones. Both are extended by images of their ends, the
    latter under inverses, until they stay.
    """
    backwards = _adjugates(matrices)
    inside, outside = attracting, repelling
    for _ in range(_MOST_STEPS):
        arcs, gaps = _separated(inside, outside), _separated(outside, inside)
        if not 0 < len(arcs) <= _MOST_ARCS:
            return None
        forward, backward = _images(matrices, arcs.ravel()), _images(backwards, gaps.ravel())
        if _inside(arcs, forward) and _inside(gaps, backward):
            middles = np.concatenate([np.linspace(start, end, 9) for start, end in arcs.tolist()])
            return _widened(arcs, gaps) if _inside(arcs, _images(matrices, middles)) else None
        inside, outside = np.append(arcs.ravel(), forward), np.append(gaps.ravel(), backward)
    return None


def _separated(inside: FloatArray, outside: FloatArray) -> FloatArray:
    """Return the smallest arcs that cover some directions and none of some others; none if these are not apart."""
    if not inside.size or not outside.size:
        return np.empty((0, 2))
    origin = float(outside[0])
    inside = np.sort((inside - origin) % math.pi)
    cell = np.searchsorted(np.sort((outside - origin) % math.pi), inside)
    new = np.append(True, np.diff(cell) > 0)
    arcs = np.column_stack([inside[new], inside[np.append(new[1:], True)]])
    apart = np.abs((inside[:, None] - (outside - origin)[None] + math.pi / 2) % math.pi - math.pi / 2).min()
    return arcs + origin if apart > 1e-9 else np.empty((0, 2))


def _inside(arcs: FloatArray, angles: FloatArray) -> bool:
    """Return whether directions lie in arcs, up to rounding."""
    slack = 1e-13
    depths = (angles[:, None] - arcs[:, 0] + slack) % math.pi
    return bool((depths <= np.ptp(arcs, axis=1) + 2 * slack).any(axis=1).all())


def _widened(arcs: FloatArray, gaps: FloatArray) -> FloatArray:
    """Return arcs in ascending order, none of them a point."""
    arcs = arcs[np.argsort(arcs[:, 0])]
    room = np.abs((arcs[:, :, None] - gaps.ravel() + math.pi / 2) % math.pi - math.pi / 2).min()
    point = np.ptp(arcs, axis=1) < 1e-3 * room
    return np.asarray(arcs + np.where(point, 1e-3 * room, 0.0)[:, None] * [-1, 1])


def _with_preimages(matrices: FloatArray, directions: FloatArray) -> FloatArray:
    """Return directions, then those mapped to them in one step, in two, ..."""
    backwards, found, last = _adjugates(matrices), directions, directions
    while last.size and found.size + last.size * len(matrices) <= _MOST_SINGULAR:
        last = _images(backwards, last)
        found = np.append(found, last)
    return found


def _cut(panel: FloatArray, n: int) -> FloatArray:
    """Cut a panel into n equal ones."""
    edges = np.linspace(panel[0], panel[1], n + 1)
    return np.column_stack([edges[:-1], edges[1:]])


def _refine(panels: FloatArray, chosen: NDArray[np.bool_], singular: FloatArray) -> FloatArray:
    """Cut panels at the first singular direction inside, or near one at an end, or in the middle."""
    refined = []
    for (start, end), cut in zip(panels.tolist(), chosen.tolist(), strict=True):
        if not cut:
            refined.append((start, end))
            continue
        width = end - start
        within = singular[(singular > start + _NARROWEST) & (singular < end - _NARROWEST)]
        at_start, at_end = (bool((np.abs(singular - edge) <= _NARROWEST).any()) for edge in (start, end))
        cuts = [(start + end) / 2]
        if within.size:
            cuts = [float(within[0])]
        elif at_start != at_end and _NEAR[0] * width > _NARROWEST:
            cuts = (start + _NEAR * width if at_start else end - _NEAR[::-1] * width).tolist()
        refined += list(pairwise([start, *cuts, end]))
    return np.array(refined)
