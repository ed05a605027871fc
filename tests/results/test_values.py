"""Results are values: they hold numbers, arrays and systems, nothing that runs, and survive pickling and copying."""

import copy
import dataclasses
import io
import pickle
import subprocess
import sys
import warnings
from collections.abc import Mapping
from functools import cache, cached_property

import numpy as np
import pytest
import sgdstab_fast as sf
from matplotlib.figure import Figure
from reference.known import K4

FACTOR = np.random.default_rng(5).standard_normal((6, 3))
SYSTEMS = {
    "plain": lambda: sf.LinearizedSGD(K4, 0.44),
    "of factors": lambda: sf.LinearizedSGD(FACTOR @ FACTOR.T, 0.3),
    "blocks": lambda: sf.LinearizedSGD(np.kron(np.eye(2), [[2.0, 1.0], [1.0, 3.0]]), 0.7),
    "batch": lambda: sf.LinearizedSGD(K4, 0.5, batch_size=2, momentum=0.3),
    "epoch": lambda: sf.LinearizedSGD(K4, 0.3, batch_size=2, sampling="epoch"),
    "ensemble": lambda: sf.MatrixEnsemble([[[1.2, 0.3], [0.0, 0.5]], [[0.5, 0.0], [0.2, 0.7]]], [0.25, 0.75]),
    "one dimension": lambda: sf.LinearizedSGD([[1.0]], 0.5),
}
SHORT = {"rtol": 0, "max_steps": 40_000, "rng": 1, "n_threads": 1}
RESULTS = {
    "exponent": lambda s: sf.lyapunov_exponent(s, **SHORT),
    "spectrum": lambda s: sf.lyapunov_spectrum(s, **SHORT),
    "stability": lambda s: sf.stability(s, max_steps=40_000, rng=1),
    "mean square": lambda s: sf.mean_square_exponent(s),
    "moments": lambda s: sf.moment_exponent(s, [-0.5, 0.5, 1.0], **SHORT),
    "chain": lambda s: sf.projective_chain(s, **SHORT),
    "contraction": lambda s: result("chain", s).holder_contraction([0.5, 1], 8, n_pairs=64),
    "distribution": lambda s: result("chain", s).finite_time_distribution(8, n_samples=256),
    "distribution of moments": lambda s: result("chain", s).finite_time_distribution(8, moments=result("moments", s)),
    # of SGD
    "critical": lambda s: sf.critical_learning_rate(s, rtol=0.1, rng=1),
    "map": lambda s: sf.sweep(s, [0.1, 0.2, 0.3, 0.4], **SHORT),
    # of SGD on single examples
    "regularity": lambda s: sf.regularity(s),
    "probability": lambda s: sf.finite_time_probability(s, 8, 0.0, max_steps=40_000, rng=1),
    "eigenfunction": lambda s: sf.eigenfunction(s, 0.1, n_directions=64, rng=1),
    "Lyapunov function": lambda s: sf.lyapunov_function(s.with_learning_rate(1.5), rng=1),
    "thresholds": lambda s: sf.thresholds(K4, 2, learning_rate=0.5, orders=(), rng=1),
}
NAMES = list(RESULTS)
ASKED = (
    [("plain", name) for name in NAMES]
    + [(of, name) for of in ("batch", "epoch") for name in NAMES[: NAMES.index("regularity")]]
    + [("ensemble", name) for name in NAMES[: NAMES.index("critical")]]
    + [(of, name) for of in ("of factors", "blocks", "one dimension") for name in ("exponent", "chain")]
    + [("one dimension", "moments"), ("blocks", "eigenfunction")]
)
system = cache(lambda of: SYSTEMS[of]())


@cache
def result(name, its_system):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)
        return RESULTS[name](its_system)


def through_a_file(value):
    file = io.BytesIO()
    value.save(file)
    file.seek(0)
    return sf.load(file)


WAYS = {"pickle": lambda value: pickle.loads(pickle.dumps(value)), "copy": copy.copy, "deepcopy": copy.deepcopy}
WAYS_OF_RESULTS = {**WAYS, "file": through_a_file}


def is_computed(kind, name):
    return isinstance(getattr(kind, name, None), cached_property) or name == "_decompositions"


