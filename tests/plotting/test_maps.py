"""A map is drawn from arrays, whatever they are of."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from sgdstab_fast.plotting.maps import stability_map

KNOWN = ["0.300 ± 0.010"]
RATES = np.array([0.1, 0.2, 0.4, 0.8])


def map_of(sizes, momenta):
    """Curves that cross 0 at 0.3, their mean squares at 0.2 and full batches nowhere."""
    n, exponents = len(sizes), np.tile(RATES - 0.3, (len(sizes), 1))
    edge = SimpleNamespace(gd=2.0, mean_square=0.2, almost_sure=0.3)
    return SimpleNamespace(
        setting={"n_examples": 8},
        learning_rates=RATES,
        batch_sizes=np.array(sizes),
        momenta=np.array(momenta),
        names=[f"B={size}" for size in sizes],
        exponents=exponents,
        mean_square_exponents=2 * exponents + 0.2,
        gd_exponents=np.full((n, RATES.size), -0.5),
        edges=(edge,) * n,
        confidence_interval=lambda level: (exponents - 0.01, exponents + 0.01),
    )


@pytest.mark.parametrize(
    ("sizes", "momenta", "x", "y"),
    [
        ([1], [0.0], "learning rate η", "exponent (nats per step)"),
        ([1, 2], [0.0, 0.0], "learning rate η", "exponent (nats per step)"),
        (range(1, 9), [0.0] * 8, "batch size B", "learning rate η"),
        ([4] * 8, np.linspace(0, 0.9, 8), "momentum", "learning rate η"),
        ([1, 2, 3, 4] * 2, np.repeat([0.0, 0.9], 4), "batch size B", "learning rate η"),
    ],
    ids=["one curve", "two curves", "sizes", "momenta", "both"],
)
def test_few_curves_are_lines_and_many_a_surface_or_their_edges(sizes, momenta, x, y):
    ax = Figure().subplots()
    assert stability_map(map_of(list(sizes), list(momenta)), KNOWN, ax) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == (x, y)


def test_edges_of_one_curve_are_named_in_the_order_they_are_lost():
    ax = Figure().subplots()
    stability_map(map_of([1], [0.0]), KNOWN, ax)
    named = [text.get_text() for text in ax.texts if "η" in text.get_text()]
    assert named == ["λ = 0, SGD: η = 0.300 ± 0.010", "Λ(2) = 0, mean square: η = 0.2"]  # lowest first; 2 is beyond


@pytest.mark.parametrize("exponents", [[-3e-6, -2e-6, 1e-2, 0.3], [-0.1, -0.2, 0.1, 0.4]], ids=["orders", "one order"])
def test_the_drawn_curve_has_the_sign_that_the_edge_says_everywhere(exponents):
    ax, found = Figure().subplots(), map_of([1], [0.0])
    found.exponents = np.array([exponents])
    found.mean_square_exponents = np.array([[-6e-6, 0.01, 0.1, 0.6]])
    found.edges = (SimpleNamespace(gd=2.0, mean_square=0.15, almost_sure=0.3),)
    stability_map(found, KNOWN, ax)
    curve, mean_square = (line.get_xydata() for line in ax.lines[:2])
    for (x, y), edge in ((curve.T, 0.3), (mean_square.T, 0.15)):
        np.testing.assert_array_equal(np.sign(y), np.sign(np.where(np.abs(x - edge) < 1e-12, 0.0, x - edge)))
        assert set(RATES) <= set(x)


def test_the_interval_of_a_curve_is_that_of_its_estimates_at_every_learning_rate():
    ax = Figure().subplots()
    stability_map(map_of([1], [0.0]), KNOWN, ax)
    band = ax.collections[0].get_paths()[0].vertices
    for rate in RATES:
        heights = band[np.isclose(band[:, 0], rate), 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [rate - 0.31, rate - 0.29])


@pytest.mark.parametrize(
    ("low", "high", "shaded"), [(0.1, 0.8, 2), (0.1, 0.28, 1), (0.32, 0.8, 1)], ids=["both", "stable", "unstable"]
)
def test_both_sides_of_the_edge_are_shaded_as_far_as_they_are_in_the_picture(low, high, shaded):
    ax, found = Figure().subplots(), map_of([1], [0.0])
    found.learning_rates = np.linspace(low, high, 4)
    found.exponents = found.learning_rates[None] - 0.3
    found.edges = (SimpleNamespace(gd=2.0, mean_square=0.2, almost_sure=0.3 if shaded == 2 else np.nan),)
    stability_map(found, KNOWN, ax)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    named = [each for each in labels if each in ("stable: λ < 0", "unstable: λ > 0")]
    assert len(named) == shaded
    assert (named[0] == "stable: λ < 0") == (low < 0.3)


def test_labels_of_sizes_are_not_printed_over_that_of_0():
    figure = Figure()
    ax, found = figure.subplots(), map_of([1], [0.0])
    found.exponents = np.array([[-3e-5, -1e-5, 1e-2, 0.3]])
    found.gd_exponents = np.full((1, 4), -2e-6)
    stability_map(found, KNOWN, ax)
    figure.draw_without_rendering()
    labels = [label for label in ax.get_yticklabels() if label.get_text() and label.get_visible()]
    low, high = ax.get_ylim()
    shown = [label for label in labels if low <= label.get_position()[1] <= high]
    boxes = [label.get_window_extent() for label in shown]
    assert len(boxes) > 3
    assert not any(first.overlaps(second) for first, second in pairwise(boxes))
