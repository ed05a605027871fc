import math
import re
from pathlib import Path

import numpy as np
import pytest
import sgdstab_fast as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.known import K4, REAL_GRAMS, REFERENCES, T1, T1_EXPONENT, T1_SECOND_EXPONENT
from reference.statistics import assert_within, budget
from reference.systems import random_gram
from sgdstab_fast._core.functions import core


@pytest.mark.parametrize(
    ("learning_rate", "expected"),
    [(0.3, -0.0779615414697119), (0.5, -0.133531392624523), (1.5, 0.223143551314209)],
)
def test_gd_exponent_of_k4(learning_rate, expected):
    assert abs(sf.gd_exponent(K4, learning_rate) - expected) < 1e-13


def test_gd_exponent_ignores_the_kernel_and_keeps_small_numbers():
    duplicated = K4[np.ix_([0, 1, 2, 3, 3], [0, 1, 2, 3, 3])]
    eigenvalues = np.linalg.eigvalsh(duplicated)[1:]
    expected = np.log(np.abs(1 - 0.3 / 5 * eigenvalues)).max()
    assert abs(sf.gd_exponent(duplicated, 0.3) - expected) < 1e-13
    assert abs(sf.gd_exponent(K4, 1e-12) / -0.25e-12 - 1) < 1e-11
    assert sf.gd_exponent([[2.0]], 0.5) == -np.inf
    assert sf.gd_exponent(np.ones((6, 6)), 1.0) == -np.inf
    assert sf.gd_exponent(sf.LinearizedSGD(K4, 0.3)) == sf.gd_exponent(K4, 0.3)
    assert sf.gd_exponent(sf.LinearizedSGD(K4, 0.3), 0.3) == sf.gd_exponent(K4, 0.3)
    with pytest.raises(
        ValueError, match=r"learning_rate must be left out with a system, .* 0.3, not 0.4: take system\."
    ):
        sf.gd_exponent(sf.LinearizedSGD(K4, 0.3), 0.4)


SYSTEMS = {
    "k4": lambda: sf.LinearizedSGD(K4, 0.43),
    "factor": lambda: sf.LinearizedSGD.from_factor(np.random.default_rng(3).standard_normal((9, 5)), 0.25),
    "iris_trained_40": lambda: sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.473),
}


def step(system, i, v):
    direction = np.eye(system.dimension)[i] if system.coordinates == "gram" else system.rows[i]
    return v - system.learning_rate * direction * (system.rows[i] @ v)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # so short a run is all start-up
@pytest.mark.parametrize("name", SYSTEMS)
def test_growth_equals_a_plain_numpy_replay(name):
    """The independent check: plain numpy, step by step, on the same examples."""
    system = SYSTEMS[name]()
    first = budget(system, 64 * 16, n_chains=64, method="average")
    second = budget(system, 64 * 16 * 40, resume=first)
    chains = second.chains
    total = chains.n_batches * chains.steps_per_batch
    for chain in (0, 5, 63):
        examples = core.examples(key=chains.key, chain=chain, first_step=0, n_steps=total, n_examples=system.n_examples)
        v = first.chains.states[chain, 0].copy()
        done = first.chains.n_batches * first.chains.steps_per_batch
        log_growth = 0.0
        for i in examples[done:total]:
            v = step(system, i, v)
            norm = np.linalg.norm(v)
            v, log_growth = v / norm, log_growth + np.log(norm)
        np.testing.assert_allclose(
            chains.records.log_growth[chain, first.chains.n_batches :].sum(), log_growth, atol=1e-10
        )
        np.testing.assert_allclose(chains.states[chain, 0], v, atol=1e-9)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("name", SYSTEMS)
