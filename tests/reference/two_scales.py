"""Random systems with two scales of time whose exponents are known: what the referee draws.

A family is a function of a generator of random numbers that returns a `Case`. Exponents are known because

- the state has two dimensions: rank two, or rank one with momentum; lambda is the derivative at 0 of Lambda, which
  `operators.projective_line` computes without any chain, and both exponents add up to E log abs(det A);
- or the state falls into such blocks, in coordinates that the system is not given in: K = K_2 (x) D with the outputs of
  an example in a group has the exponents of K_2 at the learning rates eta d_j, triangular matrices those of the blocks
  on their diagonals, in any basis;
- or steps are so small that -eta kappa_min / N and Lambda(2) / 2, of errors of opposite kinds, agree;
- or, in families named in LONG, they are not, and a run a hundred times as long has to tell.

Where two scales compete is where it is hard: rates are often placed where two exponents nearly meet.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sgdstab_fast as sf
from reference.known import K4
from reference.laws import law_of_features
from scipy.linalg import block_diag
from scipy.optimize import brentq
from sgdstab_fast.operators.projective_line import ProjectiveLine

_ROUNDING = 1e-13  # of logarithms


@dataclass(frozen=True)
class Block:
    """A part of a random product that nothing flows into, of one or two dimensions."""

    matrices: np.ndarray
    probabilities: np.ndarray
    steps: int = 1

    @property
    def exponents(self):
        """Both exponents per step, and the error of either."""
        with np.errstate(divide="ignore"):
            total = float(self.probabilities @ np.linalg.slogdet(self.matrices)[1])
        if self.matrices.shape[1] == 1:
            return [total / self.steps], _ROUNDING
        found = ProjectiveLine(self.matrices, self.probabilities).exponent(0)
        error = (found.derivative_error + _ROUNDING * (1 + abs(total))) / self.steps
        # Between the mean of both exponents and half of Lambda(2), or not known.
        largest = found.derivative / self.steps
        error = max(error, largest - self._half_of_mean_square, total / (2 * self.steps) - largest)
        return [found.derivative / self.steps, (total - found.derivative) / self.steps], error

    @property
    def _half_of_mean_square(self):
        """Lambda(2) / 2 per step, of two dimensions, by the Kronecker square."""
        squares = np.einsum("n,nij,nkl->ikjl", self.probabilities, self.matrices, self.matrices).reshape(4, 4)
        with np.errstate(divide="ignore"):
            return float(np.log(np.abs(np.linalg.eigvals(squares)).max())) / (2 * self.steps)

    def moment(self, order):
        """Lambda(p) per step, NaN if unknown."""
        if self.matrices.shape[1] == 1:
            return float(np.log(self.probabilities @ np.abs(self.matrices[:, 0, 0]) ** order)) / self.steps
        found = ProjectiveLine(self.matrices, self.probabilities).exponent(order)
        return found.exponent / self.steps if found.converged else math.nan


@dataclass(frozen=True)
class Case:
    """A system, and what is known of it."""

    system: Any
    text: str
    exponents: np.ndarray | None
    """All exponents, or the largest only; None if a long run has to tell."""
    error: float = 0.0
    """Of each of them."""
    blocks: tuple[Block, ...] = ()

    def moment(self, order):
        """Lambda(p), p > 0: the largest of the blocks'."""
        return max(block.moment(order) for block in self.blocks) if self.blocks else math.nan


def case_of(system, text, *blocks):
    """A case that falls into blocks, or is one."""
    found = [block.exponents for block in blocks]
    exponents = np.sort(np.concatenate([each for each, _ in found]))[::-1]
    return Case(system, text, exponents, max(error for _, error in found), blocks)


def case_of_law(features, text, learning_rate, **options):
    """SGD on rows of two columns, or of one with momentum."""
    system = sf.LinearizedSGD.from_factor(features, learning_rate, **options)
    return case_of(system, f"{text}, eta {learning_rate:.6g}, {options}", block_of(features, learning_rate, **options))


def block_of(features, learning_rate, **options):
    """All steps, in the coordinates of the features: eigenvectors of K would mix scales."""
    found = law_of_features(features, learning_rate, **options)
    return Block(found.matrices, found.probabilities, found.steps)


def power_of_ten(rng, low, high):
    return 10.0 ** rng.uniform(low, high)


def a_meeting(rng, difference, low, high):
    """A zero of a function, or any place between low and high."""
    places = np.linspace(low, high, 200)
    values = np.array([difference(place) for place in places])
    changes = np.flatnonzero(np.sign(values[1:]) * np.sign(values[:-1]) < 0)
    changes = [i for i in changes if max(abs(values[i]), abs(values[i + 1])) < 1]  # not at a pole
    if not changes:
        return float(rng.uniform(low, high))
    i = rng.choice(changes)
    return float(brentq(difference, places[i], places[i + 1]))


