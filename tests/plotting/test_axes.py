"""Axes that the caller supplies, or new ones."""

import subprocess
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import sgdstab_fast as sf
from matplotlib import pyplot
from matplotlib.figure import Figure
from reference.known import K4
from sgdstab_fast.plotting.axes import (
    axes_or_new,
    edge_of_stability,
    in_print,
    label_decades,
    name_points,
    setting_in_words,
    side_by_side,
    words,
)


def test_axes_given_are_drawn_on():
    ax = Figure().subplots()
    assert axes_or_new(ax) is ax
    assert words("nothing", ax) is ax
    assert not ax.axison


def test_panels_take_axes_in_turn_and_the_first_one_alone():
    panels = [lambda ax, name=name: ax.set_title(name).axes for name in ("a", "b")]
    pair, single = Figure().subplots(1, 2), Figure().subplots()
    assert side_by_side(panels, (4, 3), pair) == tuple(pair)
    assert [ax.get_title() for ax in pair] == ["a", "b"]
    assert side_by_side(panels, (4, 3), single) is single
    assert single.get_title() == "a"


@pytest.mark.parametrize("ax", ["lambda.png", Figure()], ids=["a name", "a figure"])
def test_what_is_no_axes_is_refused(ax):
    for draw in (axes_or_new, partial(words, "nothing"), partial(side_by_side, [lambda ax: ax.plot()], (4, 3))):
        with pytest.raises(TypeError, match=r"ax must be matplotlib axes, not .*savefig\(..\) writes a file"):
            draw(ax)


def test_new_axes_are_as_many_as_panels():
    panel = partial(words, "nothing")
    two, one = side_by_side([panel, panel], (4, 3), None), side_by_side([panel], (4, 3), None)
    try:
        assert tuple(two[0].figure.get_size_inches()) == (8, 3)
        assert tuple(one.figure.get_size_inches()) == (4, 3)
    finally:
        pyplot.close("all")


PLOTTED = {
    "exponent": lambda: sf.lyapunov_exponent(sf.LinearizedSGD(K4, 0.3), rtol=0.1, rng=1),
    "closed form": lambda: sf.lyapunov_exponent(sf.LinearizedSGD([[2.0]], 0.3)),
    "spectrum": lambda: sf.lyapunov_spectrum(sf.LinearizedSGD(K4, 0.3), rtol=0, max_steps=1e4, rng=1),
    "stability": lambda: sf.stability(sf.LinearizedSGD(K4, 0.3)),
    "sweep": lambda: sf.sweep(K4, [0.1, 0.2], rtol=0, max_steps=1e4, rng=1),
    "moments": lambda: sf.moment_exponent(sf.LinearizedSGD(K4, 0.3), [2.0, 4.0]),
    "thresholds": lambda: sf.thresholds(K4, 4, orders=()),
    "history": lambda: sf.StabilityTracker(0.1).history,
}


@pytest.mark.parametrize("name", PLOTTED)
def test_without_matplotlib_a_plot_says_what_to_install(name, monkeypatch):
    result = PLOTTED[name]()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'^plots need matplotlib: pip install "sgdstab_fast\[plot\]"$'):
        result.plot()


def test_matplotlib_is_imported_by_plots_alone():
    code = (
        "import sys, sgdstab_fast as sf; "
        "result = sf.lyapunov_exponent(sf.LinearizedSGD([[2.0]], 0.3)); "
        "assert 'matplotlib' not in sys.modules; import matplotlib; matplotlib.use('agg'); result.plot()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_setting_is_said_in_few_words():
    sgd = {"n_examples": 160, "batch_size": 2, "learning_rate": 0.5}
    assert setting_in_words(sgd) == "N = 160, B = 2, η = 0.5"
    assert setting_in_words(sgd | {"momentum": 0.9}) == "N = 160, B = 2, η = 0.5, momentum 0.9"
    others = {"momentum": 0.9, "nesterov": True, "sampling": "epoch", "importance_sampling": True}
    assert setting_in_words(others) == "Nesterov momentum 0.9, random reshuffling, importance sampling"
    assert setting_in_words({"dimension": 2, "n_matrices": 3}) == "d = 2, 3 matrices"
    assert setting_in_words({}) == ""


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("(-6.17 ± 0.03)e-6", "(\N{MINUS SIGN}6.17 ± 0.03)·10⁻⁶"),
        ("1.5e+10", "1.5·10¹⁰"),
        ("-inf", "\N{MINUS SIGN}∞"),
        ("mean-square exponent -1", "mean-square exponent \N{MINUS SIGN}1"),
    ],
)
def test_numbers_are_printed_with_signs_and_powers(text, printed):
    assert in_print(text) == printed


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("scale", ["linear", "symlog"])
@pytest.mark.parametrize("values", [(-3.0, -1.0), (0.5, 2.0), (-1.0, 1.0)])
def test_the_edge_has_room_on_either_side_whatever_the_scale(axis, scale, values):
    ax = Figure().subplots()
    (ax.set_xlim if axis == "x" else ax.set_ylim)(*values)
    (ax.set_xscale if axis == "x" else ax.set_yscale)(scale)
    edge_of_stability(ax, axis)
    at = ax.transAxes.inverted().transform(ax.transData.transform((0.0, 0.0)))[0 if axis == "x" else 1]
    assert 0.2 - 1e-9 <= at <= 0.8 + 1e-9


def test_names_are_beside_their_points_and_not_on_each_other():
    figure = Figure()
    ax, points = figure.subplots(), np.array([[0.5, 0.5], [0.51, 0.5], [0.5, 0.52], [1.0, 1.0], [0.0, 0.0]])
    ax.plot(*points.T, "o")
    name_points(ax, [(x, y, str(i)) for i, (x, y) in enumerate(points.tolist())], ["k"] * 5, points)
    figure.draw_without_rendering()
    boxes = [text.get_tightbbox() for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == list("01234")
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(5) for j in range(i))


@pytest.mark.parametrize("limits", [(2.1e4, 6.5e5), (1e4, 3e4), (1.2e-4, 0.9), (3.0, 1e9)])
def test_labels_of_a_logarithmic_axis_are_several_and_apart(limits):
    figure = Figure(figsize=(5, 4))
    ax = figure.subplots()
    ax.set_xlim(*limits)
    label_decades(ax)
    figure.draw_without_rendering()
    labels = [label for label in ax.get_xticklabels() if limits[0] <= label.get_position()[0] <= limits[1]]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
    assert len(boxes) >= 3
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
