"""The projective chain of systems beyond single examples: the same law in other words, closed forms, enumeration."""

import math
import warnings
from functools import cache

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, T1, T1_EXPONENT, T1_VARIANCE
from reference.laws import law
from reference.statistics import assert_within
from sgdstab_fast.directions.eigenfunction import eigenfunction
from sgdstab_fast.directions.lyapunov_function import lyapunov_function

# Of epochs of two steps; sigma^2 per step.
T1_EPOCH = {"exponent": -0.1651314194146025, "variance": 2.13062e-05}
POLLICOTT = [[[2, 1], [1, 1]], [[3, 1], [2, 1]]]
POLLICOTT_EXPONENT = 1.14331103510294924584
FIBONACCI = [[[0, 1], [1, 1]], [[0, 1], [1, -1]]]
FIBONACCI_EXPONENT = math.log(1.1319882487943)
UNMIXED = pytest.mark.filterwarnings("ignore:the chain does not mix:sgdstab_fast.AccuracyWarning")
SHORT = pytest.mark.filterwarnings("ignore:max_steps=:sgdstab_fast.AccuracyWarning")
SGD = {
    "groups": {"groups": [0, 1, 0, 2]},
    "probabilities": {"probabilities": [0.1, 0.2, 0.3, 0.4]},
    "groups and probabilities": {"groups": [0, 1, 1, 0], "probabilities": [0.3, 0.7], "step_scaling": "equal"},
    "heavy ball": {"momentum": 0.5},
    "nesterov": {"momentum": 0.5, "nesterov": True, "groups": [0, 1, 0, 2]},
    "two": {"batch_size": 2},
    "heavy ball of two": {"batch_size": 2, "momentum": 0.5},
    "with replacement": {"batch_size": 2, "sampling": "with_replacement"},
    "epoch": {"batch_size": 3, "sampling": "epoch"},
    "epoch with momentum": {"sampling": "epoch", "momentum": 0.3},
}


def chain_of(system, **options):
    return sf.projective_chain(system, **{"rng": 1, "n_threads": 1, "n_chains": 16, **options})


def ensemble_of(gram, learning_rate):
    n = len(gram)
    return sf.MatrixEnsemble([np.eye(n) - learning_rate * np.outer(row, gram[i]) for i, row in enumerate(np.eye(n))])


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def block_diagonal(first, second):
    zero = np.zeros((len(first), len(second)))
    return np.block([[np.asarray(first), zero], [zero.T, np.asarray(second)]])


@cache
def of_sgd(name):
    """The chain of a law on K4."""
    return chain_of(sf.LinearizedSGD(K4, 0.7, **SGD[name]))


def assert_same(chain, other):
    """Both agree in what does not depend on coordinates."""
    assert_within(chain.exponent, chain.standard_error, other.exponent, other.standard_error)
    rates = chain.contraction_rate_standard_error, other.contraction_rate, other.contraction_rate_standard_error
    assert_within(chain.contraction_rate, *rates)
    assert_within(*clt(chain), *clt(other))


def clt(chain):
    return chain.clt_variance, chain.clt_variance_standard_error


# Matrix ensembles


@pytest.mark.parametrize(("gram", "learning_rate"), [(T1, 0.5), (K4, 0.8)], ids=["t1", "k4"])
def test_plain_sgd_as_an_ensemble(gram, learning_rate):
    system = sf.LinearizedSGD(gram, learning_rate)
    chain = chain_of(ensemble_of(gram, learning_rate))
    assert_same(chain, chain_of(system, rng=2))
    assert chain.exponent_by_example.sum() == pytest.approx(chain.exponent, abs=1e-15)
    assert chain.regularity is None
    assert chain.participation.size == 0
    assert "not examples" in chain.without_shares
    for route in ("autocovariances", "batch means"):
        assert_within(*chain.clt_variance_by(route), *clt(chain), n_errors=5)


def test_t1_is_known():
    chain = chain_of(ensemble_of(T1, 0.5), rtol=5e-3)
    assert_within(chain.exponent, chain.standard_error, T1_EXPONENT)
    rate = -math.log(2) - 2 * T1_EXPONENT
    assert_within(chain.contraction_rate, chain.contraction_rate_standard_error, rate)
    assert_within(*clt(chain), T1_VARIANCE)
    assert chain.clt_variance_standard_error < 2 * T1_VARIANCE


