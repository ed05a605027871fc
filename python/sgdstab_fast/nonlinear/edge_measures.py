"""Measures of the edge of stability that go with gradients as they are, away from a minimum, too.

With K = G^T G, residuals r and a batch S of B of N examples, chosen uniformly, the gradient of its loss and its
Gauss-Newton matrix are g_S = (1/B) sum_{i in S} r_i g_i and H_S = (1/B) sum_{i in S} g_i g_i^T, H = K/N that of all, so

    |g_S|^2       = r_S^T K_SS r_S / B^2
    g_S^T H_S g_S = |K_SS r_S|^2 / B^3

    batch sharpness            BS = E[ g_S^T H_S g_S / |g_S|^2 ],    its ratio form E[g_S^T H_S g_S] / E|g_S|^2
    gradient-noise interaction GNI = E[g_S^T H g_S] / |g|^2
    interaction-aware          IAS = E[g_S^T H g_S] / E|g_S|^2

All are compared with 2 / eta. (A. Andreyev and P. Beneventano, "Edge of Stochastic Stability", arXiv 2412.20553,
definition 3 and equation 3; S. Lee and C. Jang, "A new characterization of the edge of stability based on a sharpness
measure aware of batch gradient distribution", ICLR 2023.) With p = (N - B) / (B (N - 1)) and q_ij = K_ij r_j,

    E|g_S|^2      = (1 - p) r^T K r / N^2 + (p / N) sum_i r_i^2 K_ii
    E[g_S^T H g_S] = (1 - p) |K r|^2 / N^3 + (p / N^2) sum_i r_i^2 |K e_i|^2
    E|K_SS r_S|^2 = sum_i [ p_1 q_ii^2 + 2 p_2 q_ii Q_i + p_2 s_i + p_3 (Q_i^2 - s_i) ]

with Q_i = sum_{j != i} q_ij, s_i = sum_{j != i} q_ij^2, and p_k the probability that k given examples are all in S. Of
several outputs an example has several rows of K. Only BS itself takes batches: all of them where they are few, and for
single examples with one output it is the mean of K_ii over those with r_i != 0, whatever r. Over drawn batches the two
quadratic forms have means that are known, and are control variates for their ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.seeds import seed_from
from sgdstab_fast.gram.given import given, residuals_of
from sgdstab_fast.results.interruption import interruptible_if_large
from sgdstab_fast.results.printed import as_text, with_error
from sgdstab_fast.results.progress import ProgressOption, tell_of, tells
from sgdstab_fast.results.provenance import versions
from sgdstab_fast.results.result import EXACT, Result
from sgdstab_fast.statistics.intervals import interval
from sgdstab_fast.systems.sampling import Law, validated

_FAR = 100  # powers of two, of units in which products of a few entries are within floating point
_RTOL = 5e-3
_ROUNDING = 1e-13
_LEAST = 64  # batches that control variates take
_FEW = 4096  # batches that are gone through
_TOGETHER, _MOST = 512, 16384  # batches
_NUMBERS = 2**24  # of batches times rows, at a time


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EdgeMeasures(Result):
    """Measures of the edge of stability, as `edge_measures` returns them: each is compared with 2 / learning rate."""

    batch_size: int
    """B."""
    batch_sharpness: float
    """E[g_S^T H_S g_S / |g_S|^2], of batches whose gradient is not zero; NaN if all are."""
    batch_sharpness_standard_error: float
    """0 where all batches were gone through."""
    batch_sharpness_ratio: float
    """E[g_S^T H_S g_S] / E|g_S|^2, exactly."""
    gradient_noise_interaction: float
    """E[g_S^T H g_S] / |g|^2, exactly."""
    interaction_aware_sharpness: float
    """E[g_S^T H g_S] / E|g_S|^2, exactly."""
    n_batches: int
    """Batches that `batch_sharpness` is the mean of; 0 where it is known without any."""

    def __repr__(self) -> str:
        known = with_error(self.batch_sharpness, self.batch_sharpness_standard_error, self.degrees_of_freedom)
        return (
            f"EdgeMeasures(batch_sharpness={known}, batch_sharpness_ratio={as_text(self.batch_sharpness_ratio)}, "
            f"gradient_noise_interaction={as_text(self.gradient_noise_interaction)}, "
            f"interaction_aware_sharpness={as_text(self.interaction_aware_sharpness)})"
        )

    @property
    def degrees_of_freedom(self) -> int:
        """Of the standard error."""
        return max(self.n_batches - 1, 1) if self.batch_sharpness_standard_error > 0 else EXACT

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the (low, high) that hold the batch sharpness with probability `level`."""
        error = self.batch_sharpness_standard_error
        low, high = interval(self.batch_sharpness, error, self.degrees_of_freedom, level)
        return float(low), float(high)


