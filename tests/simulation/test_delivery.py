"""Executors: K travels once, items anywhere, and what a worker that dies had begun is done elsewhere."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.calls import CALLS, PLAIN, bits
from sgdstab_fast.simulation.delivery import Delivery, Missing, Parcel, carry_out, unpacked
from sgdstab_fast.simulation.workers import Workers

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
X = np.random.default_rng(1).standard_normal((300, 30))
LARGE = sf.LinearizedSGD(np.exp(-((X[:, None] - X) ** 2).sum(-1) / 60) + 1e-2 * np.eye(300), 1.5)


@dataclass(frozen=True, eq=False)
class Scale:
    array: np.ndarray

    def __call__(self, item, n_threads):
        return float(item * self.array.sum())


class Counting(Executor):
    """Runs work at once, from what would travel, and counts it."""

    def __init__(self, forget=False):
        self.sent, self.forget = [], forget

    def submit(self, function, /, *args, **keywords):
        future = Future()
        travels = pickle.dumps((function, args, keywords))
        self.sent.append(len(travels))
        function, args, keywords = pickle.loads(travels)
        try:
            future.set_result(pickle.loads(pickle.dumps(function(*args, **keywords))))
        except Exception as error:
            future.set_exception(error)
        return future


def test_large_arrays_do_not_travel_with_items():
    executor, array = Counting(), np.arange(2.0**20)
    work = Scale(array)
    assert list(Workers(1, executor).map(work, range(5))) == [item * array.sum() for item in range(5)]
    assert max(executor.sent) < 2000


def test_k_is_written_once_in_a_run_whatever_the_runs_of_it(monkeypatch):
    written = []
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: written.append(bytes(data)) or write(path, data))
    executor = Counting()
    result = sf.lyapunov_exponent(LARGE, rtol=3e-2, rng=1, executor=executor)
    assert len(executor.sent) > 8
    assert written.count(LARGE.rows.tobytes()) == 1
    assert len(set(written)) == len(written)
    assert sum(executor.sent) < len(executor.sent) * 2.2 * 16 * 300 * 8 + 2e5  # states alone
    assert result.exponent == sf.lyapunov_exponent(LARGE, rtol=3e-2, rng=1).exponent


def test_a_worker_without_the_files_is_sent_the_arrays():
    array = np.arange(1000.0)
    delivery = Delivery(Counting())
    work = Scale(array)
    parcel = delivery._parcel(work)
    elsewhere = Parcel(parcel.pickled, parcel.digests, "/nowhere")
    missing = carry_out(elsewhere, 2, {})
    assert missing == Missing(parcel.digests)
    given = {digest: array.tobytes() for digest in missing.digests}
    assert carry_out(elsewhere, 2, given) == 2 * array.sum()
    assert carry_out(elsewhere, 3, {}) == 3 * array.sum()  # which it keeps
    assert delivery.again(work, 2, missing).result() == 2 * array.sum()


def test_files_are_those_of_the_delivery_and_go_with_it():
    delivery = Delivery(Counting())
    works = [Scale(np.arange(1000.0)), Scale(np.arange(1000.0)), Scale(np.arange(2000.0))]
    folder = Path({delivery._parcel(work).folder for work in works}.pop())
    assert len(list(folder.iterdir())) == 2
    delivery.forget(works[0])
    assert len(list(folder.iterdir())) == 2  # another has the same numbers
    delivery.forget(works[1])
    assert len(list(folder.iterdir())) == 1
    assert unpacked(delivery._parcel(works[2]), {})(1, 1) == works[2].array.sum()
    del delivery
    assert not folder.exists()
    assert not folder.with_name(folder.name + ".lock").exists()


def test_files_of_a_process_that_was_killed_go_with_the_next_delivery(tmp_path, monkeypatch):
    """Which of them is in use its lock says, and those that are new may not have theirs yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = f"""
import functools, numpy, os, signal, tempfile
tempfile.tempdir = {str(tmp_path)!r}
from sgdstab_fast.simulation.delivery import Delivery
delivery = Delivery(None)
delivery._parcel(functools.partial(numpy.sum, numpy.arange(1000.0)))
print(delivery._folder, flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    folder = Path(process.stdout.readline().strip())
    lock = folder.with_name(folder.name + ".lock")

    def deliver():
        delivery = Delivery(Counting())
        delivery._parcel(Scale(np.arange(1000.0)))
        return delivery

    os.utime(lock, (0, 0))
    kept = deliver()
    assert folder.exists()  # in use
    process.kill()
    process.communicate()
    os.utime(lock)
    deliver()
    assert folder.exists()  # too new
    os.utime(lock, (0, 0))
    own = Path(kept._folder)
    os.utime(own.with_name(own.name + ".lock"), (0, 0))
    deliver()
    assert not folder.exists()
    assert not lock.exists()
    assert own.exists()


def slowly(item, n_threads):
    time.sleep(0.05)
    return item


def test_a_process_that_dies_loses_nothing():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(abs, -1).result()
        threading.Timer(0.3, os.kill, (next(iter(pool._processes)), signal.SIGKILL)).start()
        with pytest.warns(RuntimeWarning, match="workers of the executor died"):
            assert list(Workers(2, pool).map(slowly, range(40))) == list(range(40))


def test_a_pool_that_dies_changes_no_bit():
    call, whole = CALLS["exponent of batches"], CALLS["exponent of batches"](rng=1)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(abs, -1).result()
        killed = []

        def kill(_):
            if not killed:
                killed.append(next(iter(pool._processes)))
                os.kill(killed[0], signal.SIGKILL)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            assert bits(call(rng=1, executor=pool, progress=kill)) == bits(whole)


def test_an_executor_that_was_shut_down_is_an_error_in_one_line():
    pool = ProcessPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=1, executor=pool)


def test_errors_of_work_come_through():
    with pytest.raises(TypeError), ProcessPoolExecutor(1) as pool:
        list(Workers(1, pool).map(Scale(np.arange(3.0)), ["x", "y"]))


def test_loky_and_dask_find_the_same_bits():
    loky, distributed = pytest.importorskip("loky"), pytest.importorskip("distributed")
    call, whole = CALLS["exponent of batches"], CALLS["exponent of batches"](rng=1)
    pool = loky.ProcessPoolExecutor(2)
    assert bits(call(rng=1, executor=pool)) == bits(whole)
    pool.shutdown()
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert bits(call(rng=1, executor=client)) == bits(whole)
        systems = [PLAIN.with_learning_rate(rate) for rate in (0.2, 0.43, 0.5)]
        mapped = sf.map_systems(sf.stability, systems, rng=3, executor=client)
        assert [bits(each) for each in mapped] == [bits(each) for each in sf.map_systems(sf.stability, systems, rng=3)]
        process = next(iter(client.run(os.getpid).values()))
        threading.Timer(0.2, os.kill, (process, signal.SIGKILL)).start()
        system = PLAIN.with_learning_rate(0.42)
        found = sf.lyapunov_exponent(system, rtol=0, max_steps=60_000_000, rng=1, executor=client)
        again = sf.lyapunov_exponent(system, rtol=0, max_steps=60_000_000, rng=1)
        assert found.exponent == again.exponent
