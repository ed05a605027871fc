"""Figures of the command line, which are files: of matplotlib, whatever its backend in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sgdstab_fast.plotting.axes import needing_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def _without_backend() -> Iterator[None]:
    """Hide the backend in the environment, which is another program's, and may not be there."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def require_matplotlib() -> None:
    """Find out before the work, not after it, that nothing can be drawn."""
    with _without_backend(), needing_matplotlib():
        import_module("matplotlib")


def figure_of(columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """Return a figure of its own and a row of its axes, one or an array."""
    with _without_backend():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)
