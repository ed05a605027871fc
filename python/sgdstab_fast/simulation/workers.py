"""Workers: threads of this process, or an executor that work is given to."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from sgdstab_fast import validation
from sgdstab_fast.results.interruption import Interruption, current_interruption
from sgdstab_fast.simulation.delivery import Delivery, Missing, delivery_to

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")
_AGAIN = 3  # times that an item is given to the executor again, whose worker has died


@dataclass(frozen=True)
class Workers:
    """Threads of this process, by default all, or an executor; and whether their work is still wanted."""

    n_threads: int = field(default_factory=lambda: validation.thread_count(None))
    executor: Any = None
    """A concurrent.futures.Executor, or what has its `submit`."""
    interruption: Interruption = field(default_factory=current_interruption)
    delivery: Delivery | None = None
    """What brings work to the executor; made here, and shared by what `replace` makes of this."""

    def __post_init__(self) -> None:
        validation.executor(self.executor)
        if self.executor is not None and self.delivery is None:
            object.__setattr__(self, "delivery", delivery_to(self.executor))

    def useful_threads(self, n_items: int) -> int:
        """Return how many threads work at the same time on so many items."""
        return min(self.n_threads, validation.thread_count(None), n_items)

    @property
    def is_one_of_them(self) -> bool:
        """Whether this is one of the executor's own threads, which must not wait for the others."""
        return self.delivery is not None and self.delivery.is_inside

    def alone(self) -> Workers:
        """Return one thread of this process."""
        return Workers(1, interruption=self.interruption)

    def map(
        self, work: Callable[[_Item, int], _Done], items: Sequence[_Item], *, long: bool = False
    ) -> Iterator[_Done]:
        """Yield what the work makes of every item, in order, given the item and the threads it may use.

        With an executor items are worked on side by side, on one thread each; without one an item that takes `long` is
        left behind once it is no longer wanted. After an error or Ctrl-C those that have not begun never do. One of
        the executor's own threads works itself: waiting for others that wait as well would be for ever.

        Raises
        ------
        Stopped
            Where the work is no longer wanted.
        """
        if self.delivery is None or self.delivery.is_broken:
            for item in items:
                self.interruption.check()
                here = partial(work, item, self.n_threads)
                yield self.interruption.left_behind(here) if long else here()
            return
        if self.is_one_of_them:
            yield from (work(item, 1) for item in items)
            return
        sent: list[Any] = []
        try:
            for item in items:
                sent.append(self.delivery.submit(work, item))
            for delivered, item in zip(sent, items, strict=True):
                yield self.outcome(delivered, work, item)
        finally:
            for delivered in sent:
                if delivered is not None:
                    delivered.cancel()

    def outcome(self, sent: Any, work: Callable[[_Item, int], _Done], item: _Item) -> _Done:
        """Return what an item has come to; one that the executor loses, with a worker that dies, is done again.

        What an item comes to depends on it alone: bits are the same wherever it is done.
        """
        delivery = self.delivery
        assert delivery is not None
        n_losses = 0
        while sent is not None and n_losses < _AGAIN:
            over = threading.Event()
            sent.add_done_callback(lambda _, over=over: over.set())
            self.interruption.wait_for(over.wait)
            try:
                found = sent.result()
            except BaseException as error:
                if not delivery.is_loss(error):
                    raise
                n_losses += 1
                sent = delivery.after_a_loss(work, item)
                continue
            if not isinstance(found, Missing):
                return found  # type: ignore[no-any-return]
            sent = delivery.again(work, item, found)
        if not delivery.is_broken:
            warnings.warn("workers of the executor died: this process does their work", RuntimeWarning, stacklevel=2)
        delivery.is_broken = True
        return work(item, self.n_threads)
