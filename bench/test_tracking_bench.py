"""Tracking a training run: time over that of the training itself, and of later points over the first.

Goals are printed beside what was measured; none is asserted.
"""

import time

import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from sklearn.datasets import load_digits
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
N, BATCH_SIZE, LEARNING_RATE, N_STEPS, N_POINTS = 256, 16, 0.8, 20_000, 50
CHOICES = {
    "economy": ("economy", 1e-2),
    "the mean-square rate and batch sharpness": (["critical_mean_square", "batch_sharpness", "sharpness"], 1e-2),
    "all but the almost-sure rate": ([each for each in sf.tracking.QUANTITIES if each != "critical_almost_sure"], 1e-2),
    "all, 1e-2": ("all", 1e-2),
}


def run():
    """Train on digits; return the seconds that took, without extraction, and K with the seconds that took."""
    torch.manual_seed(0)
    data = load_digits()
    some = np.random.default_rng(0).permutation(len(data.data))[:N]
    inputs = torch.tensor(data.data[some])
    inputs = (inputs - inputs.mean(0)) / 64
    targets = torch.tensor(np.where(data.target[some] % 2, 1.0, -1.0))[:, None]
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1)).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    training, extraction, kernels = 0.0, 0.0, []
    for step in range(N_STEPS + 1):
        started = time.perf_counter()
        if step % (N_STEPS // N_POINTS) == 0:
            kernels.append((step, sf.gram.from_torch(model, inputs, targets=targets)))
            extraction += time.perf_counter() - started
            started = time.perf_counter()
        batch = torch.randperm(N)[:BATCH_SIZE]
        optimiser.zero_grad()
        (model(inputs[batch]) - targets[batch]).square().mean().div(2).backward()
        optimiser.step()
        training += time.perf_counter() - started
    return training, extraction, kernels


@pytest.fixture(scope="module")
def trained():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("choice", CHOICES)
def test_fifty_points_over_the_training(benchmark, trained, choice):
    quantities, rtol = CHOICES[choice]
    training, extraction, kernels = trained
    tracker = sf.StabilityTracker(LEARNING_RATE, BATCH_SIZE, quantities=quantities, rtol=rtol)

    def track():
        for step, kernel in kernels:
            tracker.update(kernel, step=step)

    benchmark.pedantic(track, rounds=1)
    seconds = tracker.history["seconds"]
    taken = seconds.sum() + extraction
    print(
        f"\n{choice}: {len(kernels)} points in {taken:.2f} s, {extraction:.2f} s of it for K; training "
        f"{training:.2f} s; ratio {taken / training:.2f} (goal 1); later points, median, over the first "
        f"{np.median(seconds[1:]) / seconds[0]:.2f} (goal 0.33)"
    )


@pytest.mark.parametrize("rtol", [1e-2, 3e-3, 1e-3])
def test_the_almost_sure_rate_from_the_point_before(benchmark, trained, rtol):
    _, _, kernels = trained
    some = kernels[10:50:8]

    def search():
        cold, warm, before = [], [], None
        for _, kernel in some:
            system = sf.LinearizedSGD(kernel, LEARNING_RATE, BATCH_SIZE)
            for times, start in ((cold, None), (warm, before)):
                started = time.perf_counter()
                found = sf.critical_learning_rate(system, rtol=rtol, max_steps=10**8, rng=0, start=start)
                times.append(time.perf_counter() - started)
            before = found
        return np.median(cold), np.median(warm[1:])

    cold, warm = benchmark.pedantic(search, rounds=1)
    found = f"{cold:.2f} s, from the point before {warm:.2f} s: {warm / cold:.2f} (goal 0.33)"
    print(f"\nalmost-sure rate, rtol {rtol:g}: {found}")
