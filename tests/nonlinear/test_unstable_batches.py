"""One unstable batch: Lambda(2) < 0 and lambda < 0, and yet the mean of nonlinear SGD may diverge.

l_1 = 2.1 x^2 / 2 + k x^4 / 24, l_2 = 1.5 x^2 / 2, eta = 1, batches of one: with k = 6 batch 1 alone escapes, Gamma < 0,
k = -6 it oscillates.
"""

import math

import numpy as np
import pytest
import sgdstab_fast as sf


def moved(x, k):
    """A step on batch 1."""
    return x - 2.1 * x - k * x**3 / 6


def test_the_linear_exponents_are_negative():
    # Two examples of one parameter: K = g g^T.
    gram = np.outer(np.sqrt([2.1, 1.5]), np.sqrt([2.1, 1.5]))
    system = sf.LinearizedSGD(gram, 1.0)
    assert sf.mean_square_exponent(system).exponent == pytest.approx(-0.3147107448397002, rel=1e-12)
    assert sf.lyapunov_exponent(system).exponent == pytest.approx(-0.2989185003778102, rel=1e-12)
    found = sf.nonlinear.batch_stability(gram, 1.0)
    assert found.stable is False
    assert found.worst_batch.tolist() == [0]


@pytest.mark.parametrize(("k", "verdict"), [(6, "unstable cycle"), (-6, "stable cycle")])
def test_the_sign_of_the_quartic_term_decides(k, verdict):
    found = sf.nonlinear.gd_oscillation([[2.1]], [[[0.0]]], [[[[float(k)]]]], 1.0)
    assert found.criterion == pytest.approx(-k)
    assert found.verdict == verdict
    x, path = 0.1, []
    for _ in range(40):
        x = moved(x, k)
        path.append(x)
        if abs(x) > 1e100:
            break
    if k > 0:
        assert path[:4] == pytest.approx([-0.111, 0.123467631, -0.137696566263, 0.154076997203], rel=1e-11)
        assert path[17] == pytest.approx(5.73399e16, rel=1e-5)
        # E|x_t| >= 2^-t |path_t|: x grows as x^3 from step to step.
        logs = [math.log(abs(each)) for each in path]
        assert logs[17] - 18 * math.log(2) > math.log(2e11)
        assert logs[-1] / logs[-2] == pytest.approx(3, rel=0.01)
    else:
        for _ in range(2000):
            x = moved(x, k)
        assert abs(x) == pytest.approx(0.31622776601683794, rel=1e-12)
        assert found.amplitude == pytest.approx(math.sqrt(0.1), rel=1e-12)


def test_the_mean_grows_or_dies_as_said():
    """2^20 sequences of batches, all of them: with k = 6 few carry the mean away, k = -6 it dies."""
    means = {}
    for k in (6, -6):
        x = np.array([0.1])
        for _ in range(20):
            x = np.concatenate([moved(np.clip(x, -1e60, 1e60), k), -0.5 * x])
        means[k] = np.abs(x).mean()
    assert means[6] > 1e10
    assert means[-6] < 2e-3
