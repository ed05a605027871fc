"""K of networks: time over torch's tutorial and nngeometry, over the products that it takes, and memory.

Goals are printed beside what was measured; none is asserted. Everybody computes in the same precision.
"""

import copy
import itertools
import re
import time

import gram_baselines
import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from reference.networks import interpolate
from test_bench import seconds
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
MIB = 2**20


def mlp(*sizes):
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


def lenet(n_outputs):
    convolutions = [nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh()]
    linear = [nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, n_outputs)]
    return nn.Sequential(*convolutions, nn.AvgPool2d(2), nn.Flatten(), *linear)


def ratios(benchmark, ours, baseline, repetitions=5):
    """The median ratio of a baseline's time to ours, one after the other."""
    ours()
    pairs = benchmark.pedantic(lambda: [(seconds(ours, 1), seconds(baseline, 1)) for _ in range(repetitions)], rounds=1)
    times = np.array(pairs)
    return float(np.median(times[:, 0])), float(np.median(times[:, 1] / times[:, 0]))


CASES = {
    "784-512-512-1, N = 1024": (lambda: mlp(784, 512, 512, 1), (1024, 784), 30),
    "LeNet, N = 512": (lambda: lenet(1), (512, 1, 28, 28), 3),
    "LeNet, ten outputs, N = 256": (lambda: lenet(10), (256, 1, 28, 28), 5),
    "784-256-256-10, N = 256": (lambda: mlp(784, 256, 256, 10), (256, 784), 5),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_over_the_jacobian_of_the_tutorial(benchmark, name, dtype):
    make, shape, goal = CASES[name]
    torch.manual_seed(0)
    model, inputs = make().to(getattr(torch, dtype)), torch.randn(shape, dtype=getattr(torch, dtype))
    # The Jacobian of the first case, 3 GB in float64 and as much again, does not fit into every machine.
    few = 1 if "1024" in name or "ten" in name or "256-10" in name else 5
    elapsed, ratio = ratios(
        benchmark,
        lambda: sf.gram.from_torch(model, inputs, dtype=dtype),
        lambda: gram_baselines.jacobian_contraction(model, inputs),
        few,
    )
    print(f"\n  {name}, {dtype}: {1e3 * elapsed:.0f} ms, {ratio:.1f}x faster   (goal: at least {goal}x)")


def test_over_the_vector_products_of_the_tutorial(benchmark):
    torch.manual_seed(0)
    # Of all pairs at once, which for more examples takes more memory than there is.
    model, inputs = mlp(784, 128, 10), torch.randn(32, 784)
    ours, ratio = ratios(
        benchmark,
        lambda: sf.gram.from_torch(model, inputs, dtype="float32"),
        lambda: gram_baselines.vector_products(model, inputs),
        1,
    )
    print(f"\n  784-128-10, N = 32: {1e3 * ours:.0f} ms, {ratio:.0f}x faster   (goal: at least 5x)")


@pytest.mark.parametrize("batch_size", [64, 256])
@pytest.mark.parametrize("name", CASES)
def test_over_nngeometry(benchmark, name, batch_size):
    pytest.importorskip("nngeometry")
    make, shape, _ = CASES[name]
    torch.manual_seed(0)
    model, inputs = make().double(), torch.randn(shape).double()
    theirs = gram_baselines.nngeometry(model, inputs[:16], batch_size)
    ours = sf.gram.from_torch(model, inputs[:16])
    m = ours.n_outputs
    error = np.abs(theirs.permute(1, 0, 3, 2).detach().reshape(16 * m, 16 * m).numpy() - ours.matrix).max()
    elapsed, ratio = ratios(
        benchmark,
        lambda: sf.gram.from_torch(model, inputs),
        lambda: gram_baselines.nngeometry(model, inputs, batch_size),
        3,
    )
    print(
        f"\n  {name}, its batches of {batch_size}: {1e3 * elapsed:.0f} ms, {ratio:.1f}x faster, which differs by "
        f"{error / ours.matrix.max():.0e}   (goal: at least 3x)"
    )


def _resident(field):
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(field + r":\s+(\d+)", file.read())[1])


@pytest.mark.parametrize(("n", "memory", "in_file"), [(2048, "512 MiB", False), (4096, "1 GiB", True)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_over_its_symmetric_products(benchmark, tmp_path, n, memory, in_file, dtype):
    sizes = (784, 800, 800, 1)
    torch.manual_seed(0)
    model, inputs = mlp(*sizes), torch.randn(n, sizes[0])
    width = 800
    factor = torch.randn(n, width, dtype=torch.float64)
    out = tmp_path / "k.npy" if in_file else None

    def ours():
        return sf.gram.from_torch(model, inputs, dtype=dtype, memory=memory, out=out)

    elapsed, ratio = ratios(benchmark, ours, lambda: factor @ factor.T, 5)
    # Symmetric products take half; x x^T and g g^T of three layers.
    products = ratio * (sum(sizes[:-1]) + sum(sizes[1:])) / width / 2
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _resident("VmRSS")
    ours()
    grown = (_resident("VmHWM") - before) / MIB
    print(
        f"\n  1.3 million parameters, N = {n}, {dtype}: {elapsed:.2f} s, {1 / products:.2f} of its products at dgemm "
        f"speed, {grown:.0f} MiB of {memory}   (goal: at most 2)"
    )


def test_a_system_of_float32(benchmark):
    torch.manual_seed(0)
    inputs = torch.tanh(torch.randn(256, 4) @ torch.randn(4, 64))
    matrix = sf.gram.from_torch(mlp(64, 128, 128, 10), inputs).matrix
    narrow = matrix.astype(np.float32)
    _, ratio = ratios(
        benchmark, lambda: sf.LinearizedSGD(matrix, 0.01), lambda: _silent(lambda: sf.LinearizedSGD(narrow, 0.01)), 15
    )
    print(f"\n  a system of 2560 rows in float32 over one in float64: {ratio:.2f}   (goal: at most 2)")


def _silent(work):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return work()


def test_from_a_network_to_its_critical_rates(benchmark):
    """A trained network of torch, N = 256, to a verdict and critical rates, to 1%; and the same from JAX."""
    import jax

    torch.manual_seed(0)
    inputs = torch.randn(256, 20, dtype=torch.float64)
    targets = torch.sin(inputs.sum(1, keepdim=True))
    model = mlp(20, 128, 1).double()
    loss = interpolate(model, inputs, targets)
    parameters = {name: value.detach().numpy() for name, value in copy.deepcopy(model).named_parameters()}

    def apply(p, x):
        return jax.nn.relu(x @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]

    def answer(kernel):
        mean_square = sf.critical_learning_rate(kernel, "mean-square")
        sf.stability(sf.LinearizedSGD(kernel, 0.9 * mean_square.value), rng=0)
        sf.critical_learning_rate(kernel, "almost-sure", rtol=0.01, rng=0)

    def from_torch():
        answer(sf.gram.from_torch(model, inputs, targets=targets, loss="mean squared"))

    def from_jax():
        answer(sf.gram.from_jax(apply, parameters, inputs.numpy(), targets=targets.numpy(), loss="mean squared"))

    start = time.perf_counter()
    benchmark.pedantic(from_torch, rounds=1)
    middle = time.perf_counter()
    from_jax()
    print(
        f"\n  network to verdict and critical rates, N = 256, loss {loss:.0e}: "
        f"{middle - start:.2f} s from torch, {time.perf_counter() - middle:.2f} s from JAX   (goal: below 2 s)"
    )
