import dataclasses
import itertools

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.calls import PLAIN, bits
from reference.known import K4, REAL_GRAMS, REFERENCES, T1, T1_EXPONENT, T1_SECOND_EXPONENT
from reference.statistics import assert_within
from reference.systems import random_gram
from sgdstab_fast._core.functions import core
from sgdstab_fast.exponents import frames
from sgdstab_fast.exponents import spectrum as estimator


def spectrum(system, n_steps, k=None, **options):
    return sf.lyapunov_spectrum(system, k, rtol=0, max_steps=n_steps, **{"rng": 1, **options})


def test_t1_both_exponents():
    result = spectrum(sf.LinearizedSGD(T1, 0.5), 2e6)
    assert_within(result.exponents[0], result.standard_errors[0], T1_EXPONENT)
    assert_within(result.exponents[1], result.standard_errors[1], T1_SECOND_EXPONENT)


def test_k4_spectrum():
    result = spectrum(sf.LinearizedSGD(K4, 0.3), 2e6)
    for j, (value, error) in enumerate([(-0.0839, 6e-4), (-0.2002, 1.2e-3), (-0.350, 2e-3), (-0.749, 3e-3)]):
        assert_within(result.exponents[j], result.standard_errors[j], value, error)


@pytest.mark.parametrize("learning_rate", [0.496, 1 / 2.05])
def test_steps_that_nearly_destroy_directions_are_orthogonal(learning_rate, monkeypatch):
    """eta K_ii about 1: after few steps little of some columns is left. Others orthonormalise so often, to the same."""
    system = sf.LinearizedSGD(REAL_GRAMS["digits_trained_128"], learning_rate)
    result = spectrum(system, 2e5)
    assert result.period == 1
    assert result.sum_rule_error < 1e-13
    monkeypatch.setattr(frames, "has_orthogonal_steps", lambda system, columns: False)
    other = spectrum(system, 2e5, rng=2)
    assert 1 < other.period < 64
    assert other.sum_rule_error < 1e-9
    joint = np.hypot(result.standard_errors, other.standard_errors)
    assert (np.abs(result.exponents - other.exponents) < 5 * joint).mean() > 0.97


@pytest.mark.parametrize("off", [-1e-9, 1e-9])
def test_orthogonal_steps_beside_singular_ones(off):
    features = np.random.default_rng(3).standard_normal((40, 60))
    features /= np.linalg.norm(features, axis=1)[:, None]
    system = sf.LinearizedSGD(features @ features.T, 1 + off)
    result = spectrum(system, 4e5)
    assert result.period == 1
    np.testing.assert_allclose(result.exponents.sum(), np.log(1e-9), rtol=1e-6)
    singular = spectrum(sf.LinearizedSGD(features @ features.T, 1.0), 4e5)  # orthonormalised after a few steps
    top = slice(0, 20)
    joint = np.hypot(result.standard_errors, singular.standard_errors)[top]
    assert (np.abs(result.exponents - singular.exponents)[top] < 5 * joint).all()


def test_orthogonal_steps_go_on_to_the_same_bits():
    system = sf.LinearizedSGD(REAL_GRAMS["digits_trained_128"], 0.496)
    whole = spectrum(system, 1e5)
    first = spectrum(system, 1e5, n_threads=1)
    assert bits(whole) == bits(first)
    longer = spectrum(system, 4e5, resume=first)
    assert bits(longer) == bits(spectrum(system, 4e5, resume=whole, n_threads=1))
    assert longer.period == 1


@pytest.mark.parametrize("n", [3, 8, 17, 40, 64])
def test_sum_rule_of_random_matrices(n, rng):
    system = sf.LinearizedSGD(random_gram(rng, n), 1.7)
    result = spectrum(system, 200 * n + 20_000)
    # exact along the path; statistical against the mean over examples
    assert result.sum_rule_error < 1e-11
    step = system.log_determinants
    assert_within(result.exponents.sum(), step.std() / np.sqrt(result.n_steps / 2), system.sum_of_exponents)


