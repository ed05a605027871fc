"""Systems on which estimates have been, or could be, confident and wrong: nearly all have two scales of time.

A case is a system, how it is asked, and a truth with how far it may be off. A confident answer holds the truth in its
interval of LEVEL; one that is not confident has warned, and says what to do. `answered` marks the cases that are to be
answered with confidence as they are asked.
"""

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, SLOW_KERNELS, T1, T1_EXPONENTS
from reference.statistics import assert_within

# Of two-sided intervals; seeds are fixed, and a false alarm would be one of 10 000.
LEVEL = 0.9999


@dataclass(frozen=True)
class Case:
    """What is asked of a system, and the truth."""

    name: str
    system: Any
    """A system, or a function that makes it: what takes time to set up waits for its test."""
    truth: Any
    """The number, or numbers, that the estimate is of."""
    off: float = 1e-12
    """How far the truth may be off."""
    options: dict[str, Any] = field(default_factory=dict)
    answered: bool = False
    """Whether the answer has to be confident."""
    seeds: tuple[int, ...] = (1, 2, 3)

    def __str__(self):
        return self.name

    def of(self, estimator, *arguments):
        """Results of all seeds, each with what it warned of."""
        system = self.system() if callable(self.system) else self.system
        for seed in self.seeds:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = estimator(system, *arguments, rng=seed, n_threads=1, **self.options)
            assert {warning.category for warning in caught} <= {sf.AccuracyWarning}
            yield result, caught

    def check(self, result, caught, confident):
        """Whether an answer is right, or humble."""
        if not confident:
            assert caught, f"neither confident nor a warning: {result!r}"
            assert not self.answered, f"not answered: {result!r}"
            return
        low, high = map(np.asarray, result.confidence_interval(LEVEL))
        truth = np.asarray(self.truth)
        assert (low - self.off <= truth).all(), f"{truth} is not in {low}, {high}: {result!r}"
        assert (truth <= high + self.off).all(), f"{truth} is not in {low}, {high}: {result!r}"


def cases(*found):
    return pytest.mark.parametrize("case", found, ids=str)


def two_blocks(second, coupling, learning_rate, **options):
    """K4 and `second` on the diagonal, coupled by one entry."""
    gram = np.zeros((4 + len(second), 4 + len(second)))
    gram[:4, :4], gram[4:, 4:] = K4, second
    gram[0, 4] = gram[4, 0] = coupling
    return sf.LinearizedSGD(gram, learning_rate, **options)


PAIR = np.array([[1, 0.5], [0.5, 1]])
FEW = {"max_steps": 4_000_000}


def affine(slopes, shifts):
    """x <- a x + b as matrices: lambda = max(0, E log a)."""
    return sf.MatrixEnsemble([[[a, b], [0, 1]] for a in slopes for b in shifts])


def triangular(first, second, corner=1.0):
    """Diagonals e^x and e^y of independent x and y."""
    return sf.MatrixEnsemble([[[math.exp(x), corner], [0, math.exp(y)]] for x in first for y in second])


def nearly_diagonal(coupling):
    """Exponents are 0 without coupling; with it lambda is about s^2 / (2 log 1/c), s^2 that of their difference."""
    matrices = np.array([np.diag(np.exp(logs)) for logs in ([0.5, 0], [-0.5, 0.1], [0.3, -0.4], [-0.3, 0.3])])
    matrices[0, 0, 1] = matrices[1, 1, 0] = coupling
    return sf.MatrixEnsemble(matrices)


def rare(matrix, other, probability):
    return sf.MatrixEnsemble([matrix, other], [1 - probability, probability])


QUARTER_TURN = [[0.0, -1.0], [1.0, 0.0]]
FIBONACCI = sf.MatrixEnsemble([[[0, 1], [1, 1]], [[0, 1], [1, -1]]])
FIBONACCI_EXPONENT = 0.1239755988033  # log 1.1319882487943, OEIS A078416


def turned(angle, system):
    """The ensemble of those matrices, each entry times the turn of a plane by an angle."""
    c, s = math.cos(angle), math.sin(angle)
    return sf.MatrixEnsemble([np.kron(matrix, [[c, -s], [s, c]]) for matrix in system.matrices], system.probabilities)


