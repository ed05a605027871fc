"""Ctrl-C: what a user is answered, at once, while an estimator is at work.

Python hears of Ctrl-C between two instructions of the main thread, and a decomposition of a large matrix is one
instruction. So the main thread waits while another one does the work, and calls back for it what the user gave:

    main thread    | waits; calls progress callbacks; on Ctrl-C asks to stop, and gives it a moment
    the other one  | works; looks now and then, where it can go on later, whether it is to stop

What it returns when it was asked to stop is the partial result. If it has not returned in time it is left behind, and
what it had made known by then is the result.
"""

from __future__ import annotations

import contextvars
import ctypes
import functools
import inspect
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar, cast

from sgdstab_fast import validation
from sgdstab_fast._core.blas import held_by_size, rows_of
from sgdstab_fast.results.warnings import collected, warn

Function = TypeVar("Function", bound=Callable[..., Any])
_ANSWER_WITHIN = 0.22  # seconds after Ctrl-C
_WAIT = 0.1  # seconds, since not every system wakes a lock for a signal
_LARGE = 128  # rows of K, from which on what is computed takes milliseconds
_POLL = 0.02  # seconds, of what may be left behind


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what was known by then.

    Estimators raise it in the main thread. Code that catches KeyboardInterrupt catches it.

    Parameters
    ----------
    result : optional
        The partial result.

    Attributes
    ----------
    result
        What the estimator would have returned, of the steps taken so far: its error bars are those of what ran, its
        ``stopped_by`` is ``"interrupt"``, and ``resume=`` takes it to go on. None where nothing was known yet.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> def impatient(progress):
    ...     raise KeyboardInterrupt  # as Ctrl-C does
    >>> system = sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5)
    >>> try:
    ...     sf.lyapunov_exponent(system, rtol=1e-6, rng=1, progress=impatient)
    ... except sf.Interrupted as interrupted:
    ...     partial = interrupted.result
    >>> partial.stopped_by
    'interrupt'
    >>> sf.lyapunov_exponent(system, rtol=1e-4, resume=partial).stopped_by
    'rtol'
    """

    def __init__(self, result: Any = None) -> None:
        super().__init__()
        self.result = result

    def __str__(self) -> str:
        return "nothing was known yet" if self.result is None else repr(self.result)

    def __reduce__(self) -> tuple[type[Interrupted], tuple[Any]]:
        return Interrupted, (self.result,)


class Stopped(Exception):  # noqa: N818  not an error
    """Raised where work ends because it is no longer wanted, with what it has come to."""

    def __init__(self, so_far: Any = None) -> None:
        super().__init__("stopped")
        self.so_far = so_far


class Interruption:
    """Whether work is still wanted."""

    def __init__(self, *, possible: bool = True) -> None:
        self.possible = possible
        """Whether anyone may ask to stop."""
        self._known: Any = None
        self._completed: Callable[[Any], Any] = lambda found: found
        self.is_writing = False
        """Whether a file is being written, which is waited for."""
        self._closing: list[Callable[[], object]] = []
        self._is_left_behind = False
        self._requested = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether someone has asked to stop."""
        return self._requested.is_set()

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Hold for a call within the call that is waited for: what it knows is no result of that."""
        token = _is_nested.set(True)
        try:
            yield
        finally:
            _is_nested.reset(token)

    def make_known(self, found: Any) -> None:
        """Say what the call would return if it had to return now, for when it is left behind."""
        if self.possible and not _is_nested.get():
            self._known = found

    def complete_by(self, completed: Callable[[Any], Any]) -> None:
        """Say what adds to a result that was made known what it takes to go on from it."""
        if self.possible and not _is_nested.get():
            self._completed = completed

    @property
    def known(self) -> Any:
        """What was made known, as a result to go on from; None if nothing was."""
        return None if self._known is None else self._completed(self._known)

    def request(self) -> None:
        """Ask to stop."""
        self._requested.set()

    def check(self) -> None:
        """Raise `Stopped` if someone has asked to stop."""
        if self.requested:
            raise Stopped

    @contextmanager
    def closed_by(self, close: Callable[[], object]) -> Iterator[None]:
        """Call `close` if the work is left behind meanwhile: it ends what a user sees."""
        self._closing.append(close)
        try:
            if self._is_left_behind:
                raise Stopped
            yield
        finally:
            self._closing.remove(close)

    def close(self) -> None:
        """End what a user sees of work that is left behind."""
        self._is_left_behind = True
        for close in tuple(self._closing):
            close()

    def wait_for(self, finished: Callable[[float], bool]) -> None:
        """Wait until ``finished(seconds)``, which waits no longer than that, is true; raise `Stopped` if asked to."""
        while not finished(_POLL):
            self.check()

    def left_behind(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns that is one long instruction; if asked to stop before, leave it behind."""
        if not self.possible:
            return function()
        other = _Other(function)
        other.start()
        self.wait_for(other.finished)
        return other.outcome()


NEVER = Interruption(possible=False)
"""Of work that nobody can ask to stop."""
_is_nested: contextvars.ContextVar[bool] = contextvars.ContextVar("is_nested", default=False)
_current: contextvars.ContextVar[Interruption] = contextvars.ContextVar("current", default=NEVER)


def current_interruption() -> Interruption:
    """Return the interruption of the call of the package that is under way."""
    return _current.get()