@pytest.mark.parametrize("method", ["anchored", "average"])
@pytest.mark.parametrize(
    "system",
    [
        PLAIN,
        sf.LinearizedSGD(K4, 0.9, 2),
        sf.LinearizedSGD(K4, 0.3, momentum=0.5),
        sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.004),
        sf.MatrixEnsemble(np.eye(3) + 0.5 * np.random.default_rng(0).standard_normal((4, 3, 3))),
    ],
    ids=["plain", "batches", "momentum", "irises", "ensemble"],
)
@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_exponents_sum_to_what_determinants_make_them(system, method):
    found = sf.lyapunov_spectrum(system, method=method, rtol=0, max_steps=40_000, rng=1, n_threads=1)
    assert found.exponents.sum() == pytest.approx(system.sum_of_exponents, rel=1e-12, abs=1e-13)


def test_the_known_sum_sharpens_the_lowest_exponent():
    """Near eta K_ii = 1 nearly all that varies in the sum is the lowest exponent's: here it was 1.15e-3."""
    system = sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.004)
    found = sf.lyapunov_spectrum(system, rtol=0, max_steps=200_000, rng=1, n_threads=1)
    assert found.standard_errors[-1] < 1e-3


@pytest.mark.parametrize("eta", [1e-12, 1e-6, 1e-3, 0.3, 0.425, 1.5, 1e3, 1e6])
def test_sum_rule_of_k4_at_every_learning_rate(eta):
    result = spectrum(sf.LinearizedSGD(K4, eta), 20_000)
    assert result.sum_rule_error <= 1e-12 * max(1, abs(result.sum_of_exponents))


def test_sum_rule_at_a_learning_rate_that_costs_most_digits():
    # eta K_ii = 4e12 leaves four digits of what a step does to the other directions; a product of rounding errors
    result = spectrum(sf.LinearizedSGD(K4, 1e12), 20_000)
    assert result.sum_rule_error <= 1e-6


@pytest.mark.statistics
@pytest.mark.parametrize(("name", "learning_rate", "expected", "error"), REFERENCES)
def test_real_matrices(name, learning_rate, expected, error):
    system = sf.LinearizedSGD(REAL_GRAMS[name], learning_rate)
    result = spectrum(system, 2e5)
    assert result.sum_rule_error < 1e-9
    assert_within(result.exponent, result.standard_error, expected, error)
    assert (np.diff(result.exponents) <= 0).all()


@pytest.mark.parametrize("eta", [1e-6, 0.3, 0.6, 0.9, 1 + 1e-6, 1.7, 1e6])
def test_one_direction_is_exact_however_it_shrinks(eta):
    expected = np.log(abs(1 - eta))
    for gram in ([[1.0]], np.ones((4, 4))):
        result = spectrum(sf.LinearizedSGD(gram, eta), 20_000)
        # rounding of eta K v, relative to what is left of v
        assert abs(result.exponents[0] - expected) < 1e-12 + 16 * np.finfo(float).eps / abs(1 - eta)
        assert result.sum_rule_error < 1e-12 + 16 * np.finfo(float).eps / abs(1 - eta)


def test_diagonal_gram_that_shrinks_fast_keeps_its_sum():
    assert spectrum(sf.LinearizedSGD(np.diag([1.0, 2.0]), 0.45), 100_000).sum_rule_error < 1e-12


def test_top_k_equals_the_top_of_the_full_spectrum():
    system = sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.473)
    full, top = spectrum(system, 3e5), spectrum(system, 3e5, k=3, rng=2)
    assert top.exponents.shape == (3,)
    assert top.sum_of_exponents is top.sum_rule_error is None
    for j in range(3):
        assert_within(top.exponents[j], top.standard_errors[j], full.exponents[j], full.standard_errors[j])
    alone = spectrum(system, 3e5, k=1, rng=3)
    assert_within(alone.exponent, alone.standard_error, full.exponent, full.standard_error)


def test_duality_of_unit_diagonal():
    # eta' = eta / (eta - 1) inverts every step: the spectrum is negated and reversed
    gram = random_gram(np.random.default_rng(3), 5)
    scale = 1 / np.sqrt(gram.diagonal())
    gram = gram * scale * scale[:, None]
    eta = 2.5
    one, other = (spectrum(sf.LinearizedSGD(gram, e), 1e6) for e in (eta, eta / (eta - 1)))
    for j in range(5):
        assert_within(one.exponents[j], one.standard_errors[j], -other.exponents[4 - j], other.standard_errors[4 - j])