def test_pollicott_s_pair_is_known():
    chain = chain_of(sf.MatrixEnsemble(POLLICOTT))
    assert_within(chain.exponent, chain.standard_error, POLLICOTT_EXPONENT)
    # |det| is 1
    assert chain.contraction_rate == pytest.approx(-2 * chain.exponent, abs=1e-12)
    assert 0 < chain.mixing_time < 10
    assert_within(*clt(chain), *chain.clt_variance_by("moments"))
    distribution = chain.finite_time_distribution(30, n_samples=2048)
    error = math.sqrt(distribution.variance / distribution.exponents.size)
    assert_within(distribution.mean, error, POLLICOTT_EXPONENT)


def test_random_fibonacci_numbers():
    chain = chain_of(sf.MatrixEnsemble(FIBONACCI), rtol=2e-3)
    assert_within(chain.exponent, chain.standard_error, FIBONACCI_EXPONENT)
    assert chain.contraction_rate == pytest.approx(-2 * chain.exponent, abs=1e-12)
    contraction = chain.holder_contraction([0.01], 20)
    assert_within(contraction.rates[0] / 0.01, contraction.standard_errors[0] / 0.01, chain.contraction_rate, 0.002)


def test_parts_by_matrix_are_those_of_their_directions():
    # Of projections on two lines both parts are known: log abs cos of the angle, every other time.
    lines = np.array([[1, 0], [0.6, 0.8]])
    chain = chain_of(sf.MatrixEnsemble([np.outer(line, line) for line in lines], [0.25, 0.75]))
    joint = 0.25 * 0.75 * math.log(0.6)
    assert_within(chain.exponent, chain.standard_error, 2 * joint)
    for part, error in zip(chain.exponent_by_example, chain.exponent_by_example_standard_error, strict=True):
        assert_within(part, error, joint)
    assert chain.contraction_rate == -math.inf
    assert "matrix" in chain.to_dict()
    assert chain.sample(7).shape == (7, 2)
    np.testing.assert_allclose(np.linalg.norm(chain.sample(7), axis=1), 1)


@pytest.mark.parametrize(
    ("matrices", "reason"),
    [
        ([rotation(1.0), 2 * rotation(0.3)], "turn and scale"),
        ([rotation(1.0)], "powers of one matrix"),
        ([[[0, 2], [2, 0]], [[1, 0], [0, -1]]], "turn and scale"),
    ],
    ids=["two rotations", "one", "reflections"],
)
def test_what_brings_no_directions_closer_is_said(matrices, reason):
    with pytest.warns(sf.AccuracyWarning, match=reason):
        chain = chain_of(sf.MatrixEnsemble(matrices))
    logs = np.log(np.abs(np.linalg.det(matrices))) / 2
    assert chain.exponent == pytest.approx(logs.mean(), abs=1e-13)
    assert chain.contraction_rate == pytest.approx(0, abs=1e-13)
    assert chain.clt_variance == pytest.approx(logs.var(), abs=1e-12)
    assert not chain.mixed
    assert chain.mixing_time == math.inf


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_powers_of_a_shear_have_the_exponent_zero():
    """[[1, 1], [0, 1]]^n grows as n: chains alone would take it for a small exponent."""
    chain = chain_of(sf.MatrixEnsemble([[[1, 1], [0, 1]]]))
    assert chain.exponent == pytest.approx(0, abs=1e-13)
    assert chain.exponent_by_example.sum() == pytest.approx(0, abs=1e-13)
    assert not chain.mixed


def test_powers_of_one_matrix():
    chain = chain_of(sf.MatrixEnsemble(POLLICOTT[:1]))
    golden = math.log((3 + math.sqrt(5)) / 2)
    assert chain.exponent == pytest.approx(golden, rel=1e-12)
    assert chain.contraction_rate == pytest.approx(-2 * golden, rel=1e-12)
    assert chain.clt_variance == 0
    with pytest.warns(sf.AccuracyWarning, match="all one"):
        assert chain.mixing_time == math.inf


def test_annihilation_leaves_no_direction():
    with pytest.warns(sf.AccuracyWarning, match="annihilate"):
        chain = chain_of(sf.MatrixEnsemble([np.zeros((2, 2)), np.eye(2)]))
    assert chain.exponent == -math.inf
    assert chain.exponent_by_example.shape == (2,)


