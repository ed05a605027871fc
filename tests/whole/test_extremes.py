"""Whatever the scale of its arguments, a call ends in numbers, or in a ValueError or TypeError of one line."""

import traceback
import warnings
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sgdstab_fast as sf

PACKAGE = str(Path(sf.__file__).parent)
SCALES = (-320, -310, -250, -200, -155, -100, -50, 0, 0, 0, 50, 100, 155, 200, 250, 300, 308)
RUN = {"max_steps": 20_000, "n_threads": 1}
OF_SYSTEMS = {
    "exponent": lambda system, seed: sf.lyapunov_exponent(system, rng=seed, rtol=0.1, **RUN),
    "spectrum": lambda system, seed: sf.lyapunov_spectrum(system, rng=seed, rtol=0.1, **RUN),
    "mean square": lambda system, seed: sf.mean_square_exponent(system),
    "moments": lambda system, seed: sf.moment_exponent(system, [-1, 0.5, 3], rng=seed, **RUN),
    "chain": lambda system, seed: sf.projective_chain(system, rng=seed, **RUN),
    "stability": lambda system, seed: sf.stability(system, exponent=True, rng=seed, **RUN),
    "regularity": lambda system, seed: sf.regularity(system),
    "finite time": lambda system, seed: sf.finite_time_probability(system, 10, 0.1, rng=seed, max_steps=20_000),
    "eigenfunction": lambda system, seed: sf.eigenfunction(
        system, 0.5, n_directions=64, max_steps=20_000, rng=seed
    ).residual_on(np.ones(system.dimension)),
}
OF_GRAMS = {
    "critical": lambda gram, rate, steps, seed: sf.critical_learning_rate(
        gram, ["gd", "mean-square", "almost-sure", 4.0][seed % 4], **steps, rng=seed, **RUN
    ),
    "gd": lambda gram, rate, steps, seed: sf.gd_exponent(gram, rate),
    "edge measures": lambda gram, rate, steps, seed: sf.nonlinear.edge_measures(gram, np.ones(len(gram)), rng=seed),
    "batches": lambda gram, rate, steps, seed: sf.nonlinear.batch_stability(gram, rate, steps.get("batch_size", 1)),
}


def some_gram(rng):
    n = int(rng.integers(1, 6))
    features = rng.normal(size=(n, int(rng.integers(1, n + 1)) if rng.random() < 0.4 else n))
    features *= 10.0 ** rng.uniform(-60, 60, (n, 1)) if rng.random() < 0.2 else 1.0
    gram = features @ features.T
    if rng.random() < 0.2:
        gram[0] = gram[:, 0] = 0.0
    with np.errstate(over="ignore"):
        return gram * 10.0 ** float(rng.choice(SCALES))


def some_rate(rng, gram):
    largest = float(gram.diagonal().max())
    with np.errstate(all="ignore"):
        return float(10.0 ** rng.uniform(-2, 90 if rng.random() < 0.3 else 1) / np.float64(largest))


def some_steps(rng, n):
    steps = {}
    if rng.random() < 0.5:
        steps = {"batch_size": int(rng.integers(1, n + 1)), "sampling": str(rng.choice(["iid", "with_replacement"]))}
    if rng.random() < 0.3:
        steps["momentum"] = float(rng.choice([0.5, 0.9, 1 - 1e-16, 1e-300]))
    if rng.random() < 0.2:
        steps["scale"] = 10.0 ** float(rng.choice(SCALES))
    return steps


def some_ensemble(rng):
    d, n = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    matrices = rng.normal(size=(n, d, d)) if rng.random() < 0.5 else rng.integers(-2, 3, (n, d, d)).astype(float)
    return matrices * 10.0 ** rng.uniform(-59, 59, (n, 1, 1)) if rng.random() < 0.5 else matrices


