"""What holds for every plot: its title names the system, the edge is in view, and no words are printed over others."""

import numpy as np
import pytest
import sgdstab_fast as sf
from matplotlib import pyplot
from matplotlib.figure import Figure
from plotting.canvas import overlapping, words_on
from reference.known import K4

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
EXAMPLE = sf.load_example().gram
FIBONACCI = sf.MatrixEnsemble([[[0, 1], [1, 1]], [[0, 1], [1, -1]]])
SYSTEMS = {
    "stable network": (sf.LinearizedSGD(EXAMPLE, 0.5), ("N = 160", "B = 1", "η = 0.5")),
    "unstable network": (sf.LinearizedSGD(EXAMPLE, 0.6), ("N = 160", "B = 1", "η = 0.6")),
    "stable": (sf.LinearizedSGD(K4, 0.3), ("N = 4", "B = 1", "η = 0.3")),
    "unstable": (sf.LinearizedSGD(K4, 0.9), ("N = 4", "B = 1", "η = 0.9")),
    "momentum": (sf.LinearizedSGD(K4, 0.3, 2, momentum=0.9), ("N = 4", "B = 2", "η = 0.3", "momentum 0.9")),
    "matrices": (FIBONACCI, ("d = 2", "2 matrices")),
    "one example": (sf.LinearizedSGD([[2.0]], 0.3), ("N = 1", "B = 1", "η = 0.3")),
}
HOW = {"rng": 1, "rtol": 0, "max_steps": 60_000, "n_threads": 1}
PLOTS = {
    "exponent": lambda system: sf.lyapunov_exponent(system, **HOW),
    "spectrum": lambda system: sf.lyapunov_spectrum(system, **HOW),
    "verdict": lambda system: sf.stability(system, **HOW),
    "verdict and exponent": lambda system: sf.stability(system, exponent=True, **HOW),
    "chain": lambda system: sf.projective_chain(system, **HOW),
    "finite times": lambda system: sf.projective_chain(system, **HOW).finite_time_distribution(
        20, n_samples=1024, moments=sf.moment_exponent(system, [1.0, 2.0], **HOW)
    ),
    "moments": lambda system: sf.moment_exponent(system, [0.5, 1.0, 2.0, 3.0], **(HOW | {"max_steps": 200_000})),
}


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def drawn(result):
    """Plot, and return axes and figure."""
    axes = np.ravel(np.array(result.plot(), dtype=object)).tolist()
    return axes, axes[0].figure


def edge_is_seen(axes):
    """Say whether a line at 0 is in view, with a word for either side, or where it is."""
    words = [text.get_text() for text in axes.texts]
    if any("the edge 0 is far" in each for each in words):
        return True
    sides = any(each.startswith("← ") for each in words) and any(each.endswith(" →") for each in words)
    straight = [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines if len(line.get_xydata()) == 2]
    across = any((each[:, 1] == 0).all() for each in straight) and axes.get_ylim()[0] < 0 < axes.get_ylim()[1]
    along = any((each[:, 0] == 0).all() for each in straight) and axes.get_xlim()[0] < 0 < axes.get_xlim()[1]
    return sides and (across or along)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("plot", PLOTS)
def test_titles_name_the_system_the_edge_is_in_view_and_no_words_overlap(plot, name):
    system, named = SYSTEMS[name]
    axes, figure = drawn(PLOTS[plot](system))
    for each in axes:
        assert all(part in each.get_title() for part in named)
        assert ("momentum" in each.get_title()) == (name == "momentum")
        about_shares = each.get_xlabel().startswith("share of the direction, ")
        assert not each.axison or about_shares or edge_is_seen(each)
        assert not each.axison or "nats per step" in each.get_xlabel() + each.get_ylabel() or about_shares
    assert overlapping(figure) == []


