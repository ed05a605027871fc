r"""Gradient descent beyond the edge, eta lambda > 2: whether it oscillates around the minimum or leaves.

At a minimum with the Hessian H let lambda be its largest eigenvalue, simple, with H v = lambda v, and

    g = D^3 L[v, v, .],    k = D^4 L[v, v, v, v],    Gamma = 3 g^T H^-1 g - k,    b = (eta / 6) Gamma.

At eta = 2 / lambda gradient descent flips: along v it follows xi -> -(1 + delta) xi + b xi^3, delta = eta lambda - 2
(Yu. A. Kuznetsov, "Elements of Applied Bifurcation Theory", section 5.4; the condition is that of R. Mulayoff and S. U.
Stich, COLT 2026, arXiv 2602.14789, theorem 1). Gamma > 0: for small delta > 0 there is a stable cycle of period 2,

    theta* +- xi v - (xi^2 / 2) H^-1 g,    xi = sqrt(delta / b),    multiplier of two steps along it 1 - 4 delta,

up to higher orders, as long as delta is small beside eta lambda_k of all directions k that g feels: slower ones do not
follow the oscillation. Gamma < 0: the cycle is there for delta < 0, is unstable and bounds what converges; for
delta > 0 gradient descent leaves.

On a manifold of minima H is singular, with the projector P_0 on its kernel. P_0 g is the gradient of lambda along the
manifold: where it is not zero there is no cycle, an oscillation of size xi drifts by -(eta / 2) xi^2 P_0 g a step, to
where lambda is smaller. Where it is zero, H^-1 is the pseudo-inverse, and the cycle is stable if lambda has a minimum
along the manifold, too: with w in the kernel, w'' = -H^+ D^3 L[w, w, .] and the other eigenvectors u_k,

    d^2 lambda / dw^2 = D^4 L[v, v, w, w] + g . w'' + 2 sum_k D^3 L[v, w, u_k]^2 / (lambda - lambda_k) > 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.printed import as_text
from sgdstab_fast.results.provenance import versions
from sgdstab_fast.results.result import Result
from sgdstab_fast.results.warnings import warn

FLAT = 1e-11
"""Eigenvalues below this share of the largest one are those of a manifold of minima."""
_INDEFINITE = 1e-8  # an eigenvalue below minus this share of the largest is no rounding
_STILL = 1e-7  # of |g|: less of it along the manifold is rounding
_ROUNDING = 1e-12
_CLOSE = 1e-3  # a gap below that share of lambda is flagged
_NEUTRAL = 1e-9  # of the terms of a curvature along the manifold: less is rounding
_BESIDE = 10.0  # times the estimate of an eigenvalue that should be 0
_BEYOND = 1.0  # delta beyond which nothing is said
_FAR = 0.25  # delta beyond which nothing here is to be relied on
_SLOW, _MUCH = 2.0, 0.1  # eta lambda_k over delta below which a direction lags, and what share of Gamma is much


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GDOscillation(Result):
    """What gradient descent does at the edge of a minimum, as `gd_oscillation` returns it."""

    learning_rate: float
    """eta."""
    verdict: str
    """At this learning rate, near the edge: ``"converges"``; ``"stable cycle"``: it oscillates around the minimum;
    ``"unstable cycle"``: below the critical rate it converges from within the cycle only, above it leaves;
    ``"drifts"``: it oscillates and moves along the manifold of minima to where that is flatter; ``"undecided"``: Gamma
    is 0, or eta lambda is beyond 3."""
    eigenvalue: float
    """lambda, the largest of the Hessian."""
    eigenvector: FloatArray
    """v, shape (D,), of length 1."""
    gap: float
    """lambda less the next eigenvalue; next to nothing where the top is not simple, to which the theory does not go."""
    criterion: float
    """Gamma: above 0 the cycle is stable."""
    coefficient: float
    """b = (eta / 6) Gamma."""
    drift: float
    """|P_0 g|, how fast lambda changes along the manifold of minima; 0 at an isolated minimum."""
    flat_curvature: float
    """The smallest second derivative of lambda along the manifold of minima, 0 where rounding may have made it; NaN at
    an isolated minimum, where lambda drifts, and for networks of more than 256 parameters."""
    amplitude: float
    """xi, half the distance between the points of the cycle; NaN where there is none."""
    cycle: FloatArray
    """Both points, relative to the minimum, shape (2, D); NaN where there is none."""

    @property
    def excess(self) -> float:
        """Delta = eta lambda - 2."""
        return self.learning_rate * self.eigenvalue - 2

    @property
    def multiplier(self) -> float:
        """What two steps make of a small displacement along the cycle's axis, 1 - 4 delta; NaN without a cycle."""
        return 1 - 4 * self.excess if math.isfinite(self.amplitude) else math.nan

    @property
    def critical_learning_rate(self) -> float:
        """2 / lambda."""
        return 2 / self.eigenvalue

    def __repr__(self) -> str:
        return (
            f"GDOscillation(verdict={self.verdict!r}, criterion={as_text(self.criterion)}, "
            f"drift={as_text(self.drift, '.3g')}, amplitude={as_text(self.amplitude, absent='not applicable')}, "
            f"critical_learning_rate={as_text(self.critical_learning_rate)})"
        )


