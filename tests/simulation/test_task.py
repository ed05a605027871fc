"""Tasks: how chains advance, wherever the work is cut and whoever does it."""

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4
from sgdstab_fast._core.arguments import Stream
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.simulation.task import Item, advance
from sgdstab_fast.simulation.vectors import vectors_task
from sgdstab_fast.simulation.workers import Workers

SYSTEM = sf.LinearizedSGD(K4, 0.45)


def task(**changes):
    return replace(vectors_task(SYSTEM, SYSTEM.no_growth).with_options(record=True), **changes)


def chains(n_chains=6):
    states = np.random.default_rng(5).standard_normal((n_chains, 2, 4))
    return Chains((3, 4), states, 8, VectorRecords.empty(n_chains, 2, 0, 4), first_chain=17)


def same(one, other):
    assert np.array_equal(one.states, other.states)
    assert all(np.array_equal(a, b) for a, b in zip(one.records, other.records, strict=True))
    assert (one.n_batches, one.n_steps, one.next_step) == (other.n_batches, other.n_steps, other.next_step)


def test_pieces_items_and_executors_change_no_bit():
    whole = advance(chains(), task(), 12, Workers(1))
    assert whole.n_batches == 12
    assert whole.records.directions.shape == (6, 12, 4)
    same(advance(chains(), task(seconds_per_step=1.0), 12, Workers(2)), whole)  # a piece for every batch
    same(advance(advance(chains(), task(), 5, Workers(1)), task(), 7, Workers(1)), whole)
    with ThreadPoolExecutor(2) as executor:
        same(advance(chains(), task(chains_per_item=4), 12, Workers(2, executor)), whole)


def test_chains_that_go_on_from_a_step_take_those_that_follow():
    first = advance(chains(), task(), 5, Workers(1))
    rest = replace(first, states=first.states.copy(), records=VectorRecords.empty(6, 2, 0, 4), first_step=40)
    rest = advance(rest, task(), 7, Workers(1))
    whole = advance(chains(), task(), 12, Workers(1))
    assert np.array_equal(rest.states, whole.states)
    assert np.array_equal(rest.records.directions, whole.records.directions[:, 5:])
    assert rest.next_step == whole.next_step == 96


def test_steps_are_reported_after_every_piece():
    seen = []

    def report(n_steps, so_far):
        seen.append((n_steps, so_far().n_batches))

    advance(chains(), task(seconds_per_step=1.0), 3, Workers(2), report)
    assert seen == [(48, 1), (48, 2), (48, 3)]
    assert advance(chains(), task(), 0, Workers(1), report).n_batches == 0
    assert len(seen) == 3


def test_a_task_and_its_items_can_be_sent():
    item = Item(chains().states, Stream((3, 4), 17, 0, 2, 8))
    states, records = pickle.loads(pickle.dumps(task()))(pickle.loads(pickle.dumps(item)), 1)
    expected, expected_records = task()(item, 2)
    assert np.array_equal(states, expected)
    assert isinstance(records, VectorRecords)
    assert np.array_equal(records.log_growth, expected_records.log_growth)


def test_interrupts_come_through_between_pieces():
    def interrupt(n_steps, so_far):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advance(chains(), task(seconds_per_step=1.0), 3, Workers(1), interrupt)


def test_chains_advance_in_one_place_and_work_is_handed_out_in_one():
    package = Path(sf.__file__).parent
    texts = {file.relative_to(package).as_posix(): file.read_text() for file in package.rglob("*.py")}
    submitting = sorted(name for name, text in texts.items() if re.search(r"\.submit\(", text))
    assert submitting == [
        "simulation/delivery.py",
        "simulation/many_systems.py",
        "simulation/workers.py",
        "tracking/watch.py",
    ]
    calls = re.compile(r"getattr\(core\b|\bcore\.advance_")
    assert [name for name, text in texts.items() if calls.search(text)] == ["simulation/task.py"]
