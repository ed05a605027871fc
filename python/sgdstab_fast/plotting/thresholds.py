"""Thresholds of a minimum, on one axis of learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sgdstab_fast.plotting.axes import CURVES, EDGE, ESTIMATE, STABLE, words

if TYPE_CHECKING:
    from sgdstab_fast.plotting.axes import Axes

_COLOURS = {"threshold": ESTIMATE, "sufficient": STABLE, "necessary": EDGE, "observed": CURVES[2]}
_MARKERS = {"threshold": "o", "sufficient": ">", "necessary": "<", "observed": "D"}


class Row(Protocol):
    """A notion of stability."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def value(self) -> float:
        """Its critical learning rate."""

    @property
    def low(self) -> float:
        """Which is at least that."""

    @property
    def high(self) -> float:
        """And at most that."""

    @property
    def kind(self) -> str:
        """What it says."""

    @property
    def implies(self) -> tuple[str, ...]:
        """What follows from it."""


def thresholds_plot(rows: Sequence[Row], learning_rate: float | None, ax: Axes | None = None) -> Axes:
    """Draw a line for each notion, its rate with its interval, and arrows to what follows from it."""
    shown = [row for row in rows if math.isfinite(row.value)]
    if not shown:
        return words("no threshold is known", ax)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(7.0, 0.9 + 0.36 * len(shown)), layout="constrained")[1]
    heights = {row.name: -number for number, row in enumerate(shown)}
    for row in shown:
        y, colour = heights[row.name], _COLOURS[row.kind]
        ax.plot([row.low, row.high], [y, y], color=colour, linewidth=5, alpha=0.35, solid_capstyle="round")
        ax.plot([row.value], [y], _MARKERS[row.kind], color=colour, label=row.kind, zorder=3)
        for other in _directly(row, shown):
            ax.annotate(
                "",
                (other.value, heights[other.name]),
                (row.value, y),
                arrowprops={"arrowstyle": "->", "color": "0.6", "linewidth": 0.8, "shrinkA": 5, "shrinkB": 5},
            )
    if learning_rate is not None:
        ax.axvline(learning_rate, color="0.25", linewidth=1, linestyle="--", label="learning rate")
    ends = [each for row in shown for each in (row.low, row.high)] + [learning_rate or shown[0].value]
    if max(ends) > 4 * min(ends):
        ax.set_xscale("log")
    ax.set_yticks(list(heights.values()), list(heights))
    ax.margins(x=0.08, y=0.06)
    ax.set_xlabel("critical learning rate (an arrow: what follows)")
    ax.grid(axis="x", alpha=0.3)
    handles, labels = ax.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    ax.legend(known.values(), known, fontsize="small", loc="best")
    return ax


def _directly(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Return what follows from a notion, without what follows from another one of these."""
    following = [other for other in rows if other.name in row.implies]
    return [other for other in following if not any(other.name in between.implies for between in following)]
