"""Numbers that several tests know, and where they come from."""

import functools
import math

import numpy as np

# T1 at learning rate 1/2: Lambda(p), and sigma^2 = Lambda''(0).
T1_EXPONENTS = {
    -2: 0.2816289648804516847556,
    -1: 0.1388564891406052209223,
    0.5: -0.06754519737207070508495,
    1: math.log(7 / 8),
    2: -0.2595539679913346780622,
    3: -0.374693449441410693607,
    4: -0.4741392294187319871817,
}
T1_VARIANCE = 0.005262216433921990102258
# The learning rate at which Lambda(2) of K4 is 0.
K4_THRESHOLD = 0.420521611224924
# The zero of lambda between 0.42685 and 0.42695, and its standard error, from runs of 1.8e10 steps at either.
K4_ALMOST_SURE = (0.42689534, 9.1e-8)
# lambda of K4 and its standard error, from runs of 3e8 and 3e9 steps at single learning rates.
K4_REFERENCES = {
    0.15: (-0.0389868810, 3.0e-7),
    0.28: (-0.0770482813, 1.0e-6),
    0.425: (-0.0020511387, 2e-7),
    0.5: (0.0673647485, 9.2e-7),
    0.8: (0.2666522655, 2.6e-6),
}
PLANE = np.array([[1.5, 0.6], [0.6, 1.0]])


def steps_of(features, learning_rate):
    """The matrices I - eta f f^T of single examples."""
    return [np.eye(len(row)) - learning_rate * np.outer(row, row) for row in features]


def kronecker_exponent(features, learning_rate, order):
    """Lambda(p): log of the largest eigenvalue of the mean Kronecker power, which is symmetric."""
    powers = (functools.reduce(np.kron, [step] * order) for step in steps_of(features, learning_rate))
    return np.log(np.linalg.eigvalsh(sum(powers) / len(features))[-1])
