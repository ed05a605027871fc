"""Workers: threads of this process, or an executor that work is given to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from sgdstab_fast import validation

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")


@dataclass(frozen=True)
class Workers:
    """Threads of this process, by default all, or an executor."""

    n_threads: int = field(default_factory=lambda: validation.thread_count(None))
    executor: Executor | None = None

    def __post_init__(self) -> None:
        validation.executor(self.executor)

    def useful_threads(self, n_items: int) -> int:
        """Return how many threads work at the same time on so many items."""
        return min(self.n_threads, validation.thread_count(None), n_items)

    def map(self, work: Callable[[_Item, int], _Done], items: Sequence[_Item]) -> Iterator[_Done]:
        """Yield what the work makes of every item, in order, given the item and the threads it may use.

        With an executor, of threads or of processes, items are worked on side by side, on one thread each. After an
        error or Ctrl-C those that have not begun never do. One of the executor's own threads works itself: waiting for
        others that wait as well would be for ever.
        """
        if self.executor is None:
            yield from (work(item, self.n_threads) for item in items)
            return
        # By name: a pool knows its threads only after they have begun to work.
        if threading.current_thread().name.rpartition("_")[0] == getattr(self.executor, "_thread_name_prefix", None):
            yield from (work(item, 1) for item in items)
            return
        futures = [self.executor.submit(work, item, 1) for item in items]
        try:
            yield from (future.result() for future in futures)
        finally:
            for future in futures:
                future.cancel()