def test_reflections_have_no_growth(rng):
    gram = random_gram(rng, 6)
    scale = 1 / np.sqrt(gram.diagonal())
    result = spectrum(sf.LinearizedSGD(gram * scale * scale[:, None], 2.0), 1e6)
    assert np.abs(result.exponents).max() < 1e-4
    assert abs(result.exponents.sum()) < 1e-12


def test_diagonal_gram():
    gram = np.diag([1.0, 3.0, 5.0])
    result = spectrum(sf.LinearizedSGD(gram, 0.5), 1e6)
    expected = np.sort(np.log(np.abs(1 - 0.5 * gram.diagonal())) / 3)[::-1]
    for j in range(3):
        assert_within(result.exponents[j], result.standard_errors[j], expected[j])


def test_projections_lose_one_exponent_and_keep_the_other():
    result = spectrum(sf.LinearizedSGD([[1, 0.3], [0.3, 1]], 1.0), 1e6)
    assert_within(result.exponents[0], result.standard_errors[0], 0.5 * np.log(0.3))
    assert result.exponents[1] == -np.inf
    assert result.standard_errors[1] == 0
    assert result.sum_of_exponents == -np.inf


def test_a_singular_step_leaves_the_other_exponents_alone():
    result = spectrum(sf.LinearizedSGD(K4, 0.5), 1e6)
    assert_within(result.exponents[0], result.standard_errors[0], 0.06724, 6e-5)
    assert result.exponents[-1] == -np.inf
    assert not np.isnan(result.exponents).any()
    nearly = spectrum(sf.LinearizedSGD(K4, 0.5 * (1 + 1e-9)), 1e6)
    assert np.isfinite(nearly.exponents).all()
    assert_within(nearly.exponents[0], nearly.standard_errors[0], 0.06724, 6e-5)


def test_block_diagonal_gram_has_both_spectra(rng):
    small = np.array([[5, 1], [1, 6.0]])
    gram = np.zeros((10, 10))
    gram[:8, :8] = random_gram(rng, 8)
    gram[8:, 8:] = small
    result = spectrum(sf.LinearizedSGD(gram, 0.5), 1e6)
    alone = spectrum(sf.LinearizedSGD(small, 0.5), 1e6)
    assert_within(result.exponent, result.standard_error, alone.exponent / 5, alone.standard_error / 5)


def test_factor_form_has_the_spectrum_of_its_gram(rng):
    features = rng.standard_normal((20, 4)) / 2
    one = spectrum(sf.LinearizedSGD.from_factor(features, 0.8), 1e6)
    other = spectrum(sf.LinearizedSGD(features @ features.T, 0.8), 1e6, rng=5)
    assert one.exponents.shape == other.exponents.shape == (4,)
    for j in range(4):
        assert_within(one.exponents[j], one.standard_errors[j], other.exponents[j], other.standard_errors[j])
    assert one.sum_rule_error < 1e-12


def test_frames_equal_a_plain_numpy_replay():
    system = sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.473)
    first = spectrum(system, 4000, n_chains=2)
    second = spectrum(system, 8000, n_chains=2, resume=first)
    chains, done = second.chains, first.chains.next_step
    n_steps = chains.next_step - done
    examples = core.examples(key=chains.key, chain=1, first_step=done, n_steps=n_steps, n_examples=40)
    v, log_diagonal = first.chains.states[1].copy(), np.zeros(40)
    for step, i in enumerate(examples, 1):
        v[i] -= system.learning_rate * (system.rows[i] @ v)
        if step % 10 == 0 or step == n_steps:
            v, r = np.linalg.qr(v)
            log_diagonal += np.log(np.abs(r.diagonal()))
    recorded = chains.records.log_growth[1, first.chains.n_batches :].sum(axis=0)
    np.testing.assert_allclose(recorded[:10], log_diagonal[:10], atol=1e-6)
    np.testing.assert_allclose(recorded.sum(), log_diagonal.sum(), atol=1e-6)


