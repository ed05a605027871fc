"""Schedules: at which steps of a training run to measure. A schedule is any function of the step that says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from sgdstab_fast import validation
from sgdstab_fast.tracking.history import History

Schedule: TypeAlias = Callable[[int], bool]


class Followed(Protocol):
    """A `StabilityTracker`."""

    @property
    def history(self) -> History:
        """All points so far."""

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is measured."""


def schedule_of(every: Any) -> Schedule:
    """Return a schedule that is given as such, or as the number of steps between points."""
    if callable(every):
        return every  # type: ignore[no-any-return]
    interval = validation.integer(every, "every")
    return lambda step: step % interval == 0


def near_edge(tracker: Followed, every: int, closer: int, *, within: float = 0.1) -> Schedule:
    """Return a schedule that is denser while the learning rate is near the edge of mean-square stability.

    Parameters
    ----------
    tracker : StabilityTracker
        Whose last point says how near it is, by ``"critical_mean_square"`` or else ``"critical_almost_sure"``.
    every, closer : int
        Steps between points far from the edge, and near it.
    within : float, optional
        How near: the relative distance of the critical learning rate from the present one.

    Returns
    -------
    callable
        For `StabilityTracker.watch`: ``every=near_edge(tracker, 1000, 100)``.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> tracker = sf.StabilityTracker(0.4, quantities="economy")
    >>> due = sf.tracking.near_edge(tracker, every=1000, closer=100)
    >>> due(100)  # nothing is known yet
    False
    >>> point = tracker.update([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], step=0, residuals=[1] * 4)
    >>> due(100)  # the edge is at 0.4205
    True
    """
    far, near = validation.integer(every, "every"), validation.integer(closer, "closer")
    distance = validation.positive_number(within, "within")
    if not {"critical_mean_square", "critical_almost_sure"} & set(tracker.quantities):
        raise ValueError(
            f"tracker must measure 'critical_mean_square' or 'critical_almost_sure', not {tracker.quantities}"
        )

    def due(step: int) -> bool:
        if step % near and step % far:  # whatever the last point says
            return False
        history = tracker.history
        last = history[-1] if len(history) else None
        ratio = math.nan if last is None else last.mean_square_ratio
        ratio = last.almost_sure_ratio if last is not None and math.isnan(ratio) else ratio
        return step % (near if abs(ratio - 1) <= distance else far) == 0

    return due