@interruptible_if_large
@tells("edge measures")
def edge_measures(
    gram: Any,
    residuals: Any = None,
    batch_size: int = 1,
    *,
    groups: Any = None,
    rtol: float = _RTOL,
    rng: Any = None,
    progress: ProgressOption = None,
) -> EdgeMeasures:
    """Measure how sharp the loss is along the gradients of batches: what is compared with 2 / learning rate.

    Parameters
    ----------
    gram : array_like, shape (N, N), or gram.Kernel
        Neural-tangent Gram matrix K, for a loss of curvature 1.
    residuals : array_like, shape (N,) or (N, m), optional
        Gradient of the loss of each example in its outputs, for a loss of curvature 1: f - y for the half squared loss,
        one for each row of gram or a line for each example, in the order in which groups first appear. By default those
        of the kernel, `Kernel.loss_gradients`.
    batch_size : int, optional
        Examples B in a batch; batches are uniform subsets.
    groups : array_like, shape (N rows,), optional
        For several outputs: which rows belong to the same example. A kernel has its own.
    rtol : float, optional
        Relative standard error of the batch sharpness, of at most 16384 batches, unless there are so few that all are
        gone through.
    rng : optional
        What ``numpy.random.default_rng`` takes.
    progress : bool or callable, optional
        True to show on standard error what is computed, or what to call with a `Progress`.

    Returns
    -------
    EdgeMeasures
        Curvature along the gradient: 1 over a learning rate.

    Raises
    ------
    ValueError, TypeError
        If residuals are missing or of another shape, or an argument is out of range.

    References
    ----------
    A. Andreyev and P. Beneventano, "Edge of Stochastic Stability: Revisiting the Edge of Stability for SGD", arXiv
    2412.20553, definition 3; S. Lee and C. Jang, ICLR 2023.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> gram = [[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]]
    >>> found = sf.nonlinear.edge_measures(gram, [1, -2, 0.5, 1], 2)
    >>> round(found.batch_sharpness, 8), round(found.interaction_aware_sharpness, 8)
    (1.96446296, 1.02642276)
    """
    given_matrix, _, its_groups = given(gram, groups)
    matrix = given_matrix.astype(float, copy=False)
    if residuals is None:
        residuals = residuals_of(gram)
        if residuals is None:
            raise ValueError("residuals must be given where gram is no kernel that has them: pass f - y")
    n_rows = len(matrix)
    law = validated(n_rows, batch_size, groups=its_groups)
    members = [law.rows(unit) for unit in range(law.n_units)]
    r = _in_rows(validation.numeric(residuals, "residuals").astype(float), members, n_rows)
    if not np.isfinite(r).all():
        raise ValueError(f"residuals must be finite, but entry {int(np.isfinite(r).argmin())} is not")
    n, size, p = law.n_units, law.batch_size, law.noise
    tolerance = validation.positive_number(rtol, "rtol")
    seed = seed_from(rng)
    scale = float(np.abs(r).max(initial=0.0))
    r = r / scale if scale > 0 else r  # none of the measures depends on it
    power = math.frexp(float(matrix.diagonal().max()))[1] - 1
    matrix = matrix if abs(power) <= _FAR else np.ldexp(matrix, -power)
    unit = 1.0 if abs(power) <= _FAR else math.ldexp(1.0, power)  # all measures are proportional to K
    order, starts = np.concatenate(members), np.cumsum([0, *(rows.size for rows in members[:-1])])
    products = np.add.reduceat((matrix * r)[:, order], starts, axis=1)  # q_ij, of rows i and examples j
    image = products.sum(axis=1)  # K r
    of_its_own = products[np.arange(n_rows), law.units_of_rows(n_rows)]
    own = float(r @ of_its_own)
    of_all, whole = float(r @ image), float(image @ image)
    lengths = np.sqrt(np.maximum(matrix.diagonal(), 0.0))
    of_all = of_all if of_all > _ROUNDING * float(np.abs(r) @ lengths) ** 2 else 0.0
    of_batches = (1 - p) * of_all / n**2 + p * own / n
    curved = (1 - p) * whole / n**3 + p * float(np.square(products).sum()) / n**2
    squared_image = _mean_square_image(products, image, of_its_own, size)
    means = np.array([of_batches * size**2, squared_image])
    sharpness, error, n_batches = _batch_sharpness(matrix, r, law, means, tolerance, seed.generator(0))
    return EdgeMeasures(
        batch_size=size,
        batch_sharpness=unit * sharpness,
        batch_sharpness_standard_error=unit * error,
        batch_sharpness_ratio=unit * _over(squared_image / size**3, of_batches),
        gradient_noise_interaction=unit * _over(curved, of_all / n**2),
        interaction_aware_sharpness=unit * _over(curved, of_batches),
        n_batches=n_batches,
        provenance={"seed_entropy": seed.entropy, "spawn_key": seed.spawn_key, "method": "edge measures", **versions()},
    )