def ends_well(call, *arguments):
    """Return what is wrong with how a call ends; nothing if nothing is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sf.AccuracyWarning)
            call(*arguments)
    except Exception as error:
        raised_at = traceback.extract_tb(error.__traceback__)[-1]
        refused = type(error) in (ValueError, TypeError) and raised_at.filename.startswith(PACKAGE)
        if not refused or "\n" in str(error):
            return f"{type(error).__name__} at {Path(raised_at.filename).name}:{raised_at.lineno}: {error}"
    return ""


def some_case(seed):
    rng = np.random.default_rng(seed)
    gram = some_gram(rng)
    return rng, gram, some_rate(rng, gram), some_steps(rng, len(gram))


def asked(name, seed, build, *arguments, **steps):
    return OF_SYSTEMS[name](build(*arguments, **steps), seed)


@pytest.mark.parametrize("name", OF_SYSTEMS)
def test_calls_of_systems_of_any_scale(name):
    for seed in range(20):
        rng, gram, rate, steps = some_case(seed)
        for build in (sf.LinearizedSGD, sf.LinearizedSGD.from_factor):
            assert ends_well(partial(asked, **steps), name, seed, build, gram, rate) == "", seed
        if seed < 10 and name not in ("eigenfunction", "finite time", "regularity"):
            assert ends_well(asked, name, seed, sf.MatrixEnsemble, some_ensemble(rng)) == "", seed


@pytest.mark.parametrize("name", OF_GRAMS)
def test_calls_of_grams_of_any_scale(name):
    for seed in range(40):
        _, gram, rate, steps = some_case(seed)
        assert ends_well(OF_GRAMS[name], gram, rate, steps, seed) == "", seed


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # of runs too short to mix
@pytest.mark.parametrize("power", [-900, -340, -200, 200, 340, 900])
@pytest.mark.parametrize(
    "steps",
    [{}, {"batch_size": 2}, {"momentum": 0.5}, {"groups": [0, 0, 1, 1]}, {"batch_size": 2, "sampling": "epoch"}],
)
def test_exponents_do_not_depend_on_the_unit_of_k(power, steps):
    """(K, eta) and (2^n K, 2^-n eta) are the same steps."""
    features = np.random.default_rng(5).normal(size=(4, 4))
    for factor in (features, features[:, :2]):
        gram = factor @ factor.T
        system, other = (sf.LinearizedSGD(np.ldexp(gram, n), np.ldexp(0.2, -n), **steps) for n in (0, power))
        run = {"rng": 1, "rtol": 0, "max_steps": 40_000}
        one, two = (sf.lyapunov_exponent(each, **run) for each in (system, other))
        assert np.isfinite(two.exponent)
        assert abs(one.exponent - two.exponent) <= 6 * np.hypot(one.standard_error, two.standard_error) + 1e-9
        one, two = (sf.moment_exponent(each, 2).exponent for each in (system, other))
        assert two == pytest.approx(one, rel=1e-9)
        chain = sf.projective_chain(other, rng=1, max_steps=40_000)
        assert np.isfinite(chain.exponent)
        assert chain.provenance["system"] == other.fingerprint
        if abs(power) < 500:
            np.testing.assert_allclose(other.lengths(chain.sample(8)), 1.0, rtol=1e-9)


HUGE = 10**400
SYSTEM = sf.LinearizedSGD([[2, 1], [1, 2]], 0.5)
GRAM = [[2, 1], [1, 2]]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: sf.LinearizedSGD(GRAM, x),
        lambda x: sf.LinearizedSGD(GRAM, 0.5, x),
        lambda x: sf.LinearizedSGD(GRAM, 0.5, scale=x),
        lambda x: sf.LinearizedSGD(GRAM, 0.5, slow_cutoff=x),
        lambda x: sf.LinearizedSGD(GRAM, 0.5, probabilities=[x, 1]),
        lambda x: sf.LinearizedSGD([[x, 0], [0, 1]], 0.5),
        lambda x: sf.MatrixEnsemble([[[x]]]),
        lambda x: sf.lyapunov_exponent(SYSTEM, rtol=x),
        lambda x: sf.lyapunov_exponent(SYSTEM, max_steps=x),
        lambda x: sf.moment_exponent(SYSTEM, x),
        lambda x: sf.finite_time_probability(SYSTEM, x, 0.0),
        lambda x: sf.finite_time_probability(SYSTEM, 10, x),
        lambda x: sf.critical_learning_rate(GRAM, x),
        lambda x: sf.sweep(GRAM, [0.1, x]),
        lambda x: sf.thresholds(GRAM, orders=[x]),
        lambda x: sf.gd_exponent(GRAM, x),
        lambda x: sf.StabilityTracker(x),
        lambda x: sf.nonlinear.self_stabilization(x, 1, 0.1),
    ],
)
def test_integers_and_fractions_beyond_floating_point_are_refused(call):
    for value in (HUGE, -HUGE, Fraction(HUGE, 3), 10**5000):
        assert ends_well(call, value) == ""
        with pytest.raises((ValueError, TypeError)):
            call(value)