def _beyond_this_file(traceback: TracebackType | None) -> TracebackType | None:
    """Return what of a traceback a user may want to see."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback


_left_behind: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def is_anything_left_behind() -> bool:
    """Say whether some work is still in a long instruction: the interpreter must not end by itself meanwhile."""
    return any(thread.is_alive() for thread in _left_behind)


class _Other(threading.Thread):
    """A thread that calls a function; it keeps no process alive."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._function: Callable[[], Any] | None = function
        self._found: Any = None
        self._error: BaseException | None = None
        self._ending, self._is_over = threading.Lock(), False

    def run(self) -> None:
        """Call the function."""
        with suppress(Stopped):  # of one that is left behind as it ends
            self._call()
            with self._ending:
                self._is_over = True

    def _call(self) -> None:
        assert self._function is not None
        try:
            self._found = self._function()
        except BaseException as error:  # the thread that waits raises it
            self._error = error
        finally:
            self._function = None

    def finished(self, seconds: float) -> bool:
        """Say whether it has ended, after waiting no longer than so many seconds."""
        if self.ident is not None:
            self.join(seconds)
        return not self.is_alive()

    def outcome(self) -> Any:
        """Return what the function has returned, or raise what it has raised."""
        if self._error is not None:
            try:
                raise self._error.with_traceback(_beyond_this_file(self._error.__traceback__))
            finally:
                self._error = None  # no circle of references
        return self._found

    def leave_behind(self) -> None:
        """Make it end where its next instruction begins."""
        _left_behind.add(self)
        with self._ending:
            if self.ident is None or self._is_over:
                return
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(Stopped))


def _takes_progress(value: Any) -> bool:
    """Say whether it is a callback; what estimators refuse is left to them."""
    try:
        return callable(validation.progress(value))
    except TypeError:
        return False


class _Call:
    """One call of an estimator: the two threads, and what they say to each other."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self._interruption = Interruption()
        self._asked: queue.SimpleQueue[tuple[Callable[[Any], Any], Any] | None] = queue.SimpleQueue()
        self._answered: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        progress: Any = keywords.get("progress")
        if _takes_progress(progress):
            keywords = {**keywords, "progress": functools.partial(self._in_main_thread, progress)}
        self._messages: list[str] = []
        context = contextvars.copy_context()
        context.run(_current.set, self._interruption)
        self._other = _Other(lambda: context.run(self._work, function, args, keywords))

    def _work(self, function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        try:
            with collected() as self._messages:
                return function(*args, **keywords)
        finally:
            self._asked.put(None)

    def _in_main_thread(self, callback: Callable[[Any], Any], argument: Any) -> None:
        """Call what the user gave where they would expect it; what it raises is raised here as well."""
        if self._interruption.requested:
            return
        self._asked.put((callback, argument))
        if (error := self._answered.get()) is not None:
            raise error

    def _serve(self, seconds: float = _WAIT) -> bool:
        """Do what the other thread asks for; return whether it is done."""
        try:
            asked = self._asked.get(timeout=seconds)
        except queue.Empty:
            return not self._other.is_alive()
        if asked is None:
            self._other.join()
            return True
        callback, argument = asked
        try:
            callback(argument)
        except KeyboardInterrupt:
            self._answered.put(None)
            raise
        except BaseException as error:
            self._answered.put(error)
        else:
            self._answered.put(None)
        return False

    def outcome(self) -> Any:
        """Return what the function returns."""
        try:
            self._other.start()
            while not self._serve():
                pass
        except KeyboardInterrupt:
            self._interruption.request()
            try:
                found = self._partial()
            except KeyboardInterrupt:  # once more: it is not waited for
                self._leave_behind()
                found = self._interruption.known
            self._warn()
            raise Interrupted(found) from None
        except BaseException:  # raised by a signal
            self._interruption.request()
            self._leave_behind()
            raise
        found = self._other.outcome()
        self._warn()
        return found

    def _partial(self) -> Any:
        """Return what the function returns as it was asked to stop, or what it had made known if it does not."""
        self._answered.put(None)  # to a callback that will not be called
        done = self._other.finished(_ANSWER_WITHIN)
        while not done and self._interruption.is_writing:
            done = self._other.finished(_POLL)
        if done:
            try:
                return self._other.outcome()
            except Exception:  # of what is only partly there
                return self._interruption.known
        self._leave_behind()
        return self._interruption.known

    def _leave_behind(self) -> None:
        self._answered.put(None)
        self._other.leave_behind()
        self._interruption.close()

    def _warn(self) -> None:
        for message in self._messages:
            warn(message)


def interruptible(function: Function) -> Function:
    """Make Ctrl-C end a function at once, by `Interrupted`, if the main thread calls it.

    Meanwhile BLAS is held to one thread, if the first argument, K or a system, has few rows.
    """
    held = held_by_size(function)  # where it works, so that Ctrl-C cannot come between

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        if (outer := _current.get()) is not NEVER:
            with outer.nested():
                return held(*args, **keywords)
        if threading.current_thread() is not threading.main_thread():
            return held(*args, **keywords)
        return _Call(held, args, keywords).outcome()

    return cast(Function, call)


def interruptible_if_large(function: Function) -> Function:
    """Do the same for a function that takes no time where its first argument, K or a system, has few rows."""
    at_once, waited_for = held_by_size(function), interruptible(function)
    name = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        size = rows_of(args[0] if args else keywords.get(name)) or 0
        return (at_once if size < _LARGE else waited_for)(*args, **keywords)

    return cast(Function, call)
