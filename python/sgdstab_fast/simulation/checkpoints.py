"""Checkpoints: files that hold the journal of a call, and how a call goes on from one.

A call goes on as the same call: what it was called with has to be what the file says, but for what says when it stops
(tolerances, budget), how it runs (threads, executor) and who is told.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.seeds import Seed, seed_from, seed_of
from sgdstab_fast.results.interruption import Stopped, current_interruption
from sgdstab_fast.results.journal import Journal, Recorder
from sgdstab_fast.results.locks import locked
from sgdstab_fast.results.storage import kind_of, load_any, remove_abandoned_parts, save

_BUDGET = ("rtol", "atol", "max_steps", "sign_confidence", "tolerance_for", "confidence")
_FREE = (*_BUDGET, "rng", "n_threads", "progress", "executor", "resume", "checkpoint", "checkpoint_every")
EVERY = 60.0  # seconds between checkpoints, by default
_FEW = 8  # numbers that are said one by one


class CheckpointFile:
    """A file that the journal of one run is written to, every so many seconds; others are refused meanwhile."""

    def __init__(self, path: Any, every: float) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"checkpoint must be a path, not {validation.shown(path)}")
        if not os.fspath(path) or "\0" in os.fspath(path):
            raise ValueError(f"checkpoint must be a path, not {validation.shown(path)}")
        # What it is now, wherever the process goes later.
        self.path, self._every, self._last = Path(os.path.realpath(path)), every, time.monotonic()
        if self.path.is_dir():
            raise ValueError(f"checkpoint must be a file, and {str(path)!r} is a folder")
        if self.path.exists() and not _may_be_replaced(self.path):
            raise ValueError(f"checkpoint must be a new file or a checkpoint, and {str(path)!r} is neither")
        if not self.path.parent.is_dir():
            raise ValueError(f"checkpoint must be in a folder that exists, and {str(self.path.parent)!r} does not")
        try:
            self._lock = locked(self.path.with_name(self.path.name + ".lock"))
        except OSError as error:
            raise ValueError(f"checkpoint cannot be written to {str(path)!r}: {error.strerror}") from None
        if self._lock is None:
            raise ValueError(f"checkpoint {str(path)!r} is being written by another run")
        remove_abandoned_parts(self.path)

    @property
    def is_due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._last >= self._every

    def write(self, journal: Journal) -> None:
        """Write; the next time is due after that."""
        interruption = current_interruption()
        interruption.is_writing = True
        try:
            if self._lock is not None:
                save(journal, self.path)
                self._last = time.monotonic()
        except OSError as error:
            raise OSError(error.errno, f"checkpoint: {error.strerror}", str(self.path)) from None
        finally:
            interruption.is_writing = False

    def close(self) -> None:
        """Write no more, and let others."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.unlock()


def _may_be_replaced(path: Path) -> bool:
    """Say whether a file is a checkpoint, or an empty one that was made for it."""
    return path.is_file() and (path.stat().st_size == 0 or kind_of(path) == Journal.__name__)


_current: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def current_recorder() -> Recorder:
    """Return what keeps the journal of the call that is under way; outside of one, of what nobody asks for."""
    found = _current.get()
    return Recorder(Journal("", {})) if found is None else found


def recorded(
    estimator: Callable[..., Any],
    signature: inspect.Signature,
    earlier_kind: str,
    args: tuple[Any, ...],
    keywords: dict[str, Any],
) -> Any:
    """Call an estimator, and keep its journal: in a file if it is to, and going on from an earlier one if there is one.

    Results of the kind `earlier_kind` are left to the estimator to go on from.
    """
    try:
        given = signature.bind(*args, **keywords).arguments
    except TypeError:  # which the estimator says better
        return estimator(*args, **keywords)
    earlier = _loaded(given.get("resume"))
    if not isinstance(earlier, Journal) and not earlier_kind:
        earlier = _journal_of(earlier)
    before: Journal | None = getattr(earlier, "journal", None)
    journal = Journal(estimator.__name__, {}) if before is None else dataclasses.replace(before.copy(), arguments={})
    if earlier is not None and not isinstance(earlier, Journal):
        _require_same(earlier, given)
    if isinstance(earlier, Journal):
        keywords = {**keywords, **_left_out(earlier, estimator.__name__, signature, given)}
        journal, earlier = earlier.copy(), None
    path, every = given.get("checkpoint"), given.get("checkpoint_every", EVERY)
    every = validation.nonnegative_number(every, "checkpoint_every")

    def describe() -> None:
        if not journal.arguments:
            journal.arguments = _described(signature, given)
        journal.budget = _described(signature, given, _BUDGET)

    def completed(found: Any) -> Any:
        if not hasattr(found, "journal"):
            return found
        describe()
        return dataclasses.replace(found, journal=journal.copy())

    interruption = current_interruption()
    if interruption.possible:
        describe()  # at once, since that takes time where K is large, and there is none when it is needed
    interruption.complete_by(completed)
    with _writing(path, every, describe, journal) as file:
        token = _current.set(Recorder(journal, file, earlier=earlier))
        try:
            found = estimator(*args, **keywords)
        except Stopped:
            if file is not None:
                file.write(journal)
            raise
        except Exception:  # of a callback, say
            if file is not None:
                with suppress(OSError):
                    file.write(journal)
            raise
        finally:
            _current.reset(token)
        if file is not None:
            file.write(journal)
    return completed(found) if interruption.requested else found


