"""What searches for critical learning rates refuse."""

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4


@pytest.mark.parametrize(
    ("criterion", "error", "message"),
    [
        ("almost sure", ValueError, "criterion must be one of 'gd', 'mean-square', 'almost-sure', not 'almost sure'"),
        ("mean_square", ValueError, "not 'mean_square'; did you mean 'mean-square'"),
        ("nonsense", ValueError, "not 'nonsense'$"),
        ("", ValueError, "criterion must be one of .*, not ''"),
        (None, TypeError, "criterion must be one of .* or a number, not None"),
        (["gd"], TypeError, r"criterion must be one of .* or a number, not \['gd'\]"),
        (True, TypeError, "criterion must be one of .* or a number, not True"),
        (2j, TypeError, "criterion must be one of .* or a number, not 2j"),
        (np.nan, ValueError, "criterion must be a number, not nan"),
        (0, ValueError, r"criterion must be a finite order other than 0, not 0: Lambda\(0\) is always 0"),
        (-np.inf, ValueError, "criterion must be a finite order other than 0, not -inf"),
        (-1e300, ValueError, "criterion must be within .*, not -1e\\+300"),
    ],
)
def test_bad_criteria(criterion, error, message):
    for gram in (K4, np.zeros((2, 2))):
        with pytest.raises(error, match=message):
            sf.critical_learning_rate(gram, criterion)


@pytest.mark.parametrize("criterion", ["almost-sure", "mean-square", "gd"])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be .*, not 0"),
        ({"batch_size": 5}, ValueError, r"batch_size must be in 1\.\.4, not 5"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be an integer, not 1.5"),
        ({"rtol": -1e-3}, ValueError, "rtol must be finite and not negative, not -0.001"),
        ({"rtol": "1"}, TypeError, "rtol must be a real number, not '1'"),
        ({"atol": np.inf}, ValueError, "atol must be finite and not negative, not inf"),
        ({"max_steps": 31}, ValueError, r"max_steps must be at least n_chains \(32\), not 31"),
        ({"max_steps": np.nan}, TypeError, "max_steps must be an integer, not nan"),
        ({"n_chains": 0}, ValueError, "n_chains must be in .*, not 0"),
        ({"n_threads": 0}, ValueError, "n_threads must be in .*, not 0"),
    ],
)
def test_bad_options(criterion, options, error, message):
    with pytest.raises(error, match=message):
        sf.critical_learning_rate(K4, criterion, **options)


def test_bad_grams():
    for gram, message in (
        (np.triu(K4), "gram must be symmetric"),
        (K4 * np.nan, "gram must be finite"),
        (-K4, "gram must be positive semidefinite"),
        (np.ones(3), "gram must be a matrix"),
        (K4[:3], "gram must be square"),
    ):
        with pytest.raises(ValueError, match=message):
            sf.critical_learning_rate(gram)
    with pytest.raises(TypeError, match="gram must be"):
        sf.critical_learning_rate("K4")
