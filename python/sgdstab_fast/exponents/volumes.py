"""Spectra in logarithms: of diagonal matrices that others interrupt rarely (`exponents.logarithms`).

The sum of the j largest exponents is the largest of products of compound matrices, whose entries are the minors of
order j; those of diagonal matrices are diagonal. The sum of all is E log abs det.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.exponents.logarithms import IN_LOGARITHMS, chains_and_task, diagonal_runs, runs_of
from sgdstab_fast.exponents.results import LyapunovSpectrum
from sgdstab_fast.results.chains import VectorRecords
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.result import SHORT
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.run import Run, run
from sgdstab_fast.simulation.task import Task
from sgdstab_fast.simulation.vectors import estimate
from sgdstab_fast.systems.system import Outcomes, System

_LARGEST = 64  # dimension of compound matrices
_CHAINS = 32  # at least
_VOLUMES = 6  # spawn number of keys
_ROUNDING = 16 * float(np.finfo(float).eps)


class _Sum(NamedTuple):
    """The sum of the j largest exponents."""

    value: float
    error: float
    run: tuple[Run[VectorRecords], Task[VectorRecords]] | None = None


def spectrum_in_logarithms(
    system: System, k: int, options: Options, asked: NDArray[np.bool_]
) -> LyapunovSpectrum | None:
    """Return the k largest exponents, those asked for to the tolerances; None if numbers hold what there is."""
    d, budget = system.dimension, options.budget
    outcomes = system.outcomes() if diagonal_runs(system) is not None else None
    orders = range(1, min(k + 1, d))
    if outcomes is None or math.comb(d, min(k, d // 2)) > _LARGEST:
        return None
    share = max(budget.max_steps // len(orders), 1)
    its = replace(options.within(share), n_chains=max(options.n_chains, _CHAINS))
    sums = [_sum_of(outcomes, j, its) for j in orders]
    sums += [_Sum(system.sum_of_exponents, _ROUNDING * abs(system.sum_of_exponents))] * (k == d)
    exponents, errors = _differences(sums)
    if budget.rtol > 0 or budget.atol > 0:
        wanted = np.maximum(budget.rtol * _sizes(exponents), budget.atol)[asked].min() / math.sqrt(2)
        sums = [_sharper(each, its.within(share, rtol=0.0, atol=float(wanted))) for each in sums]
        exponents, errors = _differences(sums)
    sizes = np.where(asked, _sizes(exponents), math.inf)
    stopped_by = budget.stopped_by(sizes, errors)
    stopped_by = options.cut_short_by if stopped_by == "max_steps" else stopped_by
    if budget.has_tolerance and stopped_by == "max_steps":
        warn(f"max_steps={budget.max_steps} ended the run with exponents short of {budget.wanted}")
    done = [each.run[0] for each in sums if each.run is not None]
    order = np.argsort(-exponents, kind="stable")
    first = done[0]
    return LyapunovSpectrum(
        exponents=exponents[order],
        standard_errors=errors[order],
        degrees_of_freedom=np.full(k, min(each.estimate.degrees_of_freedom for each in done)),
        effective_sample_size=np.full(k, min(float(each.estimate.effective_sample_size[0]) for each in done)),
        period=1,
        sum_of_exponents=system.sum_of_exponents if k == d else None,
        sum_rule_error=0.0 if k == d and math.isfinite(system.sum_of_exponents) else None,
        n_steps=sum(each.chains.n_steps for each in done),
        n_chains=its.n_chains,
        steps_per_batch=first.chains.steps_per_batch,
        start_up_steps=first.estimate.start_up * first.chains.steps_per_batch,
        chain_disagreement=max(each.estimate.chain_disagreement for each in done),
        converged=stopped_by not in SHORT,
        stopped_by=stopped_by,
        drifts=any(each.estimate.drifts for each in done),
        steps_per_epoch=system.steps_per_epoch,
        provenance=provenance(options.seed, IN_LOGARITHMS, system),
        chains=None,
    )


def compound(matrices: FloatArray, order: int) -> FloatArray:
    """Return the minors of an order of matrices (n, d, d): 0 where it is rounding that is not."""
    subsets = np.array(list(combinations(range(matrices.shape[1]), order)))
    parts = matrices[:, subsets[:, None, :, None], subsets[None, :, None, :]]
    minors, lengths = np.linalg.det(parts), np.linalg.norm(parts, axis=-1).prod(axis=-1)
    return np.asarray(np.where(np.abs(minors) <= order * _ROUNDING * lengths, 0.0, minors))


def _sum_of(outcomes: Outcomes, order: int, options: Options) -> _Sum:
    runs = runs_of(outcomes._replace(matrices=compound(outcomes.matrices, order)))
    if runs is None:
        return _Sum(math.nan, math.inf)
    chains, task = chains_and_task(runs, options.child_of_key(_VOLUMES, order), 0)
    return _of(run(chains, task, estimate, options, companion_task=task), task)


def _sharper(known: _Sum, options: Options) -> _Sum:
    if known.run is None:
        return known
    done, task = known.run
    return _of(run(done.chains.copy(), task, estimate, options, companion_task=task), task)


def _of(done: Run[VectorRecords], task: Task[VectorRecords]) -> _Sum:
    return _Sum(float(done.estimate.mean[0]), float(done.estimate.standard_error[0]), (done, task))


def _differences(sums: list[_Sum]) -> tuple[FloatArray, FloatArray]:
    """Return exponents and their errors: what sums add to those before."""
    values, errors = np.array([[0.0, 0.0], *([each.value, each.error] for each in sums)]).T
    with np.errstate(invalid="ignore"):
        exponents = np.where(np.isneginf(values[1:]), -math.inf, np.diff(values))
    return exponents, np.where(np.isneginf(exponents), 0.0, np.hypot(errors[1:], errors[:-1]))


def _sizes(exponents: FloatArray) -> FloatArray:
    """Return what tolerances are relative to: an exponent, or the spacing to the nearest one if that is more."""
    finite = np.where(np.isfinite(exponents), exponents, 0.0)
    gaps = np.abs(finite[:, None] - finite) + np.diag(np.full(len(finite), math.inf))
    spacing = gaps.min(axis=1)
    return np.asarray(np.maximum(np.abs(finite), np.where(np.isfinite(spacing), spacing, 0.0)))
