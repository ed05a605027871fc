"""Every matrix that a step of SGD may be, with its probability, from the definitions alone: what tests compare with.

With K = Phi Phi^T, phi_i the rows of Phi, and units u = 1..N (groups of rows), a step that draws a batch S of units is

    M_S = F (x) I - (eta scale / |S|) e_1 h^T (x) sum_{u in S} w_u sum_{i in u} phi_i phi_i^T,

with w_u = 1 or 1 / (N p_u), F = [[1]], h = [1] without momentum, F = [[1 + b, -b], [1, 0]] with it, and h = [1, 0] for
the heavy ball, [1 + b, -b] for Nesterov. Over an epoch it is the product of such steps, over all orders.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq


@dataclass(frozen=True)
class Law:
    """A random product: matrices (m, d, d), each of `steps` steps, and their probabilities."""

    matrices: np.ndarray
    probabilities: np.ndarray
    steps: int = 1

    def moment_exponent(self, order):
        """Lambda(p) of an even order per step: log rho(E[M^(x) p]) / steps."""
        total = 0
        for matrix, weight in zip(self.matrices, self.probabilities, strict=True):
            power = matrix
            for _ in range(order - 1):
                power = np.kron(power, matrix)
            total = total + weight * power
        return log_radius(total) / self.steps

    def positive_moment_exponent(self):
        """Lambda(1) = log rho(E M) / steps, where a cone is mapped into itself."""
        return log_radius(np.tensordot(self.probabilities, self.matrices, 1)) / self.steps

    @property
    def log_determinants(self):
        with np.errstate(divide="ignore"):
            return np.linalg.slogdet(self.matrices)[1]

    @property
    def sum_of_exponents(self):
        """E log abs(det M) / steps."""
        return float(self.probabilities @ self.log_determinants) / self.steps

    @property
    def sum_spread(self):
        """Standard deviation of log abs(det M) over steps^(1/2), that of sums along paths of one step."""
        squares = self.probabilities @ self.log_determinants**2
        return math.sqrt(max(squares / self.steps - self.steps * self.sum_of_exponents**2, 0.0))

    def lyapunov(self, k=1, *, n_chains=512, n_matrices=400, seed=0):
        """The k largest exponents per step and their standard errors, by plain simulation of independent chains."""
        rng = np.random.default_rng(seed)
        frames = rng.standard_normal((n_chains, self.matrices.shape[1], k))
        start_up, every = 200 // self.steps, 4
        growth = np.zeros((n_chains, k))
        for done in range(0, start_up + n_matrices, every):
            for _ in range(every):
                drawn = rng.choice(len(self.probabilities), n_chains, p=self.probabilities)
                frames = self.matrices[drawn] @ frames
            frames, factor = np.linalg.qr(frames)
            if done >= start_up:
                growth += np.log(np.abs(np.diagonal(factor, axis1=1, axis2=2)))
        n_steps = every * len(range(done, start_up - 1, -every)) * self.steps
        return growth.mean(axis=0) / n_steps, growth.std(axis=0, ddof=1) / math.sqrt(n_chains) / n_steps


def law(gram, learning_rate, batch_size=1, **options):
    """The law of a step of SGD, or of an epoch of them, by enumeration; arguments as `LinearizedSGD` takes them.

    An optimiser, F and h, takes the place of momentum.
    """
    return law_of_features(factor_of(gram), learning_rate, batch_size, **options)


def law_of_features(
    features,
    learning_rate,
    batch_size=1,
    *,
    sampling="iid",
    groups=None,
    probabilities=None,
    step_scaling="unbiased",
    scale=1.0,
    momentum=0.0,
    nesterov=False,
    optimiser=None,
):
    """The same of K = Phi Phi^T, given Phi."""
    units = members_of(len(features), groups)
    n_units = len(units)
    weights = np.full(n_units, 1 / n_units) if probabilities is None else np.asarray(probabilities, dtype=float)
    scaled = 1 / (n_units * weights) if step_scaling == "unbiased" else np.ones(n_units)
    moves = [scaling * features[rows].T @ features[rows] for scaling, rows in zip(scaled, units, strict=True)]
    free, readout = recurrence(momentum, nesterov, optimiser)

    def step(batch):
        move = sum(moves[u] for u in batch) * (learning_rate * scale / len(batch))
        return np.kron(free, np.eye(features.shape[1])) - np.kron(np.outer(np.eye(len(free))[0], readout), move)

    def epoch(order):
        product = np.eye(len(free) * features.shape[1])
        for first in range(0, n_units, batch_size):
            product = step(order[first : first + batch_size]) @ product
        return product

    if sampling == "cyclic":
        return Law(epoch(range(n_units))[None], np.ones(1), math.ceil(n_units / batch_size))
    if sampling == "epoch":
        matrices = np.array([epoch(order) for order in itertools.permutations(range(n_units))])
        return Law(matrices, np.full(len(matrices), 1 / len(matrices)), math.ceil(n_units / batch_size))
    if sampling == "with_replacement" or batch_size == 1:
        batches = list(itertools.product(range(n_units), repeat=batch_size))
        return Law(np.array([step(batch) for batch in batches]), np.array([weights[[*b]].prod() for b in batches]))
    matrices = np.array([step(batch) for batch in itertools.combinations(range(n_units), batch_size)])
    return Law(matrices, np.full(len(matrices), 1 / len(matrices)))


def gd_exponent(gram, learning_rate, *, groups=None, scale=1.0, momentum=0.0, nesterov=False, optimiser=None, **_):
    """Log of the largest abs(eigenvalue) of the step of full batches."""
    free, readout = recurrence(momentum, nesterov, optimiser)
    features = factor_of(gram)
    hessian = features.T @ features / len(members_of(len(features), groups))
    drift = learning_rate * scale * np.kron(np.outer(np.eye(len(free))[0], readout), hessian)
    return log_radius(np.kron(free, np.eye(len(hessian))) - drift)


def mean_square_threshold(gram, low, high, **options):
    """The learning rate between low and high at which Lambda(2) is 0."""
    return brentq(lambda rate: law(gram, rate, **options).moment_exponent(2), low, high, xtol=1e-14, rtol=1e-14)


def factor_of(gram):
    """Phi with K = Phi Phi^T and as many columns as K has rank."""
    values, vectors = np.linalg.eigh(np.asarray(gram, dtype=float))
    kept = values > 1e-12 * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def members_of(n_rows, groups):
    """The rows of every unit; units in the order of their labels."""
    labels = np.arange(n_rows) if groups is None else np.asarray(groups)
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def recurrence(momentum, nesterov, optimiser=None):
    """F and h."""
    if optimiser is not None:
        return tuple(np.asarray(part, dtype=float) for part in optimiser)
    if momentum == 0:
        return np.eye(1), np.ones(1)
    readout = [1 + momentum, -momentum] if nesterov else [1.0, 0.0]
    return np.array([[1 + momentum, -momentum], [1.0, 0.0]]), np.array(readout)


def log_radius(matrix):
    """Log of the spectral radius; -inf for a nilpotent matrix."""
    radius = np.abs(np.linalg.eigvals(matrix)).max()
    return math.log(radius) if radius > 0 else -math.inf
