"""The connected components of a graph whose links are looked up, of many members at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

_TOGETHER = 128  # members whose links are looked up at once


def connected_components(
    waiting: NDArray[np.bool_], linked: Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray[np.bool_]]
) -> Iterator[NDArray[np.intp]]:
    """Yield the connected components of a graph, ascending; in the order of their first members.

    `waiting` says who is to be in one; `linked` which of some columns any of some rows links to.
    """
    waiting = waiting.copy()  # those that no component has reached
    for seed in range(waiting.size):
        if not waiting[seed]:
            continue
        waiting[seed] = False
        members = [np.array([seed])]
        frontier = members[0]
        # Breadth first: a row of K is looked at once, and none after the last example has been reached.
        while frontier.size and waiting.any():
            rows, frontier = frontier[:_TOGETHER], frontier[_TOGETHER:]
            reached = np.flatnonzero(waiting)
            reached = reached[linked(rows, reached)]
            waiting[reached] = False
            members.append(reached)
            frontier = np.concatenate([frontier, reached])
        yield np.sort(np.concatenate(members))
