"""The history of a training run: columns of equal length, one row for each point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast.plotting.history import history as picture
from sgdstab_fast.tracking.point import COLUMNS, TEXTS, WHOLE, Point

if TYPE_CHECKING:
    from sgdstab_fast.plotting.axes import Axes


class History(Sequence[Point]):
    """Points of a training run, in the order of their steps.

    ``history["mean_square_ratio"]``, or ``history.mean_square_ratio``, is a column: an array with a value for every
    point, NaN where it was not measured. ``history[-1]`` is the last point.
    """

    def __init__(self, points: Sequence[Point] = (), steps: Mapping[str, Any] | None = None) -> None:
        self._points, self._steps = tuple(points), dict(steps or {})

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points)

    @overload
    def __getitem__(self, key: int) -> Point: ...
    @overload
    def __getitem__(self, key: slice) -> History: ...
    @overload
    def __getitem__(self, key: str) -> NDArray[Any]: ...
    def __getitem__(self, key: int | slice | str) -> Point | History | NDArray[Any]:
        """Return a point, some points, or a column."""
        if isinstance(key, str):
            if key not in COLUMNS:
                raise KeyError(f"there is no column {key!r}, but {', '.join(COLUMNS)}")
            kind = str if key in TEXTS else np.int64 if key in WHOLE else np.float64
            return np.array([getattr(point, key) for point in self._points], dtype=kind)
        return History(self._points[key], self._steps) if isinstance(key, slice) else self._points[key]

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name in COLUMNS:
            return self[name]
        raise AttributeError(f"a history has no {name!r}, but columns {', '.join(COLUMNS)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *COLUMNS]

    def __repr__(self) -> str:
        if not self._points:
            return "History(no points)"
        return f"History({len(self)} points, steps {self[0].step} to {self[-1].step}, last {self[-1]!r})"

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return all columns by their names, as data frames take them."""
        return {name: self[name] for name in COLUMNS}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot every measure over the steps, scaled so that 1 is its edge; return the axes.

        Critical learning rates are drawn as eta over them, above 1 where SGD, or gradient descent, is not stable in
        that sense. Batch sharpness is drawn as eta / 2 times it, without momentum.
        """
        return picture(self, self._setting, ax)

    @property
    def _setting(self) -> dict[str, Any]:
        """What all points share of what a step is, and what else is told of steps, such as their sampling."""
        names = ("n_examples", "batch_size", "learning_rate", "momentum")
        known = {name: {getattr(point, name) for point in self._points} - {0} for name in names}
        return {name: values.pop() for name, values in known.items() if len(values) == 1} | self._steps
