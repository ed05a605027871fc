"""Progress of what takes no steps: what is computed, how far it is, for how long; by a callable, or on a terminal."""

import functools
import io
import threading

import numpy as np
import pytest
import rich.console
import sgdstab_fast as sf
from reference.known import K4
from sgdstab_fast.results.progress import Progress, current_listener, listening, tell_of

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
N = 130  # of which Ctrl-C is answered while it is computed
FEATURES = np.random.default_rng(1).standard_normal((N, 2 * N))
LARGE = FEATURES @ FEATURES.T / N
LARGE_SYSTEM = sf.LinearizedSGD(LARGE, 0.3)
RESIDUALS = np.linspace(-1, 1, N)
SMALL_SYSTEM = sf.LinearizedSGD([[3, 1], [1, 2]], 1.1)
EXACT = {
    "Lambda(2)": lambda **k: sf.mean_square_exponent(LARGE_SYSTEM, **k).exponent,
    "Lambda(2) of batches": lambda **k: sf.mean_square_exponent(sf.LinearizedSGD(K4, 0.7, 2), **k).exponent,
    "mu": lambda **k: sf.gd_exponent(LARGE, 0.3, **k),
    "regularity": lambda **k: sf.regularity(sf.LinearizedSGD(LARGE[:4, :4], 0.3), **k).margin,
    "zero of mu": lambda **k: sf.critical_learning_rate(LARGE, "gd", **k).value,
    "zero of Lambda(2)": lambda **k: sf.critical_learning_rate(LARGE, "mean-square", **k).value,
    "zero of Lambda(2) of batches": lambda **k: sf.critical_learning_rate(K4, "mean-square", 2, **k).value,
    "edge measures": lambda **k: sf.nonlinear.edge_measures(LARGE, RESIDUALS, 8, rng=1, **k).batch_sharpness,
    "batches": lambda **k: sf.nonlinear.batch_stability(LARGE[:30, :30], 0.3, 4, **k).upper,
    "noise": lambda **k: sf.nonlinear.noise_equilibrium([[0.5, 2], [-0.5, -2]], np.diag([1, -1]), **k).equilibrium,
    "psi": lambda **k: sf.eigenfunction(SMALL_SYSTEM, -1, n_directions=64, max_steps=20_000, rng=1, **k).value,
    "V": lambda **k: sf.lyapunov_function(SMALL_SYSTEM, p=0.1, max_steps=20_000, rng=1, **k).rate,
}  # fmt: skip
SILENT = {"regularity"}  # decomposed nothing


@pytest.mark.parametrize("name", EXACT)
def test_what_takes_no_steps_tells_what_it_computes_and_computes_the_same(name):
    seen, threads = [], set()

    def watch(progress):
        seen.append(progress)
        threads.add(threading.current_thread())

    assert EXACT[name](progress=watch) == EXACT[name]()
    computed = [each for each in seen if each.doing]
    assert bool(computed) == (name not in SILENT)
    assert threads <= {threading.main_thread()}
    for each in computed:
        assert (each.n_steps, each.max_steps) == (0, 0)
        assert str(each).startswith(each.doing)
        assert "after" in str(each)


def test_an_iteration_tells_what_is_still_to_fall():
    seen = []
    found = sf.mean_square_exponent(LARGE_SYSTEM, progress=seen.append)
    residuals = [each.residual for each in seen if each.n_iterations > 0]
    assert len(residuals) == found.n_iterations
    assert residuals[-1] == found.residual <= seen[-1].tolerance < residuals[0]
    assert [each.seconds for each in seen] == sorted(each.seconds for each in seen)


def test_thresholds_and_verdicts_tell_what_they_compute_before_steps():
    for call in (
        lambda watch: sf.thresholds(K4, 2, orders=(), rtol=0.1, rng=1, progress=watch),
        lambda watch: sf.stability(sf.LinearizedSGD(K4, 0.43), rtol=0.1, rng=1, progress=watch),
    ):
        seen = []
        call(seen.append)
        doing = [bool(each.doing) for each in seen]
        assert doing[0]
        assert not doing[-1]


@pytest.mark.parametrize("bad", [3, "yes"])
def test_progress_that_is_none_is_refused(bad):
    with pytest.raises(TypeError, match="progress must be"):
        sf.mean_square_exponent(LARGE_SYSTEM, progress=bad)


def test_whoever_listens_goes_on_where_nobody_else_does():
    seen = []
    tell_of("nothing")
    with listening(seen.append, "outer"):
        with listening(None, "inner"):
            tell_of("heard")
        assert current_listener() is not None
    tell_of("nothing")
    assert current_listener() is None
    assert [each.doing for each in seen] == ["heard"]


def test_words():
    state = Progress(0, 0, np.nan, np.nan, seconds=3.2, doing="Lambda(2)", n_iterations=2, residual=0.5, tolerance=1e-9)
    assert str(state) == "Lambda(2), iteration 2, residual 0.5, to fall to 1e-09, after 3 s"


def test_a_terminal_shows_it(monkeypatch):
    screen = io.StringIO()
    console = functools.partial(rich.console.Console, file=screen, force_terminal=True, width=150)
    monkeypatch.setattr(rich.console, "Console", lambda **_: console())
    with listening(True, "exact"):
        tell_of("eigenvectors of K, 2048 rows")
    assert "exact" in screen.getvalue()
    assert "eigenvectors of K, 2048 rows" in screen.getvalue()
    assert "0:00:00" in screen.getvalue()


def test_a_log_gets_a_line_of_it(monkeypatch, capsys):
    monkeypatch.setattr("sgdstab_fast.results.progress._SECONDS_BETWEEN_LINES", 0.0)
    sf.mean_square_exponent(LARGE_SYSTEM, progress=True)
    assert "Lambda(2): Lambda(2) of 130 examples, iteration 1, residual" in capsys.readouterr().err
