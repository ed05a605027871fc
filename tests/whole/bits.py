# ruff: noqa: E402 - BLAS reads its number of threads when numpy is imported
"""What every result is, to the last bit: run this before and after a change that should change nothing.

    python tests/whole/bits.py > out.json

makes the calls of `bits_calls.py`, which use the public API alone so that older revisions can make them too, and prints
a digest of every field of every result, of warnings, errors, texts and plots. Run it in two environments on the same
machine and compare with `compare_bits.py`; `make bits BASE=<revision>` does all of that, at every SIMD level. There is
no golden file, because bits are those of one machine's BLAS, SIMD level and versions.

Options: names of calls, as glob patterns, to make those alone; `--times` prints what each took to stderr.

A field is a path of public attributes. What depends on the clock or on versions is left out, as is what can be called
and what holds states (`LEFT_OUT`). Numbers and short texts are recorded as they are, floats in hexadecimal; arrays by
type, shape and digest. An attribute that raises an error is recorded by it.
"""

from __future__ import annotations

import os

for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
os.environ.update(MPLBACKEND="agg", COLUMNS="120")

import argparse
import fnmatch
import hashlib
import json
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sgdstab_fast as sf

LEFT_OUT = {
    "seconds",  # of the clock
    "chains", "system", "follow", "norm", "source", "curve", "checkpoint",  # states, and what runs
    "moments", "mixing_time", "mixing_time_standard_error",  # runs of their own, which calls ask for
}  # fmt: skip
KEYS_LEFT_OUT = {"seconds", "sgdstab_fast", "numpy", "python"}  # of a provenance, or a report
METHODS: dict[str, tuple[str, ...]] = {  # without arguments, or with those of `ARGUMENTS`
    "LyapunovExponent": ("confidence_interval",),
    "LyapunovSpectrum": ("confidence_interval",),
    "MeanSquareExponent": ("confidence_interval",),
    "StabilityMap": ("confidence_interval", "to_dict"),
    "CriticalLearningRate": ("confidence_interval",),
    "MomentExponents": ("confidence_interval", "to_dict"),
    "FiniteTimeProbability": ("confidence_interval",),
    "ProjectiveChain": ("confidence_interval", "to_dict"),
}
LONGEST_TEXT = 300


def digest(content: bytes) -> str:
    """Return the first 16 digits of its sha256."""
    return hashlib.sha256(content).hexdigest()[:16]


def text(content: str) -> str:
    """Return a text without addresses, or its beginning and its digest if it is long."""
    content = re.sub(r" at 0x[0-9a-f]+", "", content)
    return content if len(content) <= LONGEST_TEXT else f"{content[:80]!r}... {digest(content.encode())}"


def leaf(value: Any) -> str | None:
    """Return what is recorded of a value without parts; None if it has some."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype}{list(value.shape)} {digest(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, float):
        return f"{kind} {'nan' if math.isnan(value) else float(value).hex()}"
    if value is None or isinstance(value, (bool, int, np.generic)):
        return f"{kind} {value}"
    return text(value) if isinstance(value, str) else None


def attributes(value: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield public fields and properties, and what certain methods return."""
    kind = type(value)
    for name in sorted({*getattr(kind, "__dataclass_fields__", {}), *dir(kind)}):
        declared = getattr(kind, name, None)
        if not name.startswith("_") and name not in LEFT_OUT and not (callable(declared) and name != "gram"):
            yield f".{name}", lambda name=name: getattr(value, name)
    for name in METHODS.get(kind.__name__, ()):
        yield f".{name}()", getattr(value, name)
    yield ".repr", lambda: repr(value)
    if str(value) != repr(value):
        yield ".str", lambda: str(value)


def parts(value: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield parts of a value with what their names add to its path."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key not in KEYS_LEFT_OUT:
                yield f".{key}", lambda each=each: each
    elif hasattr(value, "_fields"):
        for name in value._fields:
            yield f".{name}", lambda name=name: getattr(value, name)
    elif isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        yield ".length", lambda: len(value)
        for i, each in enumerate(value):
            yield f"[{i}]", lambda each=each: each
    elif type(value).__module__.startswith("sgdstab_fast"):
        yield from attributes(value)


def walk(value: Any, path: str, into: dict[str, str]) -> None:
    """Record a value and all of its parts."""
    recorded = leaf(value)
    if recorded is not None:
        into[path] = recorded
        return
    found = False
    for name, get in parts(value):
        found = True
        try:
            each = get()
        except Exception as error:
            into[path + name] = f"raises {error_text(error)}"
        else:
            if not callable(each):
                walk(each, path + name, into)
    if not found:
        into[path] = text(f"{type(value).__name__} {value!r}")


def error_text(error: BaseException) -> str:
    """Return the type and the text of an error, without fingerprints, which fields have."""
    return f"{type(error).__name__}: {text(re.sub(r'(?<=[0-9]-)[0-9a-f]{16}', '...', str(error)))}"


def path_of(value: Any, name: str) -> str:
    """Return what the fields of a result begin with: its name, where there are several, and its class if it is ours."""
    kind = type(value)
    ours = kind.__name__ if kind.__module__.startswith("sgdstab_fast") else ""
    return f"{name}: {ours}" if name and ours else name or ours or "value"


def record(call: Callable[[], Any]) -> dict[str, str]:
    """Make a call and return its fields.

    Of a dictionary every value is a result of its own.
    """
    fields: dict[str, str] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = call()
        except Exception as error:
            fields["raised"] = error_text(error)
        else:
            for name, value in found.items() if isinstance(found, dict) else [("", found)]:
                walk(value, path_of(value, name), fields)
    for i, warning in enumerate(caught):
        where = Path(warning.filename).name  # of the caller, whose line a warning names
        fields[f"warnings[{i}]"] = f"{warning.category.__name__} in {where}: {text(str(warning.message))}"
    return fields


def main() -> None:
    """Make the calls asked for and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="CALL")
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    from bits_calls import calls

    recorded = {}
    for name, call in calls().items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in options.patterns):
            start = time.perf_counter()
            recorded[name] = record(call)
            if options.times:
                print(f"{time.perf_counter() - start:6.2f} s  {name}", file=sys.stderr)
    level = sf.build_info()["simd_level"]
    print(json.dumps({"level": level, "numpy": np.__version__, "calls": recorded}, indent=0, ensure_ascii=False))


if __name__ == "__main__":
    main()
