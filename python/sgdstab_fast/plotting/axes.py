"""Axes and colours that pictures share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes

ESTIMATE = "#1f5a94"
EDGE = "#b5452c"
STABLE = "#3c8d5a"
CURVES = (ESTIMATE, "#c07a1b", "#8a4f9e", "#2f8f83", "#b03a6b", "#7a7a2e")


def axes_or_new(ax: Axes | None) -> Axes:
    """Return the axes given, or new ones; refuse what is none."""
    if ax is not None:
        if not callable(getattr(ax, "set_xlabel", None)):
            raise TypeError(f"ax must be matplotlib axes, not {ax!r}; plot().figure.savefig(..) writes a file")
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")[1]


def side_by_side(panels: Sequence[Callable[[Axes], Axes]], size: tuple[float, float], ax: Any) -> Any:
    """Draw panels on a row of axes, new ones of some size by default, or the first one on one; return what it was."""
    if ax is None:
        from matplotlib import pyplot

        size = (len(panels) * size[0], size[1])
        row = pyplot.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)[1][0]
        ax = tuple(row) if len(panels) > 1 else row[0]
    if not isinstance(ax, (tuple, list, np.ndarray)):
        return panels[0](axes_or_new(ax))
    return tuple(panel(axes_or_new(each)) for panel, each in zip(panels, ax, strict=False))


def words(text: str, ax: Axes | None = None, **style: Any) -> Axes:
    """Write something in place of a picture."""
    ax = axes_or_new(ax)
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, **style)
    ax.set_axis_off()
    return ax


def scientific(ax: Axes, axis: Literal["x", "y", "both"]) -> None:
    """Label an axis with powers of ten where numbers are large or small."""
    ax.ticklabel_format(axis=axis, style="sci", scilimits=(-3, 3), useMathText=True)
