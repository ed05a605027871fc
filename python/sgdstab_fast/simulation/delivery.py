"""Delivery: how work reaches the workers of an executor, each array once however many items it is wanted for.

A work is a small thing that holds large arrays (K, metrics). It is pickled with its arrays apart, and each array is
known by a digest of its bytes:

    threads of this process   nothing is pickled;
    processes                 arrays are written to a folder of temporary files, which workers map: on one machine they
                              share its memory. Workers elsewhere, which do not find the files, ask for the arrays;
    Dask                      arrays are scattered to all workers, and tasks name them.

Workers keep the works that they were given last.
"""

from __future__ import annotations

import contextvars
import functools
import hashlib
import mmap
import os
import pickle
import shutil
import signal
import tempfile
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sgdstab_fast._core.blas import held
from sgdstab_fast.results.locks import Lock, is_abandoned, locked

_PREFIX, _LOCK = "sgdstab-", ".lock"  # of folders, and of the files beside them that are locked while they are used
_LARGE = 2**12  # bytes of an array that is worth sending apart
_FEW_WORKERS = 8
_KEPT = 4  # works that a worker keeps
Work = Callable[[Any, int], Any]
"""Of an item and the number of threads that it may use."""


class AnyExecutor(Protocol):
    """A concurrent.futures.Executor, a dask.distributed.Client, or what else takes work in their way."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **keywords: Any) -> Any:
        """Have a function called; return a future."""


class Parcel(NamedTuple):
    """A pickled work without its large arrays."""

    pickled: bytes
    digests: tuple[str, ...]
    """Of the arrays, in order."""
    folder: str
    """Where there is a file for each."""


class Missing(NamedTuple):
    """What a worker answers that does not find an array."""

    digests: tuple[str, ...]


_works: OrderedDict[Parcel, Work] = OrderedDict()
_lock = threading.Lock()


def unpacked(parcel: Parcel, given: Mapping[str, Any]) -> Work | Missing:
    """Return the work of a parcel, in a worker, from arrays in files or those given."""
    with _lock:
        if parcel in _works:
            _works.move_to_end(parcel)
            return _works[parcel]
    missing = [digest for digest in parcel.digests if digest not in given and not _file(parcel, digest).exists()]
    if missing:
        return Missing(tuple(missing))
    buffers = [given[digest] if digest in given else _mapped(_file(parcel, digest)) for digest in parcel.digests]
    work: Work = pickle.loads(parcel.pickled, buffers=buffers)
    with _lock:
        _works[parcel] = work
        while len(_works) > _KEPT:
            _works.popitem(last=False)
    return work


def _file(parcel: Parcel, digest: str) -> Path:
    return Path(parcel.folder) / digest


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as opened:
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def carry_out(parcel: Parcel, item: Any, given: Mapping[str, Any]) -> Any:
    """Do the work of a parcel on an item: what a worker is asked for."""
    work = unpacked(parcel, given)
    if isinstance(work, Missing):
        return work
    # In workers alone.
    import multiprocessing

    if multiprocessing.parent_process() is not None and threading.current_thread() is threading.main_thread():
        # Ctrl-C reaches every process of a terminal: it is for the one that waits for the results.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held(0):  # as many workers as processors are at work
        return work(item, 1)


def carry_out_scattered(parcel: Parcel, item: Any, digests: Sequence[str], *arrays: Any) -> Any:
    """Do the same with arrays that Dask has brought."""
    return carry_out(parcel, item, dict(zip(digests, arrays, strict=True)))


class Delivery:
    """Brings works to the workers of one executor: of one that is not known better, in files."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self.is_broken = False
        """Whether its workers have died, and it takes no more work."""
        self._has_accepted = False  # something: what breaks later has lost its workers
        self._folder: str | None = None
        self._parcels: weakref.WeakKeyDictionary[Any, Parcel] = weakref.WeakKeyDictionary()
        self._arrays: dict[str, Any] = {}
        self._uses: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Delivery], tuple[None]]:
        return Delivery, (None,)  # a worker has no workers

    @property
    def n_workers(self) -> int:
        """How many workers there are, as far as the executor tells; else a few."""
        return int(getattr(self._executor, "_max_workers", None) or _FEW_WORKERS)

    @property
    def is_inside(self) -> bool:
        """Whether this is one of the executor's own threads, which must not wait for the others."""
        return False

    def is_loss(self, error: BaseException) -> bool:
        """Say whether an error is that of an executor that has lost a worker, rather than of the work."""
        return isinstance(error, (BrokenExecutor, CancelledError))

    def submit(self, work: Work, item: Any) -> Any:
        """Have a work done on an item; return a future, or None where all workers have died."""
        try:
            submitted = self._submitted(work, item)
        except BrokenExecutor:
            if self._has_accepted:
                return None
            raise
        self._has_accepted = True
        return submitted

    def _submitted(self, work: Work, item: Any) -> Any:
        return self._executor.submit(carry_out, self._parcel(work), item, {})

    def after_a_loss(self, work: Work, item: Any) -> Any:
        """Have it done again, a worker having died."""
        return self.submit(work, item)

    def again(self, work: Work, item: Any, missing: Missing) -> Any:
        """Have it done by a worker that does not find arrays."""
        parcel = self._parcel(work)
        given = {digest: _file(parcel, digest).read_bytes() for digest in missing.digests}
        return self._executor.submit(carry_out, parcel, item, given)

    def forget(self, work: Work) -> None:
        """Keep nothing of a work that is done, but for arrays that others have too."""
        with self._lock:
            parcel = self._parcels.pop(work, None)
            if parcel is None:
                return
            self._uses.subtract(parcel.digests)
            for digest in parcel.digests:
                if self._uses[digest] == 0 and self._arrays.pop(digest, None) is None:
                    with suppress(OSError):  # where a worker that maps it keeps it
                        _file(parcel, digest).unlink()

    def _parcel(self, work: Work) -> Parcel:
        with self._lock:
            if work in self._parcels:
                return self._parcels[work]
            large: list[pickle.PickleBuffer] = []

            def stays(buffer: pickle.PickleBuffer) -> bool:
                if is_large := buffer.raw().nbytes >= _LARGE:
                    large.append(buffer)
                return not is_large

            pickled = pickle.dumps(work, protocol=5, buffer_callback=stays)
            digests = tuple(self._sent(buffer.raw()) for buffer in large)
            self._uses.update(digests)
            self._parcels[work] = Parcel(pickled, digests, self._folder or "")
            return self._parcels[work]

    def _sent(self, array: memoryview) -> str:
        """Bring an array to the workers, unless they have it; return its digest."""
        digest = hashlib.blake2b(array, digest_size=16).hexdigest()
        if digest not in self._arrays:
            self._arrays[digest] = self._brought(array, digest)
        return digest

    def _brought(self, array: memoryview, digest: str) -> Any:
        """Bring an array to the workers, and return what stands for it here; None if its file does."""
        if self._folder is None:
            _remove_abandoned()
            self._folder = tempfile.mkdtemp(prefix=_PREFIX)
            lock = locked(Path(self._folder + _LOCK))
            weakref.finalize(self, _remove, self._folder, lock, os.getpid())
        (Path(self._folder) / digest).write_bytes(array)
        return None


