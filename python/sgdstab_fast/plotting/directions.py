"""Plots of what starts from stationary directions, on matplotlib axes that the caller may supply."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.plotting.plots import EDGE, ESTIMATE, axes_or_new
from sgdstab_fast.systems.sgd import LinearizedSGD

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sgdstab_fast.directions.distribution import FiniteTimeDistribution
    from sgdstab_fast.directions.results import ProjectiveChain

_NAMED, _BARS = 4, 10  # examples
_MOST_ATOMS, _PER_ATOM = 200, 10  # and samples to each, on average
_FEWEST_BINS, _MOST_BINS = 10, 80
_OUTLIERS = 10.0  # interquartile ranges from the median
_FARTHEST = 2.0  # how far off 0 may be to be shown, in reaches of the sample
_DEEPEST = 1e-12  # of the largest density
_HEADROOM = 0.3  # for the legend, of the height


def finite_time_distribution(result: FiniteTimeDistribution, ax: Axes | None = None) -> Axes:
    """Plot the density of lambda_n on a logarithmic scale: of the sample, normal, and of large deviations."""
    ax = axes_or_new(ax)
    sample = result.exponents[np.isfinite(result.exponents)]
    lost = 1 - sample.size / result.exponents.size
    if not sample.size or not np.ptp(sample) > 0:
        ax.text(0.5, 0.5, f"λₙ = {result.exponents[-1]:.6g}", ha="center", va="center", transform=ax.transAxes)
        ax.set_axis_off()
        return ax
    edges = _edges(sample)
    counts = np.histogram(sample, edges)[0]
    density = counts / (result.exponents.size * np.diff(edges))
    low, high = _limits(edges)
    floor = density[counts > 0].min() / 3
    ax.stairs(density, edges, fill=True, color=ESTIMATE, alpha=0.3, label="sample")
    spread = np.sqrt(result.clt_variance / result.n)
    if spread > 0 and np.isfinite(result.exponent):
        x = np.linspace(low, high, 600)
        normal = np.exp(-(((x - result.exponent) / spread) ** 2) / 2) / (np.sqrt(2 * np.pi) * spread)
        ax.plot(x, normal, color="0.45", lw=1.1, ls=":", label="normal")
    if result.moments is not None and result.moments.has_curve:
        first, last = (min(max(end, low), high) for end in result.moments.trusted_exponents)
        x = np.linspace(first, last, 600)
        deviations = result.large_deviations_density(x) if first < last else np.full(x.size, np.inf)
        if np.isfinite(deviations).all():
            ax.plot(x, deviations, color=ESTIMATE, lw=1.8, label="large deviations")
            if first <= 0 <= last:
                floor = min(floor, max(deviations[np.abs(x).argmin()] / 3, _DEEPEST * deviations.max()))
    if np.isfinite(result.exponent):
        ax.axvline(result.exponent, color="0.45", lw=0.8, label=f"λ = {result.exponent:.4g}")
    if low <= 0 <= high:
        growth = f"{result.probability_of_growth:.3g} ± {result.probability_of_growth_standard_error:.1g}"
        ax.axvline(0, color=EDGE, lw=1, ls="--", label=f"P(λₙ ≥ 0) = {growth}")
    if lost:
        ax.plot([], [], " ", label=f"P(λₙ = -∞) = {lost:.3g}")
    ax.set_yscale("log")
    ax.set_ylim(floor, density.max() * (density.max() / floor) ** (_HEADROOM / (1 - _HEADROOM)))
    ax.set_xlim(low, high)
    ax.set_xlabel("exponent over n steps, λₙ (nats per step)")
    ax.set_ylabel("density")
    ax.set_title(f"Finite-time exponents over n = {result.n} steps", fontsize=10)
    ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3), useMathText=True)
    ax.legend(fontsize=8, edgecolor="none", framealpha=0.9, ncols=2, loc="upper center")
    return ax


def projective_chain(result: ProjectiveChain, ax: Any = None) -> Any:
    """Plot the parts of examples in lambda against their shares of the direction, and the largest shares.

    Of parts without shares, or the other way round, the largest; why there is neither, if so.
    """
    panels: tuple[Callable[[ProjectiveChain, Axes], Axes], ...] = (_parts, _shares)
    if result.without_parts:
        panels = (_shares,)
    if result.without_shares:
        panels = (_nothing,) if result.without_parts else (_largest_parts,)
    if ax is None:
        from matplotlib import pyplot

        size = (5.5 * len(panels), 4)
        ax = tuple(pyplot.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)[1][0])
        ax = ax if len(panels) > 1 else ax[0]
    if not isinstance(ax, (tuple, list, np.ndarray)):
        return panels[0](result, ax)
    return tuple(panel(result, each) for panel, each in zip(panels, ax, strict=False))


def _nothing(result: ProjectiveChain, ax: Axes) -> Axes:
    """Say why neither parts nor shares are defined."""
    text = f"λ = {result.exponent:.6g}\n{result.without_parts}\n{result.without_shares}"
    ax.text(0.5, 0.5, text, ha="center", va="center", wrap=True, fontsize=9, transform=ax.transAxes)
    ax.set_axis_off()
    return ax


def _largest_parts(result: ProjectiveChain, ax: Axes) -> Axes:
    """Plot the parts of examples, or of matrices, that are largest in size."""
    parts, errors = result.exponent_by_example, 1.96 * result.exponent_by_example_standard_error
    shown = np.argsort(-np.abs(parts), kind="stable")[:_BARS][::-1]
    colors = [EDGE if parts[i] > 0 else ESTIMATE for i in shown]
    finite = np.where(np.isfinite(parts), parts, 0.0)
    ax.barh(range(len(shown)), finite[shown], xerr=errors[shown], color=colors, alpha=0.7, error_kw={"lw": 0.8})
    ax.axvline(0, color="0.35", lw=0.8)
    ax.set_yticks(range(len(shown)), [str(i) for i in shown], fontsize=8)
    ax.set_ylabel("example" if isinstance(result.system, LinearizedSGD) else "matrix")
    ax.set_xlabel("part in λ (nats per step)")
    ax.set_title(f"Largest of {parts.size} parts that sum to λ = {result.exponent:.4g}", fontsize=10)
    return ax


def _growing(result: ProjectiveChain) -> NDArray[np.bool_]:
    """Return the examples, shape (N,), a step on which makes some displacements grow."""
    system = result.system
    assert isinstance(system, LinearizedSGD)
    if not system.law.offsets.size:
        return np.asarray(system.learning_rate * system.diagonal > 2)
    sizes = [np.linalg.norm(system.gradients()[system.law.rows(unit)], 2) for unit in range(system.n_examples)]
    return np.asarray(system.learning_rate * np.square(sizes) > 2)


def _parts(result: ProjectiveChain, ax: Axes) -> Axes:
    parts, errors = result.exponent_by_example, 1.96 * result.exponent_by_example_standard_error
    finite = np.isfinite(parts) & np.isfinite(result.participation)
    growing = _growing(result)
    ax.axhline(0, color="0.35", lw=0.8)
    for chosen, color, label in (
        (finite & growing, EDGE, "ηK$_{ii}$ > 2: its steps can grow"),
        (finite & ~growing, ESTIMATE, "ηK$_{ii}$ ≤ 2"),
    ):
        if chosen.any():
            style: dict[str, Any] = {"fmt": "o", "ms": 4, "lw": 0.8, "color": color, "label": label}
            ax.errorbar(result.participation[chosen], parts[chosen], yerr=errors[chosen], **style)
    shown = np.flatnonzero(finite)
    named = shown[np.argsort(-result.participation[shown], kind="stable")[:_NAMED]]
    for example in named:
        where = (result.participation[example], parts[example])
        ax.annotate(str(example), where, (5, 3), textcoords="offset points", fontsize=8)
    shares = result.participation[finite & (result.participation > 0)]
    if shares.size and shares.max() > 30 * np.median(shares):
        ax.set_xscale("log")
        ax.set_xlim(left=max(float(np.quantile(shares, 0.02)) / 2, 1e-12))
    sizes = np.abs(parts[finite & (parts != 0)])
    if sizes.size and sizes.max() > 300 * np.quantile(sizes, 0.25):
        ax.set_yscale("symlog", linthresh=float(np.quantile(sizes, 0.25)))
    else:
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3), useMathText=True)
    ax.margins(x=0.08, y=0.1)
    ax.set_xlabel("share of the direction")
    ax.set_ylabel("part in λ (nats per step)")
    ax.set_title(f"Examples, by number: parts that sum to λ = {result.exponent:.4g}", fontsize=10)
    if finite.any():
        ax.legend(fontsize=8, frameon=False)
    return ax


def _shares(result: ProjectiveChain, ax: Axes) -> Axes:
    shares = result.participation
    largest = np.argsort(-shares, kind="stable")[:_BARS][::-1]
    growing = _growing(result)[largest]
    colors = [EDGE if grows else ESTIMATE for grows in growing]
    errors = 1.96 * result.participation_standard_error[largest]
    ax.barh(range(len(largest)), shares[largest], xerr=errors, color=colors, alpha=0.7, error_kw={"lw": 0.8})
    ax.set_yticks(range(len(largest)), [str(example) for example in largest], fontsize=8)
    ax.set_ylabel("example")
    ax.set_xlim(left=0)
    ax.set_xlabel("share of the direction")
    rest = 1 - float(shares[largest].sum())
    others = f", {rest:.0%} in the {shares.size - len(largest)} others" if shares.size > len(largest) else ""
    ax.set_title(f"Largest shares{others}", fontsize=10)
    return ax


def _edges(ascending: FloatArray) -> FloatArray:
    """Return edges of bins: half way between the points of a lattice, or equally wide."""
    width = ascending[-1] - ascending[0]
    atoms = ascending[np.diff(ascending, prepend=-np.inf) > 1e-9 * width]  # the same, to rounding
    if atoms.size <= min(_MOST_ATOMS, ascending.size / _PER_ATOM):
        between = (atoms[1:] + atoms[:-1]) / 2
        return np.concatenate([[2 * atoms[0] - between[0]], between, [2 * atoms[-1] - between[-1]]])
    lower, middle, upper = np.quantile(ascending, [0.25, 0.5, 0.75])
    reach = _OUTLIERS * (upper - lower) or width
    n_bins = int(np.clip(2 * np.cbrt(ascending.size), _FEWEST_BINS, _MOST_BINS))
    return np.linspace(max(ascending[0], middle - reach), min(ascending[-1], middle + reach), n_bins + 1)


def _limits(edges: FloatArray) -> tuple[float, float]:
    """Return the ends of the axis, 0 between them if it is not too far off."""
    low, high = float(edges[0]), float(edges[-1])
    middle, margin = (low + high) / 2, 0.05 * (high - low)
    if abs(middle) < _FARTHEST * (high - low) / 2:
        low, high = min(low, 0.0), max(high, 0.0)
    return low - margin, high + margin