SWEEPS = {
    "network": lambda: sf.sweep(EXAMPLE, np.linspace(0.3, 0.7, 17), **HOW),
    "network, near the edge": lambda: sf.sweep(EXAMPLE, np.linspace(0.505, 0.545, 17), **HOW),
    "below the edge": lambda: sf.sweep(K4, np.linspace(0.05, 0.2, 7), **HOW),
    "beyond all edges": lambda: sf.sweep(K4, np.linspace(0.05, 1.8, 25), **HOW),
    "over orders": lambda: sf.sweep(K4, np.geomspace(0.01, 1, 15), **HOW),
    "one rate": lambda: sf.sweep(K4, [0.3], **HOW),
    "momentum": lambda: sf.sweep(K4, np.linspace(0.05, 0.5, 7), batch_sizes=[2], momenta=[0.5], **HOW),
    "sizes": lambda: sf.sweep(K4, np.linspace(0.1, 1.2, 7), batch_sizes=[1, 2, 3], **HOW),
    "one example": lambda: sf.sweep([[2.0]], np.linspace(0.1, 1.5, 13), **HOW),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_too(name):
    found = SWEEPS[name]()
    (axes,), figure = drawn(found)
    parts = [f"N = {EXAMPLE.shape[0] if 'network' in name else 1 if name == 'one example' else 4}"]
    parts += [] if name == "sizes" else ["B = 2, momentum 0.5" if name == "momentum" else "B = 1"]
    assert all(part in axes.get_title() for part in parts)
    assert edge_is_seen(axes)
    assert overlapping(figure) == []


DECAY = sf.Recurrence(free=np.array([[0.99]]), readout=np.array([1.0]))


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize(
    "sweep",
    [
        lambda: sf.sweep(np.eye(8) + 0.3, [0.3], range(1, 9), **HOW),
        lambda: sf.sweep(K4, [0.1, 0.3, 0.5], [1, 2], [0, 0.9], rtol=0, max_steps=2e4, rng=1),
        lambda: sf.sweep(sf.LinearizedSGD(K4, 0.2).with_recurrence(DECAY), [0.1, 0.2, 0.3], **HOW),
    ],
    ids=["one rate, many sizes", "errors that are not known", "recurrence"],
)
def test_sweeps_that_have_less_to_show_are_drawn_too(sweep):
    (axes, *_), figure = drawn(sweep())
    assert axes.has_data()
    assert overlapping(figure) == []


def test_chains_are_drawn_in_a_part_of_a_figure():
    chain = sf.projective_chain(sf.LinearizedSGD(K4, 0.6), rng=1, max_steps=2e5, rtol=0)
    left, _ = Figure().subfigures(1, 2)
    assert chain.plot(tuple(left.subplots(1, 2)))[0].has_data()


@pytest.mark.parametrize("name", ["network", "network, near the edge", "beyond all edges", "one example"])
def test_curves_of_sweeps_have_the_signs_that_their_edges_say(name):
    found = SWEEPS[name]()
    (axes,), _ = drawn(found)
    edges, (curve, mean_square, *_) = found.edges[0], [line.get_xydata() for line in axes.lines]
    for (x, y), edge in ((mean_square.T, edges.mean_square), (curve.T, edges.mean_square)):
        assert (y[x < edge * (1 - 1e-12)] < 0).all()
    assert (mean_square[mean_square[:, 0] > edges.mean_square * (1 + 1e-12), 1] > 0).all()
    x, y = curve.T
    assert (y[x < edges.almost_sure * (1 - 1e-12)] < 0).all()


@pytest.mark.parametrize("learning_rate", [None, 0.8])
def test_thresholds_too(learning_rate):
    axes, figure = drawn(sf.thresholds(K4, 2, learning_rate=learning_rate, rng=1, rtol=0.1, orders=()))
    assert "N = 4, B = 2" in axes[0].get_title()
    assert ("η = 0.8" in axes[0].get_title()) == (learning_rate is not None)
    assert overlapping(figure) == []


def test_histories_too():
    tracker = sf.StabilityTracker(0.4, quantities="economy", momentum=0.5)
    for step in range(4):
        tracker.update((0.5 + 0.3 * step) * K4, step=step, residuals=[1, -2, 0.5, 1])
    (axes,), figure = drawn(tracker.history)
    assert "N = 4, B = 1, η = 0.4, momentum 0.5" in axes.get_title()
    assert {"← stable", "unstable →"} <= {text.get_text() for text in axes.texts}
    assert axes.get_ylim()[0] < 1 < axes.get_ylim()[1]
    assert overlapping(figure) == []


def test_spectra_count_positive_exponents_and_have_whole_ticks():
    for rate, said in ((0.3, "0 of 4 positive"), (0.6, "2 of 4 positive")):
        found = sf.lyapunov_spectrum(sf.LinearizedSGD(K4, rate), rtol=0, max_steps=1e5, rng=1)
        assert int((found.confidence_interval()[0] > 0).sum()) == int(said[0])
        (axes,), figure = drawn(found)
        assert said in axes.get_title()
        assert [text for text, _ in words_on(figure) if text.isdigit()] == ["1", "2", "3", "4"]


def test_chains_name_the_examples_that_drive_growth():
    chain = sf.projective_chain(sf.LinearizedSGD(EXAMPLE, 0.6), rng=1, max_steps=2e5, rtol=0)
    (left, _), _ = drawn(chain)
    named = {text.get_text() for text in left.texts if text.get_text().isdigit()}
    largest = np.argsort(-chain.exponent_by_example)[:5]
    assert named == {str(example) for example in largest}
    assert (chain.exponent_by_example[largest] > 0).all()


def test_saved_results_are_drawn_with_their_titles(tmp_path):
    result = sf.lyapunov_exponent(SYSTEMS["momentum"][0], **HOW)
    result.save(tmp_path / "result.npz")
    again = sf.load(tmp_path / "result.npz")
    assert again.setting == result.setting
    assert drawn(again)[0][0].get_title() == drawn(result)[0][0].get_title()
