"""Symmetric matrices by strips: small systems, whose matrices are one strip, give the same in many."""

import itertools

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.systems import random_gram
from sgdstab_fast.operators import strips as module
from sgdstab_fast.operators.strips import strips


@pytest.fixture(params=[1, 2, 5])
def narrow(request, monkeypatch):
    """Strips of a few rows, of matrices of any size."""

    def narrowed():
        monkeypatch.setattr(module, "_STRIPS", 10**6)
        monkeypatch.setattr(module, "_NARROWEST", request.param)

    return narrowed


@pytest.mark.parametrize("rank", [1, 63, 64, 65, 700, 10_000])
def test_strips_are_the_diagonal_and_what_is_right_of_it(rank):
    found = list(strips(rank))
    assert found[0][0].start == 0
    assert found[-1][0].stop == rank
    for (rows, columns), (after, _) in itertools.pairwise(found):
        assert rows.stop == after.start
        assert (columns.start, columns.stop) == (rows.start, rank)
    assert max(rows.stop - rows.start for rows, _ in found) * rank <= 2**19 or len(found) == rank


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 3},
        {"momentum": 0.5},
        {"groups": [0, 0, 1, 2, 2, 2, 3, 4, 5]},
        {"probabilities": np.arange(1, 10) / 45},
    ],
    ids=str,
)
def test_second_moments_do_not_depend_on_them(rng, narrow, options):
    gram, rate = random_gram(rng, 9), 0.4

    def found():
        system = sf.LinearizedSGD(gram, rate, **options)
        return sf.mean_square_exponent(system), sf.critical_learning_rate(system, "mean-square")

    whole, its_rate = found()
    narrow()
    narrower, rate_of_narrower = found()
    assert narrower.exponent == pytest.approx(whole.exponent, rel=1e-10)
    assert rate_of_narrower.value == pytest.approx(its_rate.value, rel=1e-12)
    for name in ("metric", "covariance"):
        form = getattr(narrower, name)
        np.testing.assert_array_equal(form, form.T)
        np.testing.assert_allclose(form, getattr(whole, name), atol=1e-9)
