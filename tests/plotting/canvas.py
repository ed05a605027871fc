"""What a reader sees of a figure: its words, where they are on the canvas, and lines at an edge."""

from __future__ import annotations

from itertools import combinations
from typing import Any


def words_on(figure: Any) -> list[tuple[str, Any]]:
    """Return all texts that are seen, with the boxes that they take on the canvas."""
    figure.draw_without_rendering()
    found = []
    for axes in [each for one in figure.axes for each in (one, *one.child_axes)]:
        texts = [axes.title, *axes.texts]
        if axes.get_legend() is not None:
            texts += axes.get_legend().get_texts()
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                texts += [axis.label, axis.get_offset_text()]
                ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
                texts += [each.label1 for each in ticks if low <= each.get_loc() <= high and each.label1.get_visible()]
                texts += [each.label2 for each in ticks if low <= each.get_loc() <= high and each.label2.get_visible()]
        found += [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text().strip()]
    return found


def overlapping(figure: Any) -> list[tuple[str, str]]:
    """Return pairs of texts that are printed over each other."""
    return [
        (first, second)
        for (first, one), (second, other) in combinations(words_on(figure), 2)
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]