Contraction = Callable[..., FloatArray]
"""Of directions, all but one of those that a symmetric tensor takes: what is left, shape (D,)."""


class AtMinimum(NamedTuple):
    """Derivatives of the loss at a minimum, as far as the flip takes them."""

    eigenvalue: float
    """lambda."""
    eigenvector: FloatArray
    """v."""
    gap: float
    """To the next eigenvalue."""
    fourth: float
    """k."""
    rates: FloatArray
    """Eigenvalues, shape (r,)."""
    terms: FloatArray
    """Those of g^T H^+ g, one for each eigenvalue."""
    response: FloatArray
    """H^+ g."""
    drift: float
    """|P_0 g|, 0 if it is rounding."""
    flat_curvature: float
    """The smallest d^2 lambda / dw^2; NaN where there is none, or it is not known."""

    @property
    def square(self) -> float:
        """g^T H^+ g."""
        return float(self.terms.sum())


def gd_oscillation(
    hessian: Any,
    third: Any,
    fourth: Any,
    learning_rate: float,
    *,
    gradient: Any = None,
) -> GDOscillation:
    """Say whether gradient descent oscillates around a minimum beyond the edge, in a stable cycle, or leaves.

    Parameters
    ----------
    hessian : array_like, shape (D, D)
        Of the loss, at a minimum.
    third : array_like, shape (D, D, D), or callable
        Third derivatives there; or a function of v and w, shape (D,), that returns D^3 L[v, w, .], shape (D,).
    fourth : array_like, shape (D, D, D, D), or callable
        Fourth derivatives; or a function of u, v and w that returns D^4 L[u, v, w, .], shape (D,).
    learning_rate : float
        eta, near 2 over the largest eigenvalue of the Hessian.
    gradient : array_like, shape (D,), optional
        Of the loss, which is checked to vanish.

    Returns
    -------
    GDOscillation
        The verdict, the criterion and the cycle; correct to leading order in eta lambda - 2.

    Raises
    ------
    ValueError, TypeError
        If a tensor is not finite, not symmetric or of another size, or the Hessian has a negative eigenvalue, or
        the gradient is not zero: not at a minimum.

    Warns
    -----
    AccuracyWarning
        If the largest eigenvalue is not simple, or a second one is beyond the edge, too, or much of Gamma comes from
        directions that are too slow to follow: then what is said holds closer to the edge only.

    References
    ----------
    Yu. A. Kuznetsov, "Elements of Applied Bifurcation Theory", section 5.4; R. Mulayoff and S. U. Stich, COLT 2026,
    arXiv 2602.14789, theorem 1.

    Examples
    --------
    L(x, y) = (2 x^2 + y^2) / 2 + x^2 y / 2 + x^3 / 12 + x^4 / 24:

    >>> import numpy as np
    >>> import sgdstab_fast as sf
    >>> third, fourth = np.zeros((2, 2, 2)), np.zeros((2, 2, 2, 2))
    >>> third[0, 0, 0], fourth[0, 0, 0, 0] = 0.5, 1.0
    >>> third[0, 0, 1] = third[0, 1, 0] = third[1, 0, 0] = 1.0
    >>> found = sf.nonlinear.gd_oscillation(np.diag([2.0, 1.0]), third, fourth, 1.005)
    >>> found.verdict, round(found.criterion, 12), round(found.amplitude, 4)
    ('stable cycle', 2.375, 0.1585)
    """
    learning_rate = validation.positive_number(learning_rate, "learning_rate")
    matrix = validation.symmetric_tensor(hessian, "hessian", 2)
    size = len(matrix)
    values, axes = np.linalg.eigh((matrix + matrix.T) / 2)
    require_minimum(float(values[0]), float(values[-1]))
    if gradient is not None:
        require_stationary(validation.vector(gradient, "gradient", size), float(values[-1]))
    found = at_minimum(
        values, axes, _contraction(third, "third", 3, size), _contraction(fourth, "fourth", 4, size), FLAT * values[-1]
    )
    return oscillation(found, learning_rate, "tensors")


