"""Batches that grow with the run: nothing but its end depends on the budget, and merging changes no path."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4
from sgdstab_fast._core.seeds import seed_from
from sgdstab_fast.results.chains import (
    Chains,
    Ending,
    FrameRecords,
    PanelRecords,
    PopulationRecords,
    VectorRecords,
    in_pairs,
)
from sgdstab_fast.simulation.continuation import continued
from sgdstab_fast.simulation.looks import grid, looks_back, rounded
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.simulation.run import run
from sgdstab_fast.simulation.task import advance
from sgdstab_fast.simulation.vectors import estimate, vectors_task
from sgdstab_fast.simulation.workers import Workers

PLAIN, EPOCHS = sf.LinearizedSGD(K4, 0.425), sf.LinearizedSGD(K4, 0.3, 2, sampling="epoch")
BATCHES = sf.LinearizedSGD(K4, 0.4, 2)
BLOCKS = sf.LinearizedSGD(np.kron(np.diag([1.0, 0.93]), K4), 0.46)
RATES = [0.3, 0.4, 0.5]
# What is looked for, and numbers of it.
TO_A_TOLERANCE = {
    "lambda": lambda **options: sf.lyapunov_exponent(PLAIN, rtol=0.1, **options).exponent,
    "lambda by averages": lambda **options: sf.lyapunov_exponent(PLAIN, rtol=0.5, method="average", **options).exponent,
    "lambda of epochs": lambda **options: sf.lyapunov_exponent(EPOCHS, rtol=0.02, **options).exponent,
    "lambda of blocks": lambda **options: sf.lyapunov_exponent(BLOCKS, rtol=0.02, **options).exponent,
    "a sign": lambda **options: sf.lyapunov_exponent(PLAIN, rtol=0, sign_confidence=0.99, **options).exponent,
    "a spectrum": lambda **options: sf.lyapunov_spectrum(PLAIN, rtol=0.05, **options).exponents,
    "a sweep": lambda **options: sf.sweep(K4, RATES, rtol=0.05, **options).exponents,
    "a sweep of batches": lambda **options: sf.sweep(K4, RATES, 2, rtol=0.1, **options).exponents,
    "a critical rate": lambda **options: sf.critical_learning_rate(K4, rtol=1e-3, **options).value,
    "that of batches": lambda **options: sf.critical_learning_rate(K4, batch_size=2, rtol=0.02, **options).value,
    "that of a moment": lambda **options: sf.critical_learning_rate(K4, 3, rtol=0.03, **options).value,
    "a chain": lambda **options: sf.projective_chain(PLAIN, rtol=0.1, **options).contraction_rate,
    "a moment": lambda **options: sf.moment_exponent(PLAIN, 1, rtol=0.03, **options).exponents,
    "that of batches of examples": lambda **options: sf.moment_exponent(BATCHES, 1, rtol=0.03, **options).exponents,
}


@pytest.mark.parametrize("name", TO_A_TOLERANCE)
def test_the_way_to_a_tolerance_does_not_depend_on_the_budget(name):
    found = [TO_A_TOLERANCE[name](max_steps=most, rng=1, n_threads=1) for most in (10**8, 10**11, 10**15)]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_records_stay_small_however_long_the_run():
    result = sf.lyapunov_exponent(PLAIN, rtol=0, max_steps=3_000_000, n_chains=8, rng=1, n_threads=1)
    for chains in (result.chains, result.chains.companions):
        assert chains.most_batches == 2048
        assert chains.n_batches <= 2048
    assert result.chains.n_batches > 1024
    assert result.steps_per_batch == 64 * result.chains.coarseness > 64
    assert 0.99 * 3_000_000 < result.n_steps <= 3_000_000


def test_large_records_have_fewer_batches():
    def most(n_chains, width):
        return Chains((1, 2), np.empty((n_chains, 1, 4)), 8, VectorRecords.empty(n_chains, 1, width)).most_batches

    assert [most(64, 7), most(64, 2**9), most(2**20, 4)] == [2048, 256, 64]


# What one batch of twice the steps records, from what two do.
RECORDS = [
    (VectorRecords, [(6, 2), (6, 3), (6, 4)], ["sum", "sum", "last"]),
    (FrameRecords, [(6, 3), (6,), (6,), (6, 2, 3)], ["sum", "sum", "least", "mean"]),
    (PanelRecords, [(6, 2, 1, 16), (6, 2, 3, 16)], ["sum", "sum"]),
    (PopulationRecords, [(6,), (6,), (6, 3), (6, 3), (6,)], ["sum", "mean", "last", "last", "sum"]),
]
OF_PAIRS = {
    "sum": lambda pairs: pairs.sum(axis=2),
    "mean": lambda pairs: pairs.mean(axis=2),
    "least": lambda pairs: pairs.min(axis=2),
    "last": lambda pairs: pairs[:, :, 1],
}


@pytest.mark.parametrize(("kind", "shapes", "how"), RECORDS, ids=lambda each: getattr(each, "__name__", None))
def test_records_of_neighbours_merge(kind, shapes, how):
    rng = np.random.default_rng(1)
    records = kind(*(rng.standard_normal((n, 10, *rest)) for n, *rest in shapes))
    chains = Chains((1, 2), np.empty((6, 1, 4)), 8, records)
    coarse = chains.coarsened()
    assert (coarse.n_batches, coarse.steps_per_batch, coarse.coarseness) == (5, 16, 2)
    for total in ("n_steps", "next_step", "n_first_batches"):
        assert getattr(coarse, total) == getattr(chains, total)
    for old, new, one in zip(records, coarse.records, how, strict=True):
        pairs = old.reshape(old.shape[0], 5, 2, *old.shape[2:])
        np.testing.assert_allclose(new, OF_PAIRS[one](pairs), rtol=1e-15)


def test_infinite_growth_stays_infinite():
    growth = np.array([[[-np.inf], [-1.0], [np.inf], [1.0], [np.nan], [1.0]]])
    merged = in_pairs(VectorRecords(growth, growth, growth)).log_growth[0, :, 0]
    np.testing.assert_array_equal(merged, [-np.inf, np.inf, np.nan])


GROWTH = PLAIN.growth()
TASK = vectors_task(PLAIN, GROWTH, spacing=8).with_options(record=True)


def chains(largest_record=2048):
    states = np.random.default_rng(5).standard_normal((6, 1, 4))
    records = VectorRecords.empty(6, 1, GROWTH.size, 4)
    return Chains((3, 4), states, 16, records, spacing=8, n_examples=4, largest_record=largest_record)


def after(max_steps, some, *, rtol=0.0, workers=None, task=TASK):
    options = Options(Budget(rtol, 0.0, max_steps), 6, seed_from(1), workers=workers or Workers(1))
    return run(some.copy(), task, estimate, options).chains


def same(one, other):
    assert (one.n_batches, one.coarseness, one.n_steps) == (other.n_batches, other.coarseness, other.n_steps)
    assert np.array_equal(one.states, other.states)
    assert all(np.array_equal(a, b) for a, b in zip(one.records, other.records, strict=True))


WHOLE = 6 * 16 * 4000


def test_merging_changes_no_path_and_keeps_sums():
    fine, coarse = after(WHOLE, chains(4096)), after(WHOLE, chains(64))
    assert (fine.n_batches, coarse.n_batches, coarse.coarseness) == (4000, 62, 64)
    until = coarse.n_first_batches  # whole batches of the end
    assert 4000 - 64 < until <= 4000
    shorter = after(6 * 16 * until, chains(4096))
    assert np.array_equal(coarse.states, shorter.states)
    assert np.array_equal(coarse.records.directions, shorter.records.directions[:, 63::64])
    for name in ("log_growth", "growth"):
        sums = getattr(shorter.records, name).reshape(6, 62, 64, -1).sum(axis=2)
        np.testing.assert_allclose(getattr(coarse.records, name), sums, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cut", [1, 17, 64, 65, 1000, 3969])
def test_runs_that_are_cut_anywhere_go_on_as_if_they_had_not_been(cut):
    whole = after(WHOLE, chains(64))
    same(after(WHOLE, after(6 * 16 * cut, chains(64), rtol=1e-9)), whole)


def test_pieces_of_batches_and_workers_change_no_bit():
    whole = after(WHOLE, chains(64))
    slow = replace(TASK, seconds_per_step=0.1 / (6 * 16 * 5))  # five first batches in a piece
    same(after(WHOLE, chains(64), task=slow), whole)
    with ThreadPoolExecutor(2) as executor:
        workers, task = Workers(2, executor), replace(TASK, seconds_per_step=1 / (6 * 16 * 5))
        same(after(WHOLE, chains(64), workers=workers, task=task), whole)


def test_no_call_of_the_core_is_longer_than_a_tenth_of_a_second_or_a_first_batch():
    calls = []

    class Watched:
        def __getattr__(self, name):
            return getattr(task, name)

        def __call__(self, item, n_threads):
            calls.append(len(item.states) * item.stream.n_batches * item.stream.steps_per_batch)
            return task(item, n_threads)

    for seconds in (0.1 / (6 * 16 * 3), 0.1 / (2 * 16)):  # three first batches of all chains, or one of two chains
        task = replace(TASK, seconds_per_step=seconds, chains_per_item=2)
        calls.clear()
        advance(replace(chains(), coarseness=32, steps_per_batch=16 * 32), Watched(), 2, Workers(1))
        assert max(calls) * seconds < 0.1 * (1 + 1e-9)
        assert sum(calls) == 6 * 16 * 64


def test_looks_fall_on_whole_batches_of_the_time():
    looks = list(grid(10**15, 64))
    assert looks[:5] == [16, 24, 36, 54, 82]
    for before, look in pairwise(looks):
        assert 1.4 < look / before < 1.6
        assert rounded(look, 64) == look
    assert [rounded(n, 64) for n in (64, 65, 129, 1001)] == [64, 64, 128, 992]
    some = after(WHOLE, chains(64))
    assert looks_back(some)[-1] * 64 == max(look for look in looks if look <= some.n_first_batches)


def test_long_windows_are_short_ones_in_a_row():
    ending = Ending(after(WHOLE, chains()), 8, 16)
    start, n = ending.chains.states, 7 * 142_857  # odd: calls of the core do not divide it
    long = continued(PLAIN, ending, start, 2, n, workers=Workers(1))
    short = continued(PLAIN, ending, start, 14, n // 7, workers=Workers(1))
    np.testing.assert_allclose(long.log_growth[:, :, 0], short.log_growth.reshape(6, 2, 7).sum(axis=2), rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.sum(long.directions * short.directions[:, 6::7], axis=2)), 1, rtol=1e-9)
    calls = continued(PLAIN, ending, start, 2, n, workers=Workers(2)).log_growth
    assert np.array_equal(calls, long.log_growth)