def test_anchored_growth_equals_the_mean_over_all_next_steps(name):
    """In every metric: the growth of the last evaluation, from the definition."""
    system = SYSTEMS[name]()
    result = budget(system, 20_000)
    chains, metrics = result.chains, system.growth()
    assert chains.steps_per_batch == chains.spacing
    norm_of_k = system.rows if system.coordinates == "gram" else np.eye(system.dimension)
    for chain in (0, 17, 63):
        v = chains.states[chain, 0]
        for m, matrix in enumerate([norm_of_k, *metrics.matrices]):
            after = [step(system, i, v) for i in range(system.n_examples)]
            growth = np.mean([0.5 * np.log((u @ matrix @ u) / (v @ matrix @ v)) for u in after])
            np.testing.assert_allclose(chains.records.growth[chain, -1, m], growth, rtol=1e-9, atol=1e-13)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_twins_go_along_whatever_the_budget():
    small = sf.LinearizedSGD([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], 0.3)
    for method in ("anchored", "average"):
        result = sf.lyapunov_exponent(small, method=method, max_steps=20_000, rng=0, n_threads=1)
        assert result.chains.companions.n_batches > 0, method
        assert result.n_steps <= 20_000
        assert result.mixed


def test_average_has_the_known_error_of_t1():
    result = budget(sf.LinearizedSGD(T1, 0.5), 2e7, method="average")
    assert_within(result.exponent, result.standard_error, T1_EXPONENT)
    # sigma^2 = Lambda''(0) is known: the error bar is the right one, to the 9% that 63 degrees of freedom leave
    n_kept = result.n_steps - result.n_chains * result.start_up_steps
    assert abs(result.standard_error / np.sqrt(0.005262216433921990 / n_kept) - 1) < 0.4


def test_anchored_t1_is_right_and_a_hundred_times_sharper():
    anchored, average = (budget(sf.LinearizedSGD(T1, 0.5), 1e6, method=method) for method in ("anchored", "average"))
    assert_within(anchored.exponent, anchored.standard_error, T1_EXPONENT)
    assert anchored.standard_error < average.standard_error / 100
    assert abs(anchored.gap / (T1_EXPONENT - T1_SECOND_EXPONENT) - 1) < 0.05


@pytest.mark.parametrize(
    ("learning_rate", "expected", "error"), [(0.3, -0.08411, 3e-5), (0.425, -0.00207, 4e-5), (0.5, 0.06724, 6e-5)]
)
def test_k4_within_joint_errors(learning_rate, expected, error):
    result = budget(sf.LinearizedSGD(K4, learning_rate), 2e7)
    assert_within(result.exponent, result.standard_error, expected, error)


@pytest.mark.parametrize(("name", "learning_rate", "expected", "error"), REFERENCES)
def test_real_matrices_within_joint_errors(name, learning_rate, expected, error):
    result = budget(sf.LinearizedSGD(REAL_GRAMS[name], learning_rate), 1e7)
    assert_within(result.exponent, result.standard_error, expected, error)


@pytest.mark.parametrize("method", ["anchored", "average"])
@pytest.mark.parametrize("r", [0.3, -0.8, 1e-3])
def test_projections_of_two_examples(r, method):
    # eta = 1, unit diagonal: lambda = (1/2) log|r|, sigma^2 = (1/4) log^2|r|; anchored growth is the same everywhere
    result = budget(sf.LinearizedSGD([[1, r], [r, 1]], 1.0), 1e6, method=method)
    assert_within(result.exponent, result.standard_error, 0.5 * np.log(abs(r)))
    if method == "anchored":
        assert result.standard_error < 1e-9


def test_diagonal_gram_has_the_largest_log_over_n():
    gram = np.diag([1.0, 3.0, 5.0])
    result = budget(sf.LinearizedSGD(gram, 0.5), 1e7)
    assert result.exponent == pytest.approx(np.log(1.5) / 3, rel=1e-14)
    assert (result.stopped_by, result.converged, result.n_steps) == ("closed form", True, 0)


