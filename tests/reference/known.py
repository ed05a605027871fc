"""Matrices and numbers that several tests know, and where they come from."""

import functools
import math
from pathlib import Path

import numpy as np

K4 = np.array([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], dtype=float)
# Two examples for which everything is known to 20 digits, at learning rate 1/2.
T1 = np.array([[1, -0.5], [-0.5, 1]])
T1_EXPONENT = -0.1364810610335893838
T1_SECOND_EXPONENT = -np.log(2) - T1_EXPONENT

# (matrix, learning rate, lambda, its standard error)
REFERENCES = [
    ("digits_trained_128", 0.496, -7.571967994863391e-05, 3.392982350763909e-10),
    ("digits_trained_128", 1.063, 0.0029155153134084637, 4.2439298746764243e-07),
    ("digits_trained_128", 1.558, 0.007728577784847493, 9.529640270989567e-06),
    ("iris_trained_40", 0.469, -3.212579244642285e-06, 5.775769733757534e-13),
    ("iris_trained_40", 1.004, -6.877529571787432e-06, 1.7492213878352857e-12),
    ("iris_trained_40", 1.473, 0.02431228450620167, 8.580105252226118e-06),
]
REAL_GRAMS = dict(np.load(Path(__file__).parents[1] / "data" / "gram_matrices.npz"))
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
# Lambda(2) of K4 for batches of that many without replacement, at learning rates .1, .3 and .5.
K4_MEAN_SQUARES = {
    1: (-0.0499800312939343, -0.143710338695453, 0.217230316293391),
    2: (-0.0504526002242061, -0.153667062921271, -0.257937363061476),
    3: (-0.0505782977880847, -0.155306188387775, -0.264962199544957),
    4: (-0.0506356159685798, -0.155923082939424, -0.267062785249045),
}
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


def smooth_kernel(n, width, spread):
    """A Gaussian kernel at uneven places, of examples of uneven lengths: eigenvalues fall by orders of magnitude."""
    places = np.linspace(0, 1, n) + 0.02 * np.sin(7 * np.arange(n))
    lengths = np.exp(spread * np.sin(3 * np.arange(n)))
    return np.exp(-((places[:, None] - places) ** 2) / (2 * width**2)) * lengths * lengths[:, None]


# Almost-sure critical rates over those in mean square, and their standard errors: of runs of 6e8, 2e8 and 2e10 steps,
# as many as it takes the slowest direction to decay hundreds of times.
SLOW_KERNELS = {
    "ratio 1e-5": (smooth_kernel(12, 0.15, 0.3), 1.07096, 0.00031),
    "heavy rows": (smooth_kernel(16, 0.1, 0.5), 1.02540, 0.00024),
    "ratio 7e-8": (smooth_kernel(20, 0.1, 0.3), 1.05408, 0.00047),
}
