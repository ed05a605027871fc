"""Axes that the caller supplies, or new ones."""

from functools import partial

import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from sgdstab_fast.plotting.axes import axes_or_new, side_by_side, words


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
