"""Pictures of exponents."""

import numpy as np
import pytest
import sgdstab_fast as sf
from matplotlib.figure import Figure
from reference.known import K4, REAL_GRAMS
from sgdstab_fast.plotting.exponents import running


def test_plots_draw_on_given_axes():
    system = sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.473)
    for result in (
        sf.lyapunov_exponent(system, rtol=0, max_steps=1e6, rng=1),
        sf.lyapunov_spectrum(system, rtol=0, max_steps=1e5, rng=1),
        sf.lyapunov_exponent(sf.LinearizedSGD([[2.0]], 0.5), rtol=0, max_steps=1e5, rng=1),
        sf.lyapunov_spectrum(sf.LinearizedSGD(K4, 0.5), rtol=0, max_steps=1e4, rng=1),
    ):
        ax = Figure().subplots()
        assert result.plot(ax) is ax
        assert (ax.get_xlabel() and ax.get_ylabel()) or ax.texts  # what is known exactly has nothing to converge


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize(
    "system",
    [
        sf.LinearizedSGD(K4, 0.3),
        sf.LinearizedSGD(K4, 0.9, 2),
        sf.MatrixEnsemble([[[2.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.3, 0.4]]]),
        sf.LinearizedSGD(np.kron(np.eye(2), K4), 0.3),
    ],
    ids=["single examples", "batches", "matrices", "blocks"],
)
def test_the_running_estimate_ends_at_the_result(system):
    result = sf.lyapunov_exponent(system, rtol=0, max_steps=50_000, rng=1, n_threads=1)
    line = result.plot(Figure().subplots()).lines[0]
    assert line.get_ydata()[-1] == pytest.approx(result.exponent, rel=1e-14)


def test_what_was_not_estimated_is_drawn_by_its_bounds():
    result = sf.stability(sf.LinearizedSGD(K4, 0.42))
    ax = result.plot(Figure().subplots())
    assert result.lyapunov is None
    drawn = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_alpha() == 0.5]
    assert [tuple(line.get_xdata()) for line in drawn] == [result.bounds]


@pytest.mark.parametrize("final", [-1.0, 1.0, -1e-3, 1e-3])
@pytest.mark.parametrize("spread", [0.1, 10.0])
def test_an_inset_shows_what_is_too_narrow_beside_0(final, spread):
    steps = np.geomspace(1e4, 1e6, 40)
    half = np.maximum(spread * np.geomspace(1, 1e-6, 40), 1e-5 * abs(final))
    ax = Figure().subplots()
    running(steps, np.full(40, final), half / 2, half, "", {"n_examples": 2}, ax)
    (inset,) = ax.child_axes
    low, high = inset.get_ylim()
    assert low < 0 < high
    assert high <= 10 * half[-1] / abs(final)  # so that the last interval is seen
    assert ax.get_ylim()[0] < 0 < ax.get_ylim()[1]


@pytest.mark.parametrize("learning_rate", [0.5, 0.6])
def test_the_running_estimate_ends_as_the_result_says(learning_rate):
    """Also where what chains owe to their starts is known from a bound alone."""
    system = sf.LinearizedSGD(sf.load_example().gram, learning_rate)
    result = sf.lyapunov_exponent(system, rtol=1e-2, rng=0)
    ax = result.plot(Figure().subplots())
    band = ax.collections[0].get_paths()[0].vertices
    last = band[band[:, 0] == band[:, 0].max(), 1]
    assert last.max() - result.exponent == pytest.approx(1.96 * result.standard_error, rel=1e-3)
