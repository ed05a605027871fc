"""Random calls of the public interface: ``python scripts/fuzz.py [calls] [first seed]``, or ``make fuzz``.

Every call has a seed of its own, by which it can be made again: ``python scripts/fuzz.py 1 SEED``. What is called, and
with what, is in `fuzz_calls.py` and `fuzz_arguments.py`. A call may return, or raise what is documented: ValueError or
TypeError in one line, or Interrupted where it was interrupted. Findings are anything else: other exceptions, crashes,
calls that do not end, warnings other than AccuracyWarning, exponents that are not numbers and tolerances that are
missed without a warning, results that do not survive a file, calls that end with other bits when they are interrupted,
cut off or given to an executor, damaged files that end otherwise than in a ValueError, and memory that grows.
"""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import sgdstab_fast as sf
from fuzz_arguments import DOCUMENTED
from fuzz_calls import Call, drawn, examined, pool_of, told

CHUNK, SECONDS = 50, 60.0  # calls of a worker at a time; of a processor, that one call may take at the most
_OF_A_POOL = 40  # chunks, after which it says how far it is
GROWTH, LEAK_CALLS = 0.1, 10_000  # KiB a call that memory may grow by, over so many
_ROUNDING = 1e-13  # of exponents in steps
_OTHER_BUDGET = "max_steps is too different"  # to go on from, as documented
_NUMBERS = ("exponent", "exponents", "value", "probability", "standard_error", "standard_errors", "log_value")


class FindingError(Exception):
    """What should not be."""


class EndedError(Exception):
    """What ends a call."""


def one(seed: int) -> str:
    """Make a call, and return what it came to: a finding begins with an exclamation mark."""
    rng, name = np.random.default_rng(seed), "?"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            name, call = drawn(rng)
            result = call.make()
        except DOCUMENTED as error:
            text = str(error)
            return f"! {name}: a message of several lines: {text!r}" if "\n" in text or not text else "refused"
        except Exception as error:
            return f"! {name}: {type(error).__name__}: {error}"
        said = [str(each.message) for each in caught if issubclass(each.category, sf.AccuracyWarning)]
        try:
            outcome = _WAYS[rng.choice(len(_WAYS), p=_SHARES) if call.simulates else 0](call, result, said, rng)
        except FindingError as error:
            return f"! {name}: {error}"
        except BaseException as error:
            return f"! {name}, later: {type(error).__name__}: {error}"
    others = [each for each in caught if not issubclass(each.category, sf.AccuracyWarning)]
    if others:
        where = f"{others[0].filename}:{others[0].lineno}"
        return f"! {name} warns: {others[0].category.__name__} {others[0].message} ({where})"
    return outcome


def looked_at(call: Call, result: Any, said: list[str], rng: np.random.Generator) -> str:
    """Look at a result, and have it written, read and read where it is damaged."""
    if not said and (numbers := lost(result)):
        raise FindingError(f"{numbers} is no number, and nothing says so: {result!r}")
    fields = getattr(result, "__dict__", {})
    errors = np.asarray(fields.get("standard_errors", fields.get("standard_error", math.inf)), dtype=float)
    missed = call.has_tolerance and getattr(result, "converged", True) is False
    if not said and missed and not (errors < _ROUNDING).all():  # which errors of rounding alone say themselves
        raise FindingError(f"a tolerance is missed, and nothing says so: {result!r}")
    examined(result, rng)
    if content := written(result):
        if repr(sf.load(io.BytesIO(content))) != repr(result):
            raise FindingError(f"another result comes back from its file: {result!r}")
        for bad in (damaged(content, rng), edited(content, rng)):
            with suppress(ValueError):
                sf.load(io.BytesIO(bad))
    return "returned"


def interrupted(call: Call, whole: Any, _: list[str], rng: np.random.Generator) -> str:
    """Interrupt a call, look at what is known, and compare what it goes on to with one that is not interrupted."""
    partial = cut(call, rng, KeyboardInterrupt)
    if partial is None:
        return "ended before it was interrupted, or anything was known"
    if getattr(partial, "stopped_by", "interrupt") == "interrupt" and getattr(partial, "converged", False) is not False:
        raise FindingError(f"a partial result has converged: {partial!r}")
    if getattr(partial, "n_steps", 0) > getattr(whole, "n_steps", math.inf):
        raise FindingError(f"a partial result has more steps: {partial!r} and {whole!r}")
    examined(partial, rng)
    content = written(partial)
    if content and repr(sf.load(io.BytesIO(content))) != repr(partial):
        raise FindingError(f"another partial result comes back from its file: {partial!r}")
    same(whole, call.make(resume=partial), "went on")
    return "interrupted"


def asked_otherwise(call: Call, whole: Any, _: list[str], rng: np.random.Generator) -> str:
    """Interrupt a call, and go on with other threads, to the same bits, or with another tolerance and budget."""
    partial = cut(call, rng, KeyboardInterrupt)
    if partial is None:
        return "ended before it was interrupted, or anything was known"
    threads = int(rng.integers(1, 3))
    if rng.random() < 0.3:
        same(whole, call.make(resume=partial, n_threads=threads), "went on with other threads")
        return "asked otherwise"
    other: dict[str, Any] = {"n_threads": threads, "rtol": float(rng.choice([0.02, 0.05, 0.2]))}
    if rng.random() < 0.5:
        other["max_steps"] = int(rng.integers(5000, 60_000))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            again = call.make(resume=partial, **other)
        except ValueError as error:
            if _OTHER_BUDGET in str(error):
                return "asked otherwise, and refused"
            try:
                call.make(**other)
            except ValueError:
                return "asked otherwise, and refused as it is at first"
            raise
    return looked_at(call, again, [str(each.message) for each in caught], rng)