def _contraction(value: Any, name: str, order: int, size: int) -> Contraction:
    """Return what contracts a symmetric tensor with all directions but one."""
    if callable(value):
        return lambda *directions: validation.vector(value(*directions), f"{name}(..)", size)
    tensor = validation.symmetric_tensor(value, name, order, size)

    def contracted(*directions: FloatArray) -> FloatArray:
        found = tensor
        for direction in directions:
            found = np.asarray(found @ direction)
        return found

    return contracted


def require_minimum(lowest: float, largest: float, flat: float = 0.0) -> None:
    """Refuse the eigenvalues of a Hessian that is not that of a minimum; up to `flat` they may be 0."""
    if not largest > 0:
        raise ValueError(f"hessian must have a positive eigenvalue, but the largest is {largest:.6g}")
    if lowest < -max(_INDEFINITE * largest, flat):
        raise ValueError(
            f"hessian must be positive semidefinite, but has the eigenvalue {lowest:.6g} beside {largest:.6g}: this is "
            "no minimum"
        )


def require_stationary(gradient: FloatArray, largest: float, scale: float = 1.0) -> None:
    """Refuse a gradient that moves parameters of a size by more than a little."""
    size = float(np.abs(gradient).max()) or 1.0
    length, allowed = size * float(np.linalg.norm(gradient / size)), _STILL * largest * scale
    if length > allowed:
        raise ValueError(
            f"gradient must be zero, but its length is {length:.3g}, more than {allowed:.2g}: this is no minimum; a "
            "network is at one if its own outputs are taken as targets"
        )


def at_minimum(values: FloatArray, axes: FloatArray, third: Contraction, fourth: Contraction, flat: float) -> AtMinimum:
    """Return what the flip takes from all eigenvalues, ascending, and eigenvectors of a Hessian and derivatives.

    Eigenvalues up to `flat` are those of a manifold of minima.
    """
    v = axes[:, -1]
    with np.errstate(over="ignore", invalid="ignore"):
        found = from_gradient(values, axes, v, third(v, v), float(fourth(v, v, v) @ v), flat)
        if found.drift == 0:
            found = found._replace(flat_curvature=_flat_curvature(found, axes, third, fourth, flat))
    return found


def flatness(largest: float, g: FloatArray, gradient: FloatArray) -> float:
    """Return up to what an eigenvalue may be 0: rounding, and what a gradient that is not quite 0 leaves of one.

    Beside a manifold of minima, at a distance of |grad L| / lambda, it is about |D^3 L| |grad L| / lambda.
    """
    return FLAT * largest + _BESIDE * float(np.linalg.norm(g)) * float(np.linalg.norm(gradient)) / largest


