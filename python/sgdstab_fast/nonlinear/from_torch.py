"""Theories of the edge for a loss written in PyTorch: eigenvectors and responses by Lanczos' iteration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.nonlinear.oscillations import (
    AtMinimum,
    GDOscillation,
    at_minimum,
    flatness,
    from_gradient,
    oscillation,
    require_minimum,
    require_stationary,
)
from sgdstab_fast.nonlinear.self_stabilization import SelfStabilization
from sgdstab_fast.nonlinear.torch_loss import Times, TorchLoss
from sgdstab_fast.operators.krylov import ritz_pairs
from sgdstab_fast.results.printed import as_text
from sgdstab_fast.results.provenance import versions
from sgdstab_fast.results.result import Result
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.systems.decomposition import largest_axes

_DENSE = 256  # parameters of which all eigenvectors are computed
_MOST_VECTORS, _MOST_NUMBERS = 2000, 2e8  # of a Krylov basis
_NEAREST, _FARTHEST = 0.2, 3.0  # sharpness over 2 / eta, of what is called near the edge
_LOOK = 64  # products that look for negative eigenvalues
_TOLERANCE = 1e-10  # of the response, relative
_MOST_PROJECTIONS, _BASIS = 8, 12  # to the constrained trajectory; vectors for u
_STEEP, _SHARP = 1e-6, 1e-6  # slope along u, and sharpness, that are left there, relative


def gd_oscillation_from_torch(loss: Callable[[Any], Any], parameters: Any, learning_rate: float) -> GDOscillation:
    """Say whether gradient descent on a PyTorch loss oscillates around a minimum beyond the edge, or leaves.

    Parameters
    ----------
    loss : callable
        Of the parameters, in the form in which they are given here: returns a tensor of one number, the loss of all
        examples. With a module, ``torch.func.functional_call`` makes one.
    parameters : tensor, or list or dict of tensors
        Those at the minimum, in float64; they are not changed.
    learning_rate : float
        eta, near 2 over the largest eigenvalue of the Hessian.

    Returns
    -------
    GDOscillation
        As from `gd_oscillation`. Eigenvalues of the Hessian below 1e-11 of the largest count as 0. Of more than 256
        parameters negative ones are looked for with 64 products, and `flat_curvature` is not known.

    Raises
    ------
    ValueError, TypeError
        If the gradient is not zero, the Hessian has a negative eigenvalue, or higher derivatives of automatic
        differentiation are not right, as those of fused layer norms.

    Warns
    -----
    AccuracyWarning
        As `gd_oscillation` does; if the response H^+ g is not known well.

    References
    ----------
    R. Mulayoff and S. U. Stich, COLT 2026, arXiv 2602.14789, theorem 1.

    Examples
    --------
    >>> import torch
    >>> import sgdstab_fast as sf
    >>> found = sf.nonlinear.gd_oscillation_from_torch(
    ...     lambda p: (p["x"] * p["y"] - 1) ** 2 / 2,
    ...     {"x": torch.tensor(1.0).double(), "y": torch.tensor(1.0).double()},
    ...     1.1,
    ... )
    >>> found.verdict, round(found.criterion, 9)
    ('stable cycle', 24.0)
    """
    eta = validation.positive_number(learning_rate, "learning_rate")
    model = TorchLoss(loss, parameters)
    theta = model.theta
    _, gradient, times = model.around(theta)
    is_small = model.size <= _DENSE
    values, axes = (_all_axes if is_small else _top_axes)(times, model.size)
    largest, v = float(values[-1]), axes[:, -1]
    require_stationary(gradient, max(largest, 0.0), max(float(np.linalg.norm(theta)), 1.0))
    require_minimum(0.0, largest)
    flat = flatness(largest, model.along(theta, v, v), gradient)
    require_minimum(float(values[0]), largest, flat)
    model.require_right_derivatives(theta, v)

    def derivatives(*directions: FloatArray) -> FloatArray:
        return model.along(theta, *directions)

    if is_small:
        found = at_minimum(values, axes, derivatives, derivatives, flat)
    else:
        g, k = derivatives(v, v), float(derivatives(v, v, v) @ v)
        found = _response(times, v, g, k, flat)._replace(eigenvalue=largest, gap=largest - float(values[-2]))
        if found.drift == 0:
            warn(f"along flat directions of more than {_DENSE} parameters lambda is not looked at: a cycle may drift")
    return oscillation(found, eta, "automatic differentiation")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PredictedDynamics(Result):
    """Gradient descent at the edge as it is predicted to go, step by step, arrays of shape (n_steps + 1,)."""

    x: FloatArray
    """Oscillation along the top eigenvector."""
    sharpness: FloatArray
    """Predicted: that of the constrained trajectory, + y + (grad S . u) x."""
    loss: FloatArray
    """Predicted: that of the constrained trajectory, + x^2 / eta."""
    constrained_sharpness: FloatArray
    """Of the trajectory that is held at sharpness 2 / eta."""
    constrained_loss: FloatArray
    """Of the same trajectory."""
    delta: FloatArray
    """Size of the oscillation that would keep sharpness where it is; NaN where training does not sharpen."""

    def __repr__(self) -> str:
        return (
            f"PredictedDynamics({len(self.x) - 1} steps: sharpness {as_text(self.sharpness.min())} to "
            f"{as_text(self.sharpness.max())}, loss {as_text(self.loss.min())} to {as_text(self.loss.max())})"
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SelfStabilizationOfLoss(SelfStabilization):
    """Self-stabilisation at a point of a PyTorch loss, as `self_stabilization_from_torch` returns it.

    `alpha` and `beta` are those of the point next to it with sharpness at most 2 / eta and no slope along u.
    """

    sharpness: float
    """S at the point that was given."""
    eigenvector: FloatArray
    """u there, shape (D,)."""
    model: TorchLoss
    """The loss, and the point."""

    def predict(self, n_steps: int) -> PredictedDynamics:
        """Return how gradient descent goes on from there: equations of arXiv 2209.15594, section 5.

        The constrained trajectory goes down the loss, projected to sharpness at most 2 / eta and no slope along u;
        what differs from it by v, x = u . v and y = grad S . v apart from u, goes on as

            v -> (1 - eta H) v + c - eta grad S x^2 / 2   across u,    x -> -(1 + eta (y + S - 2 / eta)) x

        with c what the projection took away. A step takes some ten to a hundred products with the Hessian.
        """
        n_steps = validation.integer(n_steps, "n_steps")
        eta, limit = self.learning_rate, 2 / self.learning_rate
        theta = self.model.theta
        here = _projected(self.model, theta, self.eigenvector, limit)
        v = theta - here.theta
        x_of, sharpness, loss, constrained_sharpness, constrained_loss, delta = np.full((6, n_steps + 1), math.nan)
        for step in range(n_steps + 1):
            x, y = float(here.u @ v), float(here.across @ v)
            x_of[step] = x
            sharpness[step] = here.sharpness + y + float(here.slope @ here.u) * x
            loss[step] = here.loss + x * x / eta
            constrained_sharpness[step], constrained_loss[step] = here.sharpness, here.loss
            if here.alpha > 0 and here.beta > 0:
                delta[step] = math.sqrt(2 * here.alpha / here.beta)
            moved = here.theta - eta * here.gradient
            after = _projected(self.model, moved, here.u, limit)
            rest = v - x * here.u
            rest = rest - eta * here.times(rest) + (moved - after.theta) - eta * here.across * x * x / 2
            v = rest - (after.u @ rest) * after.u - (1 + eta * (y + here.sharpness - limit)) * x * after.u
            here = after
        return PredictedDynamics(
            x=x_of,
            sharpness=sharpness,
            loss=loss,
            constrained_sharpness=constrained_sharpness,
            constrained_loss=constrained_loss,
            delta=delta,
            provenance={"method": "predicted dynamics", **versions()},
        )


class _Point(NamedTuple):
    """A point of the constrained trajectory."""

    theta: FloatArray
    loss: float
    gradient: FloatArray
    times: Times
    sharpness: float
    u: FloatArray
    slope: FloatArray
    """grad S."""
    across: FloatArray
    """What of it is orthogonal to u."""

    @property
    def alpha(self) -> float:
        """-grad L . grad S, where the loss has no slope along u."""
        return -float(self.gradient @ self.across)

    @property
    def beta(self) -> float:
        """|grad S|^2 across u."""
        return float(self.across @ self.across)


def _at(model: TorchLoss, theta: FloatArray, near: FloatArray | None) -> _Point:
    """Return what there is to know about a point; u points as a vector near it does."""
    value, gradient, times = model.around(theta)
    sharpness, u = _top(times, model.size, near)
    slope = model.along(theta, u, u)
    return _Point(theta, value, gradient, times, sharpness, u, slope, slope - (slope @ u) * u)


def _projected(model: TorchLoss, theta: FloatArray, near: FloatArray, limit: float) -> _Point:
    """Return the point next to one at which sharpness is at most a limit and the loss has no slope along u."""
    here = _at(model, theta, near)
    for _ in range(_MOST_PROJECTIONS):
        along, excess = float(here.gradient @ here.u), max(here.sharpness - limit, 0.0)
        if abs(along) <= _STEEP * float(np.linalg.norm(here.gradient)) and excess <= _SHARP * limit:
            return here
        if not here.sharpness > 0:
            raise ValueError(f"parameters must be where the loss curves upwards, but sharpness is {here.sharpness:.3g}")
        moved = here.theta - along / here.sharpness * here.u
        if here.beta > 0:
            moved = moved - excess / here.beta * here.across
        here = _at(model, moved, here.u)
    warn(
        f"after {_MOST_PROJECTIONS} corrections the constrained trajectory has sharpness {here.sharpness:.6g} for "
        f"{limit:.6g} and a slope of {along:.2g}: start closer to the edge"
    )
    return here


def _top(times: Times, size: int, near: FloatArray | None) -> tuple[float, FloatArray]:
    """Return the largest eigenvalue and its eigenvector, from one near it."""
    if size <= _DENSE // 4:
        values, axes = _all_axes(times, size)
    else:
        values, axes = largest_axes(times, size, 1, start=near, n_vectors=None if near is None else _BASIS)
    u = axes[:, -1]
    return float(values[-1]), u if near is None or u @ near >= 0 else -u


def self_stabilization_from_torch(
    loss: Callable[[Any], Any], parameters: Any, learning_rate: float, *, noise_variance: float = 0.0
) -> SelfStabilizationOfLoss:
    """Say how gradient descent balances at the edge of stability, at a point of a PyTorch loss.

    Parameters
    ----------
    loss : callable
        Of the parameters, in the form in which they are given here: returns a tensor of one number.
    parameters : tensor, or list or dict of tensors
        Where training is, near sharpness 2 / eta; in float64. They are not changed.
    learning_rate : float
        eta.
    noise_variance : float, optional
        Of the stochastic gradient along the top eigenvector.

    Returns
    -------
    SelfStabilizationOfLoss
        As from `self_stabilization`, with the sharpness and its eigenvector; its `predict` goes on from there.

    Raises
    ------
    ValueError, TypeError
        If training does not sharpen there (alpha <= 0), or third derivatives are not right.

    References
    ----------
    A. Damian, E. Nichani and J. D. Lee, arXiv 2209.15594, definitions 1 to 5.

    Examples
    --------
    A loss that has the reduced map exactly, with 2 / eta = 20, alpha = 0.01 and beta = 1:

    >>> import torch
    >>> import sgdstab_fast as sf
    >>> found = sf.nonlinear.self_stabilization_from_torch(
    ...     lambda p: (20 + p[1]) * p[0] ** 2 / 2 - 0.01 * p[1], torch.tensor([0.05, 0.0]).double(), 0.1
    ... )
    >>> round(found.alpha, 12), round(found.beta, 12), round(found.delta, 6)
    (0.01, 1.0, 0.141421)
    """
    eta = validation.positive_number(learning_rate, "learning_rate")
    model = TorchLoss(loss, parameters)
    start = _at(model, model.theta, None)
    if not _NEAREST < start.sharpness * eta / 2 < _FARTHEST:
        raise ValueError(
            f"parameters must be near the edge, where sharpness is 2 / learning_rate = {2 / eta:.6g}, but there it is "
            f"{start.sharpness:.6g}"
        )
    model.require_right_derivatives(start.theta, start.u)
    here = _projected(model, start.theta, start.u, 2 / eta)
    if not (here.alpha > 0 and here.beta > 0):
        raise ValueError(
            f"parameters must be where training sharpens, -grad L . grad S > 0, but there that is {here.alpha:.3g} and "
            f"|grad S|^2 is {here.beta:.3g}"
        )
    return SelfStabilizationOfLoss(
        alpha=here.alpha,
        beta=here.beta,
        learning_rate=eta,
        noise_variance=validation.nonnegative_number(noise_variance, "noise_variance"),
        sharpness=start.sharpness,
        eigenvector=start.u,
        model=model,
        provenance={"method": "self-stabilisation, from automatic differentiation", **versions()},
    )


def _all_axes(times: Times, size: int) -> tuple[FloatArray, FloatArray]:
    """Return all eigenvalues, ascending, and eigenvectors."""
    matrix = np.stack([times(each) for each in np.eye(size)])
    values, axes = np.linalg.eigh((matrix + matrix.T) / 2)
    return values, axes


def _top_axes(times: Times, size: int) -> tuple[FloatArray, FloatArray]:
    """Return the lowest eigenvalue, as far as a few products see it, and the two largest, and their eigenvectors."""
    values, axes = largest_axes(times, size, 2)
    start = np.random.default_rng(size).normal(size=size)
    low, beside = ritz_pairs(times, start, min(size, _LOOK), lambda *_: False)
    return np.append(low[0], values), np.column_stack([beside[:, 0], axes])


def _response(times: Times, v: FloatArray, g: FloatArray, k: float, flat: float) -> AtMinimum:
    """Return what `from_gradient` does from the Krylov space of g."""
    if not g.any():
        return from_gradient(np.array([v @ times(v)]), v[:, None], v, g, k, flat)
    residual = 0.0

    def is_known(values: FloatArray, vectors: FloatArray, after: float) -> bool:
        nonlocal residual
        curved = values > flat
        inverse = np.where(curved, 1 / np.where(curved, values, 1.0), 0.0)
        residual = after * abs(float(vectors[-1] @ (inverse * vectors[0])))
        return residual <= _TOLERANCE

    most = int(min(g.size, _MOST_VECTORS, max(_MOST_NUMBERS / g.size, 2)))
    values, axes = ritz_pairs(times, g, most, is_known)
    if len(values) == most < g.size and residual > _TOLERANCE:
        warn(f"after {most} products with the Hessian H^+ g is known to {residual:.1g} only: so is the criterion")
    return from_gradient(values, axes, v, g, k, flat)
