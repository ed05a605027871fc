"""Steps of the core as tests call them, and what they are: matrices, of steps on single examples."""

import numpy as np
import sgdstab_fast as sf
from reference.systems import random_gram
from sgdstab_fast._core.arguments import FrameMetrics, FrameOptions, VectorOptions
from sgdstab_fast._core.functions import core

KEY = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
FEATURES = np.random.default_rng(3).standard_normal((9, 5))
SINGLE = {
    "gram": lambda: sf.LinearizedSGD(random_gram(np.random.default_rng(2), 11) * 2, 0.7),
    "factor": lambda: sf.LinearizedSGD.from_factor(FEATURES, 0.25),
}


def matrices_of(system):
    """A_i, of steps on single examples."""
    moved = np.eye(system.dimension) if system.coordinates == "gram" else system.rows
    return [
        np.eye(system.dimension) - system.learning_rate * np.outer(e, row)
        for e, row in zip(moved, system.rows, strict=True)
    ]


def advanced(system, vectors, stream, metrics=None, **options):
    """Vectors, log growth, anchored growth."""
    how = {"renormalise_every": 32, "spacing": stream.steps_per_batch, "careful": False, "record": False}
    metrics = system.no_growth.metrics if metrics is None else metrics
    call = system.vectors_call().steps, metrics, vectors.copy(), stream
    return core.advance_vectors(*call, VectorOptions(**{**how, **options}), 1)


def advanced_frames(system, frames, stream, period, metrics=None, least_ratio=0.0):
    """Frames, log growth, log determinants, smallest ratios, growth."""
    options = FrameOptions(block=16, period=period, careful=False, null_ratio=1e-14, least_ratio=least_ratio)
    call = system.frames_call().steps, FrameMetrics() if metrics is None else metrics, frames.copy(), stream
    return core.advance_frames(*call, options, 1)
