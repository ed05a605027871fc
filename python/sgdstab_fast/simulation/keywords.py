"""Keywords of public estimators: what all of them take stands here, once.

An estimator says which defaults it has,

    @run_options(rtol=1e-2, max_steps=100_000_000, n_chains=64)
    def estimator(system: System, *, method: str = "anchored", **keywords: Unpack[RunKeywords]) -> Result:
        options = options_of(estimator, keywords, method=method)

and its signature and docstring show every keyword, type checkers know them, and `options_of` checks them all before
anything is computed. One whose tolerances are special, without a number as default say, spells them out, takes
`ChainKeywords`, and hands them to `options_of`.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, cast

from sgdstab_fast import validation
from sgdstab_fast._core.seeds import Seed, seed_from
from sgdstab_fast._core.streams import MOST_CHAINS
from sgdstab_fast.results.interruption import interruptible
from sgdstab_fast.results.journal import Recorder
from sgdstab_fast.results.progress import ProgressOption
from sgdstab_fast.simulation.checkpoints import EVERY, current_recorder, recorded
from sgdstab_fast.simulation.delivery import AnyExecutor
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.simulation.workers import Workers

if TYPE_CHECKING:  # they ship it
    from typing_extensions import Unpack as Unpack
else:  # of typing from Python 3.11 on
    Unpack = Any


class ChainKeywords(TypedDict, total=False):
    """Chains, and where they run.

    Parameters
    ----------
    n_chains : int, optional
        Independent chains.
    rng : optional
        Whatever ``numpy.random.default_rng`` takes. The same seed gives the same bits at the same SIMD level and with
        the same BLAS (of 1024 rows or more, also the same number of its threads), whatever `n_threads` or the executor.
    n_threads : int, optional
        Threads; all available processors by default.
    progress : bool or callable, optional
        True for a progress bar on standard error, lines where rich is not installed, or what to call with a
        `Progress`.
    executor : concurrent.futures.Executor or dask.distributed.Client, optional
        Where to run work items instead of threads.
    resume : path or result, optional
        A checkpoint, or a result that was interrupted, itself or in a file, to go on from: the call ends with the bits
        of one that was never cut. Arguments are those of the first call, and may be left out; `rtol`, `atol` and
        `max_steps`, which counts the steps before in, may be others.
    checkpoint : path, optional
        A file to write now and then, and when the call ends, in place of the one before: ``resume=`` takes it.
    checkpoint_every : float, optional
        Seconds between them.
    """

    n_chains: int
    rng: Any
    n_threads: int | None
    progress: ProgressOption
    executor: AnyExecutor | None
    resume: Any
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: float


class RunKeywords(ChainKeywords, total=False):
    """When a run stops, and its chains.

    Parameters
    ----------
    rtol, atol : float, optional
        Tolerances for the standard error: relative to lambda, and absolute in nats per step.
    max_steps : int, optional
        Steps of all chains together, rounded to whole batches: a bound, and the time to a tolerance does not depend on
        it.
    """

    rtol: float
    atol: float
    max_steps: int


# In signatures; what else estimators take by keyword comes first.
_ORDER = ["method", "rtol", "atol", "tolerance_for", "sign_confidence", "max_steps", "n_chains", "population"]
_ORDER += ["rng", "n_threads", "progress", "executor", "resume", "checkpoint", "checkpoint_every"]
_RAISES = "Raises\n------\nValueError, TypeError\n    If an argument is out of range.\n\n"
_PLACE = re.compile(r"^\*\*keywords\n(?: {4}.*\n)+", re.MULTILINE)
_ENTRY = re.compile(r"^([\w, ]+) :.*\n(?: {4}.*\n|\n(?= {4}))+", re.MULTILINE)
Estimator = TypeVar("Estimator", bound=Callable[..., Any])


class _Declared(NamedTuple):
    """What `run_options` knows of an estimator."""

    defaults: dict[str, Any]
    least_chains: int
    most_chains: int


def run_options(
    *,
    n_chains: int,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int | None = None,
    least_chains: int = 1,
    most_chains: int = MOST_CHAINS,
    goes_on_from: str = "",
) -> Callable[[Estimator], Estimator]:
    """Declare the defaults of an estimator that takes `RunKeywords`, or `ChainKeywords` if rtol is not given.

    `goes_on_from` is the kind of results that it goes on from by itself, interrupted or not.
    """
    defaults: dict[str, Any] = {} if rtol is None else {"rtol": rtol, "atol": atol, "max_steps": max_steps}
    defaults.update(n_chains=n_chains, rng=None, n_threads=None, progress=None, executor=None)
    defaults.update(resume=None, checkpoint=None, checkpoint_every=EVERY)

    def declared(estimator: Estimator) -> Estimator:
        types = {name: RunKeywords.__annotations__[name] for name in defaults}
        signature = inspect.signature(estimator)
        *own, keywords = signature.parameters.values()
        named = [each for each in own if each.kind is each.KEYWORD_ONLY]
        for name, default in defaults.items():
            # A forward reference knows its module; signatures show what is written there.
            annotation = getattr(types[name], "__forward_arg__", types[name])
            named.append(inspect.Parameter(name, keywords.KEYWORD_ONLY, default=default, annotation=annotation))
        named.sort(key=lambda each: _ORDER.index(each.name) if each.name in _ORDER else -1)
        others = [each for each in own if each.kind is not each.KEYWORD_ONLY]
        annotations = {name: kind for name, kind in estimator.__annotations__.items() if name != keywords.name}
        attributes = {
            "__signature__": signature.replace(parameters=[*others, *named]),
            "__annotations__": {**annotations, **types},
            "__doc__": _documented(estimator.__doc__, defaults),
            "__run_options__": _Declared(defaults, least_chains, most_chains),
        }

        @interruptible
        @functools.wraps(estimator)
        def call(*args: Any, **keywords: Any) -> Any:
            return recorded(estimator, call.__signature__, goes_on_from, args, keywords)  # type: ignore[attr-defined]

        for name, value in attributes.items():
            setattr(call, name, value)
        return cast(Estimator, call)

    return declared


def options_of(
    estimator: Callable[..., Any],
    keywords: Mapping[str, Any],
    *,
    method: str = "anchored",
    sign_confidence: float | None = None,
    **tolerances: Any,
) -> Options:
    """Check what an estimator was called with, of which everything that it did not spell out is in `keywords`."""
    declared: _Declared = estimator.__run_options__  # type: ignore[attr-defined]
    for name in keywords.keys() - declared.defaults.keys():
        meant = validation.did_you_mean(name, inspect.signature(estimator).parameters)
        raise TypeError(f"{estimator.__name__}() got an unexpected keyword argument {name!r}{meant}")
    given = {"atol": 0.0, **declared.defaults, **tolerances, **keywords}
    recorder = current_recorder()
    return Options(
        budget=Budget.validated(given["rtol"], given["atol"], given["max_steps"], sign_confidence),
        n_chains=validation.integer(
            given["n_chains"], "n_chains", low=declared.least_chains, high=declared.most_chains
        ),
        method=method,
        workers=Workers(validation.thread_count(given["n_threads"]), given["executor"]),
        progress=validation.progress(given["progress"]),
        recorder=recorder,
        seed=_seed(recorder, given["rng"]),  # last: a generator spawns
    )


def _seed(recorder: Recorder, rng: Any) -> Seed:
    """Return the seed of a call: that of its journal, if it goes on."""
    recorder.journal.seed = seed_from(rng) if recorder.journal.seed is None else recorder.journal.seed
    return recorder.journal.seed


def _documented(text: str | None, names: Mapping[str, Any]) -> str | None:
    """Fill a docstring in: entries of options in the place of ``**keywords``, and what all estimators raise."""
    known = [each.__doc__ for each in (RunKeywords, ChainKeywords)]
    if text is None or None in known:  # python -OO
        return text
    text = inspect.cleandoc(text) + "\n"
    spelled = {name for entry in _ENTRY.finditer(text) for name in entry[1].split(", ")}
    entries = [entry for each in known for entry in _ENTRY.finditer(inspect.cleandoc(each or "") + "\n")]
    wanted = [entry[0] for entry in entries if names.keys() - spelled >= set(entry[1].split(", "))]
    text = _PLACE.sub(lambda place: "".join(wanted), text, count=1)
    if "\nRaises\n" not in text:
        text = re.sub(r"^(?=Warns\n)", _RAISES, text, count=1, flags=re.MULTILINE)
    return text
