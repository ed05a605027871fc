r"""Noise equilibrium: where along a symmetry of the loss the noise of SGD takes parameters.

Let exp(rho A), A symmetric, leave the loss l of every example as it is, as rescaling of two layers does, (U, W) ->
(e^rho U, e^-rho W). Then theta . A grad l = 0, and a step theta -> theta - eta g changes the charge C = theta . A theta
by eta^2 g . A g exactly. Gradient flow keeps C; SGD with batches of B does not:

    E[change of C] = eta^2 ( grad L . A grad L + Tr[A Sigma_B] ),    Sigma_B = (N - B) / (B (N - 1)) Sigma,

with Sigma = (1/N) sum_i g_i g_i^T - grad L grad L^T. Gradients transform with e^(-rho A), so along the orbit the noise
is balanced at the only rho* with

    Tr[A e^(-2 rho A) Sigma] = sum_k a_k e^(-2 rho a_k) Sigma_kk = 0

in the eigenbasis of A, a_k its eigenvalues: the left side decreases in rho (L. Ziyin, M. Wang, H. Li and L. Wu,
"Parameter Symmetry and Noise Equilibrium of Stochastic Gradient Descent", arXiv 2402.07193). There is one if and only
if there is noise for positive and for negative a_k. SGD goes there from both sides. For rescaling, rho* is
log(s_U / s_W) / 4 with s_X the variance of gradients in X. Of a two-layer linear model f = U W x with the half squared
loss, residuals r = f - y,

    E[g_U^T g_U - g_W g_W^T] = W Gamma_W W^T - U^T Gamma_U U,    Gamma_W = E[|r|^2 x x^T],  Gamma_U = E[|x|^2 r r^T],

whose traces are mean squares of gradients: variances where grad L = 0, as at a minimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.interruption import interruptible_if_large
from sgdstab_fast.results.printed import as_text
from sgdstab_fast.results.progress import ProgressOption, tell_of, tells
from sgdstab_fast.results.provenance import versions
from sgdstab_fast.results.result import Result

_LARGEST = 1e75  # entry
_LARGEST_OF_LAYERS = 1e50  # of which products of six are taken
_ROUNDING = 1e-8  # of |theta| |A g|, that theta . A g may be
_CONSTANT = (16 * float(np.finfo(float).eps)) ** 2  # of the squared mean: less variance is rounding
_SEVERAL = 64  # roundings of the numbers that were given
_SAME = 1e-9  # eigenvalues of a generator, relative to the largest


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NoiseEquilibrium(Result):
    """Where noise takes parameters along a symmetry, as `noise_equilibrium` returns it."""

    batch_size: int
    """B."""
    charge: float
    """C = theta . A theta; NaN where parameters were not given."""
    drift_per_step: float
    """E[change of C] in a step, over eta^2."""
    equilibrium: float
    """rho*: parameters e^(rho* A) theta are where noise is balanced; infinite, with the sign of where it goes, if it is
    nowhere, and NaN without noise."""
    eigenvalues: FloatArray
    """The different eigenvalues of A, ascending."""
    noise_by_eigenvalue: FloatArray
    """Variance of gradients (of batches of one) in the eigenspace of each."""

    def __repr__(self) -> str:
        return (
            f"NoiseEquilibrium(equilibrium={as_text(self.equilibrium)}, drift_per_step={as_text(self.drift_per_step)}, "
            f"charge={as_text(self.charge)})"
        )

    def balance(self, rho: float) -> float:
        """Return Tr[A e^(-2 rho A) Sigma], which decreases in rho.

        Times eta^2 it is what the noise of single examples adds to the charge in a step at e^(rho A) theta.
        """
        felt = (self.noise_by_eigenvalue > 0) & (self.eigenvalues != 0)
        a, noise = self.eigenvalues[felt], self.noise_by_eigenvalue[felt]
        with np.errstate(over="ignore"):  # far away it is infinite
            return float((a * np.exp(-2 * validation.real_number(rho, "rho") * a)) @ noise)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RescalingEquilibrium(Result):
    """Where noise takes two linear layers, as `rescaling_equilibrium` returns it."""

    imbalance: FloatArray
    """W Gamma_W W^T - U^T Gamma_U U, shape (h, h): 0 at equilibrium of every symmetry between the layers."""
    u_noise: float
    """s_U = E|g_U|^2, the mean square of gradients in U: their variance at a minimum."""
    w_noise: float
    """s_W = E|g_W|^2, likewise of W."""

    @property
    def equilibrium(self) -> float:
        """rho* = log(s_U / s_W) / 4: noise is balanced at e^rho* U, e^-rho* W."""
        return (math.log(self.u_noise) - math.log(self.w_noise)) / 4

    @property
    def balanced_noise(self) -> float:
        """s_U = s_W at equilibrium."""
        return math.sqrt(self.u_noise) * math.sqrt(self.w_noise)

    def __repr__(self) -> str:
        rho, noise = as_text(self.equilibrium), as_text(self.balanced_noise)
        return f"RescalingEquilibrium(equilibrium={rho}, balanced_noise={noise})"


@interruptible_if_large
@tells("noise equilibrium")
def noise_equilibrium(
    gradients: Any,
    generator: Any,
    parameters: Any = None,
    *,
    batch_size: int = 1,
    progress: ProgressOption = None,
) -> NoiseEquilibrium:
    """Find where along a symmetry of the loss the noise of SGD is balanced.

    Parameters
    ----------
    gradients : array_like, shape (N, D)
        Of the loss of every example.
    generator : array_like, shape (D, D) or (D,)
        A, symmetric, or its diagonal: e^(rho A) leaves every example's loss as it is. For rescaling of layers, 1 for
        the parameters of one, -1 for those of the other, 0 elsewhere.
    parameters : array_like, shape (D,), optional
        theta, for the charge, and to check that A is a symmetry: theta . A g_i = 0.
    batch_size : int, optional
        Examples in a batch, drawn without replacement.
    progress : bool or callable, optional
        True to show on standard error what is computed, or what to call with a `Progress`.

    Returns
    -------
    NoiseEquilibrium
        Charge, its drift in a step over eta^2, and rho*.

    Raises
    ------
    ValueError, TypeError
        If shapes do not match, numbers are not finite, or A is no symmetry of the loss.

    References
    ----------
    L. Ziyin, M. Wang, H. Li and L. Wu, "Parameter Symmetry and Noise Equilibrium of Stochastic Gradient Descent", arXiv
    2402.07193, theorem 4.3.

    Examples
    --------
    The gradients of (u w - y)^2 / 2 at u = 2, w = 1/2 for y = 0 and 2 are r w and r u with r = 1 and -1:

    >>> import sgdstab_fast as sf
    >>> found = sf.nonlinear.noise_equilibrium([[0.5, 2], [-0.5, -2]], [1, -1], [2, 0.5])
    >>> found.charge, found.drift_per_step, round(found.equilibrium, 6)  # log(1/2) = -0.693147: u = w
    (3.75, -3.75, -0.693147)
    """
    g = validation.finite_matrix(gradients, "gradients")
    _require_sizes("gradients", g)
    n, d = g.shape
    size = validation.integer(batch_size, "batch_size", high=n)
    values, axes = _decomposed(generator, d)
    components = g if axes is None else g @ axes
    charge = math.nan
    if parameters is not None:
        theta = validation.vector(parameters, "parameters", d)
        _require_sizes("parameters", theta)
        theta = theta if axes is None else theta @ axes
        precision = max(validation.precision_of(gradients), validation.precision_of(parameters))
        _require_symmetry(theta, values * components, max(_ROUNDING, _SEVERAL * precision))
        charge = float(values @ theta**2)
    values = np.where(np.abs(values) > _SAME * float(np.abs(values).max()), values, 0.0)
    mean, variances = components.mean(axis=0), components.var(axis=0)
    variances = np.where(variances > _CONSTANT * mean**2, variances, 0.0)
    noise = (n - size) / (size * (n - 1)) if n > 1 else 0.0
    order = np.argsort(values)
    starts = np.diff(values[order], prepend=-math.inf) > _SAME * float(np.abs(values).max())
    different = values[order][starts]
    by_eigenvalue = np.add.reduceat(variances[order], np.flatnonzero(starts))
    return NoiseEquilibrium(
        batch_size=size,
        charge=charge,
        drift_per_step=float(values @ mean**2 + noise * values @ variances),
        equilibrium=_balanced(different, by_eigenvalue),
        eigenvalues=different,
        noise_by_eigenvalue=by_eigenvalue,
        provenance={"method": "noise equilibrium", **versions()},
    )


def rescaling_equilibrium(u: Any, w: Any, inputs: Any, residuals: Any) -> RescalingEquilibrium:
    """Find where noise takes the layers of f = U W x with the half squared loss, near a minimum of it.

    Parameters
    ----------
    u : array_like, shape (m, h)
        U.
    w : array_like, shape (h, d)
        W.
    inputs : array_like, shape (N, d)
        x of every example.
    residuals : array_like, shape (N, m)
        f - y of every example.

    Returns
    -------
    RescalingEquilibrium
        The noise of both layers, and the rho* that balances it.

    Raises
    ------
    ValueError, TypeError
        If shapes do not match, numbers are not finite, or a layer has no gradient.

    References
    ----------
    L. Ziyin, M. Wang, H. Li and L. Wu, arXiv 2402.07193, section 5.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> found = sf.nonlinear.rescaling_equilibrium([[2.0]], [[0.5]], [[1.0], [1.0]], [[1.0], [-1.0]])
    >>> round(found.equilibrium, 6), found.balanced_noise
    (-0.693147, 1.0)
    """
    u, w, x, r = (
        validation.finite_matrix(value, name)
        for value, name in ((u, "u"), (w, "w"), (inputs, "inputs"), (residuals, "residuals"))
    )
    for name, array, shape in (
        ("w", w, (u.shape[1], x.shape[1])),
        ("residuals", r, (len(x), len(u))),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} must be of shape {shape}, as u and inputs are, not {array.shape}")
    for name, array in (("u", u), ("w", w), ("inputs", x), ("residuals", r)):
        _require_sizes(name, array, _LARGEST_OF_LAYERS)
    n = len(x)
    gamma_w = (x * np.square(r).sum(axis=1)[:, None]).T @ x / n
    gamma_u = (r * np.square(x).sum(axis=1)[:, None]).T @ r / n
    of_w, of_u = w @ gamma_w @ w.T, u.T @ gamma_u @ u
    u_noise, w_noise = float(np.trace(of_w)), float(np.trace(of_u))
    if not (u_noise > 0 and w_noise > 0):
        raise ValueError(
            f"residuals must give both layers gradients, but their squares are {u_noise:g} and {w_noise:g}"
        )
    return RescalingEquilibrium(
        imbalance=of_w - of_u,
        u_noise=u_noise,
        w_noise=w_noise,
        provenance={"method": "rescaling equilibrium", **versions()},
    )


def _decomposed(generator: Any, d: int) -> tuple[FloatArray, FloatArray | None]:
    """Return eigenvalues of a generator, shape (D,), and its eigenvectors, None for a diagonal."""
    array = validation.numeric(generator, "generator")
    if array.ndim == 1:
        values, axes = validation.vector(array, "generator", d), None
    else:
        tell_of(f"eigenvectors of the generator, {d} parameters")
        values, axes = np.linalg.eigh(validation.symmetric_tensor(array, "generator", 2, d))
    if not values.any():
        raise ValueError("generator must not be zero")
    return values, axes


def _require_sizes(name: str, array: FloatArray, most: float = _LARGEST) -> None:
    """Refuse entries of which products, by default of two or three, are beyond floating point."""
    largest = float(np.abs(array).max())
    if largest > most:
        raise ValueError(f"{name} must be within {most:g} to compute with, but the largest is {largest:.3g}")


def _require_symmetry(theta: FloatArray, images: FloatArray, tolerance: float) -> None:
    """Refuse a generator that changes the loss of an example: theta . A g_i != 0."""
    changes = np.abs(images @ theta)
    sizes = np.linalg.norm(images, axis=1) * float(np.linalg.norm(theta))
    worst = int((changes - tolerance * sizes).argmax())
    if changes[worst] > tolerance * sizes[worst]:
        raise ValueError(
            f"generator must be a symmetry of the loss, parameters . A gradient = 0, but of example {worst} that is "
            f"{changes[worst]:.3g} of {sizes[worst]:.3g}"
        )


def _balanced(a: FloatArray, noise: FloatArray) -> float:
    """Return the rho at which sum_k a_k e^(-2 rho a_k) noise_k = 0."""
    from scipy.optimize import brentq  # type: ignore[import-untyped]
    from scipy.special import logsumexp  # type: ignore[import-untyped]

    scale = float(np.abs(a).max())
    a = a / scale
    up, down = ((sign * a > 0) & (noise > 0) for sign in (1, -1))
    if not (up.any() and down.any()):
        return math.inf if up.any() else -math.inf if down.any() else math.nan

    def excess(rho: float) -> float:
        # The logarithm of the ratio of both sides: it falls by 2 (a_k - a_l) a unit of rho, between the pairs.
        above, below = (logsumexp(-2 * rho * a[k], b=np.abs(a[k]) * noise[k]) for k in (up, down))
        return float(above - below)

    here = excess(0.0)
    ends = sorted(here / (2 * slope) for slope in (a[up].min() - a[down].max(), a[up].max() - a[down].min()))
    low, high = (end + sign * _SAME * (1 + abs(end)) for end, sign in zip(ends, (-1, 1), strict=True))
    return float(brentq(excess, low, high, xtol=1e-15, rtol=1e-14)) / scale
