"""Steps of the core against plain numpy, long enough for those that are taken together, and against one another."""

import numpy as np
import pytest
from reference.steps import KEY, SINGLE, advanced, advanced_frames, matrices_of
from reference.systems import SYSTEMS, system_of
from sgdstab_fast._core.arguments import PanelMetrics, PanelOptions, PanelSteps, Stream
from sgdstab_fast._core.functions import core


@pytest.mark.parametrize("how", ["together", "careful", "with growth"])
@pytest.mark.parametrize("name", SINGLE)
def test_vectors_of_every_chain_are_those_of_explicit_products(rng, name, how):
    system = SINGLE[name]()
    matrices, starts = matrices_of(system), rng.standard_normal((21, 1, system.dimension))
    metrics = (system.growth_in_norm if how == "with growth" else system.no_growth).metrics
    found, log_growth, *_ = advanced(system, starts, Stream(KEY, 4, 5, 1, 61), metrics, careful=how == "careful")
    for c in range(21):
        v = starts[c, 0]
        for i in core.examples(key=KEY, chain=4 + c, first_step=5, n_steps=61, n_examples=system.n_examples):
            v = matrices[i] @ v
        assert log_growth[c, 0, 0] == pytest.approx(np.log(np.linalg.norm(v)), abs=1e-11)
        np.testing.assert_allclose(found[c, 0], v / np.linalg.norm(v), atol=1e-11)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_first_column_of_a_frame_takes_the_steps_of_a_vector(rng, name):
    system = system_of(name)
    frames, stream = rng.standard_normal((3, system.dimension, 2)), Stream(KEY, 1, 3, 4, 7)
    starts = np.ascontiguousarray(frames[:, :, 0])[:, None]
    vectors, log_growth, *_ = advanced(system, starts, stream)
    found, columns, *_ = advanced_frames(system, frames, stream, 3)
    np.testing.assert_allclose(columns[:, :, 0], log_growth[:, :, 0], atol=1e-11)
    np.testing.assert_allclose(found[:, :, 0], vectors[:, 0], atol=1e-11)


def test_steps_that_leave_too_little_of_a_column_are_taken_again_fewer_at_a_time(rng):
    system, frames, stream = SINGLE["gram"](), rng.standard_normal((2, 11, 11)), Stream(KEY, 0, 0, 3, 256)
    _, often, *_ = advanced_frames(system, frames, stream, 2)
    _, seldom, _, ratios, _ = advanced_frames(system, frames, stream, 256, least_ratio=1e-4)
    np.testing.assert_allclose(seldom, often, rtol=1e-9)
    assert (ratios >= 1e-4).all()
    _, lost, *_ = advanced_frames(system, frames, stream, 256)
    assert np.abs(lost - often).max() > 1  # what it is for


@pytest.mark.parametrize("size", [1e-200, 1e-140, 1e100])
def test_log_growth_of_panels_counts_from_starts_of_any_length(rng, size):
    system = SINGLE["gram"]()
    rates = np.linspace(0.1, 0.7, core.n_lanes)[None]
    steps = PanelSteps(system.rows_of_k.for_core, rates)
    metrics = PanelMetrics(np.empty((0, 11, 11)), None, np.empty((1, 0, 11)))
    starts = np.repeat(rng.standard_normal((2, 1, 1, 11, 1)), core.n_lanes, axis=4)

    def log_growth(panels):
        return core.advance_panels(steps, metrics, panels, Stream(KEY, 0, 0, 1, 20), PanelOptions(64, 20, False), 1)[1]

    np.testing.assert_allclose(log_growth(size * starts), log_growth(starts.copy()) + np.log(size), rtol=1e-13)