def two_columns(rng, coupling=None):
    """Rows along the first axis, and shorter ones along the second, each with a little of the other's column."""
    coupling = power_of_ten(rng, -10, -1) if coupling is None else coupling
    rate, spread = power_of_ten(rng, -6, 0), rng.choice([0.0, 0.5, 1.0])
    n_first, n_second = (int(n) for n in rng.integers(1, 5, 2))
    first = np.column_stack([rng.lognormal(0, spread, n_first), coupling * rng.standard_normal(n_first)])
    second = np.column_stack([coupling * rng.standard_normal(n_second), rng.lognormal(0, spread, n_second)])
    second *= math.sqrt(rate)
    return np.concatenate([first, second]), f"coupling {coupling:.1e}, rate {rate:.1e}, {n_first} + {n_second} rows"


def meeting_rate(rng, features, scale=1.0, offset=None):
    """A learning rate at which growth along both axes is nearly the same, below that at which the first is unstable."""
    squares = features**2
    offset = -power_of_ten(rng, -6, -1) if offset is None else offset

    def difference(rate):
        logs = np.log(np.abs(1 - rate * scale * squares) + 1e-300).mean(axis=0)
        return logs[0] - logs[1] - offset

    largest = scale * squares.max()
    return a_meeting(rng, difference, 1.5 / largest, 4.5 / largest)


# Families: SGD


def nearly_decoupled(rng):
    """Two directions that hardly feel each other, near where their exponents meet."""
    features, text = two_columns(rng)
    offset = power_of_ten(rng, -6, -1) * rng.choice([-1, 1])
    return case_of_law(features, text, meeting_rate(rng, features, offset=offset))


def heavy_rows(rng):
    """Rows of all lengths in two directions, one of them shorter by up to 1e-5; some rows several times."""
    n, spread, ratio = int(rng.integers(4, 20)), rng.uniform(0.4, 1.2), power_of_ten(rng, -10, 0)
    features = rng.lognormal(0, spread, n)[:, None] * rng.standard_normal((n, 2)) * [1, math.sqrt(ratio)]
    if rng.random() < 0.5:
        features = features[rng.integers(0, n, n + 2)]
    turned = features @ rotation(rng.uniform(0, math.pi))
    rate = rng.uniform(1.5, 6) / (features**2).sum(axis=1).max()
    known = block_of(features, rate)
    return case_of(sf.LinearizedSGD.from_factor(turned if ratio > 1e-6 else features, rate),
                   f"{n} rows, spread {spread:.2f}, kappa ratio {ratio:.1e}, eta {rate:.6g}", known)  # fmt: skip


def momentum(rng):
    """One direction and its memory."""
    n, spread = int(rng.integers(1, 7)), rng.uniform(0, 1.5)
    features = rng.lognormal(0, spread, n)[:, None]
    if n > 1 and rng.random() < 0.5:
        features[0] *= power_of_ten(rng, -4, 0)
    b = float(1 - power_of_ten(rng, -2.5, -0.1))
    rate = power_of_ten(rng, -1, 0.8) * (1 + b) / features.max() ** 2
    options = {"momentum": b, "nesterov": bool(rng.random() < 0.4)}
    return case_of_law(features, f"{n} rows, spread {spread:.2f}", rate, **options)


def epochs(rng):
    """Every example once in an epoch."""
    features, text = two_columns(rng)
    features = features[rng.permutation(len(features))[:5]]
    options = {"sampling": "epoch", "batch_size": int(rng.integers(1, 3)) if len(features) > 2 else 1}
    return case_of_law(features, text, meeting_rate(rng, features, 1 / options["batch_size"]), **options)


def batches(rng):
    """Several examples a step."""
    features, text = two_columns(rng)
    options = {"batch_size": 2, "sampling": "with_replacement" if rng.random() < 0.5 else "iid"}
    if len(features) > 3 and rng.random() < 0.5:
        options["batch_size"] = 3
    if len(features) <= options["batch_size"]:
        options["sampling"] = "with_replacement"
    return case_of_law(features, text, meeting_rate(rng, features, 1 / options["batch_size"]), **options)


