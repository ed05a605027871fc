"""Pictures of training runs: every notion of the edge of stability over the steps, scaled by its threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast.plotting.axes import CURVES, axes_or_new, edge_of_stability, finish, legend, title, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE = "Along training: learning rate over each edge of stability"
_MOST = 2.5  # on the axis of ratios, beyond which it is logarithmic
_FEW = 40  # points, each of which is seen


class _Columns(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, key: str, /) -> NDArray[Any]: ...


def over_thresholds(columns: _Columns) -> dict[str, tuple[NDArray[Any], NDArray[Any] | None]]:
    """Return each measure over its threshold, 1 at the edge, with the half widths of 95% intervals if it has any."""
    # With momentum 2 / eta is not what batch sharpness is compared with.
    half_rate = np.where(columns["momentum"] == 0, columns["learning_rate"] / 2, np.nan)
    almost_sure = columns["critical_almost_sure"]
    relative = columns["critical_almost_sure_standard_error"] / almost_sure
    return {
        "mean square": (1 / columns["mean_square_ratio"], None),
        "almost sure": (1 / columns["almost_sure_ratio"], 1.96 * relative / columns["almost_sure_ratio"]),
        "full batches (sharpness)": (1 / columns["gd_ratio"], None),
        "batch sharpness": (
            half_rate * columns["batch_sharpness"],
            1.96 * half_rate * columns["batch_sharpness_standard_error"],
        ),
    }


def history(columns: _Columns, setting: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Plot measures over their thresholds against the step, and the edge at 1."""
    curves = over_thresholds(columns)
    if not any(np.isfinite(values).any() for values, _ in curves.values()):
        lost = len(columns) > 0 and (columns["verdict"] == "diverged").all()
        text = "the network has diverged" if lost else "nothing was measured yet"
        return words(text, ax, title=title(_TITLE, setting))
    ax = axes_or_new(ax, (6.8, 4.2))
    from matplotlib.ticker import MaxNLocator

    steps = columns["step"]
    for color, (name, (values, half)) in zip(CURVES, curves.items(), strict=False):
        finite = np.isfinite(values)
        if not finite.any():
            continue
        marker = "o" if finite.sum() <= _FEW else None
        ax.plot(steps[finite], values[finite], color=color, lw=1.5, marker=marker, ms=3, label=name)
        if half is not None and np.nanmax(half, initial=0.0) > 0:
            low, high = values - half, values + half
            ax.fill_between(steps[finite], low[finite], high[finite], color=color, alpha=0.2, lw=0)
    diverged = columns["verdict"] == "diverged"
    for number, step in enumerate(steps[diverged]):
        ax.axvline(step, color="0.55", lw=1, ls=":", label="diverged" if number == 0 else None)
    every = np.concatenate([values[np.isfinite(values)] for values, _ in curves.values()])
    if every.size and every.max() > _MOST:
        ax.set_yscale("symlog", linthresh=1.0)
    ax.set_ylim(0, 1.1 * max(every.max(initial=1.0), 1.2))
    edge_of_stability(ax, at=1.0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("training step")
    ax.set_ylabel("η / critical η, in each sense")
    legend(ax)
    finish(ax, title(_TITLE, setting))
    return ax