@pytest.mark.parametrize("eta", [1e-12, 1e-5, 0.3, 0.5, 1 - 1e-9, 1.0, 7.0, 1e12])
def test_one_example_is_exact(eta):
    result = budget(sf.LinearizedSGD([[2.0]], eta / 2), 1e5)
    expected = np.log1p(-eta) if eta < 1 else np.log(eta - 1) if eta > 1 else -np.inf
    # rounding of eta K v, relative to what is left of v and to the exponent itself
    tolerance = 1e-12 + 4 * np.finfo(float).eps / max(abs(1 - eta), 1e-16)
    assert result.exponent == pytest.approx(expected, rel=1e-6 if eta < 1e-4 else 1e-12, abs=tolerance)


def of_unit_diagonal(rng, n, rank=None):
    factor = rng.standard_normal((n, rank or n))
    factor /= np.linalg.norm(factor, axis=1)[:, None]
    return factor @ factor.T


REFLECTIONS = {
    "two": lambda rng: sf.LinearizedSGD(of_unit_diagonal(rng, 2), 2.0),
    "eight": lambda rng: sf.LinearizedSGD(3.7 * of_unit_diagonal(rng, 8), 2 / 3.7),
    "one without a gradient": lambda rng: sf.LinearizedSGD([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0]], 2.0),
    "duplicates": lambda rng: sf.LinearizedSGD(np.kron(of_unit_diagonal(rng, 4), np.ones((2, 2))), 2.0),
    "few parameters": lambda rng: sf.LinearizedSGD(of_unit_diagonal(rng, 9, 3), 2.0),
    "examples of two outputs": lambda rng: sf.LinearizedSGD(
        np.kron(of_unit_diagonal(rng, 3), np.eye(2)), 2.0, groups=[0, 0, 1, 1, 2, 2]
    ),
    "unequal probabilities": lambda rng: sf.LinearizedSGD(
        of_unit_diagonal(rng, 4), 2.0, probabilities=[0.1, 0.2, 0.3, 0.4], step_scaling="equal"
    ),
    "reshuffled": lambda rng: sf.LinearizedSGD(of_unit_diagonal(rng, 9), 2.0, sampling="epoch"),
}


@pytest.mark.parametrize("name", REFLECTIONS)
def test_reflections_have_exponents_zero_without_a_step(name, rng):
    # every eta K_uu = 2: in isometric coordinates each step is a Householder reflection
    system = REFLECTIONS[name](rng)
    result, spectrum = sf.lyapunov_exponent(system, rng=1), sf.lyapunov_spectrum(system, rng=1)
    assert result.n_steps == spectrum.n_steps == 0
    assert abs(result.exponent) < 1e-14
    assert np.abs(spectrum.exponents).max() < 1e-14
    assert result.standard_error < 1e-14
    assert result.confidence_interval(0.9999)[0] <= 0 <= result.confidence_interval(0.9999)[1]
    assert result.converged
    moments = sf.moment_exponent(system, [-0.5, 1, 3], rng=1)
    assert (moments.exponents == 0).all()
    assert moments.n_steps == 0
    if system.has_mean_square:
        assert sf.mean_square_exponent(system).exponent == 0
        assert not sf.mean_square_exponent(system).stable


def test_steps_that_are_nearly_reflections_take_simulation(rng):
    gram = of_unit_diagonal(rng, 4)
    assert sf.lyapunov_exponent(sf.LinearizedSGD(gram, 2.0, 2), rng=1).exponent < -1e-3  # means of reflections shrink
    gram[0, 0] -= 1e-3
    result = sf.lyapunov_exponent(sf.LinearizedSGD(gram, 2.0), rtol=0.1, rng=1)
    assert result.n_steps > 0
    assert math.log(1 - 2e-3) / 16 * 1.01 < result.exponent < 0  # the mean of all exponents, and none is above 0


