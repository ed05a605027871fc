import numpy as np
import pytest
import sgdstab_fast as sf
from matplotlib import pyplot
from reference.known import K4
from sgdstab_fast.tracking import History, Point

R4 = [1, -2, 0.5, 1]


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def history(momentum=0.0, lost=()):
    tracker = sf.StabilityTracker(0.4, quantities="economy", momentum=momentum)
    for step in range(4):
        tracker.update((1 + 0.02 * step) * K4, step=step, residuals=R4)
    points = [
        Point(step=point.step, learning_rate=0.4, batch_size=1, verdict="diverged") if point.step in lost else point
        for point in tracker.history
    ]
    return History(points)


def test_curves_are_over_their_thresholds():
    found = history()
    curves = lines(found.plot())
    assert list(curves) == ["mean square", "full batches (sharpness)", "batch sharpness"]
    np.testing.assert_allclose(curves["mean square"].get_ydata(), 1 / found.mean_square_ratio)
    np.testing.assert_allclose(curves["full batches (sharpness)"].get_ydata(), 0.4 * found.sharpness / 2)
    np.testing.assert_allclose(curves["batch sharpness"].get_ydata(), 0.4 * found.batch_sharpness / 2)


def test_with_momentum_batch_sharpness_has_another_threshold_and_is_left_out():
    assert list(lines(history(momentum=0.5).plot())) == ["mean square", "full batches (sharpness)"]


def test_points_that_diverged_are_marked_and_the_others_drawn():
    axes = history(lost=(1, 3)).plot()
    curves = lines(axes)
    assert curves["mean square"].get_xdata().tolist() == [0, 2]
    marked = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == ":"]
    assert marked == [1, 3]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (History(), "nothing was measured yet"),
        (history(lost=range(4)), "the network has diverged"),
        (History([Point(step=0, learning_rate=0.1, batch_size=1)]), "nothing was measured yet"),
    ],
)
def test_what_there_is_no_picture_of_is_said(found, text):
    assert found.plot().texts[0].get_text() == text


def test_a_single_point_is_seen():
    assert lines(history()[:1].plot())["mean square"].get_marker() == "o"


def test_on_given_axes():
    axes = pyplot.subplots()[1]
    assert history().plot(axes) is axes
    with pytest.raises(TypeError, match="ax must be matplotlib axes"):
        history().plot(3)


def test_titles_say_what_steps_are():
    tracker = sf.StabilityTracker(0.2, 2, quantities="economy", sampling="epoch", momentum=0.5, nesterov=True)
    for step in range(3):
        tracker.update(K4, step=step, residuals=R4)
    for found in (tracker.history, tracker.history[1:]):
        assert found.plot().get_title().endswith("N = 4, B = 2, η = 0.2, Nesterov momentum 0.5, random reshuffling")


def test_measures_keep_their_colours():
    curves, with_momentum = lines(history().plot()), lines(history(momentum=0.5).plot())
    assert all(with_momentum[name].get_color() == curves[name].get_color() for name in with_momentum)
    assert len({curve.get_color() for curve in curves.values()}) == len(curves)
