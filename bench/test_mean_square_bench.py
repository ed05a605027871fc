"""The mean-square exponent in units of one N x N matrix product of numpy's; `make bench` prints goals beside them."""

import subprocess
import sys

import numpy as np
import pytest
import sgdstab_fast as sf
from sgdstab_fast.exact.mean_square import mean_square_exponent
from test_bench import seconds

N = 1024
MEMORY = """
import numpy as np
import sgdstab_fast as sf
from sgdstab_fast.exact.mean_square import mean_square_exponent
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024  # its parent's is not in it
n = 2048
gram = np.eye(n)
features = np.random.default_rng(0).standard_normal((n, 8))
for rows in np.array_split(np.arange(n), 64):
    gram[rows] += features[rows] @ features.T / 8
before = peak() - gram.nbytes
result = mean_square_exponent(sf.LinearizedSGD(gram, 0.5))
print((peak() - before) / gram.nbytes, result.converged)
"""


def network_like(n):
    """The tangent kernel of a two-layer network of infinite width, on inputs with a decaying spectrum.

    K_ii = 2.5, condition about 1000.
    """
    rng = np.random.default_rng(n)
    inputs = rng.standard_normal((n, n // 2)) / np.sqrt(np.arange(1, n // 2 + 1))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    cosine = np.clip(inputs @ inputs.T, -1, 1)
    np.fill_diagonal(cosine, 1)
    angle = np.arccos(cosine)
    gram = 2.5 / 2 * (np.sin(angle) + 2 * (np.pi - angle) * cosine) / np.pi
    return (gram + gram.T) / 2


@pytest.fixture(scope="module")
def gram():
    return network_like(N)


def products(work):
    """Time of some work over that of a product made at the same time, on a machine that others may use."""
    left = np.random.default_rng(0).standard_normal((N, N))
    right = left + 1
    return float(np.median([seconds(work, 1) / seconds(lambda: left @ right, 9) for _ in range(3)]))


def slow_learning_rate(gram):
    """Where rho - 1 is about -1e-6."""
    return 1e-6 * N / 2 / np.linalg.eigvalsh(gram)[0]


@pytest.mark.parametrize("regime", ["slow", 0.5, 1.5, 2.1, 4.0])
def test_products(benchmark, gram, regime):
    learning_rate = slow_learning_rate(gram) if regime == "slow" else regime / gram.diagonal().max()
    system = sf.LinearizedSGD(gram, learning_rate)
    ratio = benchmark.pedantic(lambda: products(lambda: mean_square_exponent(system)), rounds=1)
    result = mean_square_exponent(system)
    assert result.converged
    what = "rho - 1 = -1e-6" if regime == "slow" else f"eta K_ii = {regime}"
    print(
        f"\n  Lambda(2), N = {N}, {what}: {ratio:.0f} products (goal: at most 150), "
        f"{result.n_applications} applications, Lambda(2) = {result.exponent:.9g} +- {result.error:.0e}"
    )


def test_accuracy_where_learning_is_slow(gram):
    """By perturbation theory, with the slowest direction found apart by inverse iteration in extended precision."""
    learning_rate = slow_learning_rate(gram)
    values, vectors = np.linalg.eigh(gram)
    extended, slow = gram.astype(np.longdouble), vectors[:, 0].astype(np.longdouble)
    for _ in range(3):
        smallest = slow @ (extended @ slow) / (slow @ slow)
        residual = (extended @ slow - smallest * slow).astype(float)
        slow -= vectors[:, 1:] @ (vectors[:, 1:].T @ residual / (values[1:] - float(smallest)))
    slow = (slow / np.sqrt(slow @ slow)).astype(float)
    # rho - 1 = -2 u_0 + what the noise adds, to second order; the third is below 1e-9 of it here
    u = learning_rate * np.append(float(smallest), values[1:]) / N
    squares = slow**2
    coupled = vectors.T @ (squares[:, None] * vectors)
    mixed = (N * u[0]) ** 2 * np.outer(u, u) * coupled**2
    distances = u[:, None] + u - 2 * u[0]
    mixed[0, 0], distances[0, 0] = 0, 1
    expected = np.log1p(-2 * u[0] + N * u[0] ** 2 * (squares @ squares) + (mixed / distances).sum())
    found = mean_square_exponent(sf.LinearizedSGD(gram, learning_rate)).exponent
    off = abs(found / expected - 1)
    print(f"\n  Lambda(2) = {found:.12g}, {off:.0e} from perturbation theory (goal: at most 1e-9)")


def test_uncoupled_examples(benchmark):
    system = sf.LinearizedSGD(np.eye(N), 0.3)
    ratio = benchmark.pedantic(lambda: products(lambda: mean_square_exponent(system)), rounds=1)
    assert len(system.rows_of_k.components) == N
    print(f"\n  Lambda(2), identity of {N}: {ratio:.1f} products")


def test_memory():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", MEMORY], check=True, capture_output=True, text=True)
    ratio, converged = done.stdout.split()
    assert converged == "True"
    print(f"\n  Lambda(2), N = 2048, K included: {float(ratio):.1f} N^2 doubles (goal: at most 8)")