def test_numbers_have_closed_forms():
    logs, probabilities = np.log([2.0, 0.3, 1.5]), np.array([0.2, 0.3, 0.5])
    with pytest.warns(sf.AccuracyWarning, match="only one direction"):
        chain = chain_of(sf.MatrixEnsemble(np.exp(logs)[:, None, None], probabilities))
    np.testing.assert_allclose(chain.exponent_by_example, probabilities * logs, rtol=1e-14)
    mean = probabilities @ logs
    assert chain.clt_variance == pytest.approx(probabilities @ (logs - mean) ** 2, rel=1e-13)


# SGD


def test_groups_of_one_are_examples():
    chain = chain_of(sf.LinearizedSGD(K4, 0.8, groups=range(4)))
    assert_same(chain, chain_of(sf.LinearizedSGD(K4, 0.8)))
    other = chain_of(sf.LinearizedSGD(K4, 0.8, groups=[3, 1, 0, 2], probabilities=np.full(4, 0.25)), rng=3)
    # in the order in which groups first appear
    for name in ("exponent_by_example", "participation"):
        errors = np.hypot(getattr(chain, f"{name}_standard_error"), getattr(other, f"{name}_standard_error"))
        assert (np.abs(getattr(chain, name) - getattr(other, name)) < 4 * errors).all()


@pytest.mark.parametrize("name", SGD)
def test_agrees_with_simulated_matrices(name):
    chain, truth = of_sgd(name), law(K4, 0.7, **SGD[name])
    exponents, errors = truth.lyapunov(2, n_chains=256, n_matrices=160)
    assert_within(chain.exponent, chain.standard_error, exponents[0], errors[0])
    rate, error = exponents[1] - exponents[0], math.hypot(*errors)
    assert_within(chain.contraction_rate, chain.contraction_rate_standard_error, rate, error)
    assert chain.mixed


@pytest.mark.parametrize("name", ["groups and probabilities", "heavy ball of two", "with replacement", "epoch"])
def test_variance_agrees_with_simulated_matrices(name):
    chain, truth = of_sgd(name), law(K4, 0.7, **SGD[name])
    variance, error = simulated_variance(truth)
    for route in ("autocovariances", "batch means"):
        assert_within(*chain.clt_variance_by(route), variance, error)


def simulated_variance(truth, n_chains=1024, n_blocks=5, length=32):
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((n_chains, truth.matrices.shape[1], 1))
    growth = np.zeros((n_chains, n_blocks + 1))
    for step in range((n_blocks + 1) * length):
        drawn = rng.choice(len(truth.probabilities), n_chains, p=truth.probabilities)
        vectors = truth.matrices[drawn] @ vectors
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= norms
        growth[:, step // length] += np.log(norms[:, 0, 0])
    # Twice a span less the span: what the ends add cancels.
    short = growth[:, 1:].var(axis=0, ddof=1).mean()
    total = growth[:, 1:].sum(axis=1)
    long = total.var(ddof=1)
    value = (long - short) / ((n_blocks - 1) * length * truth.steps)
    return value, 1.2 * math.sqrt(2 / n_chains) * value


@pytest.mark.parametrize("name", SGD)
def test_next_steps_are_those_of_the_matrices(name):
    system = sf.LinearizedSGD(K4, 0.7, **SGD[name])
    following, outcomes = system.next_steps(), system.outcomes()
    assert following.n_steps == outcomes.n_steps
    np.testing.assert_allclose(following.weights / len(following.weights), outcomes.probabilities, rtol=1e-13)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6, system.dimension))
    root = rng.standard_normal((system.dimension, system.dimension))
    images = np.einsum("iab,nb->nia", outcomes.matrices, vectors)
    ours, in_metric = following.growth(vectors, [None, root.T @ root])
    lengths = system.lengths(images.reshape(-1, system.dimension)).reshape(images.shape[:2])
    expected = np.log(lengths / system.lengths(vectors)[:, None])
    np.testing.assert_allclose(ours.log_growth, expected, atol=1e-12)
    expected = np.log(np.linalg.norm(images @ root.T, axis=2) / np.linalg.norm(vectors @ root.T, axis=1)[:, None])
    np.testing.assert_allclose(in_metric.log_growth, expected, atol=1e-11)