def from_gradient(
    values: FloatArray, axes: FloatArray, v: FloatArray, g: FloatArray, k: float, flat: float
) -> AtMinimum:
    """Return the same but for the curvature along a manifold, given g and k, from eigenvectors (D, r) that span g."""
    largest, components = float(values[-1]), axes.T @ g
    is_flat = values <= flat
    inverse = np.where(is_flat, 0.0, 1 / np.where(is_flat, 1.0, values))
    still = float(np.linalg.norm(components[is_flat]))
    return AtMinimum(
        eigenvalue=largest,
        eigenvector=v,
        gap=largest - float(values[-2]) if len(values) > 1 else largest,
        fourth=k,
        rates=values,
        terms=inverse * components**2,
        response=axes @ (inverse * components),
        drift=still if still > _STILL * float(np.linalg.norm(components)) else 0.0,
        flat_curvature=math.nan,
    )


def _flat_curvature(found: AtMinimum, axes: FloatArray, third: Contraction, fourth: Contraction, flat: float) -> float:
    """Return the smallest second derivative of lambda along the manifold; NaN if the minimum is isolated."""
    values, v = found.rates, found.eigenvector
    w = axes[:, values <= flat].T
    if not w.size:
        return math.nan
    mixed = np.array([third(v, each) for each in w]) @ axes[:, :-1]  # D^3 L[v, w, u_k]
    away = np.maximum(values[-1] - values[:-1], _ROUNDING * values[-1])
    terms = (
        np.array([fourth(v, v, each) for each in w]) @ w.T,
        -np.array([third(found.response, each) for each in w]) @ w.T,
        2 * (mixed / away) @ mixed.T,
    )
    lowest = float(np.linalg.eigvalsh(sum(terms))[0])
    return lowest if abs(lowest) > _NEUTRAL * sum(float(np.abs(each).max()) for each in terms) else 0.0


def oscillation(found: AtMinimum, learning_rate: float, method: str) -> GDOscillation:
    """Return what follows from derivatives at a minimum."""
    v, delta = found.eigenvector, learning_rate * found.eigenvalue - 2
    with np.errstate(over="ignore", invalid="ignore"):
        criterion = 3 * found.square - found.fourth
        is_number = math.isfinite(found.square) and math.isfinite(learning_rate * criterion)
    if not (is_number and np.isfinite(found.response).all() and math.isfinite(delta)):
        raise ValueError(
            f"hessian, third, fourth and learning_rate are too far from 1 to compute with, eigenvalues of the Hessian "
            f"up to {found.eigenvalue:.3g}: scale the loss, or the parameters"
        )
    criterion = criterion if abs(criterion) > _ROUNDING * (3 * found.square + abs(found.fourth)) else 0.0
    coefficient = learning_rate / 6 * criterion
    if found.gap < _CLOSE * found.eigenvalue:
        warn(
            f"the largest eigenvalue of the Hessian, {found.eigenvalue:.6g}, is not simple: the next one is "
            f"{found.gap:.2g} below, and what oscillations do in two directions is another question"
        )
    elif learning_rate * (found.eigenvalue - found.gap) > 2:
        warn("a second eigenvalue of the Hessian is beyond 2 / learning_rate: what is said here is of one alone")
    lags = learning_rate * found.rates < _SLOW * abs(delta)
    if found.drift == 0 and 3 * found.terms[lags].sum() > _MUCH * abs(criterion):
        warn(
            f"directions with eigenvalues below {_SLOW * abs(delta) / learning_rate:.2g} are too slow to follow the "
            "oscillation, and much of the criterion comes from them: it holds closer to the edge only"
        )
    verdict = _verdict(found, criterion, delta)
    squared = delta / coefficient if coefficient != 0 and found.drift == 0 and verdict != "drifts" else -1.0
    xi = math.sqrt(squared) if squared > 0 else math.nan
    if squared > 0 and abs(delta) > _FAR:
        warn(f"learning_rate times the largest eigenvalue is {delta + 2:.3g}, far from 2: what is said holds near it")
    with np.errstate(over="ignore", invalid="ignore"):
        bend = -xi * xi / 2 * found.response
        cycle = np.array([bend + xi * v, bend - xi * v])
    return GDOscillation(
        learning_rate=learning_rate,
        verdict=verdict,
        eigenvalue=found.eigenvalue,
        eigenvector=v,
        gap=found.gap,
        criterion=criterion,
        coefficient=coefficient,
        drift=found.drift,
        flat_curvature=found.flat_curvature,
        amplitude=xi,
        cycle=cycle,
        provenance={"method": f"flip, from {method}", **versions()},
    )


