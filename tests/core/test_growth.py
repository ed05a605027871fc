"""Anchored growth of the core, the mean over all next steps, in extended precision."""

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4
from reference.steps import KEY, SINGLE, advanced_frames, matrices_of
from sgdstab_fast._core.arguments import Stream, VectorOptions
from sgdstab_fast._core.functions import core
from sgdstab_fast.moments.populations import population_task, walkers_from


def growth_after(system, starts, stream):
    """Vectors at the end, and growth there in the norm of K, shape (n_chains,)."""
    options = VectorOptions(stream.steps_per_batch, stream.steps_per_batch, careful=False, record=False)
    growth = system.growth_in_norm.metrics
    found = core.advance_vectors(system.vectors_call().steps, growth, starts.copy(), stream, options, 1)
    return found[0][:, 0], found[2][:, 0, 0]


def growth_of(system, v):
    """The mean over examples of log(|A_i v| / |v|), in the norm of K."""
    precise = np.longdouble
    norm = np.asarray(system.rows if system.coordinates == "gram" else np.eye(system.dimension), precise)
    rows, v, rate = np.asarray(system.rows, precise), np.asarray(v, precise), precise(system.learning_rate)
    moved = np.eye(system.dimension, dtype=precise) if system.coordinates == "gram" else rows
    after = v - rate * (rows @ v)[:, None] * moved
    squares = np.einsum("ni,ij,nj->n", after, norm, after)
    return float(np.log(squares / (v @ norm @ v)).mean() / 2)


@pytest.mark.parametrize("rate", [1e-3, 0.02, 0.05, 0.1, 0.3, 1.0, 5.0, 1e3])
@pytest.mark.parametrize("name", SINGLE)
def test_growth_is_known_to_rounding_at_every_learning_rate(rng, name, rate):
    system = SINGLE[name]()
    system = system.with_learning_rate(rate * system.learning_rate)
    vectors, growth = growth_after(system, rng.standard_normal((20, 1, system.dimension)), Stream(KEY, 0, 0, 1, 3))
    expected = [growth_of(system, v) for v in vectors]
    np.testing.assert_allclose(growth, expected, rtol=2e-13, atol=1e-18)


@pytest.mark.parametrize("left", [1e-2, 1e-4, 1e-6])
def test_growth_of_what_a_step_nearly_destroys_keeps_its_digits(rng, left):
    system = sf.LinearizedSGD(K4, 1 / K4[2, 2])
    first = core.examples(key=KEY, chain=0, first_step=0, n_steps=1, n_examples=4)[0]
    assert first != 2  # which would destroy it
    destroyed = np.eye(4)[2] + left * rng.standard_normal(4)
    start = np.linalg.solve(matrices_of(system)[first], destroyed)
    (vector,), (growth,) = growth_after(system, start[None, None], Stream(KEY, 0, 0, 1, 1))
    assert growth < np.log(left) / 8
    assert growth == pytest.approx(growth_of(system, vector), rel=1e-14 / left)


@pytest.mark.parametrize("name", SINGLE)
def test_growth_of_frames_is_that_of_the_volumes_of_their_columns(rng, name):
    system, k = SINGLE[name](), 4
    metrics = system.frame_metrics()._replace(log_determinants=system.log_determinants, columns=k)
    assert len(metrics.roots) > 1
    frames = rng.standard_normal((3, system.dimension, k))
    found, _, _, _, growth = advanced_frames(system, frames, Stream(KEY, 0, 0, 1, 12), 4, metrics)
    for v, its in zip(found, growth[:, 0], strict=True):
        for root, of_metric in zip(metrics.roots, its, strict=True):
            volumes = [0.0]
            for j in range(1, k + 1):
                before = np.linalg.svd(root @ v[:, :j], compute_uv=False).prod()
                after = [np.linalg.svd(root @ a @ v[:, :j], compute_uv=False).prod() for a in matrices_of(system)]
                volumes.append(np.log(np.array(after) / before).mean())
            np.testing.assert_allclose(of_metric, np.diff(volumes), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rate", [0.01, 0.2, 2.0, 40.0])
@pytest.mark.parametrize("order", [-1.0, 0.5, 1.0, 2.0, 3.0, 5.5])
def test_mean_powers_of_growth_are_those_of_all_next_steps(rng, order, rate):
    system = SINGLE["gram"]().with_learning_rate(rate)
    task = population_task(system, order, system.growth_in_norm, 3, tilted=False)
    walkers = walkers_from(rng.standard_normal((2, 20, 11)))
    stream = Stream(KEY, 0, 0, 1, 3)
    found, _, _, norms, excess, _ = core.advance_populations(task.steps, task.metrics, walkers, stream, task.options, 1)
    weights = np.exp(found[:, :, -2])
    images = np.einsum("iab,cjb->cjia", matrices_of(system), found[:, :, :11])
    before = np.einsum("cja,ab,cjb->cj", found[:, :, :11], system.rows, found[:, :, :11]) ** (order / 2)
    after = (np.einsum("cjia,ab,cjib->cji", images, system.rows, images) ** (order / 2)).mean(axis=2)
    mean = weights.sum(axis=1)
    np.testing.assert_allclose(norms[:, 0, 0], (weights * before).sum(axis=1) / mean, rtol=1e-11)
    np.testing.assert_allclose(excess[:, 0, 0], (weights * (after - before)).sum(axis=1) / mean, rtol=1e-9, atol=1e-13)
