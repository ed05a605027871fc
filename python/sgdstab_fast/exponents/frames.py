"""Frames: where they start, in which order, and how they advance.

Frames start from the directions that the mean step shrinks least, in that order; a pilot finds the places of fast
ones, which may have an exponent that is out of that order. How long a frame may go between orthonormalisations is found
out by another, from min_j R_jj / abs(v_j), the sine of the smallest angle that is left.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sgdstab_fast import memory
from sgdstab_fast._core import arguments
from sgdstab_fast._core.arguments import FloatArray, StreamKey
from sgdstab_fast._core.streams import FRAME_PILOTS, FRAME_STARTS
from sgdstab_fast.memory import BYTES_OF_DOUBLE
from sgdstab_fast.results.chains import Chains, FrameRecords
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.starts import initial_states, normals
from sgdstab_fast.simulation.task import Task, advance
from sgdstab_fast.simulation.workers import Workers
from sgdstab_fast.statistics.means import standard_errors
from sgdstab_fast.systems.system import System, overflow_safe_steps

# How small the smallest angle becomes between orthonormalisations, in most of a pilot's passes: log R_jj is good to
# about eps over the angle. Small frames, in which orthonormalisation costs little, are to keep more digits: from the
# first in one dimension, on a logarithmic scale, to the second in so many. Steps that leave less than a share of it are
# taken again, half as many.
_SMALL_FRAME_ANGLE, _ANGLE, _LARGE_FRAME = 2e-4, 1e-8, 128
_MOST, _AGAIN = 0.75, 1e-1
_PILOT_PASSES, _PILOT_NUMBERS = 8, 512  # at least so many passes, and, in small dimensions, so many times the dimension
# Steps taken at once: more amortise the packing of frames, fewer the coupling between steps, and 32 to 64 is flat. Not
# so many, in small dimensions, that a direction may shrink by more than this while they are taken.
_BLOCK, _LARGE_BLOCK, _BLOCK_SHRINKAGE = 32, 64, 1e-4
_ORTHOGONAL = 5.0  # multiply-adds for each number of a frame that an orthogonal step takes
_LARGEST_SPREAD = 16.0  # of log R_jj between orthonormalisations: rounding times that must stay small
# The pilot that finds the places of fast directions: how many, its steps, at least so many, or epochs, or a share of
# the budget; batches; what stands for growth that is lost.
_OF_STARTS = 10  # frames, in which directions to start from are found
_FAST, _PILOT_STEPS, _PILOT_EPOCHS, _PILOT_SHARE, _PILOT_BATCHES, _LOST = 8, 256, 8, 8, 16, 700.0
_INDEPENDENT = 1e-2  # sine of the angle between a fast direction and those before it
_WATCHED = 2  # columns behind those asked for that runs have
_SPREADING = 64  # columns whose angle with their start is looked at: the next ones are taken to be like the last
_PURITY = 1e-2  # of slow directions: how much less is random where columns behind show what comes before them
_NULL_RATIO = 1e-12  # what is left of a column that is linearly dependent, where steps are singular
_EVALUATED = 32  # leading exponents that anchored growth is evaluated for; the others gain little from it
LEAST_PER_BATCH = 64  # steps


def columns_of(system: System, k: int) -> int:
    """Return how many columns frames have: those behind the k-th show what may come before it."""
    return min(k + _WATCHED, system.dimension)


def angle_of(columns: int) -> float:
    """Return how small angles in frames mostly become between orthonormalisations."""
    share = min(1.0, columns / _LARGE_FRAME)
    return float(_SMALL_FRAME_ANGLE ** (1 - share) * _ANGLE**share)


def frames_task(system: System, k: int, *, anchored: bool) -> Task[FrameRecords]:
    """Return what advances frames, and evaluates the growth of the leading of k exponents after every batch."""
    call = system.frames_call()
    singular = bool(np.isneginf(system.step_sizes).any() or np.isneginf(system.sum_of_exponents))
    metrics = system.frame_metrics() if anchored else arguments.FrameMetrics()
    return Task(
        function="advance_frames",
        steps=call.steps,
        metrics=metrics._replace(log_determinants=call.log_determinants, columns=min(k, _EVALUATED)),
        options=arguments.FrameOptions(
            block=steps_at_once(system),
            period=1,
            careful=singular,
            null_ratio=_NULL_RATIO if singular else 0.0,
            least_ratio=0.0 if singular else _AGAIN * angle_of(columns_of(system, k)),
        ),
        records=FrameRecords,
        seconds_per_step=0.0,
        chains_per_item=1,
    )


def orthonormalised_every(period: int, system: System, task: Task[FrameRecords], columns: int) -> Task[FrameRecords]:
    """Return the task for frames of so many columns that are orthonormalised so often."""
    seconds = seconds_per_step(system, columns, period, careful=task.options.careful)
    task = task.with_options(block=steps_at_once(system, period=period), period=period)
    return replace(task, seconds_per_step=seconds)


def in_coordinates_of_frames(system: System, columns: int, period: int) -> System:
    """Return the system in which frames of so many columns advance: full ones by orthogonal steps if the period is 1.

    Steps that leave a frame orthonormal take about five times as long as those that do not, whatever it takes to
    orthonormalise (``cpp/include/sgdstab/steps/orthogonal.hpp``).
    """
    other = system.with_orthogonal_steps() if period == 1 and columns == system.dimension else None
    return system if other is None else other


def has_orthogonal_steps(system: System, columns: int) -> bool:
    """Return whether steps are known that leave frames of so many columns orthonormal."""
    return columns == system.dimension and system.with_orthogonal_steps() is not None


def first_frames(
    system: System, k: int, options: Options, *, anchored: bool
) -> tuple[System, Chains[FrameRecords], int]:
    """Return chains of frames from which k exponents are found, and the period of their orthonormalisations.

    Before these the system in the coordinates that chains have.
    """
    columns = columns_of(system, k)
    frame = BYTES_OF_DOUBLE * columns * system.dimension
    chains = f"{options.n_chains} chains (n_chains) of {columns} directions (k)"
    memory.require("a spectrum", {chains: 2 * options.n_chains * frame, "where they start": _OF_STARTS * frame})
    slow = system.slow_directions(min(k + 1, system.dimension))
    period = period_of(system, columns, slow, options.seed.key, frames_task(system, k, anchored=False), options.workers)
    its = in_coordinates_of_frames(system, columns, period)
    if its is not system:
        system, slow = its, its.slow_directions(min(k + 1, its.dimension))
    task = frames_task(system, k, anchored=anchored)
    evaluated = task.metrics.columns
    without = arguments.FrameMetrics(task.metrics.log_determinants, columns=evaluated)
    pilot_task = replace(task, metrics=without)
    started = started_frames(system, k, slow, options, pilot_task.with_options(period=max(1, period // 2)))
    most = options.budget.steps_per_chain(options.n_chains) - started.first_step
    n_metrics = 0 if task.metrics.diagonals is None else len(task.metrics.diagonals)
    # Batches of whole passes, or so long that to transpose frames takes no time; an evaluation at the end of each takes
    # at most as long as its steps.
    evaluation = n_metrics * evaluated * (3 * system.dimension + evaluated + 100)
    least = LEAST_PER_BATCH if period > 1 else max(LEAST_PER_BATCH, columns // 2)
    step = columns * (1.3 * period + columns) / period if period > 1 else _ORTHOGONAL * columns
    passes = max(1, least // period, math.ceil(evaluation / step / period))
    started = replace(
        started,
        steps_per_batch=min(passes * period, max(1, most // 16)),
        records=FrameRecords.empty(options.n_chains, columns, evaluated, n_metrics),
    )
    return system, started, period


def started_frames(
    system: System, k: int, slow: FloatArray, options: Options, task: Task[FrameRecords]
) -> Chains[FrameRecords]:
    """Return chains of frames of k columns and a few more, in the order of their growth, where a pilot left them.

    Slow directions of the mean step stay what they are, and in order. Fast ones, whose growth is known from steps
    alone, take the places that a pilot finds for them: one that had to climb past slow ones would leave those mixed
    behind it, and where their exponents are close they take long to part again. In the pilot fast ones come first, so
    that they show what they grow by; those that slow ones have passed meanwhile are of no use.
    """
    n_chains, dimension, key = options.n_chains, system.dimension, options.seed.key
    columns = columns_of(system, k)
    fast = system.fast_directions(min(_FAST, dimension // 2))
    slow = slow[:, : dimension - fast.shape[1]]
    # With momentum both are displacements at rest, of which there are half as many as directions.
    sines = np.abs(np.diagonal(np.linalg.qr(np.concatenate([slow, fast], axis=1), mode="r")))
    fast = fast[:, sines[slow.shape[1] :] > _INDEPENDENT]
    given = np.concatenate([fast, slow], axis=1)
    starts = initial_states(
        key, n_chains, max(given.shape[1], columns), given, random_share=_PURITY * system.random_share
    )
    growth, first_step = _growth_of(starts, given, fast.shape[1], system, options, task)
    states = np.ascontiguousarray(starts[:, :, _places(growth, fast.shape[1], k)[:columns]])
    if k < dimension:
        states[:, :, k] += normals(key, n_chains, (dimension,), FRAME_STARTS.start) / math.sqrt(dimension)
    return Chains(
        key=key,
        states=states,
        steps_per_batch=1,
        records=FrameRecords.empty(n_chains, columns, task.metrics.columns, 0),
        first_step=first_step,
        start=states[0, :, : min(k, _SPREADING)].copy(),
        pilot_steps=n_chains * first_step,
    )


def _growth_of(
    starts: FloatArray,
    given: FloatArray,
    n_fast: int,
    system: System,
    options: Options,
    task: Task[FrameRecords],
) -> tuple[FloatArray, int]:
    """Return how much columns grow in a batch of a pilot, and the steps of each of its chains; 0 without fast ones."""
    n_chains, _, size = starts.shape
    longest = options.budget.max_steps // (_PILOT_SHARE * n_chains)
    steps = min(math.ceil(max(_PILOT_STEPS, _PILOT_EPOCHS * system.steps_per_epoch)), longest) // _PILOT_BATCHES
    if n_fast == 0 or steps == 0:
        return np.zeros(size), 0
    pilot = Chains(
        key=options.seed.key,
        states=starts.copy(),
        steps_per_batch=steps,
        records=FrameRecords.empty(n_chains, size, task.metrics.columns, 0),
    )
    task = orthonormalised_every(task.options.period, system, task, size)
    pilot = advance(pilot, task, _PILOT_BATCHES, options.workers)
    log_growth = np.nan_to_num(pilot.records.log_growth, nan=-_LOST, neginf=-_LOST, posinf=_LOST)
    samples = log_growth[:, _PILOT_BATCHES // 4 :].mean(axis=1)
    growth = samples.mean(axis=0)
    # Of fast ones, growth that chance has no part in: those that are slow for sure come first.
    growth[:n_fast] -= 2 * standard_errors(samples[:, :n_fast])
    shares = np.linalg.norm(given[:, n_fast:].T @ pilot.states[:, :, :n_fast], axis=1) ** 2
    growth[:n_fast][shares.mean(axis=0) > 0.5] = -_LOST
    return growth, pilot.next_step


def _places(growth: FloatArray, n_fast: int, k: int) -> list[int]:
    """Return columns, of which the first are fast, in the order of frames for k exponents: those to watch come next.

    Slow ones keep their order. Fast ones that the last of them surely outgrows come behind it, the fastest last.
    """
    of_slow = -np.sort(-growth[n_fast:])
    climbs = (growth[:n_fast] - of_slow[-1]) * _PILOT_BATCHES > 1
    keys = np.concatenate([np.where(climbs, growth[:n_fast], -math.inf), of_slow])
    places = np.lexsort((np.concatenate([-np.arange(n_fast), np.ones(of_slow.size)]), -keys))
    # Behind the k-th, the next slow direction and the fast one that grows most.
    rest = places[k:]
    rest_fast = rest[rest < n_fast]
    watched = [*rest[rest >= n_fast][:1], *rest_fast[np.argsort(-growth[rest_fast], kind="stable")], *rest]
    return list(dict.fromkeys([*places[:k], *watched]))


def steps_at_once(system: System, *, period: int = 0) -> int:
    """Return how many steps to take at once."""
    largest = _BLOCK if system.dimension <= 128 else _LARGE_BLOCK
    if period == 1:
        return largest
    return int(np.clip(-math.log(_BLOCK_SHRINKAGE) / max(system.largest_elongation, 1e-300), 1, largest))


def seconds_per_step(system: System, columns: int, period: int, *, careful: bool) -> float:
    """Return what rows of steps and, for every row of a frame, orthonormalisations take: measured, on one thread."""
    rows = system.rows_per_step
    if period == 1 and not careful and has_orthogonal_steps(system, columns):
        return 1e-7 + 1e-9 * system.dimension * (4 + 0.05 * _ORTHOGONAL * columns)
    squares = 0.19 if careful else 0.055
    passes = (10 + 7 * columns + squares * columns**2) / period
    return 5e-8 * (1 + rows) + 1e-9 * system.dimension * (rows * (0.5 + 0.04 * columns) + passes)


def period_of(
    system: System, k: int, slow: FloatArray, key: StreamKey, task: Task[FrameRecords], workers: Workers
) -> int:
    """Return after how many steps to orthonormalise frames; 1 where orthogonal steps take less time than that.

    It is the number after which the smallest angle is mostly about what it may be. Doubles the period, from one so
    short that frames stay orthonormal, and interpolates the logarithm of the angle.
    """
    longest = min(overflow_safe_steps(system.step_sizes), 16 * max(k, 8))
    if k == 1:
        return longest
    if task.options.careful:  # singular steps leave angles of 0
        return max(1, min(longest, k // 2))
    period = _longest_period(system, k, slow, key, task, workers, longest)
    orthogonal, passes = (seconds_per_step(system, k, each, careful=False) for each in (1, period))
    return 1 if has_orthogonal_steps(system, k) and orthogonal < passes else period


def _longest_period(
    system: System, k: int, slow: FloatArray, key: StreamKey, task: Task[FrameRecords], workers: Workers, longest: int
) -> int:
    wanted, task = -math.log(angle_of(k)), task.with_options(least_ratio=0.0)
    states = initial_states(key, 1, k, slow, random_share=system.random_share)
    period = max(1, k // 32)
    known: list[tuple[int, float]] = []  # (period, -log angle)
    while period < longest:
        pilot = Chains(
            key=key,
            states=states,
            steps_per_batch=period,
            records=FrameRecords.empty(1, k, task.metrics.columns, 0),
            first_chain=FRAME_PILOTS.start + period,
        )
        n_passes = 1 + max(_PILOT_PASSES, _PILOT_NUMBERS // system.dimension)
        pilot = advance(pilot, orthonormalised_every(period, system, task, k), n_passes, workers.alone())
        states = pilot.states
        # The first pass orthonormalises what the random start or another period left.
        shrinkage = float(np.quantile(-np.log(np.maximum(pilot.records.smallest_ratios[0, 1:], 1e-300)), _MOST))
        if shrinkage >= wanted:
            shorter, less = known[-1] if known else (1, 0.0)
            share = (wanted - less) / max(shrinkage - less, wanted - less)
            return max(1, int(shorter + share * (period - shorter)))
        known.append((period, shrinkage))
        if system.steps_may_commute:
            # Where steps nearly commute, vectors along common eigenvectors keep their angles until rounding has grown.
            growth = pilot.records.log_growth[0, 1:].mean(axis=0) / period
            spread = float(growth.max() - growth.min()) if np.isfinite(growth).all() else math.inf
            longest = min(longest, max(1, int(min(_LARGEST_SPREAD / max(spread, 1e-300), 2.0**20))))
        period *= 2
    # What is longer than the last pass has not been seen.
    last, shrinkage = known[-1] if known else (longest, 0.0)
    return int(min(longest, max(1.0, last * wanted / max(shrinkage, 1e-300))))
