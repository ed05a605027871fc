"""Components: examples that feel each other's steps, and those that never do.

A step on example i moves the outputs of the examples j with K_ij != 0 and of no others. Where K falls into blocks, so
does the product of steps, and an exponent is the largest of those of the blocks, each of which draws one of its
examples with probability 1/N a step, N counting all examples (Chemnitz & Engel 2025, definition 2.2 (ii)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.functions import FloatArray

if TYPE_CHECKING:
    from sgdstab_fast.systems.sgd import LinearizedSGD

IntArray = NDArray[np.intp]

# An abs(K_ij) below this times sqrt(K_ii K_jj), and times the length of the dot product it comes from, is rounding.
_ROUNDING = 4 * np.finfo(float).eps
_FRONTIER = 128  # rows of K looked at together


def components(system: LinearizedSGD) -> list[IntArray]:
    """Return the connected components of the graph in which examples i and j are linked where K_ij is not zero.

    Parameters
    ----------
    system : LinearizedSGD
        The system of K.

    Returns
    -------
    list of arrays of int
        The examples of each component, ascending; components in the order of their first examples. An example without
        a gradient, K_ii = 0, belongs to none.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> from sgdstab_fast.systems.components import components
    >>> [c.tolist() for c in components(sf.LinearizedSGD([[2, 0, 1], [0, 3, 0], [1, 0, 2]], 0.3))]
    [[0, 2], [1]]
    """
    norms = np.sqrt(system.diagonal)
    waiting = norms > 0  # examples that no component has reached
    found = []
    for seed in range(norms.size):
        if not waiting[seed]:
            continue
        waiting[seed] = False
        members = [np.array([seed])]
        frontier = members[0]
        # Breadth first: a row of K is looked at once, and none after the last example has been reached.
        while frontier.size and waiting.any():
            rows, frontier = frontier[:_FRONTIER], frontier[_FRONTIER:]
            reached = np.flatnonzero(waiting)
            reached = reached[_linked(system, norms, rows, reached)]
            waiting[reached] = False
            members.append(reached)
            frontier = np.concatenate([frontier, reached])
        found.append(np.sort(np.concatenate(members)))
    return found


def _linked(system: LinearizedSGD, norms: FloatArray, rows: IntArray, columns: IntArray) -> NDArray[np.bool_]:
    """Return which of the columns any of the rows of K links to."""
    if system.coordinates == "factor":
        entries = system.rows[rows] @ system.rows[columns].T
        rounding = _ROUNDING * system.rank
    else:
        entries = system.rows[rows] if columns.size == norms.size else system.rows[np.ix_(rows, columns)]
        rounding = _ROUNDING
    return np.asarray((np.abs(entries) > rounding * norms[rows, None] * norms[columns]).any(axis=0))