def cut_off(call: Call, whole: Any, _: list[str], rng: np.random.Generator) -> str:
    """End a call that keeps a checkpoint by an error, and go on from the file; then damage the file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.npz"
        kept: dict[str, Any] = {"checkpoint": file, "checkpoint_every": 0}
        cut(call, rng, EndedError, **kept)
        if not file.exists():
            return "ended before a checkpoint"
        same(whole, call.make(resume=file, **kept), "went on from a checkpoint")
        same(whole, call.make(resume=file), "came from its checkpoint at its end")
        file.write_bytes(damaged(file.read_bytes(), rng))
        with suppress(ValueError):
            call.make(resume=file)
        left = [each.name for each in Path(folder).iterdir() if each != file]
    if left:
        raise FindingError(f"files are left behind: {left}")
    return "cut off"


def elsewhere(call: Call, whole: Any, _: list[str], rng: np.random.Generator) -> str:
    """Give a call to an executor."""
    with pool_of(processes=rng.random() < 0.02) as executor:
        same(whole, call.make(executor=executor), "came from an executor")
    return "elsewhere"


_WAYS: list[Callable[[Call, Any, list[str], np.random.Generator], str]] = [looked_at, interrupted, asked_otherwise]
_WAYS += [cut_off, elsewhere]
_SHARES = [0.55, 0.15, 0.1, 0.1, 0.1]


def cut(call: Call, rng: np.random.Generator, ending: type[BaseException], **keywords: Any) -> Any:
    """End a call when it tells its progress; return what an interrupted one has come to, as far as it can go on."""
    left = int(rng.integers(1, 5))

    def press(_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise ending

    try:
        call.make(progress=press, **keywords)
    except sf.Interrupted as error:
        return error.result if getattr(error.result, "journal", None) is not None else None
    except EndedError:
        pass
    return None


def same(first: Any, second: Any, what: str) -> None:
    """Find what two results that should be the same differ in."""
    one_told, other_told = told(first), told(second)
    if one_told != other_told:
        names = (
            [name for name in one_told if one_told[name] != other_told.get(name)] if type(first) is type(second) else []
        )
        raise FindingError(f"{what} to other {names}: {first!r} and {second!r}")


def lost(value: Any) -> list[str]:
    """Return which numbers of a result are none."""
    numbers = [name for name in _NUMBERS if name in getattr(value, "__dict__", {})]
    return [name for name in numbers if np.isnan(np.asarray(getattr(value, name), dtype=float)).any()]


def written(value: Any) -> bytes:
    """Return the file of a result, of those that have one."""
    file = io.BytesIO()
    with suppress(TypeError):
        getattr(value, "save", lambda _: None)(file)
    return file.getvalue()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with some of its bits changed, or an end missing."""
    bad = bytearray(content)
    if rng.random() < 0.3:
        return bytes(bad[: rng.integers(len(bad))])
    for _ in range(int(rng.integers(1, 6))):
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
    return bytes(bad)


def edited(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file that someone has changed something in: its checksums are right."""
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        arrays = dict(found)
    header = json.loads(str(arrays.pop("header")))
    nodes, branches = [header], [header]
    while branches:
        inner = branches.pop()
        more = [
            each for each in (inner.values() if isinstance(inner, dict) else inner) if isinstance(each, dict | list)
        ]
        branches, nodes = branches + more, nodes + [each for each in more if each]
    node = nodes[rng.integers(len(nodes))]
    anything: list[Any] = [None, -1, 1e300, "x", [], {}, {"kind": "LinearizedSGD", "fields": {}}, {"array": "a0"}]
    key: Any = list(node)[rng.integers(len(node))] if isinstance(node, dict) else int(rng.integers(len(node)))
    if arrays and rng.random() < 0.3:
        name = list(arrays)[rng.integers(len(arrays))]
        arrays[name] = (
            [arrays[name][:0], arrays[name].astype(str), np.zeros(3), np.zeros((2, 2, 2))][rng.integers(4)]
            if arrays[name].ndim
            else np.zeros(3)
        )
    elif rng.random() < 0.3:
        del node[key]
    else:
        node[key] = anything[rng.integers(len(anything))]
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
    return file.getvalue()


def some(first: int, n: int) -> list[tuple[int, str, float]]:
    """Make some calls; return seeds, outcomes and seconds of processors, whatever else they do."""
    found = []
    for seed in range(first, first + n):
        begun = time.process_time()
        outcome = one(seed)
        found.append((seed, outcome, time.process_time() - begun))
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
                    found = future.result(timeout=SECONDS * CHUNK)  # by the clock, of all of them
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
                        print(f"{its_seed} ({seconds:.1f} s): {outcome[:600]}", flush=True)
        print(f"{sum(outcomes.values())} calls so far, {findings} findings", flush=True)
    calls = sum(outcomes.values())
    print(f"{calls} calls in {time.monotonic() - begun:.0f} s: {dict(outcomes)}, {findings} findings")
    if calls < LEAK_CALLS:
        return 1 if findings else 0
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
            sf.load(io.BytesIO(written(found)))
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