@pytest.mark.parametrize("name", SGD)
def test_what_is_defined(name):
    chain, options = of_sgd(name), SGD[name]
    system = chain.system
    single = options.get("batch_size", 1) == 1 and "sampling" not in options
    assert (chain.without_parts == "") == single
    assert chain.exponent_by_example.shape == ((system.n_examples if single else 0),)
    if single:
        assert chain.exponent_by_example.sum() == pytest.approx(chain.exponent, abs=1e-14)
    assert (chain.without_shares == "") == ("momentum" not in options)
    if "momentum" not in options:
        assert chain.participation.shape == (system.n_examples,)
        assert chain.participation.sum() == pytest.approx(1, abs=1e-12)
    assert chain.regularity is None
    samples = chain.sample(10)
    np.testing.assert_allclose(system.lengths(samples), 1, rtol=1e-12)
    assert len({len(column) for column in chain.to_dict().values()}) == 1


@pytest.mark.parametrize("name", ["groups", "heavy ball of two", "epoch"])
def test_what_follows_from_the_chain(name):
    chain = of_sgd(name)
    grain = chain.system.grain
    distribution = chain.finite_time_distribution(20 * grain, n_samples=2048)
    spread = math.sqrt(chain.clt_variance / (20 * grain * 2048))
    assert_within(distribution.mean, spread, chain.exponent, chain.standard_error, n_errors=5)
    contraction = chain.holder_contraction([0.01, 0.5], 20 * grain, n_pairs=4096)
    error = contraction.standard_errors[0] / 0.01
    assert_within(contraction.rates[0] / 0.01, error, chain.contraction_rate, 0.01)
    assert 0 < chain.mixing_time < math.inf
    if grain > 1:
        with pytest.raises(ValueError, match="multiple of the 2 steps of an epoch, not 5"):
            chain.finite_time_distribution(5)
        with pytest.raises(ValueError, match="multiple of the 2 steps of an epoch, not 5"):
            chain.holder_contraction(0.5, 5)


@SHORT
def test_t1_by_epochs_is_known():
    chain = chain_of(sf.LinearizedSGD(T1, 0.5, sampling="epoch"), rtol=0, max_steps=1_000_000)
    assert_within(chain.exponent, chain.standard_error, T1_EPOCH["exponent"])
    for route in ("autocovariances", "batch means"):
        assert_within(*chain.clt_variance_by(route), T1_EPOCH["variance"], 1e-9)
    assert chain.clt_variance_standard_error < 2 * T1_EPOCH["variance"]


@UNMIXED
@pytest.mark.parametrize(
    ("options", "form"),
    [({"batch_size": 2}, "gram"), ({"momentum": 0.5}, "factor"), ({"sampling": "epoch"}, "gram")],
    ids=["two", "heavy ball", "epoch"],
)
def test_of_blocks_it_is_that_of_the_fastest(options, form):
    gram = block_diagonal(2 * T1, K4)
    make = sf.LinearizedSGD
    if form == "factor":
        gram, make = np.linalg.cholesky(gram), sf.LinearizedSGD.from_factor
    system = make(gram, 0.8, **options)
    chain = chain_of(system)
    exponents, errors = law(block_diagonal(2 * T1, K4), 0.8, **options).lyapunov(n_chains=256, n_matrices=200)
    assert_within(chain.exponent, chain.standard_error, exponents[0], errors[0])
    assert "2 components" in chain.reason
    assert not chain.mixed
    directions = system.directions(chain.sample(20)) @ np.kron(np.eye(system.recurrence.levels), basis(system))
    assert np.abs(directions.reshape(20, -1, 6)[:, :, :2]).max() < 1e-10


def basis(system):
    """Columns that are orthogonal and belong to one example each, up to blocks."""
    return np.linalg.qr(system.gradients().T)[0] if system.coordinates == "gram" else np.eye(6)


@pytest.mark.parametrize("sampling", ["iid", "cyclic"])
def test_the_same_step_over_and_over(sampling):
    batch_size = 4 if sampling == "iid" else 2
    chain = chain_of(sf.LinearizedSGD(K4, 0.2, batch_size, sampling=sampling))
    matrix, steps = law(K4, 0.2, batch_size, sampling=sampling).matrices[0], 4 // batch_size
    sizes = np.log(np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1]) / steps
    assert chain.exponent == pytest.approx(sizes[0], rel=1e-10)
    assert chain.contraction_rate == pytest.approx(sizes[1] - sizes[0], rel=1e-10)
    assert chain.clt_variance == 0


