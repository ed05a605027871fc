"""Pictures of exponents."""

import sgdstab_fast as sf
from matplotlib.figure import Figure
from reference.known import K4, REAL_GRAMS


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
