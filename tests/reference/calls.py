"""Calls of every simulated estimator that take a fraction of a second, and what they are compared by."""

import dataclasses

import numpy as np
import sgdstab_fast as sf
from reference.known import K4

PLAIN = sf.LinearizedSGD(K4, 0.43)
BATCHES = sf.LinearizedSGD(K4, 0.7, 2)
BLOCKS = sf.LinearizedSGD(np.kron(np.eye(2), [[2.0, 1.0], [1.0, 3.0]]), 0.7)
RARE = sf.MatrixEnsemble([np.diag([2.0, 0.5]), [[0.0, 1.0], [1.0, 0.5]]], [0.999, 0.001])
SLOW = np.diag([1.0, 1.2, 0.01, 0.03]) + 0.003
CALLS = {
    "exponent": lambda **k: sf.lyapunov_exponent(PLAIN, rtol=3e-3, **k),
    "exponent of batches": lambda **k: sf.lyapunov_exponent(BATCHES, rtol=2e-3, **k),
    "exponent of blocks": lambda **k: sf.lyapunov_exponent(BLOCKS, rtol=1e-3, **k),
    "exponent in logarithms": lambda **k: sf.lyapunov_exponent(RARE, rtol=5e-3, **k),
    "average": lambda **k: sf.lyapunov_exponent(PLAIN, rtol=3e-2, method="average", **k),
    "spectrum": lambda **k: sf.lyapunov_spectrum(PLAIN, rtol=3e-3, max_steps=10**8, **k),
    "stability": lambda **k: sf.stability(PLAIN, exponent=True, rtol=2e-3, **k),
    "chain": lambda **k: sf.projective_chain(PLAIN, rtol=1e-2, max_steps=10**8, **k),
    "moments": lambda **k: sf.moment_exponent(PLAIN, [0.5, 3.0], rtol=2e-3, method="population", **k),
    "moments of batches": lambda **k: sf.moment_exponent(BATCHES, [0.5, 1], rtol=3e-3, method="population", **k),
    "critical": lambda **k: sf.critical_learning_rate(K4, rtol=1e-4, **k),
    "critical of batches": lambda **k: sf.critical_learning_rate(K4, batch_size=2, rtol=2e-3, **k),
    "critical moment": lambda **k: sf.critical_learning_rate(K4, 1.0, rtol=5e-2, max_steps=3_000_000, **k),
    "critical of slow directions": lambda **k: sf.critical_learning_rate(SLOW, batch_size=2, rtol=3e-2, **k),
    "sweep": lambda **k: sf.sweep(K4, np.linspace(0.2, 0.6, 8), rtol=3e-3, **k),
    "sweep of batches": lambda **k: sf.sweep(K4, [0.3, 0.5, 0.7], [1, 2], rtol=5e-3, **k),
    "probability": lambda **k: sf.finite_time_probability(PLAIN, 400, rtol=2e-2, **k),
    "thresholds": lambda **k: sf.thresholds(K4, 2, orders=(1,), rtol=3e-2, max_steps=3_000_000, **k),
}  # fmt: skip
_HOW_IT_CAME_ABOUT = {"seconds", "journal", "provenance"}


def bits(value):
    """What two results share if they are the same to the last bit, but for the time that they took."""
    if type(value).__module__.startswith("sgdstab_fast."):
        names = [each.name for each in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else ()
        return tuple((name, bits(getattr(value, name))) for name in names if name not in _HOW_IT_CAME_ABOUT)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, tuple | list):
        return tuple(map(bits, value))
    if isinstance(value, dict):
        return tuple((name, bits(each)) for name, each in value.items())
    return repr(value)