def parts(value):
    """Return the fields of an object, the items of a tuple, list or mapping, by name; None of a number or a text."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if type(value).__module__.startswith("sgdstab_fast."):
        # What has been computed of the others may be left behind.
        return {name: each for name, each in vars(value).items() if not is_computed(type(value), name)}
    return None


def differences(one, other, where=""):
    """Yield where two values differ, to the last bit."""
    its_parts, other_parts = parts(one), parts(other)
    if type(one) is not type(other):
        yield f"{where}: {type(one)} and {type(other)}"
    elif its_parts is None:
        if not np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f"):
            yield f"{where}: {one!r} and {other!r}"
    elif its_parts.keys() != other_parts.keys():
        yield f"{where}: {list(its_parts)} and {list(other_parts)}"
    else:
        for name, part in its_parts.items():
            yield from differences(part, other_parts[name], f"{where}.{name}")


def leaves(value, where=""):
    its_parts = parts(value)
    if its_parts is None:
        yield where, value
    else:
        assert type(value).__module__ != "sgdstab_fast.simulation.options", where
        for name, part in its_parts.items():
            yield from leaves(part, f"{where}.{name}")


def value_between(found):
    """A finite-time exponent of which the rate function is known."""
    return np.mean(found.trusted_exponents) if isinstance(found, sf.MomentExponents) else None


def answers(value):
    """What can be asked of a result, without simulation or with a little."""
    found = {"repr": repr(value)}
    methods = {"confidence_interval": (0.9,), "to_dict": (), "rate_function": (value_between(value),)}
    for name, arguments in methods.items():
        if hasattr(value, name):
            found[name] = getattr(value, name)(*arguments)
    for name in ("per_epoch", "rates", "mean", "best_alpha", "clt_variance"):
        if hasattr(value, name):
            found[name] = getattr(value, name)
    if isinstance(value, sf.ProjectiveChain):
        found["sample"] = value.sample(64)
    if isinstance(value, sf.Eigenfunction | sf.LyapunovFunction):
        found["call"] = value(np.eye(4))
    return found


def test_every_public_result_is_looked_at():
    public = {value for name in sf.__all__ if dataclasses.is_dataclass(value := getattr(sf, name))}
    seen = {type(result(name, system(of))) for of, name in ASKED}
    parts_and_others = {sf.Edges, sf.Example, sf.Progress, sf.Recurrence, sf.Threshold}
    assert public - seen == parts_and_others


@pytest.mark.parametrize(("of", "name"), ASKED)
def test_a_result_holds_nothing_that_runs(of, name):
    numbers = (bool, int, float, str, bytes, np.ndarray, np.generic, type(None))
    for where, leaf in leaves(result(name, system(of))):
        assert isinstance(leaf, numbers), f"{where} is {leaf!r}"
        if isinstance(leaf, np.ndarray):
            assert leaf.dtype.kind in "fiub", where


@pytest.mark.parametrize("way", WAYS_OF_RESULTS.values(), ids=WAYS_OF_RESULTS)
@pytest.mark.parametrize(("of", "name"), ASKED)
def test_a_result_comes_back_as_it_was(of, name, way):
    before = result(name, system(of))
    after = way(before)
    assert type(after) is type(before)
    assert after is not before
    assert list(differences(before, after)) == []
    assert list(differences(answers(before), answers(after))) == []


@pytest.mark.parametrize(("of", "name"), ASKED)
def test_a_result_that_was_pickled_can_be_drawn(of, name):
    after = WAYS["pickle"](result(name, system(of)))
    if hasattr(after, "plot"):
        ax = Figure().subplots()
        assert after.plot(ax) is ax


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("of", SYSTEMS)
def test_a_system_comes_back_as_it_was(of, way):
    before = SYSTEMS[of]()
    after = way(before)
    assert after.fingerprint == before.fingerprint
    assert repr(after) == repr(before)
    again = sf.lyapunov_exponent(after, rtol=0, max_steps=4_000, rng=2)
    assert again.exponent == sf.lyapunov_exponent(before, rtol=0, max_steps=4_000, rng=2).exponent


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("of", ["plain", "batch", "ensemble"])
def test_a_run_goes_on_from_a_pickled_result(of):
    its_system = system(of)
    whole = sf.lyapunov_exponent(its_system, rtol=0, max_steps=80_000, rng=1)
    before = WAYS["pickle"](sf.lyapunov_exponent(its_system, rtol=0, max_steps=79_000, rng=1))
    kept = copy.deepcopy(before)
    once, again = (
        sf.lyapunov_exponent(WAYS["pickle"](its_system), rtol=0, max_steps=80_000, resume=each)
        for each in (before, before)
    )
    assert once.n_steps >= before.n_steps
    assert list(differences(once, again)) == []
    assert list(differences(kept, before)) == []
    assert abs(once.exponent - whole.exponent) <= 8 * whole.standard_error


def test_a_chain_goes_on_in_another_process(tmp_path):
    chain = result("chain", system("plain"))
    (tmp_path / "chain.pickle").write_bytes(pickle.dumps(chain))
    code = (
        "import pickle, sys\n"
        "chain = pickle.load(open(sys.argv[1], 'rb'))\n"
        "found = chain.finite_time_distribution(8, n_samples=256)\n"
        "contraction = chain.holder_contraction(1, 8)\n"
        "print(chain.sample(64).tobytes().hex(), found.mean.hex(), contraction.rates[0].hex(), chain)"
    )
    run = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code, str(tmp_path / "chain.pickle")],
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    expected = (
        chain.sample(64).tobytes().hex(),
        chain.finite_time_distribution(8, n_samples=256).mean.hex(),
        chain.holder_contraction(1, 8).rates[0].hex(),
        repr(chain),
    )
    assert run.stdout.strip() == " ".join(expected)