def test_same_bits_whatever_the_threads_and_rounds():
    system = sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.473)
    reference = spectrum(system, 4e5, n_threads=1)
    for other in (spectrum(system, 4e5, n_threads=2), spectrum(system, 4e5, resume=spectrum(system, 2e5))):
        np.testing.assert_array_equal(other.exponents, reference.exponents)


def test_tolerances_are_for_the_exponents_asked_for():
    system = sf.LinearizedSGD(K4, 0.3)
    every, first, last = (
        sf.lyapunov_spectrum(system, rtol=0.02, tolerance_for=asked, rng=1) for asked in (None, 1, [3])
    )
    assert [every.converged, first.converged, last.converged] == [True] * 3
    assert (every.standard_errors <= 0.02 * np.abs(every.exponents)).all()
    assert first.standard_errors[0] <= 0.02 * abs(first.exponents[0])
    assert last.standard_errors[3] <= 0.02 * abs(last.exponents[3])
    assert max(first.n_steps, last.n_steps) <= every.n_steps
    absolute = sf.lyapunov_spectrum(system, rtol=0, atol=1e-3, tolerance_for=[0], rng=1)
    assert absolute.stopped_by == "atol"
    for wrong in (0, 5, [4], [-1]):
        with pytest.raises(ValueError, match="tolerance_for must be in"):
            sf.lyapunov_spectrum(system, tolerance_for=wrong)
    with pytest.raises(ValueError, match="tolerance_for must name an exponent"):
        sf.lyapunov_spectrum(system, tolerance_for=[])


def test_what_falls_short_says_what_to_do():
    with pytest.warns(sf.AccuracyWarning, match=r"raise max_steps, or ask for less \(k, tolerance_for, rtol or atol\)"):
        result = sf.lyapunov_spectrum(sf.LinearizedSGD(K4, 0.425), rtol=1e-4, max_steps=20_000, rng=1)
    assert not result.converged


def test_intervals_are_those_of_each_exponents_degrees_of_freedom():
    result = spectrum(sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.473), 1e5, k=3)
    assert result.degrees_of_freedom.shape == (3,)
    assert "(95%)" in repr(result)
    half_width = result.confidence_interval()[1] - result.exponents
    assert (half_width >= 1.95 * result.standard_errors).all()


def test_a_sum_rule_that_cannot_be_checked_is_none():
    assert spectrum(sf.LinearizedSGD([[1, 0.3], [0.3, 1]], 1.0), 1e4).sum_rule_error is None


@pytest.mark.parametrize("rank", [80, 60])
@pytest.mark.parametrize("rate", [1e-4, 1e-2])
def test_a_few_slow_directions_of_many(rank, rate, monkeypatch):
    monkeypatch.setattr("sgdstab_fast.systems.rows.LARGEST_EIGENDECOMPOSITION", 20)
    features = np.random.default_rng(rank).normal(size=(80, rank)) * np.linspace(1, 2, rank)
    make = sf.LinearizedSGD if rank == 80 else sf.LinearizedSGD.from_factor
    system = make(features @ features.T if rank == 80 else features, rate)
    square = system.rows if rank == 80 else system.rows.T @ system.rows
    shrinkage = np.sort(np.abs(1 - rate / 80 * np.linalg.eigvalsh(square)))[::-1]
    for few, expected in ((system.slow_directions(3), shrinkage[:3]), (system.fast_directions(1), None)):
        curvatures = np.einsum("ij,ij->j", few, square @ few)
        if expected is None:
            np.testing.assert_allclose(curvatures, np.linalg.eigvalsh(square)[-1:])
        else:
            np.testing.assert_allclose(np.abs(1 - rate / 80 * curvatures), expected, rtol=1e-9)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_outside_the_dimension_is_a_value_error(k):
    with pytest.raises(ValueError, match=rf"k must be in 1..4, not {k}"):
        sf.lyapunov_spectrum(sf.LinearizedSGD(K4, 0.3), k)


def test_other_bad_options():
    system = sf.LinearizedSGD(K4, 0.3)
    with pytest.raises(TypeError, match="k must be an integer"):
        sf.lyapunov_spectrum(system, 2.5)
    with pytest.raises(ValueError, match="max_steps must be at least"):
        sf.lyapunov_spectrum(system, max_steps=0)
    with pytest.raises(TypeError, match="system must be"):
        sf.lyapunov_spectrum(K4)


