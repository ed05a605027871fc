"""Random calls of the public interface: ``python scripts/fuzz.py [calls] [first seed]``, or ``make fuzz``.

Every call has a seed of its own, by which it can be made again: ``python scripts/fuzz.py 1 SEED``. A call may return,
or raise what is documented: ValueError or TypeError in one line, or Interrupted where it was interrupted. Findings are
anything else: other exceptions, crashes, calls that do not end, warnings other than AccuracyWarning, exponents that are
not numbers without a warning, results that do not survive a file, calls that do not go on to the same bits, damaged
files that end otherwise than in a ValueError, and memory that grows.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import resource
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import sgdstab_fast as sf

CHUNK, SECONDS = 50, 60.0  # calls of a worker at a time; that one call may take at the most
_OF_A_POOL = 200  # chunks
GROWTH, LEAK_CALLS = 0.1, 10_000  # KiB a call that memory may grow by, over so many
DOCUMENTED = (ValueError, TypeError)


def number(rng: np.random.Generator, usual: float, *, odd: float = 0.1) -> Any:
    """Return a number that is likely near the usual one, or anything at all."""
    if rng.random() > odd:
        return float(usual * rng.lognormal(0.0, 0.5))
    anything = [
        0,
        -1.0,
        math.nan,
        math.inf,
        1e300,
        1e-300,
        5e-324,
        10**400,
        "x",
        None,
        True,
        1 + 1j,
        [1.0],
        np.float32(0.3),
    ]
    return anything[rng.integers(len(anything))]


def gram(rng: np.random.Generator) -> Any:
    """Return a matrix that is likely a Gram matrix, of any rank and scale."""
    n = int(rng.integers(1, 9))
    factor = rng.standard_normal((n, int(rng.integers(1, 10))))
    kind = rng.integers(12)
    if kind == 0:
        factor[:, rng.integers(factor.shape[1])] *= 10.0 ** rng.integers(-8, 8)
    if kind == 1:
        factor[rng.integers(n)] = factor[rng.integers(n)]
    if kind == 2:
        factor[rng.integers(n)] = 0
    matrix = factor @ factor.T / factor.shape[1]
    if kind == 3:
        matrix = np.eye(n) * rng.integers(1, 4)
    if kind == 4:
        matrix = np.kron(np.eye(2), matrix)
    if kind == 5:
        matrix = matrix.astype(np.float32)
    if kind == 6:
        matrix[rng.integers(n), rng.integers(n)] = [math.nan, math.inf, -1.0, 1e308][rng.integers(4)]
    if kind == 7:
        matrix = matrix[: max(n - 1, 0)]
    if kind == 8:
        matrix = matrix * 10.0 ** rng.integers(-300, 300)
    return matrix


def system(rng: np.random.Generator) -> Any:
    """Return a system, of any kind."""
    if rng.random() < 0.15:
        matrices = rng.standard_normal((int(rng.integers(1, 4)), *[int(rng.integers(1, 4))] * 2))
        if rng.random() < 0.3:
            matrices = np.round(matrices)
        return sf.MatrixEnsemble(matrices)
    matrix = gram(rng)
    size = float(np.nanmax(np.abs(np.asarray(matrix)), initial=1e-300)) if np.size(matrix) else 1.0
    rate = number(rng, rng.choice([0.1, 0.5, 1.0, 1.5, 2.0]) / max(size, 1e-300), odd=0.05)
    how: dict[str, Any] = {}
    if rng.random() < 0.4:
        how["batch_size"] = int(rng.integers(1, 5))
    if rng.random() < 0.2:
        how["sampling"] = str(rng.choice(["iid", "with_replacement", "epoch", "cyclic"]))
    if rng.random() < 0.2:
        how["momentum"] = number(rng, 0.5, odd=0.2)
    if rng.random() < 0.1:
        how["nesterov"] = True
    if rng.random() < 0.1 and len(matrix) % 2 == 0:
        how["groups"] = np.arange(len(matrix)) // 2
    return sf.LinearizedSGD(matrix, rate, **how)


def options(rng: np.random.Generator) -> dict[str, Any]:
    """Return options of a run, which ends soon."""
    found: dict[str, Any] = {"rtol": number(rng, 0.1, odd=0.05), "max_steps": int(rng.integers(200, 30_000))}
    if rng.random() < 0.2:
        found["n_chains"] = int(rng.integers(1, 40))
    found["rng"] = int(rng.integers(2**32))
    found["n_threads"] = int(rng.integers(1, 3))
    return found


def call(rng: np.random.Generator) -> Any:
    """Return a function that makes a call, given progress, resume and the like."""
    kind = int(rng.integers(12))
    how = options(rng)
    if kind == 0:
        matrix, criterion = gram(rng), [None, "mean-square", "gd", 1.0, -1.0, 4][rng.integers(6)]
        how["max_steps"] *= 10
        criterion = "almost-sure" if criterion is None else criterion
        return lambda **k: sf.critical_learning_rate(matrix, criterion, int(rng.integers(1, 3)), **{**how, **k})
    if kind == 1:
        matrix = gram(rng)
        rates = np.sort(rng.lognormal(-1, 0.5, int(rng.integers(1, 5))))
        return lambda **k: sf.sweep(matrix, rates, **{**how, **k})
    its = system(rng)
    if kind in (2, 3):
        return lambda **k: sf.lyapunov_exponent(its, **{**how, **k})
    if kind == 4:
        return lambda **k: sf.lyapunov_spectrum(its, **{**how, **k})
    if kind == 5:
        return lambda **k: sf.stability(its, exponent=bool(how["rng"] % 2), **{**how, **k})
    if kind == 6:
        orders = rng.normal(0, 2, int(rng.integers(1, 4)))
        return lambda **k: sf.moment_exponent(its, orders, **{**how, **k})
    if kind == 7:
        return lambda **k: sf.projective_chain(its, **{**how, **k})
    if kind == 8:
        how.pop("n_chains", None)
        steps = int(rng.integers(1, 60))
        return lambda **k: sf.finite_time_probability(its, steps, **{**how, **k})
    if kind == 9:
        return lambda **_: sf.mean_square_exponent(its)
    if kind == 10:
        return lambda **_: sf.regularity(its)
    matrix = gram(rng)
    return lambda **k: sf.thresholds(matrix, int(rng.integers(1, 3)), orders=(), **{**how, **k})


def bits(value: Any) -> bytes:
    """Return what two results share if they are the same."""
    file = io.BytesIO()
    with suppress(TypeError):
        value.save(file)
    return file.getvalue()


def is_silent_nan(value: Any, messages: list[str]) -> bool:
    """Say whether an exponent is not a number, and nothing said so."""
    names = [name for name in ("exponent", "exponents", "value", "standard_errors") if name in vars(value)]
    return not messages and any(np.isnan(np.asarray(getattr(value, name), dtype=float)).any() for name in names)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with some of its bits changed, or an end missing."""
    bad = bytearray(content)
    if rng.random() < 0.3:
        return bytes(bad[: rng.integers(len(bad))])
    for _ in range(int(rng.integers(1, 6))):
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
    return bytes(bad)