@contextmanager
def _writing(
    path: Any, every: float, describe: Callable[[], None], journal: Journal
) -> Iterator[CheckpointFile | None]:
    if path is None:
        yield None
        return
    describe()
    file, interruption = CheckpointFile(path, every), current_interruption()

    def leave_behind() -> None:
        """Write for a call that does not come to it, what it had come to when it last said so."""
        if not interruption.is_writing:
            with suppress(OSError):
                file.write(journal.copy())
        file.close()

    try:
        with interruption.closed_by(leave_behind):
            yield file
    finally:
        file.close()


def _loaded(resume: Any) -> Any:
    """Return what `resume` is, read if it is a file."""
    if not isinstance(resume, (str, os.PathLike)):
        return resume
    try:
        return load_any(resume, "checkpoint= or a method save of this package")
    except FileNotFoundError:
        raise ValueError(f"resume must be a result or a file, and there is no file {str(resume)!r}") from None


def _journal_of(earlier: Any) -> Journal | None:
    """Return the journal that an interrupted result has."""
    found = getattr(earlier, "journal", None)
    if earlier is None or found is not None:
        return found
    kind = type(earlier).__name__
    if hasattr(earlier, "journal"):
        raise ValueError(f"resume must be a checkpoint, or a result that was interrupted: this {kind} was not")
    raise TypeError(f"resume must be a checkpoint, or a result that was interrupted, not {validation.shown(earlier)}")


def _described(signature: inspect.Signature, given: Mapping[str, Any], names: Collection[str] = ()) -> dict[str, str]:
    """Return what a call was called with of some names, by default of what makes it the call that it is."""
    names = names or signature.parameters.keys() - set(_FREE)
    return {
        name: _text(given.get(name, parameter.default))
        for name, parameter in signature.parameters.items()
        if name in names
    }


def _text(value: Any) -> str:
    """Return a text by which a value is known again: of few numbers themselves, of many a digest."""
    fingerprint: str | None = getattr(value, "fingerprint", None)  # of a system or a kernel
    if fingerprint is not None:
        return fingerprint
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    try:
        array = validation.numeric(value, "value")
    except (TypeError, ValueError):
        return repr(value)
    if array.size <= _FEW:
        return repr(array.astype(float).tolist())
    digest, rows = hashlib.sha256(), array.reshape(-1, array.shape[-1])
    for block in validation.row_blocks(rows):
        digest.update(np.ascontiguousarray(rows[block], dtype=float).data)
    return f"{'x'.join(map(str, array.shape))}-{digest.hexdigest()[:16]}"


def _left_out(
    journal: Journal, estimator: str, signature: inspect.Signature, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that a call which goes on leaves to the journal; refuse those that are others."""
    if journal.estimator != estimator:
        raise ValueError(f"resume must be of {estimator}, and this is of {journal.estimator}")
    asked, left = _described(signature, given), dict[str, Any]()
    for name, before in journal.arguments.items():
        if asked.get(name) == before:
            continue
        if name in given:
            raise ValueError(f"resume is of a call with {name}={before}, not {name}={asked.get(name)}")
        try:
            left[name] = ast.literal_eval(before)
        except (ValueError, SyntaxError):
            raise ValueError(f"resume is of a call with {name}, which has to be given again") from None
    _require_same_seed(given.get("rng"), journal.seed)
    return left


def _require_same(earlier: Any, given: Mapping[str, Any]) -> None:
    """Refuse arguments of a call that goes on from a result of chains which say other than the call that found it."""
    provenance, chains = getattr(earlier, "provenance", None), getattr(earlier, "chains", None)
    if not provenance or chains is None:
        return
    for name, before in (("n_chains", len(chains.states)), ("method", provenance.get("method"))):
        if name in given and given[name] != before:
            raise ValueError(f"resume is of a call with {name}={before!r}, not {name}={validation.shown(given[name])}")
    _require_same_seed(given.get("rng"), seed_of(provenance))


def _require_same_seed(rng: Any, seed: Seed | None) -> None:
    """Refuse an rng that is not the one a call began with; generators have moved on."""
    drawn_from = (np.random.Generator, np.random.BitGenerator, np.random.RandomState)  # whose state has moved on
    if rng is not None and seed is not None and not isinstance(rng, drawn_from) and seed_from(rng).key != seed.key:
        raise ValueError(f"resume is of a call with rng={seed.entropy}, not rng={validation.shown(rng)}")
