"""Workers: threads, or an executor."""

import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from sgdstab_fast.simulation.workers import Workers


def with_threads(item, n_threads):
    return item, n_threads


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_items_come_back_in_order_from_one_thread_each(pool):
    with pool(2) as executor:
        assert list(Workers(5, executor).map(with_threads, range(20))) == [(item, 1) for item in range(20)]


def test_after_an_error_what_has_not_begun_never_does():
    begun = []

    def fail(item, n_threads):
        begun.append(item)
        time.sleep(0.05)
        raise ArithmeticError

    with ThreadPoolExecutor(1) as executor, pytest.raises(ArithmeticError):
        list(Workers(1, executor).map(fail, range(20)))
    assert len(begun) < 5


def test_threads_of_an_executor_do_not_wait_for_one_another():
    with ThreadPoolExecutor(1) as executor:
        inner = Workers(2, executor)
        outer = executor.submit(lambda: list(inner.map(with_threads, range(3))))
        assert outer.result(timeout=10) == [(0, 1), (1, 1), (2, 1)]


def test_threads_that_work_at_the_same_time_are_no_more_than_items_or_processors():
    assert Workers(64).useful_threads(1) == 1
    assert Workers(1).useful_threads(9) == 1
    assert Workers(1024).useful_threads(1024) == Workers().n_threads


def test_without_an_executor_the_work_gets_all_threads():
    assert list(Workers(5).map(with_threads, [1, 2])) == [(1, 5), (2, 5)]
    assert 1 <= Workers().n_threads <= (os.cpu_count() or 1)


def test_what_is_no_executor_is_refused_by_name():
    with pytest.raises(TypeError, match=r"executor must be .* not 'x'"):
        Workers(1, "x")
