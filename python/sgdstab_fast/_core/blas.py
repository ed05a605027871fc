"""Threads of BLAS: one, while small matrices are worked on, and in workers.

Threads of OpenBLAS wait for one another by spinning. Where others keep the processors busy, threads of the core or
other programs, one that is needed may not run, and a decomposition of 40 rows that takes 0.1 ms on one thread takes
50 ms on two. Only large matrices gain from threads. So a call on a small one holds BLAS to one thread:

    held(None)   nothing is changed;
    held(n)      one thread if n < LARGE, within the outermost such block of a call;
    held(0)      one thread.

The number of threads is that of the whole process, and calls may overlap: the first that comes in takes it down, and
the last to leave gives back what was there before, however it leaves.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar, cast

LARGE = 1024  # rows, of which a decomposition takes about half a second on one thread
Function = TypeVar("Function", bound=Callable[..., Any])
_is_settled: ContextVar[bool] = ContextVar("is_settled", default=False)


class _Limit:
    """One thread while anyone holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._controller: Any = None
        self._limiter: Any = None

    def forget(self) -> None:
        """Forget who held it: a process that was forked has none of the other threads, and keeps what was set."""
        self._lock, self._holders, self._limiter = threading.Lock(), 0, None
        _is_settled.set(False)

    def hold(self) -> None:
        """Take the threads down, if nobody has."""
        with self._lock:
            if self._holders == 0:
                if self._controller is None:
                    # On a thread that Ctrl-C does not reach: it would be lost in what the loader calls back.
                    finder = threading.Thread(target=self._find, name="sgdstab-blas")
                    finder.start()
                    finder.join()
                self._limiter = self._controller.limit(limits=1)
                self._let_others()
            self._holders += 1

    def _find(self) -> None:
        """Find the libraries, which takes a millisecond; none if the package was installed without threadpoolctl."""
        import scipy.linalg  # type: ignore[import-untyped]  # noqa: F401  has a BLAS of its own

        try:
            from threadpoolctl import ThreadpoolController
        except ImportError:
            self._controller = _NoLibraries()
            return
        self._controller = ThreadpoolController().select(user_api="blas")

    def release(self) -> None:
        """Give the threads back, if nobody else needs them down."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._limiter.restore_original_limits()
                self._limiter = None
                self._let_others()

    def _let_others(self) -> None:
        """Let threads other than this one set the number: the last to leave may be another than the first.

        From threadpoolctl 3.8 on a thread that has set it keeps others from that while it lives.
        """
        for library in self._controller.lib_controllers:
            getattr(library, "clear_controlling_thread", lambda: None)()


class _NoLibraries:
    """What stands for a controller of threads where there is none."""

    lib_controllers: tuple[Any, ...] = ()

    def limit(self, *, limits: int) -> _NoLibraries:
        """Leave threads as they are."""
        return self

    def restore_original_limits(self) -> None:
        """Leave threads as they are."""


_limit = _Limit()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_limit.forget)


@contextmanager
def held(n_rows: int | None) -> Iterator[None]:
    """Hold BLAS to one thread if matrices have few rows; None if it is not known what will be done."""
    if n_rows is None or _is_settled.get():
        yield
        return
    token = _is_settled.set(True)
    try:
        if n_rows >= LARGE:
            yield
            return
        _limit.hold()
        try:
            yield
        finally:
            _limit.release()
    finally:
        _is_settled.reset(token)


def held_by_size(function: Function) -> Function:
    """Hold BLAS to one thread in a function whose first argument, K or a system, has few rows."""
    name = next(iter(inspect.signature(function).parameters), "")

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        with held(rows_of(args[0] if args else keywords.get(name))):
            return function(*args, **keywords)

    return cast(Function, call)


def rows_of(value: Any) -> int | None:
    """Return how many rows K or a system has, or what a result is of; None of a function, which may do anything."""
    size = getattr(getattr(value, "system", value), "dimension", None)
    if isinstance(size, int):
        return size
    if hasattr(value, "__len__"):
        with suppress(TypeError):  # an array of no axes
            return len(value)
    return None if callable(value) else 0
