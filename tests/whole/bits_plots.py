"""Plots that `bits.py` records: what is drawn, and the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def drawn(plot: Callable[[], Any]) -> dict[str, Any]:
    """Plot, and return lines, areas, texts and the pixels of the picture."""
    from matplotlib import pyplot as plt

    try:
        first = np.atleast_1d(np.asarray(plot(), dtype=object)).ravel()[0]
        first.figure.canvas.draw()
        found: dict[str, Any] = {"pixels": np.asarray(first.figure.canvas.buffer_rgba())}
        for i, axes in enumerate(first.figure.axes):
            legend = axes.get_legend()
            found |= {
                f"axes[{i}].lines": [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines],
                f"axes[{i}].areas": [path.vertices for each in axes.collections for path in each.get_paths()],
                f"axes[{i}].patches": [each.get_path().vertices for each in axes.patches],
                f"axes[{i}].texts": [each.get_text() for each in axes.texts],
                f"axes[{i}].labels": [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()],
                f"axes[{i}].legend": [each.get_text() for each in legend.get_texts()] if legend else [],
                f"axes[{i}].scales": [axes.get_xscale(), axes.get_yscale(), axes.get_xlim(), axes.get_ylim()],
            }
    finally:
        plt.close("all")
    return {f"plot.{name}": value for name, value in found.items()}


def pixels(file: Path) -> Any:
    """Return the pixels of a picture."""
    from matplotlib import image

    return image.imread(file)
