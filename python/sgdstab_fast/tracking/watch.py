"""Beside training: points are measured on another thread, of a copy of the network, when a schedule says so.

The copy is made once, and takes the values of parameters and buffers when a point is due; K is computed on the thread
that trains, which takes a forward and a few backward passes, and everything else elsewhere meanwhile. At most one point
is being measured at a time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sgdstab_fast import validation
from sgdstab_fast.gram.torch_kernel import from_torch
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.tracking.measurement import Carried, measured
from sgdstab_fast.tracking.point import Point
from sgdstab_fast.tracking.run import Run
from sgdstab_fast.tracking.schedules import Schedule, schedule_of

if TYPE_CHECKING:
    from types import TracebackType

Log: TypeAlias = Callable[[dict[str, float], int], object]


class _Due(NamedTuple):
    """A point that is to be measured, of the values that the copy holds."""

    step: int
    learning_rate: float | None
    batch_size: int | None


class _Pending(NamedTuple):
    """A point that is being measured."""

    future: Future[tuple[Point, Carried]]
    step: int
    seconds: float
    """What computing K took."""


class Watch:
    """Measures a network while it trains, as `StabilityTracker.watch` returns it: call it with every step.

    A context manager; leaving it waits for the last point.
    """

    def __init__(
        self,
        run: Run,
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
        self._run, self._log, self._prefix = run, log, prefix
        self._inputs, self._targets, self._options = inputs, targets, options
        self._model, self._copy = model, _copied(model)
        self._executor = validation.executor(executor)
        self._own: ThreadPoolExecutor | None = None
        self._pending: _Pending | None = None
        self._waiting, self._last_step = False, run.last_step
        self._held: _Due | None = None
        self._has_warned = self._is_closed = False
        self._n_left_out = 0
        self._spent, self._began = 0.0, time.perf_counter()

    def __call__(self, step: int, *, learning_rate: float | None = None, batch_size: int | None = None) -> None:
        """Measure the network as it is now, if a point is due.

        Parameters
        ----------
        step : int
            Steps done so far.
        learning_rate, batch_size : optional
            The present ones, where they change on the way. While the learning rate is 0 nothing is measured.

        Raises
        ------
        ValueError, TypeError
            If the network or an argument cannot be measured at all, at the first point. Later a point that fails is
            left out, with a warning.
        """
        if self._is_closed:
            raise ValueError("watch is closed: take another one for another training")
        self._collect(wait=False)
        if learning_rate is not None and learning_rate == 0:  # nothing moves, as at the end of some schedules
            return
        last = max(self._last_step, self._run.last_step)  # points may come from elsewhere, too
        if step <= last:  # as loops that add up gradients tell the same step several times
            if step < last and not self._has_warned:
                self._has_warned = True
                warn(f"step {step} is before that of the last point, {last}: it is not measured")
            return
        if self._held is not None and step == self._held.step:
            return
        due = self._due(step)
        if not (self._waiting or due):
            return
        # One that is due while another is being measured is taken as soon as that is done, of the network as it is
        # then. Should training end first, it is measured as it was when it was due, since there were steps after that.
        self._n_left_out += self._waiting and due and self._budget is None
        is_busy, is_over_budget = self._pending is not None, self._is_over_budget()
        self._waiting = is_busy or is_over_budget
        if not is_over_budget and (due or not is_busy):
            self._hold(_Due(step, learning_rate, batch_size))
        if not self._waiting:
            self._measure()

    def close(self) -> None:
        """Wait for the last point, and measure one that came due meanwhile."""
        try:
            self._collect(wait=True)
            if self._held is not None and not self._is_over_budget():
                self._measure()
                self._collect(wait=True)
        finally:
            self._shut(wait=True)
        n_left_out, self._n_left_out = self._n_left_out, 0
        if n_left_out > 0:
            warn(
                f"{n_left_out} points were due while others were being measured, and are left out: measure less "
                "often, less (quantities='economy'), or with background=False"
            )

    def __enter__(self) -> Watch:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last point; after an error, do without it."""
        if error is None:
            self.close()
        else:
            self._shut(wait=False)

    def _shut(self, *, wait: bool) -> None:
        self._is_closed, self._held = True, None
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.future.cancel()
        if self._own is not None:
            self._own.shutdown(wait=wait, cancel_futures=True)
            self._own = None

    def _is_over_budget(self) -> bool:
        points = self._run.points
        if self._budget is None or not points:
            return False
        last = points[-1].seconds
        elapsed = time.perf_counter() - self._began
        return self._spent + (last if last > 0 else 0.0) > self._budget * elapsed

    def _hold(self, due: _Due) -> None:
        """Keep the present values for a point."""
        began = time.perf_counter()
        _take_values(self._copy, self._model)
        self._held = due
        self._spent += time.perf_counter() - began

    def _measure(self) -> None:
        """Begin to measure the point that is held."""
        assert self._held is not None
        (step, learning_rate, batch_size), self._held = self._held, None
        began, run = time.perf_counter(), self._run
        if step <= run.last_step:  # a later point has come from elsewhere meanwhile
            self._n_left_out += 1
            return
        rates = {"learning_rate": learning_rate, "batch_size": batch_size}
        given = run.given(None, step, **rates)
        self._last_step = given.step
        try:
            with _same_random_numbers():
                kernel = from_torch(self._copy, self._inputs, targets=self._targets, **self._options)
        except validation.NotFiniteError as error:
            self._tell(run.take_diverged(given, str(error), time.perf_counter() - began))
            return
        except Exception as error:
            self._leave_out(step, error)
            return
        settings = run.settings
        if self._background and settings.n_threads is None:  # the training has the others
            settings = replace(settings, n_threads=1)
        arguments = (settings, run.given(kernel, step, **rates), run.carried)
        took = time.perf_counter() - began
        future: Future[tuple[Point, Carried]]
        if not self._background:
            future = Future()
            try:
                future.set_result(measured(*arguments))
            except Exception as error:
                future.set_exception(error)
        else:
            if self._executor is None and self._own is None:
                self._own = ThreadPoolExecutor(1, thread_name_prefix="stability")
            future = (self._executor or self._own).submit(measured, *arguments)  # type: ignore[union-attr]
        self._pending = _Pending(future, step, took)
        if not self._background:
            self._collect(wait=True)

    def _collect(self, *, wait: bool) -> None:
        """Take the point that was being measured, once it is done; one that failed is left out."""
        pending = self._pending
        if pending is None or not (wait or pending.future.done()):
            return
        self._pending = None
        try:
            point, carried = pending.future.result()
        except Exception as error:
            self._leave_out(pending.step, error)
            return
        point = replace(point, seconds=point.seconds + pending.seconds)
        self._spent += point.seconds
        self._tell(self._run.take(point, carried))

    def _leave_out(self, step: int, error: Exception) -> None:
        if not self._run.points:  # nothing has worked yet: what was asked for cannot be done
            raise error
        warn(f"step {step} is not measured: {type(error).__name__}: {error}")

    def _tell(self, point: Point) -> None:
        if self._log is None:
            return
        try:
            self._log({self._prefix + name: value for name, value in point.scalars().items()}, point.step)
        except Exception as error:  # whatever a logger does, training goes on
            self._log = None
            warn(f"step {point.step}: log raised {type(error).__name__}: {error}; nothing more is logged")


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leave torch's random numbers as they are, whatever a forward pass draws."""
    import torch

    with torch.random.fork_rng(devices=[]):
        yield


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
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in copied.named_parameters():  # layers are frozen and released on the way
        parameter.requires_grad_(trained[name])
    others = dict(copied.named_buffers())
    for name, buffer in model.named_buffers():  # those that are not saved, too
        others[name].copy_(buffer)
