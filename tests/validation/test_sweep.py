"""What sweeps refuse."""

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4


@pytest.mark.parametrize(
    ("learning_rates", "error", "message"),
    [
        ([0.3, 0.2], ValueError, r"learning_rates must increase, but learning_rates\[1\] is 0.2 after 0.3"),
        ([0.1, 0.3, 0.3], ValueError, r"learning_rates must increase, but learning_rates\[2\] is 0.3 after 0.3"),
        ([0, 0.3], ValueError, r"learning_rates\[0\] must be positive and finite, not 0"),
        ([0.3, -0.5], ValueError, r"learning_rates\[1\] must be positive and finite, not -0.5"),
        ([0.3, np.inf], ValueError, r"learning_rates\[1\] must be positive and finite, not inf"),
        ([0.3, np.nan], ValueError, r"learning_rates\[1\] must be a number, not nan"),
        ([], ValueError, r"learning_rates must be a non-empty sequence of numbers, not \[\]"),
        ([[0.1, 0.2]], ValueError, r"learning_rates must be a non-empty sequence of numbers, not \[\[0.1, 0.2\]\]"),
        ([[0.1], [0.2, 0.3]], ValueError, "learning_rates must be a non-empty sequence of numbers"),
        ("0.1", TypeError, r"learning_rates\[0\] must be a real number, not '0.1'"),
        (["0.1", "0.2"], TypeError, r"learning_rates\[0\] must be a real number, not .*'0.1'"),
        ([True], TypeError, r"learning_rates\[0\] must be a real number, not True"),
        ([0.1j], TypeError, r"learning_rates\[0\] must be a real number, not 0.1j"),
        (None, TypeError, r"learning_rates\[0\] must be a real number, not None"),
        ([1.0, 1e300], ValueError, "learning_rate 1e\\+300 is too large"),
    ],
)
def test_bad_learning_rates(learning_rates, error, message):
    with pytest.raises(error, match=message):
        sf.sweep(K4, learning_rates)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_sizes": 0}, ValueError, r"batch_sizes\[0\] must be positive and finite, not 0"),
        ({"batch_sizes": (1, 1)}, ValueError, r"batch_sizes must increase, but batch_sizes\[1\] is 1 after 1"),
        ({"batch_sizes": ()}, ValueError, r"batch_sizes must be a non-empty sequence of numbers, not \(\)"),
        ({"batch_sizes": (1.5,)}, TypeError, "batch_sizes must be an integer, not 1.5"),
        ({"batch_sizes": "1"}, TypeError, r"batch_sizes\[0\] must be a real number, not '1'"),
        ({"batch_sizes": 5}, ValueError, r"must be in 1\.\.4, not 5"),
        ({"max_steps": 63}, ValueError, r"max_steps must be at least n_chains \(64\), not 63"),
        ({"max_steps": 10**400}, ValueError, "max_steps must be in 1..4611686018427387904, not 10+"),
        ({"max_steps": 1.5}, TypeError, "max_steps must be an integer, not 1.5"),
        ({"n_chains": 0}, ValueError, "n_chains must be in .*, not 0"),
        ({"rtol": -1}, ValueError, "rtol must be finite and not negative, not -1"),
        ({"atol": np.nan}, ValueError, "atol must be a number, not nan"),
        ({"rng": -1}, ValueError, "-1|negative"),
        ({"n_threads": 0}, ValueError, "n_threads must be in .*, not 0"),
        ({"progress": 3}, TypeError, "progress must be None, a bool or a callable, not 3"),
        ({"executor": 3}, TypeError, "executor must be a concurrent.futures.Executor, not 3"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        sf.sweep(K4, [0.3, 0.4], **options)


def test_bad_grams():
    with pytest.raises(ValueError, match="gram must not be zero"):
        sf.sweep(np.zeros((2, 2)), [0.3])
    with pytest.raises(ValueError, match="gram must be symmetric"):
        sf.sweep(np.triu(K4), [0.3])
    with pytest.raises(ValueError, match="gram must be a matrix"):
        sf.sweep(np.ones(3), [0.3])