def test_larger_exponent_in_the_smaller_block(rng):
    block = random_gram(rng, 20)
    gram = np.zeros((23, 23))
    gram[:20, :20] = block / np.abs(np.linalg.eigvalsh(block)).max()  # decays
    gram[20:, 20:] = np.array([[5, 1, 0], [1, 6, 1], [0, 1, 5]])  # grows
    result = budget(sf.LinearizedSGD(gram, 0.5), 4e6)
    alone = budget(sf.LinearizedSGD(gram[20:, 20:].copy(), 0.5), 4e6)
    # the small block moves in 3 of 23 steps
    assert_within(result.exponent, result.standard_error, alone.exponent * 3 / 23, alone.standard_error * 3 / 23)


def test_duplicated_examples_have_the_exponent_of_the_quotient():
    # three copies of example 1: a step takes each distinct example with its multiplicity, exactly as in F-form
    chosen = [0, 1, 1, 1, 2, 3]
    features = np.linalg.cholesky(K4)[chosen]
    from_gram = budget(sf.LinearizedSGD(K4[np.ix_(chosen, chosen)], 0.3), 5e6)
    from_features = budget(sf.LinearizedSGD.from_factor(features, 0.3), 5e6, rng=2)
    assert from_gram.exponent < -0.01
    assert_within(from_gram.exponent, from_gram.standard_error, from_features.exponent, from_features.standard_error)


@pytest.mark.parametrize(("batch_size", "learning_rate"), [(1, 0.8), (2, 0.8), (2, 1.5), (8, 1.0)])
def test_many_more_examples_than_dimensions(batch_size, learning_rate):
    """N abs(lambda) is above 30: no single step takes all of that, and rounding of none is the error of the mean."""
    factor = np.random.default_rng(0).normal(size=(2000, 30)) / 6
    system = sf.LinearizedSGD.from_factor(factor, learning_rate, batch_size)
    anchored, average = (
        sf.lyapunov_exponent(system, method=method, rtol=0.01, rng=1) for method in ("anchored", "average")
    )
    assert system.n_examples * -anchored.exponent > 29
    assert anchored.converged
    assert average.converged
    joint = math.hypot(anchored.standard_error, average.standard_error)
    assert abs(anchored.exponent - average.exponent) < 4 * joint


def test_gram_and_factor_forms_agree(rng):
    features = rng.standard_normal((30, 6)) / np.sqrt(6)
    from_gram = budget(sf.LinearizedSGD(features @ features.T, 0.7), 3e6)
    from_features = budget(sf.LinearizedSGD.from_factor(features, 0.7), 3e6)
    # the same examples in the same isometric coordinates up to rotation: almost the same path
    assert_within(from_gram.exponent, from_gram.standard_error, from_features.exponent, from_features.standard_error)
    np.testing.assert_allclose(from_gram.exponent, from_features.exponent, rtol=0.02)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # short runs
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.floats(-12, 12), st.integers(0, 2**32))
def test_every_learning_rate_gives_a_number(n, log10_eta, seed):
    rng = np.random.default_rng(seed)
    result = budget(sf.LinearizedSGD(random_gram(rng, n), 10.0**log10_eta), 20_000, rng=seed)
    assert np.isfinite(result.exponent) or n == 1
    assert result.standard_error >= 0


def test_equal_exponents_of_separate_blocks_are_exact():
    # as one walk they would settle as n^-1/2: the largest of 300 random walks
    result = sf.lyapunov_exponent(sf.LinearizedSGD(np.eye(300), 0.5), rng=0)
    assert result.exponent == pytest.approx(np.log(0.5) / 300, rel=1e-14)


