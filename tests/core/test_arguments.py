"""What the core is told: tuples that it takes as they are, or refuses."""

import pickle

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4
from sgdstab_fast._core import arguments
from sgdstab_fast._core.functions import core
from sgdstab_fast.simulation.vectors import vectors_task

SYSTEMS = [
    sf.LinearizedSGD(K4, 0.45),
    sf.LinearizedSGD(K4, 0.45, 2, momentum=0.5),
    sf.MatrixEnsemble([[[1, 1], [1, 0]], [[1, -1], [1, 0]]]),
]
STREAM = arguments.Stream((1, 2), 3, 0, 5, 8)


def called(system=SYSTEMS[0], **changes):
    """What vectors are advanced with."""
    task = vectors_task(system, system.growth())
    told = {"steps": task.steps, "metrics": task.metrics, "stream": STREAM, "options": task.options}
    vectors = np.random.default_rng(4).standard_normal((3, 1, system.dimension))
    return {**told, "vectors": vectors, "n_threads": 1, **changes}


@pytest.mark.parametrize("system", SYSTEMS, ids=repr)
def test_what_was_pickled_advances_the_same(system):
    told = called(system)
    found = core.advance_vectors(**pickle.loads(pickle.dumps(told)))
    assert all(np.array_equal(a, b) for a, b in zip(found, core.advance_vectors(**told), strict=True))


def test_states_are_advanced_in_place_and_other_arrays_left_alone():
    told = called()
    before = told["steps"].rows.array.copy()
    states, *_ = core.advance_vectors(**told)
    assert states is told["vectors"]
    assert np.array_equal(told["steps"].rows.array, before)


@pytest.mark.parametrize("array", [K4.astype(np.float16), K4[:, ::-1], np.asfortranarray(K4), K4.tolist()])
def test_arrays_are_taken_as_they_are_or_not_at_all(array):
    steps = called()["steps"]
    with pytest.raises(TypeError, match="contiguous arrays of float64"):
        core.advance_vectors(**called(steps=steps._replace(rows=arguments.Rows(array, "gram"))))
    with pytest.raises(TypeError, match="incompatible function arguments"):
        core.advance_vectors(**called(vectors=np.zeros((3, 1, 4), dtype=np.float32)))


def test_tuples_of_another_kind_are_refused():
    told = called()
    with pytest.raises(TypeError, match="must be a SingleMetrics, not a BatchMetrics"):
        core.advance_vectors(**called(metrics=called(SYSTEMS[1])["metrics"]))
    with pytest.raises(TypeError, match="must be a Stream, not a tuple"):
        core.advance_vectors(**called(stream=tuple(STREAM)))
    with pytest.raises(TypeError, match="must be a VectorOptions, not a PanelOptions"):
        core.advance_vectors(**called(options=arguments.PanelOptions(1, 1, False)))
    with pytest.raises(TypeError, match="must be a MatrixSet, not a Rows"):
        core.advance_vectors(**called(steps=told["steps"].rows))
    with pytest.raises(TypeError, match="cannot take 'many'"):
        core.advance_vectors(**called(stream=STREAM._replace(n_batches="many")))


def test_shapes_and_counts_that_do_not_agree_are_refused():
    told = called()
    wrong = [
        {"vectors": np.zeros((3, 1, 5))},
        {"metrics": told["metrics"]._replace(matrices=np.zeros((1, 4, 4)))},
        {"metrics": told["metrics"]._replace(diagonals=np.zeros((2, 5)))},
    ]
    for changes in wrong:
        with pytest.raises(ValueError, match="shapes do not agree"):
            core.advance_vectors(**called(**changes))
    for field in ("renormalise_every", "spacing"):
        with pytest.raises(ValueError, match="counts must be positive"):
            core.advance_vectors(**called(options=told["options"]._replace(**{field: 0})))
    with pytest.raises(ValueError, match="counts must be positive"):
        core.advance_vectors(**called(stream=STREAM._replace(steps_per_batch=0)))
    with pytest.raises(ValueError, match="coordinates must be 'gram' or 'factor'"):
        core.advance_vectors(**called(steps=told["steps"]._replace(rows=told["steps"].rows._replace(coordinates="a"))))
    steps = called(SYSTEMS[1])["steps"]
    with pytest.raises(ValueError, match="sampling must be"):
        core.advance_vectors(**called(SYSTEMS[1], steps=steps._replace(law=steps.law._replace(sampling="any"))))
    with pytest.raises(ValueError, match="batches need trials"):
        core.advance_vectors(**called(SYSTEMS[1], metrics=called(SYSTEMS[1])["metrics"]._replace(n_trials=0)))


def test_frames_take_single_steps_as_batches_of_one():
    system = SYSTEMS[0]
    call = system.frames_call()
    metrics = arguments.FrameMetrics(call.log_determinants, columns=2)
    options = arguments.FrameOptions(block=8, period=4, careful=False, null_ratio=0.0, least_ratio=0.0)
    frames = np.random.default_rng(5).standard_normal((2, 4, 2))
    single = arguments.SingleSteps(call.steps.rows, call.steps.learning_rate)
    found = [core.advance_frames(steps, metrics, frames.copy(), STREAM, options, 1) for steps in (call.steps, single)]
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