def test_small_learning_rates_and_bad_conditions_have_honest_errors():
    # eta -> 0: exponent j is -eta kappa_j / N, and frames started there have not mixed by far
    features = np.random.default_rng(6).normal(size=(6, 6))
    gram = features @ features.T / 6
    expected = -1e-6 / 6 * np.linalg.eigvalsh(gram)
    errors = []
    for seed in range(10):
        result = sf.lyapunov_spectrum(sf.LinearizedSGD(gram, 1e-6), rng=seed)
        # that is good to a factor 1 + O(eta kappa)
        errors.append(((result.exponents - expected) / np.hypot(result.standard_errors, 1e-6 * expected))[1:])
    assert np.abs(np.mean(errors, axis=0)).max() < 4 / np.sqrt(10)
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    eigenvalues = np.logspace(0, -12, 8)
    gram = (orthogonal * eigenvalues) @ orthogonal.T
    result = sf.lyapunov_spectrum(sf.LinearizedSGD((gram + gram.T) / 2, 1e-9), tolerance_for=[7], rng=1)
    assert abs(result.exponents[-1] / -1.25e-10 - 1) < 0.03


def test_nearly_separate_blocks_have_honest_errors():
    features = np.random.default_rng(1).normal(size=(4, 4))
    gram = np.kron(np.eye(2), features @ features.T / 4)
    gram[0, 4] = gram[4, 0] = 1e-6
    errors = []
    for seed in range(10):
        result = sf.lyapunov_spectrum(sf.LinearizedSGD(gram, 1.0), rng=seed)
        # of a run of 1e9 steps
        errors.append((result.exponents[:2] - [-0.0035227, -0.0035295]) / result.standard_errors[:2])
    assert np.abs(np.mean(errors, axis=0)).max() < 2


@pytest.mark.parametrize(
    "system",
    [sf.LinearizedSGD([[4.0]], 0.25), sf.LinearizedSGD(np.eye(3), 1.0), sf.MatrixEnsemble([[[0, 1], [0, 0]]])],
    ids=["one example", "three examples", "nilpotent"],
)
def test_what_annihilates_everything_has_exponents_of_minus_infinity(system):
    for method in ("anchored", "average"):
        found = sf.lyapunov_spectrum(system, method=method, rng=1)
        assert np.isneginf(found.exponents).all()
        assert found.converged


def found_more_at_first(monkeypatch, until):
    """Have checks of the largest exponent find more, as long as they take few steps."""
    own = estimator.estimate_exponent

    def more(system, options, *args, **keywords):
        found = own(system, options, *args, **keywords)
        return dataclasses.replace(found, exponent=found.exponent + (options.budget.max_steps < until))

    monkeypatch.setattr(estimator, "estimate_exponent", more)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_what_is_cut_after_a_check_that_found_more_goes_on_to_the_same_bits(share, monkeypatch, tmp_path):
    found_more_at_first(monkeypatch, until=10_000)

    def call(**how):
        return sf.lyapunov_spectrum(PLAIN, rtol=3e-2, max_steps=10**7, **how)

    seen, whole = [], call(rng=1)
    call(rng=1, progress=seen.append)
    numbers = itertools.count(1)

    def press(_):
        if next(numbers) == max(int(share * len(seen)), 1):
            raise KeyboardInterrupt

    with pytest.raises(sf.Interrupted) as caught:
        call(rng=1, progress=press, checkpoint=tmp_path / "run.npz", checkpoint_every=0)
    partial = caught.value.result
    assert partial.stopped_by == "interrupt"
    assert bits(call(resume=tmp_path / "run.npz")) == bits(whole)
    assert bits(call(resume=partial)) == bits(whole)


def test_an_interrupt_is_kept_where_the_sum_rule_fails(monkeypatch):
    monkeypatch.setattr(estimator, "_SUM_RULE", -1.0)

    def press(progress):
        if progress.n_steps > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(sf.Interrupted) as caught, pytest.warns(sf.AccuracyWarning, match="sum rule"):
        sf.lyapunov_spectrum(PLAIN, rtol=0, max_steps=10**9, rng=1, progress=press)
    assert caught.value.result.stopped_by == "interrupt"
