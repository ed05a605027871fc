"""The same question asked of many systems: checkpoints of a training run, a grid of networks, learning rates."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.seeds import seed_from
from sgdstab_fast.results.interruption import Stopped, interruptible
from sgdstab_fast.results.progress import Listener, Progress, ProgressOption, reporter
from sgdstab_fast.simulation.delivery import AnyExecutor
from sgdstab_fast.simulation.workers import Workers

_AHEAD = 2  # systems for each worker that are with an executor at the same time


@interruptible
def map_systems(
    function: Callable[..., Any],
    systems: Iterable[Any],
    *,
    executor: AnyExecutor | None = None,
    n_threads: int | None = None,
    rng: Any = None,
    progress: ProgressOption = None,
    **keywords: Any,
) -> list[Any]:
    """Ask the same of many systems, side by side if there is an executor.

    Parameters
    ----------
    function : callable
        Of a system, such as `stability`, or a function of your own, of a module for executors of processes.
    systems : iterable
        What to call it with: systems, Gram matrices, or anything else that it takes first.
    executor : concurrent.futures.Executor or dask.distributed.Client, optional
        Where to call it. Each system goes to the worker that it is for, and calls take one thread each.
    n_threads : int, optional
        Of a call, where function takes it: by default all without an executor, and one with one.
    rng : optional
        Whatever ``numpy.random.default_rng`` takes, where function takes it. Every system has streams of its own,
        whatever the others and the executor.
    progress : bool or callable, optional
        True for a progress bar of systems, or what to call with a `Progress` of which `n_steps` are systems done.
    **keywords
        What else to call function with.

    Returns
    -------
    list
        What function returns, in the order of systems.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range; whatever function raises comes through.
    Interrupted
        On Ctrl-C, with a list in which those that were not come to are None.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> systems = [sf.LinearizedSGD([[4, 1], [1, 3]], rate) for rate in (0.3, 0.6, 0.9)]
    >>> [found.verdict for found in sf.map_systems(sf.stability, systems, rng=1)]
    ['stable', 'unstable', 'unstable']
    """
    workers, given = Workers(validation.thread_count(n_threads), executor), list(systems)
    if not callable(function):
        raise TypeError(f"function must be callable, not {validation.shown(function)}")
    taken = _parameters(function)
    if "n_threads" in taken:
        keywords["n_threads"] = n_threads if executor is None or n_threads is not None else 1
    for name in ("checkpoint", "resume"):
        if keywords.get(name) is not None:
            raise ValueError(f"{name} must be left out: one file cannot hold the runs of several systems")
    calls = [_Call(function, system, dict(keywords)) for system in given]
    if "rng" in taken:
        seed = seed_from(rng)
        for index, call in enumerate(calls):
            call.keywords["rng"] = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, index))
    found: list[Any] = [None] * len(calls)
    with reporter(validation.progress(progress), len(calls), "systems") as report:
        try:
            for index, result in enumerate(_outcomes(calls, workers)):
                found[index] = result
                workers.interruption.make_known(list(found))
                _tell(report, index + 1, len(calls))
        except Stopped:
            if not any(result is not None for result in found):
                raise
    return found


@dataclass(frozen=True, eq=False)
class _Call:
    """A call to be made, here or elsewhere."""

    function: Callable[..., Any]
    system: Any
    keywords: dict[str, Any]

    def __call__(self, item: None, n_threads: int) -> Any:
        """Make it."""
        return self.function(self.system, **self.keywords)


def _outcomes(calls: list[_Call], workers: Workers) -> Iterator[Any]:
    """Yield what calls return, in order."""
    delivery = workers.delivery
    if delivery is None or workers.is_one_of_them:
        for call in calls:
            workers.interruption.check()
            yield call(None, workers.n_threads)
        return
    left, sent, ahead = iter(calls), list[tuple[_Call, Any]](), _AHEAD * delivery.n_workers
    try:
        while True:
            sent += [(call, delivery.submit(call, None)) for call in itertools.islice(left, ahead - len(sent))]
            if not sent:
                return
            call, future = sent[0]
            yield workers.outcome(future, call, None)
            delivery.forget(call)
            del sent[0]
    finally:
        for _, future in sent:
            if future is not None:
                future.cancel()


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin does not tell
        return frozenset()


def _tell(report: Listener, n_done: int, n_all: int) -> None:
    report(Progress(n_done, n_all, float("nan"), float("nan")))