def one(seed: int) -> str:
    """Make a call, and return what it came to: a finding begins with an exclamation mark."""
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            make = call(rng)
            if rng.random() < 0.2:
                return interrupted(make, rng)
            result = make()
        except DOCUMENTED as error:
            text = str(error)
            return "! a message of several lines" if "\n" in text or not text else "refused"
        except Exception as error:
            return f"! {type(error).__name__}: {error}"
    others = [each for each in caught if not issubclass(each.category, sf.AccuracyWarning)]
    if others:
        return f"! warns: {others[0].category.__name__} {others[0].message} ({others[0].filename}:{others[0].lineno})"
    if is_silent_nan(result, [str(each.message) for each in caught]):
        return f"! silent NaN: {result!r}"
    content = bits(result)
    if content:
        if repr(sf.load(io.BytesIO(content))) != repr(result):
            return "! another result comes back from its file"
        with suppress(ValueError):
            sf.load(io.BytesIO(damaged(content, rng)))
    return "returned"


def interrupted(make: Any, rng: np.random.Generator) -> str:
    """Interrupt a call, and compare where it goes on to with one that is not interrupted."""
    left = int(rng.integers(1, 5))

    def press(_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    whole = make()
    try:
        make(progress=press)
    except sf.Interrupted as error:
        if error.result is None or getattr(error.result, "journal", None) is None:
            return "interrupted before anything was known"
        again = make(resume=error.result)
        known = [name for name in ("exponent", "exponents", "value", "probability") if hasattr(whole, name)]
        same = all(np.array_equal(getattr(whole, name), getattr(again, name), equal_nan=True) for name in known)
        return "interrupted" if same else f"! went on to other bits: {whole!r} and {again!r}"
    return "ended before it was interrupted"


def some(first: int, n: int) -> list[tuple[int, str, float]]:
    """Make some calls; return seeds, outcomes and seconds."""
    found = []
    for seed in range(first, first + n):
        begun = time.perf_counter()
        outcome = one(seed)
        found.append((seed, outcome, time.perf_counter() - begun))
    return found


def main() -> int:
    """Make calls on all processors, and tell findings as they come."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if n == 1:
        print(some(first, 1))
        return 0
    outcomes, findings = Counter[str](), 0
    begun, next_seed, end = time.monotonic(), first, first + n
    while next_seed < end:
        last = min(next_seed + _OF_A_POOL * CHUNK, end)
        with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = [
                (seed, pool.submit(some, seed, min(CHUNK, end - seed))) for seed in range(next_seed, last, CHUNK)
            ]
            for seed, future in futures:
                next_seed = min(seed + CHUNK, end)
                try:
                    found = future.result(timeout=SECONDS * CHUNK)
                except (BrokenProcessPool, TimeoutError) as error:
                    findings += 1
                    print(f"! {type(error).__name__} in the {CHUNK} calls from seed {seed}", flush=True)
                    for process in pool._processes.values():
                        process.kill()
                    break
                for its_seed, outcome, seconds in found:
                    outcomes[outcome if outcome[0] != "!" else "findings"] += 1
                    if outcome[0] == "!" or seconds > SECONDS:
                        findings += 1
                        print(f"{its_seed} ({seconds:.1f} s): {outcome[:300]}", flush=True)
    calls = sum(outcomes.values())
    print(f"{calls} calls in {time.monotonic() - begun:.0f} s: {dict(outcomes)}, {findings} findings")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        grown = pool.submit(leaked).result()
    print(f"memory grows by {grown:.3f} KiB a call over {LEAK_CALLS} calls")
    return 1 if findings or grown > GROWTH else 0


def leaked() -> float:
    """Return by how many KiB a call the memory of this process grows, after the first calls."""
    its = sf.LinearizedSGD([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]], 0.5)
    before = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number_of_call in range(LEAK_CALLS):
            kind = number_of_call % 4
            if kind == 0:
                found: Any = sf.lyapunov_exponent(its, rtol=0.1, max_steps=2000, rng=number_of_call)
            elif kind == 1:
                found = sf.stability(its, max_steps=2000, rng=number_of_call)
            elif kind == 2:
                found = sf.moment_exponent(its, 1.0, max_steps=5000, rng=number_of_call)
            else:
                found = sf.lyapunov_spectrum(its, max_steps=1000, rng=number_of_call)
            sf.load(io.BytesIO(bits(found)))
            if number_of_call == LEAK_CALLS // 5:
                before = resident()
    return (resident() - before) / (LEAK_CALLS * 4 / 5)


def resident() -> int:
    """Return the memory of this process in KiB, where the system tells; else the most that it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize() // 1024


if __name__ == "__main__":
    sys.exit(main())
