"""What all pictures share: axes, colours, titles, and the edge of stability with a word for either side.

Blue is the stable side of the edge and vermilion the unstable one, in every picture: the palette of M. Okabe and
K. Ito, which the colour blind can tell apart. The names of the sides, in their colours, stand outside of the axes,
where no number can run into them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sgdstab_fast._core.arguments import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes

STABLE, UNSTABLE = "#0072B2", "#D55E00"
INK, GREY = "0.1", "0.45"
CURVES = ("#000000", "#E69F00", "#009E73", "#AA4499", "#56B4E9", "#8C564B")
"""Of what has no sign: curves that stand beside each other."""
SMALL, TEXT = 8, 10  # points
ROOM = 0.2  # at least, of an axis on either side of the edge: a word fits in
_BELOW = 32  # points from an axis to what is below its label
_TICKS = 6  # at the most, intervals of an axis whose labels are long
_LINE = 14  # points that a line of words at the top takes
_FAR = 4.0  # widths of the picture, of 0 from its middle
_BETWEEN_TICKS = 0.075  # of an axis whose ticks are chosen here
MINUS = "\N{MINUS SIGN}"
_MISTAKEN, _NEARER = 30.0, 1.3  # square points that a name beside another point counts as, and how near that may be
_DISTANCES = (5, 11, 18, 27, 38)  # points, of a name from its point
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_ACROSS, _ALONG = {1: "left", 0: "center", -1: "right"}, {1: "bottom", 0: "center", -1: "top"}
_BETWEEN_LABELS = 0.13  # of an axis of decades
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_POWER = re.compile(r"e([+-]?\d+)")
_SAMPLING = {"with_replacement": "with replacement", "epoch": "random reshuffling", "cyclic": "cyclic order"}


@contextmanager
def needing_matplotlib() -> Iterator[None]:
    """Say what to do where matplotlib, which is imported for plots alone, is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError('plots need matplotlib: pip install "sgdstab_fast[plot]"') from None


def new_axes(size: tuple[float, float], columns: int = 1) -> list[Axes]:
    """Return a row of axes in a new figure of some size in inches."""
    with needing_matplotlib():
        from matplotlib import pyplot

    return list(pyplot.subplots(1, columns, figsize=size, layout="constrained", squeeze=False)[1][0])


def axes_or_new(ax: Axes | None, size: tuple[float, float] = (5.8, 4.0)) -> Axes:
    """Return the axes given, or new ones; refuse what is none."""
    if ax is None:
        return new_axes(size)[0]
    if not callable(getattr(ax, "set_xlabel", None)):
        raise TypeError(f"ax must be matplotlib axes, not {ax!r}; plot().figure.savefig(..) writes a file")
    return ax


def side_by_side(panels: Sequence[Callable[[Axes], Axes]], size: tuple[float, float], ax: Any) -> Any:
    """Draw panels on a row of axes, new ones of some size by default, or the first one on one; return what it was."""
    if ax is None:
        row = new_axes((len(panels) * size[0], size[1]), len(panels))
        ax = tuple(row) if len(panels) > 1 else row[0]
    if not isinstance(ax, (tuple, list, np.ndarray)):
        return panels[0](axes_or_new(ax))
    return tuple(panel(axes_or_new(each)) for panel, each in zip(panels, ax, strict=False))


def words(text: str, ax: Axes | None = None, *, title: str = "", **style: Any) -> Axes:
    """Write something in place of a picture."""
    ax = axes_or_new(ax)
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, **style)
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=TEXT)
    return ax


def title(what: str, setting: Mapping[str, Any]) -> str:
    """Return a title: what is shown and, on a line of its own, of which system."""
    return "\n".join(filter(None, (what, setting_in_words(setting))))


def setting_in_words(setting: Mapping[str, Any]) -> str:
    """Return N, B, eta and what else a step is, as "N = 160, B = 1, η = 0.5"; dimension and number of an ensemble."""
    parts = [
        f"{symbol} = {setting[name]:.6g}"
        for name, symbol in (("dimension", "d"), ("n_examples", "N"), ("batch_size", "B"), ("learning_rate", "η"))
        if name in setting
    ]
    if "n_matrices" in setting:
        parts.append("1 matrix" if setting["n_matrices"] == 1 else f"{setting['n_matrices']} matrices")
    nesterov = "Nesterov " if setting.get("nesterov") else ""
    parts += [f"{nesterov}momentum" + (f" {setting['momentum']:g}" if "momentum" in setting else "")] * (
        "momentum" in setting or bool(nesterov)
    )
    parts += [f"recurrence of {setting['levels']} levels"] if "levels" in setting else []
    parts += [_SAMPLING.get(setting["sampling"], setting["sampling"])] if "sampling" in setting else []
    parts += ["importance sampling"] if setting.get("importance_sampling") else []
    return ", ".join(parts)