def test_blocks_are_solved_one_by_one_and_go_on(rng):
    blocks = [random_gram(rng, 6), random_gram(rng, 5) * 3, random_gram(rng, 7)]
    gram = np.zeros((19, 19))  # and an example without a gradient
    for block, start in zip(blocks, (0, 6, 11), strict=True):
        gram[start : start + len(block), start : start + len(block)] = block
    system = sf.LinearizedSGD(gram, 1.0)
    result = budget(system, 3e6)
    alone = [budget(sf.LinearizedSGD(block, 1.0), 1e6, rng=7) for block in blocks]
    shares = [len(block) / 19 for block in blocks]
    best = max(range(3), key=lambda b: shares[b] * alone[b].exponent)
    assert_within(
        result.exponent,
        result.standard_error,
        shares[best] * alone[best].exponent,
        shares[best] * alone[best].standard_error,
    )
    longer = budget(system, 6e6, resume=result)
    uncut = budget(system, 6e6)
    assert longer.n_steps > 1.5 * result.n_steps
    assert_within(longer.exponent, longer.standard_error, uncut.exponent, uncut.standard_error)


@pytest.mark.statistics
def test_nearly_separate_blocks_are_not_confidently_wrong(rng):
    # Two copies of one system, coupled by 1e-6: which of them leads changes about every 1e4 steps, and lambda is
    # larger than that of one alone. A run that ends before it has seen that has a wide interval and says why.
    block = random_gram(rng, 8)
    gram = np.kron(np.eye(2), block) + 1e-6 * np.kron([[0, 1], [1, 0]], np.ones((8, 8)))
    system = sf.LinearizedSGD(gram, 2.1)
    truth = budget(system, 4e8, rng=99)
    assert truth.mixed
    alone = budget(sf.LinearizedSGD(block, 2.1), 1e7)
    assert truth.exponent > alone.exponent / 2 + 20 * np.hypot(truth.standard_error, alone.standard_error)
    for seed in range(5):
        with pytest.warns(sf.AccuracyWarning, match="not seen to forget their starts"):
            short = budget(system, 200_000, rng=seed)
        assert not short.mixed
        assert_within(short.exponent, short.standard_error, truth.exponent, truth.standard_error, n_errors=2.5)
        long = sf.lyapunov_exponent(system, rtol=1e-2, rng=seed)
        assert_within(long.exponent, long.standard_error, truth.exponent, truth.standard_error)


def nearly_separate():
    features = np.random.default_rng(1).normal(size=(4, 4))
    gram = np.kron(np.eye(2), features @ features.T / 4)
    gram[0, 4] = gram[4, 0] = 1e-6
    return gram


# Of 2e8 steps of 64 chains, +- 9e-7.
NEARLY_SEPARATE = -0.010812


@pytest.mark.parametrize("n_chains", [1, 4, 16])
def test_few_chains_that_do_not_mix_do_not_claim_to(n_chains):
    for seed in range(5):
        with pytest.warns(sf.AccuracyWarning):
            result = sf.lyapunov_exponent(
                sf.LinearizedSGD(nearly_separate(), 3.0), rtol=1e-3, rng=seed, n_chains=n_chains, max_steps=500_000
            )
        assert not result.mixed
        assert not result.converged
        low, high = result.confidence_interval(0.9999)
        assert low < NEARLY_SEPARATE < high


@pytest.mark.parametrize("seed", range(20))
def test_blocks_of_reflections_have_exponent_zero(seed):
    # Lambda(2)/2 and the mean exponent of every block are 0 up to rounding: none may be ruled out by the other's bound
    rng = np.random.default_rng(seed)
    gram = np.zeros((7, 7))
    for block in (slice(0, 3), slice(3, 7)):
        part = random_gram(rng, block.stop - block.start)
        gram[block, block] = part / np.sqrt(np.outer(part.diagonal(), part.diagonal()))
    assert abs(budget(sf.LinearizedSGD(gram, 2.0), 1e5).exponent) < 1e-13


def test_blocks_in_single_precision(rng):
    gram = np.zeros((9, 9), dtype=np.float32)
    gram[:5, :5], gram[5:, 5:] = random_gram(rng, 5), random_gram(rng, 4)
    gram[0, 1] *= 1 + 1e-5  # rounding, in single precision
    assert sf.lyapunov_exponent(sf.LinearizedSGD(gram, 1.0), rng=1).exponent < 0


