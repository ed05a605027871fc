"""Beside training: points are measured on another thread, of a copy of the network, when a schedule says so.

The copy is made once, and takes the values of parameters and buffers when a point is due; K is computed on the thread
that trains, which takes a forward and a few backward passes, and everything else elsewhere meanwhile. At most one point
is being measured at a time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from sgdstab_fast import validation
from sgdstab_fast.gram.torch_kernel import from_torch
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.tracking.measurement import Carried, Given, Settings, measured
from sgdstab_fast.tracking.point import Point
from sgdstab_fast.tracking.schedules import Followed, Schedule, schedule_of

if TYPE_CHECKING:
    from types import TracebackType

Log: TypeAlias = Callable[[dict[str, float], int], object]


class _Tracker(Followed, Protocol):
    """What points are added to: a `StabilityTracker`."""

    @property
    def settings(self) -> Settings: ...
    @property
    def carried(self) -> Carried: ...
    def require_later(self, step: Any) -> int: ...
    def given(
        self, kernel: Any, step: int, *, learning_rate: float | None = ..., batch_size: int | None = ...
    ) -> Given: ...
    def take(self, point: Point, carried: Carried) -> Point: ...
    def add_diverged(self, step: int, why: str, learning_rate: float | None, batch_size: int | None, /) -> Point: ...


class _Pending(NamedTuple):
    """A point that is being measured."""

    future: Future[tuple[Point, Carried]]
    seconds: float
    """What computing K took."""


class Watch:
    """Measures a network while it trains, as `StabilityTracker.watch` returns it: call it with every step.

    A context manager; leaving it waits for the last point.
    """

    def __init__(
        self,
        tracker: _Tracker,
        model: Any,
        inputs: Any,
        targets: Any,
        *,
        every: int | Schedule,
        budget: float | None,
        log: Log | None,
        prefix: str,
        executor: Executor | None,
        background: bool,
        options: dict[str, Any],
    ) -> None:
        self._due = schedule_of(every)
        self._budget = None if budget is None else validation.probability(budget, "budget")
        if log is not None and not callable(log):
            raise TypeError(f"log must be a function of scalars and a step, not {validation.shown(log)}")
        self._background = validation.flag(background, "background")
        self._tracker, self._log, self._prefix = tracker, log, prefix
        self._inputs, self._targets, self._options = inputs, targets, options
        self._model, self._copy = model, _copied(model)
        self._executor = validation.executor(executor)
        self._own: ThreadPoolExecutor | None = None
        self._pending: _Pending | None = None
        self._waiting = False
        self._spent, self._started = 0.0, time.perf_counter()

    def __call__(self, step: int, *, learning_rate: float | None = None, batch_size: int | None = None) -> None:
        """Measure the network as it is now, if a point is due.

        Parameters
        ----------
        step : int
            Steps done so far.
        learning_rate, batch_size : optional
            The present ones, where they change on the way.
        """
        self._collect(wait=False)
        if not (self._waiting or self._due(step)):
            return
        # One that is due while another is being measured is taken as soon as that is done.
        self._waiting = self._pending is not None or self._is_over_budget()
        if not self._waiting:
            self._measure(step, learning_rate, batch_size)

    def close(self) -> None:
        """Wait for the last point."""
        self._collect(wait=True)
        if self._own is not None:
            self._own.shutdown()
            self._own = None

    def __enter__(self) -> Watch:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last point."""
        self.close()

    def _is_over_budget(self) -> bool:
        if self._budget is None or not len(self._tracker.history):
            return False
        last = self._tracker.history[-1].seconds
        elapsed = time.perf_counter() - self._started
        return self._spent + (last if last > 0 else 0.0) > self._budget * elapsed

    def _measure(self, step: int, learning_rate: float | None, batch_size: int | None) -> None:
        started, tracker = time.perf_counter(), self._tracker
        tracker.require_later(step)
        _take_values(self._copy, self._model)
        try:
            kernel = from_torch(self._copy, self._inputs, targets=self._targets, **self._options)
        except validation.NotFiniteError as error:
            self._tell(tracker.add_diverged(step, str(error), learning_rate, batch_size))
            return
        given = tracker.given(kernel, step, learning_rate=learning_rate, batch_size=batch_size)
        took = time.perf_counter() - started
        arguments = (tracker.settings, given, tracker.carried)
        if not self._background:
            self._take(*measured(*arguments), took)
            return
        if self._executor is None and self._own is None:
            self._own = ThreadPoolExecutor(1, thread_name_prefix="stability")
        self._pending = _Pending((self._executor or self._own).submit(measured, *arguments), took)  # type: ignore[union-attr]

    def _collect(self, *, wait: bool) -> None:
        """Take the point that was being measured, once it is done."""
        pending = self._pending
        if pending is None or not (wait or pending.future.done()):
            return
        self._pending = None
        self._take(*pending.future.result(), pending.seconds)

    def _take(self, point: Point, carried: Carried, seconds: float) -> None:
        point = replace(point, seconds=point.seconds + seconds)
        self._spent += point.seconds
        self._tell(self._tracker.take(point, carried))

    def _tell(self, point: Point) -> None:
        if self._log is None:
            return
        try:
            self._log({self._prefix + name: value for name, value in point.scalars().items()}, point.step)
        except Exception as error:  # whatever a logger does, training goes on
            self._log = None
            warn(f"step {point.step}: log raised {type(error).__name__}: {error}; nothing more is logged")


def _copied(model: Any) -> Any:
    """Return a copy of a module, in evaluation mode."""
    if not callable(getattr(model, "state_dict", None)):
        raise TypeError(f"model must be a torch.nn.Module, not {validation.shown(model)}")
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:
        raise ValueError(
            f"model must be one that copy.deepcopy can copy, but {type(error).__name__}: {error}; measure it with "
            "tracker.update_from_torch instead"
        ) from error


def _take_values(copied: Any, model: Any) -> None:
    """Give a copy the values of the model's parameters and buffers."""
    copied.load_state_dict(model.state_dict())
