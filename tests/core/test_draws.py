"""What chains and walkers draw, as seen from what their steps do."""

from itertools import permutations

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4
from reference.steps import KEY
from sgdstab_fast._core.arguments import Stream, VectorOptions
from sgdstab_fast._core.functions import core
from sgdstab_fast.moments.populations import population_task, walkers_from


def examples_of_epochs(n_chains, n_epochs, n):
    """Which of n examples that do not feel each other each step halves, shape (n_chains, n_epochs, n)."""
    system = sf.LinearizedSGD(np.eye(n), 0.5, sampling="epoch")
    vectors, stream = np.ones((n_chains, 1, n)), Stream(KEY, 0, 0, n_epochs * n, 1)
    options = VectorOptions(renormalise_every=1, spacing=1, careful=False, record=True)
    found = core.advance_vectors(system.vectors_call().steps, system.no_growth.metrics, vectors, stream, options, 1)
    path = np.concatenate([np.ones((n_chains, 1, n)), found[3]], axis=1)
    return (path[:, 1:] / path[:, :-1]).argmin(axis=2).reshape(n_chains, n_epochs, n)


def test_orders_of_successive_epochs_are_uniform_and_independent():
    orders = [*permutations(range(3))]
    drawn = examples_of_epochs(7200, 3, 3)
    number = np.array([[orders.index(tuple(epoch)) for epoch in chain] for chain in drawn.tolist()])
    for first, second in ((0, 1), (1, 2), (0, 2)):
        counts = np.bincount(6 * number[:, first] + number[:, second], minlength=36)
        assert ((counts - 200) ** 2 / 200).sum() < 66.6  # P = 1e-3 with 35 degrees of freedom


def test_resampling_keeps_the_weight_of_a_population(rng):
    """Of steps so small that nothing grows: log g is the logarithm of the mean weight that walkers came with."""
    system = sf.LinearizedSGD(K4, 1e-13)
    task = population_task(system, 1.0, system.no_growth, 16, tilted=False, evaluate=False)
    walkers = walkers_from(rng.standard_normal((3, 32, 4)))
    weights = 3 * rng.standard_normal((3, 32))
    walkers[:, :, -2] = weights
    found, log_growth, *_ = core.advance_populations(
        task.steps, task.metrics, walkers, Stream(KEY, 0, 0, 1, 16), task.options, 1
    )
    np.testing.assert_allclose(found[:, :, -2], 0, atol=1e-10)  # all of them are resampled
    np.testing.assert_allclose(log_growth[:, 0], np.log(np.exp(weights).mean(axis=1)), atol=1e-10)


def test_walkers_of_every_population_take_steps_of_their_own():
    system, n_populations, size, n_steps = sf.LinearizedSGD(K4, 0.3), 3, 5, 40
    start = np.array([1.0, -2.0, 0.5, 1.0])
    task = population_task(system, 0.0, system.no_growth, n_steps, tilted=False, evaluate=False)
    walkers = walkers_from(np.broadcast_to(start, (n_populations, size, 4)))
    found, *_ = core.advance_populations(
        task.steps, task.metrics, walkers, Stream(KEY, 2, 0, 1, n_steps), task.options, 1
    )
    for c in range(n_populations):
        for j in range(size):
            v = start.copy()
            chain = (2 + c) * size + j
            for i in core.examples(key=KEY, chain=chain, first_step=0, n_steps=n_steps, n_examples=4):
                v[i] -= 0.3 * (K4[i] @ v)
            assert found[c, j, :4] / np.linalg.norm(found[c, j, :4]) == pytest.approx(v / np.linalg.norm(v), abs=1e-12)
