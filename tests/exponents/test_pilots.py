"""The way to lambda that is the shortest: evaluations of growth, or averages where an evaluation takes long."""

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.statistics import assert_within


@pytest.fixture(scope="module")
def many_matrices():
    return sf.MatrixEnsemble(np.eye(2) + 0.5 * np.random.default_rng(0).standard_normal((5000, 2, 2)))


def test_a_rough_look_at_many_matrices_is_averaged_and_a_sharp_one_evaluated(many_matrices):
    rough = sf.lyapunov_exponent(many_matrices, rtol=2e-2, rng=1, n_threads=1)
    sharp = sf.lyapunov_exponent(many_matrices, rtol=1e-4, max_steps=4e5, rng=1, n_threads=1, atol=1e-4)
    assert (rough.provenance["method"], sharp.provenance["method"]) == ("average", "anchored")
    assert_within(rough.exponent, rough.standard_error, sharp.exponent, sharp.standard_error)
    assert rough.converged
    assert sharp.standard_error < rough.standard_error / 5


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_moments_of_many_matrices_of_the_plane_are_simulated(many_matrices):
    result = sf.moment_exponent(many_matrices, 1.0, max_steps=1e5, rng=1, n_threads=1)
    exact = sf.moment_exponent(many_matrices, 2.0).exponent
    assert result.standard_error > 0
    assert 0 < result.exponent < exact / 2 + 4 * result.standard_error


def test_few_matrices_are_evaluated():
    few = sf.MatrixEnsemble(np.eye(2) + 0.5 * np.random.default_rng(0).standard_normal((50, 2, 2)))
    assert sf.lyapunov_exponent(few, rtol=0.1, rng=1, n_threads=1).provenance["method"] == "anchored"