def importance(rng):
    """Examples of very different probabilities."""
    features, text = two_columns(rng)
    probabilities = np.maximum(rng.dirichlet(np.full(len(features), 0.5)), power_of_ten(rng, -7, -2))
    probabilities /= probabilities.sum()
    options = {"probabilities": probabilities, "step_scaling": str(rng.choice(["equal", "unbiased"]))}
    lengths = 1.0 if options["step_scaling"] == "equal" else 1 / (len(features) * probabilities)
    largest = float((lengths * (features**2).sum(axis=1)).max())
    return case_of_law(features, text, float(rng.uniform(1.2, 5)) / largest, **options)


def outputs(rng):
    """Outputs of one example in a group, K = K_2 (x) D: blocks that no coordinate shows."""
    features, text = two_columns(rng, power_of_ten(rng, -3, 0))
    n_outputs = int(rng.integers(2, 4))
    sizes = np.array([power_of_ten(rng, -8, 0) for _ in range(n_outputs)])
    sizes /= sizes.max()
    rate = float(rng.uniform(1.8, 4)) / float((features**2).sum(axis=1).max())
    basis = np.linalg.qr(rng.standard_normal((n_outputs, n_outputs)))[0] if sizes.min() > 1e-5 else np.eye(n_outputs)
    rows = np.kron(features, basis * np.sqrt(sizes))
    system = sf.LinearizedSGD.from_factor(rows, rate, groups=np.repeat(np.arange(len(features)), n_outputs))
    blocks = [block_of(features, rate * size) for size in sizes]
    return case_of(system, f"{text}, outputs {sizes}, eta {rate:.6g}", *blocks)


def small_steps(rng):
    """Many directions of a K whose eigenvalues spread over ten powers of ten, far below every edge."""
    n, ratio = int(rng.integers(5, 40)), power_of_ten(rng, -10, -3)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    features = basis * np.sqrt(np.geomspace(1, ratio, n))
    rate = power_of_ten(rng, -4, -1) / float((features**2).sum(axis=1).max())
    system = sf.LinearizedSGD.from_factor(features, rate)
    first, second = -rate * ratio / n, sf.mean_square_exponent(system).exponent / 2
    return Case(system, f"{n} rows, kappa ratio {ratio:.1e}, eta {rate:.6g}", np.array([first]),
                20 * abs(first - second))  # fmt: skip


# Families: sets of matrices


def coupled_ensemble(rng):
    """Diagonal matrices and a little beside the diagonal."""
    n, coupling = int(rng.integers(2, 6)), power_of_ten(rng, -10, -1)
    logs = rng.standard_normal((n, 2)) * [rng.uniform(0.1, 1), rng.choice([0, rng.uniform(0.1, 1)])]
    gap = power_of_ten(rng, -6, -1)
    logs += [gap, 0] - logs.mean(axis=0)
    matrices = np.array([np.diag(np.exp(each)) for each in logs])
    matrices += coupling * rng.standard_normal((n, 2, 2)) * (1 - np.eye(2))
    probabilities = np.full(n, 1 / n)
    text = f"gap {gap:.1e}, coupling {coupling:.1e}, logs {logs.tolist()}"
    return case_of(sf.MatrixEnsemble(matrices, probabilities), text, Block(matrices, probabilities))


def triangular(rng):
    """Blocks on a diagonal and anything above it, in some basis; often of equal exponents."""
    return blocks_case(rng, power_of_ten(rng, -6, 1))


def block_ensemble(rng):
    """Blocks on a diagonal and nothing beside it, in some basis."""
    return blocks_case(rng, 0.0)


def blocks_case(rng, corner):
    n, sizes = int(rng.integers(2, 6)), [[1, 1], [1, 2], [2, 1], [2, 2], [1, 1, 1]][int(rng.integers(5))]
    kind = str(rng.choice(["given", "permuted", "turned"]))
    probabilities, level = np.full(n, 1 / n), float(rng.choice([0.0, rng.normal(0, 0.2)]))
    # Rounding couples blocks that are turned, by 1e-16: of exponents that nearly meet it would make others.
    below = [rng.uniform(1, 2) if kind == "turned" else rng.choice([0, power_of_ten(rng, -5, -1)]) for _ in sizes[1:]]
    offsets = rng.permutation([0.0, *(-np.cumsum(below))])
    blocks = []
    for size, offset in zip(sizes, offsets, strict=True):
        block = Block(rng.choice([-1, 1]) * random_block(rng, n, size), probabilities)
        blocks.append(Block(block.matrices * math.exp(level + offset - block.exponents[0][0]), probabilities))
    matrices = np.array([block_diag(*each) for each in zip(*(block.matrices for block in blocks), strict=True)])
    first = np.repeat(np.arange(len(sizes)), sizes)
    matrices += corner * rng.standard_normal(matrices.shape) * (first[:, None] < first)
    basis = np.eye(len(first))
    if kind == "permuted":
        basis = basis[rng.permutation(len(first))]
    elif kind == "turned":
        basis = np.linalg.qr(rng.standard_normal(basis.shape))[0]
    system = sf.MatrixEnsemble(basis @ matrices @ basis.T, probabilities)
    text = f"{n} matrices, blocks {sizes}, offsets {offsets.tolist()}, corner {corner:.1e}, {kind}, level {level:.3g}"
    return case_of(system, text, *blocks)