def _in_rows(residuals: FloatArray, members: list[NDArray[np.intp]], n_rows: int) -> FloatArray:
    """Return residuals row by row, from that, or from (N, m), a line for each example in the order of the groups."""
    n, shape = len(members), residuals.shape
    if shape in ((n_rows,), (n_rows, 1)):
        return residuals.reshape(-1).copy()
    if shape == ():
        raise ValueError("residuals must be an array, not a number: pass the batch size as batch_size=")
    if len(shape) != 2 or shape[0] != n or any(rows.size != shape[1] for rows in members):
        raise ValueError(f"residuals must be one for each of the {n_rows} rows of gram, not of shape {shape}")
    found = np.empty(n_rows)
    for rows, own in zip(members, residuals, strict=True):
        found[rows] = own
    return found


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.nan


def _mean_square_image(products: FloatArray, image: FloatArray, own: FloatArray, size: int) -> float:
    """Return E|K_SS r_S|^2 over uniform subsets S, given q_ij, K r, and of each row i what its own example adds."""
    n = products.shape[1]
    p1 = size / n
    p2 = p1 * (size - 1) / (n - 1) if n > 1 else 0.0
    p3 = p2 * (size - 2) / (n - 2) if n > 2 else 0.0
    others, squares = image - own, np.square(products).sum(axis=1) - own**2
    return float((p1 * own**2 + 2 * p2 * own * others + p2 * squares + p3 * (others**2 - squares)).sum())


def _batch_sharpness(
    matrix: FloatArray,
    r: FloatArray,
    law: Law,
    means: FloatArray,
    rtol: float,
    generator: np.random.Generator,
) -> tuple[float, float, int]:
    """Return BS, its standard error and how many batches it took; `means` are E[r_S^T K_SS r_S] and E|K_SS r_S|^2."""
    n, size, n_rows = law.n_units, law.batch_size, len(r)
    moving = (r != 0) & (matrix.diagonal() > 0)
    if size == 1 and n == n_rows:
        return (float(matrix.diagonal()[moving].mean()) if moving.any() else math.nan), 0.0, 0
    lengths = np.sqrt(np.maximum(matrix.diagonal(), 0.0))
    together = max(1, min(_TOGETHER, _NUMBERS // n_rows))
    example_of = law.units_of_rows(n_rows)
    every = math.comb(n, size) <= _FEW
    batches = _all_batches(n, size, together) if every else _drawn_batches(n, size, together, generator)
    # `means` are those of all batches, also of those that do not move.
    all_move = n - np.unique(example_of[moving]).size < size
    forms, n_drawn, mean, error = np.empty((2, 0)), 0, math.nan, 0.0
    for chosen in batches:
        in_batch = chosen[:, example_of]
        images = (in_batch * r) @ matrix
        squares = (in_batch * r * images).sum(axis=1)
        curved = np.square(in_batch * images).sum(axis=1)
        moving = squares > _ROUNDING * (in_batch @ (np.abs(r) * lengths)) ** 2  # more than gradients that cancel
        forms, n_drawn = np.append(forms, [squares[moving], curved[moving]], axis=1), n_drawn + len(chosen)
        if every or forms.shape[1] < 2:
            continue
        known = means if all_move and forms.shape[1] == n_drawn >= _LEAST else None
        mean, error = (float(each) / size for each in _mean_ratio(forms, known))
        apart = error / mean if mean > 0 else math.inf
        tell_of(f"batch sharpness of {n_drawn} batches", residual=apart, tolerance=rtol)
        if error <= rtol * mean or forms.shape[1] >= _MOST:
            break
    if every and forms.size:
        mean = float((forms[1] / forms[0]).mean()) / size
    return mean, error, forms.shape[1]


def _mean_ratio(forms: FloatArray, means: FloatArray | None) -> tuple[float, float]:
    """Return the mean of forms[1] / forms[0] and its standard error, with the means of both, if they are known."""
    ratios = forms[1] / forms[0]
    beside = np.zeros((0, len(ratios))) if means is None else (forms - means[:, None]) / means[:, None]
    design = np.vstack([np.ones(len(ratios)), beside]).T
    fitted, *_ = np.linalg.lstsq(design, ratios)
    rest = ratios - design @ fitted
    return float(fitted[0]), math.sqrt(float(rest @ rest) / (len(ratios) - len(fitted)) / len(ratios))


def _all_batches(n: int, size: int, together: int) -> Iterator[FloatArray]:
    """Yield all subsets as rows of zeros and ones, some at a time."""
    indices = np.array(list(combinations(range(n), size)))
    for first in range(0, len(indices), together):
        yield _rows_of(indices[first : first + together], n)


def _drawn_batches(n: int, size: int, together: int, generator: np.random.Generator) -> Iterator[FloatArray]:
    """Yield random subsets; fewer than asked for come if none of their gradients moves anything."""
    for _ in range(-(-_MOST // together)):
        yield _rows_of(generator.random((together, n)).argpartition(size - 1, axis=1)[:, :size], n)


def _rows_of(indices: NDArray[np.intp], n: int) -> FloatArray:
    rows = np.zeros((len(indices), n))
    np.put_along_axis(rows, indices, 1.0, axis=1)
    return rows