def in_print(text: str) -> str:
    """Return numbers as they are printed: (-6.17 ± 0.03)e-6 with a minus sign and as a multiple of 10⁻⁶."""
    text = text.replace("inf", "∞")
    powers = _POWER.sub(lambda found: "·10" + str(int(found[1])).translate(_SUPERSCRIPTS), text)
    return re.sub(r"(?<![\w)])-(?=[\d∞])", MINUS, powers)


def number(value: float, digits: int = 4) -> str:
    """Return a number in so many digits, as it is printed."""
    return in_print(f"{value:.{digits}g}")


def finish(ax: Axes, heading: str, lines_above: int = 0) -> None:
    """Set the title, above some lines of words, and take away what frames nothing."""
    ax.set_title(heading, fontsize=TEXT, pad=6 + _LINE * lines_above)
    ax.spines[["top", "right"]].set_visible(False)


def legend(ax: Axes, **where: Any) -> None:
    """Name what is drawn."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**{"fontsize": SMALL, "framealpha": 0.85, "edgecolor": "none", "loc": "best", **where})


def legend_below(ax: Axes, columns: int) -> None:
    """Name what is drawn below the axis, where a legend hides nothing."""
    from matplotlib.transforms import ScaledTranslation

    figure: Any = ax.figure
    below = ax.transAxes + ScaledTranslation(0, -_BELOW / 72, figure.dpi_scale_trans)
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=below, ncols=columns)


def edge_of_stability(
    ax: Axes,
    axis: Literal["x", "y"] = "y",
    at: float = 0.0,
    sides: tuple[str, str] = ("stable", "unstable"),
    colours: tuple[str, str] = (STABLE, UNSTABLE),
) -> None:
    """Draw the line between two sides, the lower and the higher, with room for the word that names each.

    Limits of the axes are final then. With axis "x" the words stand on a line above the axes: `finish` is told of it.
    """
    with_room(ax, axis, at)
    line = ax.axhline if axis == "y" else ax.axvline
    line(at, color=INK, lw=1.0, zorder=1.5)
    for side, colour, up in ((sides[0], colours[0], False), (sides[1], colours[1], True)):
        text = f"{side} →" if up else f"← {side}"
        aligned = "left" if up else "right"
        style: dict[str, Any] = {"fontsize": SMALL, "color": colour, "textcoords": "offset points"}
        if axis == "y":
            style |= {"rotation": 90, "ha": "left", "va": "bottom" if up else "top"}
            ax.annotate(text, (1, at), (5, 4 if up else -4), xycoords=ax.get_yaxis_transform(), **style)
        else:
            style |= {"ha": aligned, "va": "bottom"}
            ax.annotate(text, (at, 1), (4 if up else -4, 2), xycoords=ax.get_xaxis_transform(), **style)


def edge_or_where_it_is(ax: Axes, sides: tuple[str, str]) -> None:
    """Draw the edge at 0 on the x axis; where that is so far that nothing else would be seen, say where it is."""
    low, high = ax.get_xlim()
    if abs(low + high) / 2 < _FAR * (high - low):
        edge_of_stability(ax, "x", sides=sides)
        return
    left = low > 0
    text = f"← the edge 0 is far to the left: {sides[1]}" if left else f"{sides[0]}: the edge 0 is far to the right →"
    style: dict[str, Any] = {"ha": "left" if left else "right", "color": UNSTABLE if left else STABLE}
    at = (0.0 if left else 1.0, 1.0)
    ax.annotate(text, at, (0, 2), xycoords="axes fraction", textcoords="offset points", fontsize=SMALL, **style)


def with_room(ax: Axes, axis: Literal["x", "y"], at: float, room: float = ROOM) -> None:
    """Widen limits until a value is in view, with a share of the axis on either side of it."""
    scale = (ax.xaxis if axis == "x" else ax.yaxis).get_transform()
    limits = ax.get_xlim() if axis == "x" else ax.get_ylim()
    (low, high), place = scale.transform(np.array(limits)), float(scale.transform(np.array([at]))[0])
    low = min(low, (place - room * high) / (1 - room))
    high = max(high, (place - room * low) / (1 - room))
    wider = tuple(scale.inverted().transform(np.array([low, high])).tolist())
    (ax.set_xlim if axis == "x" else ax.set_ylim)(*wider)


def scientific(ax: Axes, axis: Literal["x", "y", "both"]) -> None:
    """Label an axis with powers of ten where numbers are large or small."""
    ax.ticklabel_format(axis=axis, style="sci", scilimits=(-3, 3), useMathText=True)
    if axis != "y":
        ax.locator_params(axis="x", nbins=_TICKS)


def spans_orders(values: FloatArray, quantile: float) -> float | None:
    """Return a size up to which an axis is better linear and beyond which logarithmic; None if it may all be linear."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    small = float(np.quantile(sizes, quantile)) if sizes.size else 0.0
    return small if small > 0 and sizes.max() > 100 * small else None


def logarithmic_beyond(ax: Axes, size: float) -> None:
    """Scale the y axis logarithmically beyond a size, and without a kink there: by asinh."""
    ax.set_yscale("asinh", linear_width=size / 3)