def test_many_blocks_share_budget_and_tolerance():
    system = sf.LinearizedSGD(np.kron(np.eye(20), K4), 0.43)
    result = sf.lyapunov_exponent(system, rtol=3e-2, rng=1)
    assert result.converged
    assert result.standard_error <= 3e-2 * abs(result.exponent)
    with pytest.warns(sf.AccuracyWarning):
        assert sf.lyapunov_exponent(system, rtol=1e-6, max_steps=10_000, rng=1).n_steps <= 10_000


def test_everything_annihilated_is_known():
    result = sf.lyapunov_exponent(sf.LinearizedSGD.from_factor([[1, 0], [0.6, 0.8], [0, 1]], 1.0), rng=1)
    assert (result.exponent, result.standard_error, result.mixed) == (-np.inf, 0, True)


def test_warnings_point_at_the_line_that_called(recwarn):
    sf.lyapunov_exponent(sf.LinearizedSGD(K4, 0.4265), max_steps=100_000, rng=1)
    assert {Path(warning.filename).name for warning in recwarn} == {"test_exponent.py"}


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"method": "naive"}, ValueError, "method must be one of 'anchored', 'average', not 'naive'"),
        ({"method": 3}, ValueError, "method must be"),
        ({"sign_confidence": 1.0}, ValueError, "sign_confidence must lie strictly between 0 and 1, not 1.0"),
        ({"rtol": -1}, ValueError, "rtol must be"),
        ({"rtol": np.nan}, ValueError, "rtol must be"),
        ({"atol": "x"}, TypeError, "atol must be"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1, not 0"),
        ({"max_steps": -5}, ValueError, "max_steps must be at least 1, not -5"),
        ({"max_steps": 10.5}, TypeError, "max_steps must be an integer, not 10.5"),
        ({"max_steps": 10}, ValueError, r"max_steps must be at least n_chains \(64\), not 10"),
        ({"n_chains": 0}, ValueError, "n_chains must be"),
        ({"n_threads": 0}, ValueError, "n_threads must be"),
        ({"rng": "x"}, TypeError, "rng must be"),
        ({"progress": 3}, TypeError, "progress must be"),
        ({"executor": 3}, TypeError, "executor must be"),
    ],
)
def test_bad_options(option, error, message):
    with pytest.raises(error, match=message):
        sf.lyapunov_exponent(sf.LinearizedSGD(K4, 0.3), **option)


def test_a_system_is_required():
    with pytest.raises(TypeError, match="system must be a LinearizedSGD or a MatrixEnsemble, not ndarray"):
        sf.lyapunov_exponent(K4)


def test_per_epoch_interval_and_provenance():
    result = budget(sf.LinearizedSGD(K4, 0.3), 1e5)
    assert result.per_epoch == 4 * result.exponent
    low, high = result.confidence_interval(0.5)
    wide_low, wide_high = result.confidence_interval(0.99)
    assert wide_low < low < result.exponent < high < wide_high
    assert result.provenance["seed_entropy"] == 1
    assert "exponent=" in repr(result)
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
        result.confidence_interval(95)


def test_warnings_say_the_sign_and_which_block_they_are_about():
    with pytest.warns(
        sf.AccuracyWarning, match=r"^max_steps=20000 ended the run with lambda = -0\.01\d+ ± 0\.00\d+, short"
    ):
        sf.lyapunov_exponent(sf.LinearizedSGD(K4, 0.41), method="average", max_steps=20_000, rng=1)
    # One of equal blocks speaks for all.
    with pytest.warns(sf.AccuracyWarning) as caught:
        result = sf.lyapunov_exponent(sf.LinearizedSGD(np.kron(np.eye(3), K4), 0.427), rtol=1e-9, max_steps=1e5, rng=1)
    assert not result.converged
    assert len(caught) == 1
    assert re.match(r"block \d of 3, in its own steps, and so with 2 more: max_steps=33333 ", str(caught[0].message))
