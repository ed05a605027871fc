"""Verdicts: exact certificates in their order, and simulation where none decides."""

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, REAL_GRAMS
from reference.statistics import assert_within
from reference.systems import random_gram
from scipy.linalg import block_diag


@pytest.mark.parametrize(
    ("learning_rate", "verdict", "certificate"),
    [
        (0.39, "stable", "every learning_rate * K_ii < 2"),
        (0.42, "stable", "mean-square exponent < 0"),
        (0.425, "stable", "simulation, confidence 0.99"),
        (0.435, "unstable", "simulation, confidence 0.99"),
        (1.5, "unstable", "mean of all exponents > 0"),
    ],
)
def test_certificates_of_k4(learning_rate, verdict, certificate):
    result = sf.stability(sf.LinearizedSGD(K4, learning_rate), rng=1)
    assert (result.verdict, result.certificate) == (verdict, certificate)
    assert result.confidence == (0.99 if "simulation" in certificate else 1)
    low, high = result.bounds if result.lyapunov is None else result.lyapunov.confidence_interval(0.99)
    assert (high <= 0) if verdict == "stable" else (low > 0)
    assert result.gd == sf.gd_exponent(K4, learning_rate)
    assert result.gd_stable == (learning_rate < 4 / 3)
    assert result.mean_square_stable == (learning_rate < 0.420521611224924)
    np.testing.assert_array_equal(result.growing_examples, np.flatnonzero(learning_rate * K4.diagonal() > 2))
    assert result.seconds > 0


@pytest.mark.parametrize("learning_rate", [0.39, 0.42, 1.5])
def test_a_certificate_takes_no_steps_unless_the_exponent_is_asked_for(learning_rate):
    system = sf.LinearizedSGD(K4, learning_rate)
    quick, asked = sf.stability(system), sf.stability(system, exponent=True, rng=1)
    assert quick.lyapunov is None
    assert (quick.verdict, quick.certificate) == (asked.verdict, asked.certificate)
    assert quick.bounds == asked.bounds
    low, high = quick.bounds
    assert low <= asked.lyapunov.exponent <= high
    assert asked.lyapunov.n_steps > 0
    assert quick.mean_square.exponent == sf.mean_square_exponent(system).exponent
    if quick.verdict == "stable":
        assert high == pytest.approx(quick.mean_square.exponent / 2, rel=1e-12)
    assert f"lambda in [{low:.6g}, {high:.6g}]" in repr(quick)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("seed", range(4))
def test_no_number_contradicts_a_certificate(seed):
    # every step contracts, and lambda is far below what a short run can tell from 0
    vectors = np.linalg.eigh(random_gram(np.random.default_rng(seed), 30))[1]
    gram = vectors * np.geomspace(1e-10, 1, 30) @ vectors.T
    system = sf.LinearizedSGD((gram + gram.T) / 2, 1.0 / gram.diagonal().max())
    result = sf.stability(system, exponent=True, max_steps=4096, rtol=0, rng=seed)
    assert (result.verdict, result.certificate) == ("stable", "every learning_rate * K_ii < 2")
    assert result.lyapunov.exponent <= result.bounds[1] < 0
    assert result.lyapunov.confidence_interval(0.999)[1] <= result.bounds[1]
    assert result.bounds[1] == pytest.approx(result.mean_square.exponent / 2, rel=1e-9)
    alone = sf.lyapunov_exponent(system, max_steps=4096, rtol=0, method="average", rng=seed)
    assert alone.exponent <= 0
    assert alone.confidence_interval(0.999)[1] <= 0 == alone.bounds[1]


@pytest.mark.parametrize(("learning_rate", "verdict"), [(0.42, "stable"), (0.435, "unstable")])
def test_verdicts_are_wrong_at_most_as_often_as_stated(learning_rate, verdict):
    # at confidence 0.95, 400 verdicts: 20 wrong or undecided ones expected at most, 33 at 3 standard deviations
    verdicts = [
        sf.stability(sf.LinearizedSGD(K4, learning_rate), confidence=0.95, rng=seed, n_threads=1).verdict
        for seed in range(400)
    ]
    assert sum(found != verdict for found in verdicts) <= 20


def test_the_sign_of_lambda_close_to_the_edge_keeps_its_confidence():
    # lambda(K4, 0.4271) is about 1e-4 on the side of growth: runs look often before they know
    wrong = 0
    for seed in range(40):
        result = sf.lyapunov_exponent(
            sf.LinearizedSGD(K4, 0.4275), rtol=0, sign_confidence=0.95, max_steps=3e7, rng=seed, n_threads=1
        )
        assert result.stopped_by == "sign"
        wrong += result.sign != 1
    assert wrong <= 6  # 2 expected at most; false-alarm rate 1e-2