def _verdict(found: AtMinimum, criterion: float, delta: float) -> str:
    if delta <= 0 and (criterion >= 0 or found.drift > 0):
        return "converges"
    if delta > _BEYOND:
        return "undecided"
    if found.drift > 0 or (criterion > 0 and found.flat_curvature < 0):
        return "drifts"
    return "stable cycle" if criterion > 0 else "unstable cycle" if criterion < 0 else "undecided"


def interpolation_derivatives(
    gradients: Any, second: Any, third: Any = None
) -> tuple[FloatArray, Contraction, Contraction]:
    r"""Return the derivatives of the half mean squared loss of a model that fits all examples, for `gd_oscillation`.

    Parameters
    ----------
    gradients : array_like, shape (N, D)
        Of the model's output for every example, at the minimum: K is gradients times their transpose.
    second : array_like, shape (N, D, D)
        Second derivatives of the outputs.
    third : array_like, shape (N, D, D, D), optional
        Third derivatives; by default 0.

    Returns
    -------
    hessian : array, shape (D, D)
        (1/N) sum_i g_i g_i^T.
    third, fourth : callable
        (v, w) -> D^3 L[v, w, .] and (u, v, w) -> D^4 L[u, v, w, .]: of f_i, with H_i its second derivatives, D^3 L is
        the mean of the three ways to put g_i . v and H_i together, D^4 L that of the three of H_i and H_i and of the
        four of g_i and D^3 f_i. So D^3 L[v, v, .] = (1/N) sum_i [2 (g_i . v) H_i v + (v . H_i v) g_i].

    Raises
    ------
    ValueError, TypeError
        If shapes do not match, or numbers are not finite.

    Examples
    --------
    (x y - 1)^2 / 2 at x = y = 1, where f = x y:

    >>> import sgdstab_fast as sf
    >>> derivatives = sf.nonlinear.interpolation_derivatives([[1, 1]], [[[0, 1], [1, 0]]])
    >>> found = sf.nonlinear.gd_oscillation(*derivatives, 1.1)
    >>> found.verdict, round(found.criterion, 12)
    ('stable cycle', 24.0)
    """
    g = validation.finite_matrix(gradients, "gradients")
    n, d = g.shape
    h = _of_examples(second, "second", (n, d, d))
    t = None if third is None else _of_examples(third, "third", (n, d, d, d))

    def third_along(v: FloatArray, w: FloatArray) -> FloatArray:
        along_v, along_w = g @ v, g @ w
        return np.asarray((along_v @ (h @ w) + along_w @ (h @ v) + (h @ v @ w) @ g) / n)

    def fourth_along(u: FloatArray, v: FloatArray, w: FloatArray) -> FloatArray:
        found = np.zeros(d)
        for a, b, c in ((u, v, w), (v, w, u), (w, u, v)):
            found += (h @ a @ b) @ (h @ c)
            found += 0.0 if t is None else (g @ a) @ (t @ b @ c)
        found += 0.0 if t is None else (t @ u @ v @ w) @ g
        return np.asarray(found / n)

    return g.T @ g / n, third_along, fourth_along


def _of_examples(value: Any, name: str, shape: tuple[int, ...]) -> FloatArray:
    array = validation.numeric(value, name).astype(np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, as gradients are, not {array.shape}")
    for number, each in enumerate(array):
        validation.symmetric_tensor(each, f"{name}[{number}]", each.ndim)
    return array