def test_one_direction_with_too_many_batches_to_go_through():
    features = np.linspace(0.2, 2, 40)[:, None]
    with pytest.warns(sf.AccuracyWarning, match="only one direction"):
        chain = chain_of(sf.LinearizedSGD.from_factor(features, 0.3, 8))
    rng = np.random.default_rng(0)
    batches = np.array([rng.permutation(40)[:8] for _ in range(20_000)])
    logs = np.log(np.abs(1 - 0.3 * np.square(features[batches, 0]).mean(axis=1)))
    assert_within(chain.exponent, chain.standard_error, logs.mean(), logs.std() / math.sqrt(len(logs)))
    assert_within(*clt(chain), logs.var(), 0.02 * logs.var())
    assert chain.exponent_by_example.size == 0
    assert chain.participation.shape == (40,)


def test_bits_depend_on_the_seed_alone():
    for name in ("heavy ball of two", "epoch"):
        found = chain_of(sf.LinearizedSGD(K4, 0.7, **SGD[name]), n_threads=3)
        assert (found.exponent, found.variances) == (of_sgd(name).exponent, of_sgd(name).variances)
        assert found.sample(20).tolist() == of_sgd(name).sample(20).tolist()


# What is about single examples


@pytest.mark.parametrize("what", [sf.regularity, lambda system: eigenfunction(system, 1), lyapunov_function])
@pytest.mark.parametrize("system", [sf.LinearizedSGD(K4, 0.7, 2), sf.MatrixEnsemble(POLLICOTT)], ids=["batches", "set"])
def test_what_is_about_single_examples_says_so(what, system):
    with pytest.raises(ValueError, match="SGD on single examples"):
        what(system)


def test_too_many_batches_for_autocovariances():
    features = np.random.default_rng(0).standard_normal((24, 3))
    chain = chain_of(sf.LinearizedSGD.from_factor(features, 0.5, 8), rtol=0.1)
    with pytest.raises(ValueError, match="too many batches"):
        chain.clt_variance_by("autocovariances")
    assert chain.clt_variance == chain.clt_variance_by("batch means").value


def test_epochs_take_longer_runs():
    with pytest.raises(ValueError, match=r"max_steps must be at least 6400 \* n_chains \(102400\), not 100000"):
        chain_of(sf.LinearizedSGD(np.eye(100), 0.5, sampling="epoch"), max_steps=100_000)


# Plots


@pytest.mark.parametrize("name", ["groups", "heavy ball", "two", "heavy ball of two"])
def test_plots_leave_out_what_is_not_defined(name):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    found = of_sgd(name).plot()
    both = name == "groups"
    assert isinstance(found, tuple) == both
    for ax in found if both else (found,):
        ax.figure.canvas.draw()
    if name == "heavy ball of two":
        assert "momentum" in found.texts[0].get_text()
    pyplot.close("all")


@pytest.mark.parametrize("probability", [1e-3, 1e-4, 1e-6])
def test_what_rare_matrices_may_do_is_allowed_for(probability):
    """The leading axis becomes the other one: lambda is log(2) / 3 or so, and no chain knows it."""
    system = sf.MatrixEnsemble([np.diag([2, 0.5]), [[0, 1], [1, 0.5]]], [1 - probability, probability])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain = sf.projective_chain(system, max_steps=5e5, rng=1, n_threads=1)
    assert caught
    assert not chain.converged
    assert abs(chain.exponent - math.log(2) / 3) < 2 * chain.standard_error


@pytest.mark.parametrize("probability", [1e-3, 1e-5, 1e-7])
def test_rare_turns_are_known_from_their_probability(probability):
    turn = [[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]]
    system = sf.MatrixEnsemble([np.diag([2, 0.5]), turn], [1 - probability, probability])
    chain = sf.projective_chain(system, max_steps=5e5, rng=1, n_threads=1)
    expected = math.log(2) + probability * math.log(math.cos(1.0) / 2)
    assert abs(chain.exponent - expected) < 3 * chain.standard_error
    assert chain.standard_error < 3 * probability