def test_no_decision_without_steps_for_it():
    with pytest.warns(sf.AccuracyWarning):
        result = sf.stability(sf.LinearizedSGD(K4, 0.427), max_steps=10_000, rng=1)
    assert result.verdict == "undecided"
    assert result.certificate.startswith("none: lambda = ")


def test_reflections_stay_undecided_and_end():
    # every eta K_ii = 2: lambda = 0 exactly, which theory says nothing about
    gram = random_gram(np.random.default_rng(5), 6)
    scale = 1 / np.sqrt(gram.diagonal())
    result = sf.stability(sf.LinearizedSGD(gram * scale * scale[:, None], 2.0), rng=1)
    assert result.verdict == "undecided"
    assert abs(result.lyapunov.exponent) < 1e-13
    assert abs(result.mean_square.exponent) < 1e-12
    assert result.lyapunov.stopped_by == "closed form"


def test_real_matrices_across_the_edge():
    for name, learning_rate, verdict in (
        ("digits_trained_128", 0.496, "stable"),
        ("digits_trained_128", 1.063, "unstable"),
        ("iris_trained_40", 1.004, "stable"),
        ("iris_trained_40", 1.473, "unstable"),
    ):
        result = sf.stability(sf.LinearizedSGD(REAL_GRAMS[name], learning_rate), exponent=True, rng=1)
        assert result.verdict == verdict
        assert 2 * result.lyapunov.exponent <= result.mean_square.exponent + 1e-12


def test_separate_blocks_and_single_examples():
    gram = np.diag([1.0, 3.0, 5.0])
    result = sf.stability(sf.LinearizedSGD(gram, 0.5), rng=1)
    assert (result.verdict, result.certificate) == ("unstable", "closed form of lambda")
    assert result.confidence == 1
    assert_within(result.mean_square.exponent, 1e-13, 0.348306694268216)
    for learning_rate, verdict in ((0.7, "stable"), (0.5, "stable"), (1.0, "undecided"), (1.1, "unstable")):
        alone = sf.stability(sf.LinearizedSGD([[2.0]], learning_rate), rng=1)
        assert alone.verdict == verdict, learning_rate
    assert sf.stability(sf.LinearizedSGD([[2.0]], 0.5), rng=1).lyapunov.exponent == -np.inf


def test_a_stable_block_does_not_decide_about_one_of_which_nothing_is_known():
    # Reflections have lambda = 0, of which theory claims nothing.
    gram = np.array([[2.0, 0.5, 0.0], [0.5, 2.0, 0.0], [0.0, 0.0, 0.5]])
    result = sf.stability(sf.LinearizedSGD(gram, 1.0), rng=1)
    assert (result.verdict, result.lyapunov.exponent, result.lyapunov.sign) == ("undecided", 0, 0)
    # One that needs more steps than there are, beside one that shrinks in every step.
    gram = block_diag(K4, 0.5)
    with pytest.warns(sf.AccuracyWarning, match="^block 1 of 2"):
        result = sf.stability(sf.LinearizedSGD(gram, 0.427), max_steps=20_000, rng=1)
    assert (result.verdict, result.lyapunov.sign) == ("undecided", 0)


def test_a_block_that_is_simulated_makes_the_verdict_one_of_simulation():
    gram = np.zeros((5, 5))
    gram[:4, :4], gram[4, 4] = K4, 1e-4  # the exponent of the last is the largest, and known exactly
    result = sf.stability(sf.LinearizedSGD(gram, 0.425), rng=1)
    assert (result.verdict, result.confidence) == ("stable", 0.99)


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"confidence": 1.5}, ValueError, "confidence must lie strictly between 0 and 1, not 1.5"),
        ({"exponent": "yes"}, TypeError, "exponent must be True or False, not 'yes'"),
        ({"confidence": "high"}, TypeError, "confidence must be a real number, not 'high'"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1, not 0"),
        ({"rtol": -1}, ValueError, "rtol must be"),
    ],
)
def test_bad_options(option, error, message):
    with pytest.raises(error, match=message):
        sf.stability(sf.LinearizedSGD(K4, 0.425), **option)


def test_a_system_is_required():
    with pytest.raises(TypeError, match="system must be a LinearizedSGD or a MatrixEnsemble, not ndarray"):
        sf.stability(K4)