class ToThreads(Delivery):
    """Of threads of this process: nothing has to be brought."""

    @property
    def is_inside(self) -> bool:
        """Whether this is one of the threads."""
        # By name: a pool knows its threads only after they have begun to work.
        prefix: str = self._executor._thread_name_prefix
        return threading.current_thread().name.rpartition("_")[0] == prefix

    def _submitted(self, work: Work, item: Any) -> Any:
        # With what this thread knows, of whether the work is still wanted say.
        return self._executor.submit(contextvars.copy_context().run, work, item, 1)


class ToCluster(Delivery):
    """Of a client of Dask: arrays are scattered."""

    @property
    def n_workers(self) -> int:
        """How many workers there are now."""
        return max(len(self._executor.scheduler_info()["workers"]), 1)

    def is_loss(self, error: BaseException) -> bool:
        """Say whether a worker was lost, or what had been scattered to it."""
        import asyncio  # after an error alone

        from distributed import scheduler

        return super().is_loss(error) or isinstance(error, (asyncio.CancelledError, scheduler.KilledWorker))

    def after_a_loss(self, work: Work, item: Any) -> Any:
        """Have it done again, and all that it needs scattered again: the worker may have had it."""
        with self._lock:
            self._arrays.clear()
            self._uses.clear()
            self._parcels.clear()
        return self.submit(work, item)

    def _submitted(self, work: Work, item: Any) -> Any:
        parcel = self._parcel(work)
        arrays = [self._arrays[digest] for digest in parcel.digests]
        return self._executor.submit(carry_out_scattered, parcel, item, parcel.digests, *arrays, pure=False)

    def _brought(self, array: memoryview, digest: str) -> Any:
        return self._executor.scatter(bytearray(array), broadcast=True, hash=False)


@functools.singledispatch
def delivery_to(executor: Any) -> Delivery:
    """Return what brings work to an executor, of the kind that it is."""
    return ToCluster(executor) if callable(getattr(executor, "scatter", None)) else Delivery(executor)


delivery_to.register(ThreadPoolExecutor, ToThreads)


def _remove(folder: str, lock: Lock | None, process: int) -> None:
    if os.getpid() == process:  # rather than a fork of it
        if lock is not None:
            lock.unlock()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    """Remove the folders of processes that were killed: of others their locks are held."""
    for file in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*{_LOCK}"):
        with suppress(OSError):  # of another user
            if is_abandoned(file) and (lock := locked(file)) is not None:
                _remove(str(file).removesuffix(_LOCK), lock, os.getpid())