def label_orders(ax: Axes, size: float) -> None:
    """Label 0 and powers of ten beyond a size, as many as there is room for between limits that are final."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = ax.get_ylim()
    largest = int(np.floor(np.log10(max(abs(low), abs(high)))))
    powers = 10.0 ** np.arange(largest, int(np.ceil(np.log10(size))) - 1, -1)
    place = ax.yaxis.get_transform().transform
    bottom, top = place(np.array([low, high]))
    ticks = [0.0]
    for tick in np.concatenate([powers, -powers]):
        apart = np.abs(place(np.array(ticks)) - place(np.array([tick]))).min() / (top - bottom)
        ticks += [float(tick)] if low <= tick <= high and apart >= _BETWEEN_TICKS else []
    ax.yaxis.set_major_locator(FixedLocator(sorted(ticks)))
    ax.yaxis.set_minor_locator(NullLocator())


def label_decades(ax: Axes) -> None:
    """Label powers of ten, and multiples of them where there is room, on an x axis made logarithmic here."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter

    ax.set_xscale("log")
    low, high = np.log10(ax.get_xlim())
    powers = 10.0 ** np.arange(np.floor(low), np.ceil(high) + 1)
    ticks: list[float] = []
    for multiple in (1, 5, 2, 3, 7, 4, 6, 8, 9):
        for tick in multiple * powers:
            apart = np.abs(np.log10(np.array(ticks)) - np.log10(tick)).min(initial=np.inf) / (high - low)
            ticks += [float(tick)] if low <= np.log10(tick) <= high and apart >= _BETWEEN_LABELS else []
    ax.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    ax.xaxis.set_major_formatter(
        lambda value, _: f"{value:g}" if 1e-3 <= value < 1e4 else in_print(f"{value:.0e}").removeprefix("1·")
    )
    ax.xaxis.set_minor_locator(LogLocator(subs=range(2, 10)))
    ax.xaxis.set_minor_formatter(NullFormatter())


def name_points(
    ax: Axes, points: Sequence[tuple[float, float, str]], colours: Sequence[str], others: FloatArray
) -> None:
    """Write names beside points, each in the nearest place that no other name takes, no point, nor the line at 0.

    Limits are final; `others` are all points, shape (n, 2).
    """
    if not points:
        return
    figure: Any = ax.figure.figure  # the whole one, also of axes in a part of it
    figure.draw_without_rendering()
    unit, inside = figure.dpi / 72, np.asarray(ax.get_window_extent().extents)
    at = ax.transData.transform([(x, y) for x, y, _ in points])
    marks = ax.transData.transform(others)
    taken = [np.concatenate([each - 3 * unit, each + 3 * unit]) for each in marks]
    at_zero = float(ax.transData.transform((points[0][0], 0.0))[1])
    taken.append(np.array([inside[0], at_zero - unit, inside[2], at_zero + unit]))
    known = ax.get_legend()
    taken += [] if known is None else [np.asarray(known.get_window_extent().extents)]
    for place, (x, y, name), colour in zip(at, points, colours, strict=True):
        measured = ax.text(x, y, name, fontsize=SMALL)
        size = np.asarray(measured.get_window_extent().size)
        measured.remove()
        strangers = marks[np.linalg.norm(marks - place, axis=1) > 0]
        found: list[tuple[float, float, float, FloatArray]] = []
        for distance in _DISTANCES:
            for right, up in _SIDES:
                offset = np.array([right, up]) * distance * unit
                corner = place + offset + size * [(right - 1) / 2, (up - 1) / 2]
                box = np.concatenate([corner - unit, corner + size + unit])
                over = sum(_common(box, each) for each in taken) + _area(box) - _common(box, inside)
                # Beside another point it would be taken for the name of that.
                apart = np.linalg.norm(strangers - (corner + size / 2), axis=1)
                own = np.linalg.norm(corner + size / 2 - place)
                over += _MISTAKEN * unit**2 * bool(apart.min(initial=np.inf) < _NEARER * own)
                found.append((round(over, 3), distance * right, distance * up, box))
        _, dx, dy, box = min(found, key=lambda each: each[0])
        taken.append(box)
        style: dict[str, Any] = {"ha": _ACROSS[np.sign(dx)], "va": _ALONG[np.sign(dy)], "color": colour}
        if max(abs(dx), abs(dy)) > _DISTANCES[0]:
            style["arrowprops"] = {"arrowstyle": "-", "lw": 0.5, "color": GREY, "shrinkA": 0, "shrinkB": 2}
        ax.annotate(name, (x, y), (dx, dy), textcoords="offset points", fontsize=SMALL, **style)


def _area(box: FloatArray) -> float:
    return float(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))


def _common(first: FloatArray, second: FloatArray) -> float:
    """Return the area that two boxes (left, bottom, right, top) share."""
    return _area(np.concatenate([np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])]))
