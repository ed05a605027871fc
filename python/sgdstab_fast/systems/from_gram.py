"""Variants: the system of a K with other batches, another order of them and other momentum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sgdstab_fast.gram.given import given
from sgdstab_fast.systems.recurrence import Recurrence, momentum_of, recurrence_of, uses_nesterov
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import System


def system_of(gram: Any) -> LinearizedSGD | None:
    """Return the system that is given in place of K; None of an array. Refuse what is a system, but not of a K."""
    if isinstance(gram, System) and not isinstance(gram, LinearizedSGD):
        raise TypeError(
            f"gram must be a matrix or a LinearizedSGD, not a {type(gram).__name__}: it has no learning rate"
        )
    return gram if isinstance(gram, LinearizedSGD) else None


def variant_of(
    gram: Any,
    learning_rate: float | None,
    batch_size: Any = None,
    *,
    sampling: Any = None,
    groups: Any = None,
    probabilities: Any = None,
    step_scaling: Any = None,
    scale: Any = None,
    momentum: Any = None,
    nesterov: Any = None,
    slow_cutoff: Any = None,
) -> LinearizedSGD:
    """Return the system of a K, given as an array or as a system of it, at a learning rate.

    What is None is that of the system, or the default of `LinearizedSGD`.
    """
    of_k = {"groups": groups, "probabilities": probabilities, "step_scaling": step_scaling, "scale": scale}
    of_k = {name: value for name, value in of_k.items() if value is not None}
    batches = {"sampling": sampling, "momentum": momentum, "nesterov": nesterov, "slow_cutoff": slow_cutoff}
    batches = {name: value for name, value in batches.items() if value is not None}
    system = system_of(gram)
    if system is None:
        size = 1 if batch_size is None else batch_size
        return LinearizedSGD(gram, learning_rate, size, **of_k, **batches)  # type: ignore[arg-type]
    for name, value in of_k.items():
        raise ValueError(f"{name} must be left out with a system, which has its own, not {value!r}")
    if learning_rate is not None:
        system = system.with_learning_rate(learning_rate)
    if slow_cutoff is not None:
        system = system.without_slow_directions(slow_cutoff)
    recurrence = system.recurrence
    if batch_size is not None or sampling is not None:
        system = system.with_batches(batch_size, sampling=sampling)
    if momentum is not None or nesterov is not None:
        if momentum is None:
            momentum = _whole_momentum(recurrence, "nesterov")
        if nesterov is None:
            nesterov = momentum != 0 and uses_nesterov(recurrence)
        system = system.with_recurrence(recurrence_of(momentum, nesterov))
    return system


def of_any_rate(gram: Any, **steps: Any) -> LinearizedSGD | None:
    """Return the system of a K, given as an array or as a system of it, at some learning rate; None for K = 0.

    `steps` are what `variant_of` takes.
    """
    if isinstance(gram, System):
        return variant_of(gram, None, **steps)
    found = given(gram, steps.pop("groups", None))
    if not found.matrix.any():
        variant_of(found._replace(matrix=np.eye(len(found.matrix))), 1.0, **steps)  # refuses what is out of range
        return None
    return variant_of(found, 1 / float(found.matrix.diagonal().max()), **steps)


def steps_of(system: LinearizedSGD) -> str:
    """Return what steps are, whatever K and the learning rate: batches and optimiser, in words."""
    law, recurrence = system.law, system.recurrence
    weighted = "" if law.probabilities is None else ", weighted"
    return (
        f"{law.sampling} batches of {law.batch_size} of {law.n_units}{weighted}, "
        f"F = {recurrence.free.tolist()}, h = {recurrence.readout.tolist()}"
    )


def _whole_momentum(recurrence: Recurrence, name: str) -> float:
    momentum = momentum_of(recurrence)
    if math.isnan(momentum):
        raise ValueError(f"{name} is for momentum, which the system's recurrence of {recurrence.levels} levels is not")
    return momentum