def in_basis(system, basis):
    return sf.MatrixEnsemble(basis @ system.matrices @ np.linalg.inv(basis), system.probabilities)


def layers(*wave_numbers, thickness=0.37):
    """Waves through layers: determinant 1, in units that may be far apart."""
    return sf.MatrixEnsemble(
        [[[math.cos(x), math.sin(x) / k], [-k * math.sin(x), math.cos(x)]]
         for k in wave_numbers for x in [thickness * k / wave_numbers[0]]]
    )  # fmt: skip


def heavy_rows(seed, n=16, deviation=0.8, step=2.5):
    """Examples whose gradients have lognormal lengths; the largest takes a step of that size."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(n, n)) / math.sqrt(n) * np.exp(deviation * generator.normal(size=(n, 1)))
    gram = features @ features.T
    return sf.LinearizedSGD(gram, step / gram.diagonal().max())


def arccos_kernel(n, seed, ridge=1e-3):
    """Of a wide network of one layer, with a ridge on which many eigenvalues lie close together."""
    points = np.random.default_rng(seed).normal(size=(n, 10))
    points /= np.linalg.norm(points, axis=1)[:, None]
    cosines = np.clip(points @ points.T, -1, 1)
    angles = np.arccos(cosines)
    gram = (np.sin(angles) + (np.pi - angles) * cosines) / np.pi
    return (gram + gram.T) / 2 + ridge * np.eye(n)


def laplace_kernel(n, step=1.2, ridge=1e-3):
    """With hundreds of slow directions that are nearly alike, at a learning rate of that step."""
    points = np.random.default_rng(0).normal(size=(n, 20))
    points /= np.linalg.norm(points, axis=1)[:, None]
    gram = np.exp(-np.sqrt(np.maximum(2 - 2 * points @ points.T, 0)) / 2)
    np.fill_diagonal(gram, 1 + ridge)
    return sf.LinearizedSGD((gram + gram.T) / 2, step / (1 + ridge))


ALIKE = -5.805e-4  # of 400, by 4e8 steps


SKEW = np.array([[1.0, 2.0], [-0.5, 1.5]])
EQUAL = triangular((0.3, -0.3), (0.4, -0.4))
AFFINE = affine([0.1, 5], [-1, 1])
# Between maps onto one direction, k turns by 45 degrees, with probability .1 * .9^k.
COLLAPSING = sf.MatrixEnsemble([[[1, 0.5], [0, 0]], [[0.7, -0.7], [0.7, 0.7]]], [0.1, 0.9])
COLLAPSING_EXPONENT = 0.9 * math.log(0.7 * math.sqrt(2)) + 0.1 * sum(
    0.1 * 0.9**k * math.log(abs(math.cos(k * math.pi / 4) + 0.5 * math.sin(k * math.pi / 4))) for k in range(2000)
)
MOMENTUM = sf.LinearizedSGD.from_factor([[1], [0.6], [0.3]], 0.5, momentum=0.95)
DRIFTING = sf.MatrixEnsemble([np.diag([math.exp(1 - 0.02), 1]), np.diag([math.exp(-1 - 0.02), 1])])


# lambda


@cases(
    Case("random Fibonacci numbers", FIBONACCI, FIBONACCI_EXPONENT, 1e-11, {"rtol": 1e-3}, answered=True),
    Case("affine", AFFINE, 0.0, answered=True),
    Case("affine in another basis", in_basis(affine([0.2, 3], [1, 2]), SKEW), 0.0, answered=True),
    Case("triangular of equal exponents", EQUAL, 0.0, answered=True),
    Case("triangular in another basis", in_basis(EQUAL, SKEW), 0.0, answered=True),
    Case("diagonal of nearly equal exponents", DRIFTING, 0.0, answered=True),
    Case("turns in another basis", in_basis(sf.MatrixEnsemble([np.eye(2) * 2, QUARTER_TURN]), SKEW), math.log(2) / 2,
         answered=True),
    Case("rare quarter turn", rare(np.diag([2, 0.5]), QUARTER_TURN, 1e-6), 0.0, answered=True),
    Case("rare quarter turn of what shrinks", rare(np.diag([2, 0.25]), QUARTER_TURN, 1e-9), -math.log(2) / 2, 1e-9,
         answered=True),
    Case("affine that grows", affine([0.5, 2.1], [-1, 2]), math.log(1.05) / 2, 1e-12, {"rtol": 0.05}, answered=True),
    Case("collapses", COLLAPSING, COLLAPSING_EXPONENT, 1e-12, {"rtol": 1e-3}, answered=True),
    Case("rare swap", rare(np.diag([3.0, 0.5]), [[0, 2], [1, 0]], 1e-9), math.log(1.5) / 2, 1e-9, answered=True),
    Case("rare swap of planes that turn", turned(0.7, rare(np.diag([2.0, 1]), [[0, 1], [1, 0]], 1e-6)),
         math.log(2) / 2, 1e-6, {"max_steps": 1e6}),
    # What an axis becomes is the smallest part for ever, or until it has overtaken: (2 log a + log b) / 3 as p -> 0.
    Case("small parts left by rare matrices", rare(np.diag([2, 0.5]), [[0, 1], [1, 0.5]], 1e-3), math.log(2) / 3, 2e-4,
         answered=True),
    Case("small parts, rarer", rare(np.diag([0.2, 3.0]), [[0.3, 2], [1, 0]], 1e-5), math.log(1.8) / 3, 2e-6,
         {"rtol": 3e-3}, answered=True),
    Case("small parts, units", rare(np.diag([2, 0.5]), [[0, 1e9], [1e-9, 0.5]], 1e-6), math.log(2) / 3, 1e-6,
         answered=True),
    Case("affine, averaged", affine([0.1, 5], [-1, 1]), 0.0, 1e-12, {"method": "average", "atol": 2e-4}, answered=True),
    Case("coupled by 1e-6", nearly_diagonal(1e-6), 0.007010563478, 1e-11, {"rtol": 0.05}, answered=True),
    Case("coupled by 1e-9", nearly_diagonal(1e-9), 0.00457994331, 1e-10, {"rtol": 0.05}, answered=True),
    Case("coupled by 1e-12", nearly_diagonal(1e-12), 0.00340084, 2e-8, {"rtol": 0.05}, answered=True),
    Case("rare swap of planes that shrink", turned(0.7, rare(np.diag([1.2, 0.6]), [[0, 1], [1, 0]], 1e-6)),
         math.log(0.72) / 2, 1e-6, {"max_steps": 1e6}),
    Case("coupled by 1e-14", nearly_diagonal(1e-14), 0.0029070, 4e-5, {"rtol": 0.05}, answered=True, seeds=(1,)),
    Case("two blocks", two_blocks(0.0038562462 * PAIR, 1.24e-10, 0.425), -1.36604e-4, 2e-8, {"rtol": 0.1},
         answered=True),
    Case("two blocks, coupled more", two_blocks(0.0038562462 * PAIR, 1.24e-7, 0.425), -1.36603e-4, 2e-8, {"rtol": 0.1},
         answered=True),
    Case("two blocks at half the rate", two_blocks(0.0019281231 * PAIR, 1e-3, 0.425), -6.8172e-5, 7e-8, {"rtol": 0.03},
         answered=True, seeds=(1, 2)),
    Case("two blocks, averaged", two_blocks(0.0038562462 * PAIR, 1.24e-10, 0.425), -1.36606e-4, 1e-9,
         {"method": "average", "rtol": 0.1, "max_steps": 1e7}, answered=True),
    # Started as the slowest direction, they gain length for as long as they spread over the others.
    Case("slow directions alike", lambda: laplace_kernel(400), ALIKE, 4e-7, {"rtol": 0.02}, answered=True),
    Case("slow directions alike, averaged", lambda: laplace_kernel(400), ALIKE, 4e-7,
         {"method": "average", "rtol": 0.05}, answered=True),
)  # fmt: skip
def test_exponents(case):
    for result, caught in case.of(sf.lyapunov_exponent):
        case.check(result, caught, result.converged)


# Spectra


@cases(
    Case("random Fibonacci numbers", FIBONACCI, [FIBONACCI_EXPONENT, -FIBONACCI_EXPONENT], 1e-11, {"max_steps": 1e6}),
    Case("affine", AFFINE, [0.0, math.log(0.5) / 2], answered=True),
    Case("triangular of equal exponents", in_basis(EQUAL, SKEW), [0.0, 0.0], answered=True),
    Case("momentum in one direction", MOMENTUM, [-0.004238952686, -0.047054341702], 1e-11, {"rtol": 0.05},
         answered=True),
    # Of runs of 1e8 steps; the fast direction is the first.
    Case("heavy rows", heavy_rows(0), [2.2957506e-2, -3.5161e-7, -4.6283e-6, -1.05306e-5, -6.0320e-5], 3e-9,
         {"k": 5, "rtol": 0.05}, answered=True),
    Case("other heavy rows", heavy_rows(2), [1.10828e-2, -2.15542e-5, -8.5844e-5, -1.38307e-4, -2.89387e-4], 6e-8,
         {"k": 5, "rtol": 0.05}, answered=True),
    Case("heavy rows, no time", heavy_rows(2), [1.10828e-2, -2.15542e-5, -8.5844e-5, -1.38307e-4, -2.89387e-4], 6e-8,
         {"k": 5, "rtol": 0.05, "max_steps": 20_000}),
)  # fmt: skip
def test_spectra(case):
    for result, caught in case.of(sf.lyapunov_spectrum):
        case.check(result, caught, result.converged)


# At small learning rates exponents are -eta kappa_j / N.


def test_slow_directions_of_many_examples():
    gram, rate = arccos_kernel(1100, 3), 1e-4
    result = sf.lyapunov_spectrum(sf.LinearizedSGD(gram, rate), 3, rtol=0.1, rng=1, n_threads=1)
    expected = -rate / 1100 * np.linalg.eigvalsh(gram)[:3]
    assert result.converged
    assert (np.abs(result.exponents / expected - 1) < 0.35).all()


def test_spectra_of_examples_that_differ_by_orders_of_magnitude():
    generator = np.random.default_rng(1)
    features = generator.normal(size=(12, 12))
    features *= (np.logspace(0, -3, 12) / np.linalg.norm(features, axis=1))[:, None]
    result = sf.lyapunov_spectrum(sf.LinearizedSGD.from_factor(features, 1e-3), rng=1, n_threads=1)
    expected = -1e-3 / 12 * np.linalg.svd(features, compute_uv=False)[::-1] ** 2
    np.testing.assert_allclose(result.exponents, expected, rtol=1e-2)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e10])
def test_units_of_coordinates_change_no_exponent(unit):
    result = sf.lyapunov_spectrum(layers(unit, 1.7 * unit), rtol=0.02, rng=1, n_threads=1)
    expected = sf.lyapunov_exponent(layers(1.0, 1.7), rtol=1e-3, rng=1, n_threads=1)
    assert_within(result.exponents[0], result.standard_errors[0], expected.exponent, expected.standard_error)
    assert abs(result.exponents.sum()) < 1e-12
    assert layers(unit, 1.7 * unit).sum_of_exponents == pytest.approx(0, abs=1e-13)


# Verdicts: +1, -1, or 0 where nothing is to be found


@cases(
    Case("reflections", sf.LinearizedSGD(PAIR, 2.0), 0, options={"max_steps": 1e6}),
    Case("affine", AFFINE, 0),
    Case("diagonal of nearly equal exponents", DRIFTING, 0),
    Case("triangular of equal exponents", EQUAL, 0),
    Case("rare quarter turn", rare(np.diag([2, 0.5]), QUARTER_TURN, 1e-6), 0),
    Case("rare quarter turn of what shrinks", rare(np.diag([2, 0.25]), QUARTER_TURN, 1e-6), -1),
    Case("two blocks", two_blocks(0.0038562462 * PAIR, 1.24e-10, 0.425), -1, options={"max_steps": 1e7}),
    Case("K4 below the edge", sf.LinearizedSGD(K4, 0.424), -1),
    Case("K4 above the edge", sf.LinearizedSGD(K4, 0.43), 1),
)
def test_verdicts(case):
    for result, _ in case.of(sf.stability):
        said = {"stable": -1, "undecided": 0, "unstable": 1}[result.verdict]
        assert said in (0, case.truth), repr(result)


# Certificates: what they say without a step, and what a run may say beside them


def slow_groups(share, n=120, smallest=1e-8, seed=4):
    """Groups of ten rows, directions from 1 to almost 0; steps on examples as long as a share of what is stable."""
    vectors = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    features = vectors * np.sqrt(np.geomspace(1, smallest, n))
    longest = max(np.linalg.norm(unit, 2) ** 2 for unit in features.reshape(-1, 10, n))
    return sf.LinearizedSGD.from_factor(features, 2 * share / longest, groups=np.arange(n) // 10)


@pytest.mark.parametrize("share", [0.9, 0.99999, 1.05, 1.3])
@pytest.mark.parametrize("smallest", [1e-5, 1e-10])
def test_certificates(share, smallest):
    system = slow_groups(share, smallest=smallest)
    result = sf.stability(system)
    assert (result.verdict, result.lyapunov) == ("stable", None)
    assert result.bounds[1] <= 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)
        asked = sf.stability(system, exponent=True, max_steps=20_000, rng=1, n_threads=1)
    assert (asked.verdict, asked.certificate) == ("stable", result.certificate)
    assert asked.lyapunov.exponent <= asked.bounds[1] < 0
    assert asked.lyapunov.confidence_interval(LEVEL)[1] <= asked.bounds[1]


# Moments: truths at orders


@cases(
    Case("T1", sf.LinearizedSGD(T1, 0.5), {p: T1_EXPONENTS[p] for p in (-1, 1, 3)}, 1e-12, {"method": "population"}),
    # Of K4 alone, by 2e7 steps: the faster block carries moments beyond p = 2 that the second moment knows nothing of.
    Case("two blocks", two_blocks(0.02 * PAIR, 1e-6, 0.42), {3: 3.7785e-3}, 2e-6, seeds=(1, 2)),
    Case("two blocks, coupled more", two_blocks(0.01 * PAIR, 1e-3, 0.42), {2.5: 1.0692e-3}, 2e-6, seeds=(3,)),
    Case("two blocks, slow carry it", two_blocks(0.02 * PAIR, 1e-7, 0.425), {0.1: -7.0904e-5}, 1e-9, seeds=(1, 2)),
    Case("two blocks, fast carry it", two_blocks(0.005 * PAIR, 1e-7, 0.43), {5: 7.9030e-2}, 5e-6, seeds=(1, 2)),
    # Of K4 alone: Lambda(0), (2), .. (8), exact, and the polynomial through them.
    Case("kinds, batches", two_blocks(0.02 * PAIR, 1e-6, 0.8167, batch_size=2), {3.5: -3.49e-3}, 1e-5, FEW, seeds=(1,)),
    Case("kinds, momentum", two_blocks(0.02 * PAIR, 1e-6, 0.314, momentum=0.3), {3.8: 1.4e-3}, 1e-4, FEW, seeds=(1,)),
    Case("affine", affine([0.1, 5], [1, 2]), {-0.5: 0.0, 1: math.log(2.55)}, answered=True),
    # min over q of log E a^q, which is at q > -0.5
    Case("affine that grows", affine([0.5, 2.1], [-1, 2]), {-0.5: -5.7804e-4}, 1e-8, answered=True),
)
def test_moments(case):
    orders = list(case.truth)
    for result, caught in case.of(sf.moment_exponent, orders):
        assert caught or result.converged, repr(result)
        assert result.converged or not case.answered, repr(result)
        low, high = result.confidence_interval(LEVEL)
        for index, truth in enumerate(case.truth.values()):
            if result.within_tolerance[index]:
                assert low[index] - case.off <= truth <= high[index] + case.off, repr(result)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("coupling", [0.0, 1e-9])
def test_curves_have_kinks_where_another_block_takes_over(coupling):
    """K4 and a fifth example, slow: lambda, its variance and the tail index are of different blocks."""
    slow = 0.002 * 0.424
    system = two_blocks(np.array([[0.002]]), coupling, 0.424)
    result = sf.moment_exponent(system, np.linspace(-0.5, 3, 15), max_steps=3e6, rng=1, n_threads=1)
    assert_within(result.tail_index, result.tail_index_standard_error, 0.688, 4e-3)
    assert_within(result.derivative_at_zero, result.derivative_at_zero_standard_error, math.log1p(-slow) / 5, 1e-12)
    variance = 4 / 25 * math.log1p(-slow) ** 2
    assert_within(result.clt_variance, result.clt_variance_standard_error, variance, 1e-10)


def rate_of(name):
    """The critical rate of a kernel, and four standard errors of it."""
    gram, ratio, error = SLOW_KERNELS[name]
    mean_square = sf.critical_learning_rate(gram, "mean-square").value
    return ratio * mean_square, 4 * error * mean_square


def nearly_decoupled(second, coupling):
    return two_blocks(second, coupling, 0.1).rows_of_k.gram


def without_last(gram):
    """The same without the last example of K4."""
    return np.delete(np.delete(gram, 3, 0), 3, 1)


PAIRS_OF_EXAMPLES = {"batch_size": 2, "rtol": 1e-2}


@cases(
    Case("ratio 1e-5", SLOW_KERNELS["ratio 1e-5"][0], *rate_of("ratio 1e-5"), {"rtol": 1e-2}, True),
    Case("ratio 1e-5, closer", SLOW_KERNELS["ratio 1e-5"][0], *rate_of("ratio 1e-5"), {"rtol": 3e-3}, True, (4,)),
    Case("heavy rows", SLOW_KERNELS["heavy rows"][0], *rate_of("heavy rows"), {"rtol": 5e-3}, True),
    Case("ratio 7e-8", SLOW_KERNELS["ratio 7e-8"][0], *rate_of("ratio 7e-8"), {"rtol": 1e-2}, True, (1, 2)),
    # lambda is -r at 0.4256 and 9e-4 at 0.4283, by 2e8 and 3e7 steps.
    Case("nearly decoupled", nearly_decoupled(0.0038562462 * PAIR, 1e-10), 0.42695, 0.0013, {"rtol": 1e-3}, True),
    Case("and slower", nearly_decoupled(1e-5 * PAIR, 1e-6), 0.4264, 0.0013, {"rtol": 1e-3}, True, (1, 2)),
    # lambda has a bend before its zero, where the slow block ceases to lead. By plain products, to 2e-4.
    Case("slow pair", without_last(nearly_decoupled(0.05 * PAIR, 0.02)), 1.0349, 6e-4, PAIRS_OF_EXAMPLES, True),
    # Bursts are as long as it takes to draw those that are drawn once in 1000 steps. By lines through plain products.
    Case("drawn rarely", without_last(nearly_decoupled(0.05 * PAIR, 0.02)), 0.0056394, 4e-6,
         {"probabilities": [0.4985, 0.4985, 0.001, 0.001, 0.001], "rtol": 1e-2}, True, (1, 2, 3, 15)),
    Case("slower pair", without_last(nearly_decoupled(0.02 * PAIR, 0.01)), 1.0347, 6e-4, PAIRS_OF_EXAMPLES, True),
)  # fmt: skip
def test_critical_rates_of_slow_directions(case):
    steps = {name: case.options.get(name) for name in ("batch_size", "probabilities")}
    mean_square = sf.critical_learning_rate(case.system, "mean-square", **steps).value
    for result, caught in case.of(sf.critical_learning_rate):
        case.check(result, caught, result.converged)
        assert result.confidence_interval(LEVEL)[0] >= mean_square * (1 - 1e-9)


@pytest.mark.parametrize("method", ["anchored", "average"])
def test_a_few_steps_say_nothing_and_more_go_on_from_there(method):
    fibonacci = sf.MatrixEnsemble([[[0, 1], [1, 1]], [[0, 1], [1, -1]]])
    with pytest.warns(sf.AccuracyWarning, match="chains of . steps each say nothing"):
        few = sf.lyapunov_exponent(fibonacci, method=method, max_steps=200, rng=1, n_threads=1)
    assert not few.converged
    assert few.confidence_interval(LEVEL) == few.bounds
    more = sf.lyapunov_exponent(fibonacci, resume=few, max_steps=3e6, rtol=2e-2, n_threads=1)
    assert more.converged
    low, high = more.confidence_interval(LEVEL)
    assert low < 0.12397559 < high
