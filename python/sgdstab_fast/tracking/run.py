"""A run that is followed: what is asked for, the points so far, and what the next one starts from.

The tracker and what watches a training share one. A point is claimed with its step before anything is measured, and
takes its place in the order of steps once it is there.
"""

from __future__ import annotations

import bisect
import re
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast.gram.kernel import Kernel
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.tracking.history import History
from sgdstab_fast.tracking.measurement import Carried, Given, Settings, diverged, started
from sgdstab_fast.tracking.point import Point

_NUMBERS = re.compile(r"[\d.]+(e[+-]?\d+)?")


class Run:
    """Points of a training run."""

    def __init__(self, settings: Settings) -> None:
        self.settings: Settings = settings
        self.carried: Carried = Carried()
        self.points: list[Point] = []
        self._said: set[str] = set()

    @property
    def history(self) -> History:
        """All points so far."""
        own = self.settings
        steps = {"sampling": own.sampling} if own.sampling != "iid" else {}
        return History(self.points, steps | ({"nesterov": True} if own.nesterov else {}))

    @property
    def last_step(self) -> int:
        """Of the points so far; -1 before the first."""
        return self.points[-1].step if self.points else -1

    def given(
        self,
        kernel: Any,
        step: Any,
        *,
        residuals: Any = None,
        loss: Any = None,
        groups: Any = None,
        learning_rate: Any = None,
        batch_size: Any = None,
    ) -> Given:
        """Check what a point is made of; without a kernel all but that."""
        number = validation.integer(step, "step", low=0)
        if number <= self.last_step:
            raise ValueError(f"step must be later than that of the last point, {self.last_step}, not {number}")
        own, gram = self.settings, kernel
        if isinstance(kernel, Kernel):
            residuals = kernel.loss_gradients if residuals is None else residuals
            loss = kernel.loss if loss is None else loss
        elif kernel is not None:
            gram = validation.numeric(kernel, "kernel")
            if gram.ndim not in (2, 4) or gram.size == 0 or round(float(np.sqrt(gram.size))) ** 2 != gram.size:
                raise ValueError(f"kernel must be a square matrix, not of shape {gram.shape}")
        n_rows = 0 if gram is None else round(float(np.sqrt(np.asarray(gram).size)))
        if n_rows > 0 and self.carried.n_rows not in (0, n_rows):
            raise ValueError(
                f"kernel must be of the examples that this tracker follows, {self.carried.n_rows} rows, not {n_rows}: "
                "take another tracker for others"
            )
        rate = own.learning_rate if learning_rate is None else learning_rate
        return Given(
            step=number,
            learning_rate=validation.positive_number(rate, "learning_rate"),
            batch_size=own.batch_size if batch_size is None else validation.integer(batch_size, "batch_size"),
            gram=gram,
            n_rows=n_rows,
            residuals=residuals,
            loss=None if loss is None else validation.real_number(loss, "loss"),
            groups=groups,
        )

    def take(self, point: Point, carried: Carried) -> Point:
        """Add a point that was measured, and say what it lacks, once for each reason."""
        self.carried = carried
        if any(each.step == point.step for each in self.points):  # measured by somebody else meanwhile
            return point
        bisect.insort(self.points, point, key=lambda each: each.step)
        for note in point.notes:
            reason = _NUMBERS.sub("", note)
            if reason not in self._said:
                self._said.add(reason)
                warn(f"step {point.step}: {note}")
        return point

    def take_diverged(self, given: Given, why: str, seconds: float) -> Point:
        """Add the point of a network that is not finite."""
        return self.take(diverged(started(self.settings, given), why, seconds), self.carried)