def random_block(rng, n, size):
    spread = rng.uniform(0.05, 1)
    if size == 1:
        return np.exp(spread * rng.standard_normal((n, 1, 1)))
    first, second = (np.array([rotation(angle) for angle in rng.uniform(0, math.pi, n)]) for _ in range(2))
    return first * np.exp(spread * rng.standard_normal((n, 1, 2))) @ second


def rare(rng):
    """A matrix that is hardly ever drawn and mixes what the other one keeps apart."""
    probability, size = power_of_ten(rng, -8, -2), rng.uniform(0.05, 1)
    logs, probabilities = np.array([size, -size * rng.uniform(0, 1)]), np.array([1 - probability, probability])
    if rng.random() < 0.6:
        matrices = np.array([np.diag(np.exp(logs)), rotation(rng.uniform(0, math.pi))])
        return case_of(sf.MatrixEnsemble(matrices, probabilities), f"probability {probability:.1e}, logs {logs}",
                       Block(matrices, probabilities))  # fmt: skip
    # An axis becomes the other one: half of all time is spent in each, however rare that is.
    matrices = np.array([np.diag(np.exp(logs)), [[0.0, -1.0], [1.0, 0.0]]])
    known = (1 - probability) * logs.mean()
    return Case(sf.MatrixEnsemble(matrices, probabilities), f"probability {probability:.1e}, logs {logs}, quarter turn",
                np.array([known, known]), _ROUNDING)  # fmt: skip


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


# Families of which nothing is known: a long run has to tell


def two_blocks(rng):
    """K4, and two or three slower examples, coupled by one entry; near where the exponents of both meet."""
    coupling, rate, n = power_of_ten(rng, -10, -1), power_of_ten(rng, -4, -0.5), int(rng.integers(2, 4))
    gram = block_diag(K4, rate * (0.5 * np.eye(n) + 0.5))
    gram[0, 4] = gram[4, 0] = coupling * math.sqrt(rate)
    learning_rate = float(rng.uniform(0.40, 0.43))
    return Case(sf.LinearizedSGD(gram, learning_rate), f"rate {rate:.6g}, coupling {coupling:.2e}, {n} rows, "
                f"eta {learning_rate:.6g}", None)  # fmt: skip


def many_directions(rng):
    """Rows of unequal length in many directions, with whatever a step may be."""
    n, spread, ratio = int(rng.integers(4, 17)), rng.uniform(0, 1.0), power_of_ten(rng, -3, 0)
    rows = rng.standard_normal((n, n)) * np.sqrt(np.geomspace(1, ratio, n)) * rng.lognormal(0, spread, n)[:, None]
    options = [
        {},
        {"momentum": float(rng.uniform(0, 0.9))},
        {"sampling": "epoch"},
        {"batch_size": 2},
        {"batch_size": 2, "sampling": "epoch", "momentum": 0.5},
        {"probabilities": rng.dirichlet(np.ones(n)), "step_scaling": "equal"},
    ][int(rng.integers(6))]
    rate = rng.uniform(1.5, 4) * options.get("batch_size", 1) * (1 + options.get("momentum", 0))
    rate /= (rows**2).sum(axis=1).max()
    system = sf.LinearizedSGD.from_factor(rows, rate, **options)
    return Case(system, f"{n} rows, spread {spread:.2f}, kappa ratio {ratio:.1e}, eta {rate:.6g}, {options}", None)


FAMILIES: dict[str, Callable[[np.random.Generator], Case]] = {
    family.__name__.replace("_", " "): family
    for family in (
        nearly_decoupled, heavy_rows, momentum, epochs, batches, importance, outputs, small_steps,
        coupled_ensemble, triangular, block_ensemble, rare, two_blocks, many_directions,
    )
}  # fmt: skip


def draw(family, seed):
    """The first system of a seed of which enough is known."""
    rng = np.random.default_rng([seed, list(FAMILIES).index(family)])
    for _ in range(20):
        case = FAMILIES[family](rng)
        if case.exponents is None:
            return case
        if np.isfinite(case.exponents[0]) and case.error <= 1e-3 * abs(case.exponents[0]) + 1e-10:
            return case
    raise AssertionError(f"nothing is known of {family}, seed {seed}")
