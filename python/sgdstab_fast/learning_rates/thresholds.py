"""Thresholds: every notion of stability of one minimum, and the learning rate up to which it holds.

    all batches <= Wu-Ma-E <= mean square <= mean (p = 1) <= almost sure, GD
    all batches <= fourth moment (p = 4) <= mean square <= Mulayoff-Michaeli's bounds

Each holds for the reason that the first notion implies the second one: E|x|^p for p >= 1 bounds |E x|, which full
batches move. Almost sure and GD bound each other in neither direction. Batch sharpness, where residuals are known, is
where training is seen to stay, no condition of stability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.seeds import Seed
from sgdstab_fast.exact.regularity import regularity_of
from sgdstab_fast.exact.threshold_bounds import threshold_bounds
from sgdstab_fast.gram.given import given, residuals_of
from sgdstab_fast.learning_rates.critical import critical_rate_of
from sgdstab_fast.learning_rates.results import CriticalLearningRate, without_learning_rate
from sgdstab_fast.nonlinear.batches import stability_of_batches
from sgdstab_fast.nonlinear.edge_measures import edge_measures
from sgdstab_fast.plotting.thresholds import thresholds_plot
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.printed import as_text, with_error
from sgdstab_fast.results.progress import listening
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.result import EXACT, INTERRUPTED, Result
from sgdstab_fast.results.storage import storable
from sgdstab_fast.results.warnings import collected, warn
from sgdstab_fast.simulation.keywords import ChainKeywords, Unpack, options_of, run_options
from sgdstab_fast.systems.sgd import LinearizedSGD

if TYPE_CHECKING:
    from sgdstab_fast.plotting.axes import Axes

ALL_BATCHES, WU, MEAN_SQUARE, ALMOST_SURE, GD = "all batches", "Wu-Ma-E", "mean square", "almost sure", "GD"
BY_EIGENVECTOR, BY_TRACE, SHARPNESS = "eigenvector bound", "trace bound", "batch sharpness"
_ROUNDING = 1e-9
_MOST_STEPS = 50_000_000
_SAID: dict[str, dict[bool | None, str]] = {
    "threshold": {True: "yes", False: "no", None: "?"},
    "sufficient": {True: "yes", False: "not sure", None: "?"},
    "necessary": {True: "maybe", False: "no", None: "?"},
    "observed": {True: "yes", False: "no", None: "?"},
}
_MOST_ORDER = 100  # growth to larger powers is that of the longest step, to rounding


@storable
@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One notion of stability, with the learning rate up to which it holds."""

    name: str
    """As in the table."""
    value: float
    """The critical learning rate; NaN where it is not known."""
    standard_error: float
    """0 where nothing was simulated."""
    low: float
    """The critical rate is at least that: for certain, or, with `high`, with a probability of 95% where it is
    simulated. Of "all batches" it is `value`, too, where bounds do not meet."""
    high: float
    """The critical rate is at most that, likewise."""
    kind: str
    """``"threshold"``: stable below, unstable above; ``"sufficient"``: stable below; ``"necessary"``: unstable above;
    ``"observed"``: where training is seen to stay."""
    meaning: str
    """What learning rates below it allow."""
    source: str
    """Paper and equation."""
    checked: str
    """What the statement takes for granted, and what the data say about it."""
    implies: tuple[str, ...]
    """Notions that follow: their thresholds are not below."""
    degrees_of_freedom: int = EXACT
    """Of the standard error."""

    def allows(self, learning_rate: float) -> bool | None:
        """Say whether a learning rate is below; None where that is not known."""
        eta = validation.positive_number(learning_rate, "learning_rate")
        return True if eta < self.low * (1 - _ROUNDING) else False if eta > self.high * (1 + _ROUNDING) else None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Thresholds(Result):
    """All thresholds of a minimum, as `thresholds` returns them; `print` shows a table."""

    system: LinearizedSGD
    """K and batches, at the learning rate that was given, else at one over the largest K_ii."""
    learning_rate: float | None
    """eta, if it was given."""
    rows: tuple[Threshold, ...]
    """By their values, smallest first, and none behind what it implies."""

    @property
    def setting(self) -> dict[str, Any]:
        """What steps are, as of every result; the learning rate if it was given."""
        found = without_learning_rate(super().setting)
        return found if self.learning_rate is None else found | {"learning_rate": self.learning_rate}

    def __getitem__(self, name: str) -> Threshold:
        """Return the notion of a name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is none of {', '.join(row.name for row in self.rows)}")

    def __iter__(self) -> Iterator[Threshold]:
        """Iterate over rows."""
        return iter(self.rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Thresholds({', '.join(f'{row.name}={as_text(row.value)}' for row in self.rows)})"

    def __str__(self) -> str:
        table = self.to_table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        return "\n".join([*lines, *([] if self.learning_rate is None else [self.conclusion])])

    @property
    def conclusion(self) -> str:
        """What follows for the learning rate, in words; empty without one."""
        if self.learning_rate is None:
            return ""
        says = {row.name: row.allows(self.learning_rate) for row in self.rows}  # of an interrupted call, of some
        in_mean_square, surely = says.get(MEAN_SQUARE), says.get(ALMOST_SURE)
        if in_mean_square:
            alone = says[ALL_BATCHES]
            rest = "no batch alone is unstable" if alone else "but some batch alone may be unstable"
            words = f"stable in mean square, and so almost surely; {rest}"
        elif surely:
            words = "stable almost surely, but not in mean square: rare large excursions"
        elif surely is False:
            words = "unstable"
        else:
            words = "too close to the almost-sure edge to tell" if ALMOST_SURE in says else "not known yet: interrupted"
        return f"learning rate {self.learning_rate:g}: {words}"

    def to_table(self) -> list[tuple[str, ...]]:
        """Return headings and rows of text."""
        eta = self.learning_rate
        headings = ("notion", "critical rate", "kind", *([] if eta is None else [f"eta = {eta:g}"]), "below it")
        found = [headings]
        for row in self.rows:
            if row.standard_error > 0:
                value = with_error(row.value, row.standard_error, row.degrees_of_freedom, (row.low, row.high))
            else:
                value = f"{row.low:.6g} .. {row.high:.6g}" if row.low < row.high else as_text(row.value)
            says = [] if eta is None else [_SAID[row.kind][row.allows(eta)]]
            found.append((row.name, value, row.kind, *says, row.meaning))
        return found

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return columns of equal length, a row for every notion, as data frames take them."""
        names = ("name", "value", "standard_error", "low", "high", "kind", "meaning", "source", "checked")
        return {name: np.array([getattr(row, name) for row in self.rows]) for name in names}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot all thresholds on one axis, arrows to what they imply; return the axes."""
        return thresholds_plot(self.rows, self.learning_rate, self.setting, ax)


@run_options(n_chains=32, least_chains=8)
def thresholds(
    gram: Any,
    batch_size: int = 1,
    *,
    sampling: str = "iid",
    groups: Any = None,
    residuals: Any = None,
    learning_rate: float | None = None,
    orders: Sequence[float] = (4.0, 1.0),
    rtol: float = 1e-2,
    max_steps: int = _MOST_STEPS,
    **keywords: Unpack[ChainKeywords],
) -> Thresholds:
    """Put every notion of stability of a minimum side by side, with the learning rate up to which it holds.

    Parameters
    ----------
    gram : array_like, shape (N, N), or gram.Kernel
        Neural-tangent Gram matrix K.
    batch_size : int, optional
        Examples B in a batch.
    sampling : {"iid", "with_replacement"}, optional
        How batches are drawn, independently from step to step.
    groups : array_like, shape (N rows,), optional
        For several outputs: which rows belong to the same example.
    residuals : array_like, optional
        For batch sharpness, as for `nonlinear.edge_measures`; by default those of the kernel, if it has them. Batch
        sharpness is of draws without replacement, and left out with others.
    learning_rate : float, optional
        eta: the table says what it is allowed by.
    orders : sequence of float, optional
        Moments p > 0 whose growth is looked at: of few examples exactly, else by simulation, seconds each. The second
        one is always there, as "mean square".
    rtol : float, optional
        Relative standard error of what is simulated.
    max_steps : int, optional
        Steps of all chains together, for each of those.
    n_chains : int, optional
        Independent chains.
    **keywords
        Where they run: see `ChainKeywords`.

    Returns
    -------
    Thresholds
        One row a notion.

    Raises
    ------
    ValueError, TypeError
        As `LinearizedSGD` does; if an order is not positive; for residuals with replacement.

    Warns
    -----
    AccuracyWarning
        If a tolerance was not met within `max_steps`.

    References
    ----------
    Each row has its own.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> gram = [[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]]
    >>> found = sf.thresholds(gram, 2, learning_rate=0.8, orders=[4], rng=1)
    >>> [(row.name, round(row.value, 3)) for row in found][:4]
    [('all batches', 0.712), ('Wu-Ma-E', 0.778), ('p = 4', 0.801), ('mean square', 0.812)]
    >>> found["mean square"].allows(0.8), found["all batches"].allows(0.8)
    (True, False)
    """
    validation.choice(sampling, "sampling", ("iid", "with_replacement"))
    options = options_of(thresholds, keywords, rtol=rtol, atol=0.0, max_steps=max_steps)
    eta = None if learning_rate is None else validation.positive_number(learning_rate, "learning_rate")
    powers = _orders(orders)
    if residuals is not None and sampling != "iid":
        raise ValueError(f"residuals must be left out with sampling={sampling!r}: batch sharpness is of other batches")
    residuals = residuals_of(gram) if residuals is None else residuals
    known = given(gram, groups)
    largest = float(known.matrix.diagonal().max())
    system = LinearizedSGD(known, 1 / (largest if largest > 0 else 1.0), batch_size, sampling=sampling)

    def critical(criterion: str | float) -> CriticalLearningRate:
        with collected() as notes:
            found = options.once(f"{criterion}", lambda its: critical_rate_of(system, criterion, its, rtol, max_steps))
        for note in notes:
            warn(f"{criterion if isinstance(criterion, str) else _moment(criterion)}: {note}")
        return found

    here, rows = system if eta is None else system.with_learning_rate(eta), list[Threshold]()

    def so_far() -> Thresholds:
        return Thresholds(
            system=here,
            learning_rate=eta,
            rows=_ordered(rows),
            provenance=provenance(options.seed, "thresholds", here),
        )

    def take(found: Iterable[Threshold]) -> None:
        for row in found:
            rows.append(row)
            options.make_known(so_far())

    with suppress(Stopped):  # an interrupted call knows those that it has come to
        with listening(options.progress, "thresholds"):
            take(_of_batches(system, [_moment(p) for p in powers]))
            take(_of_bounds(system.rows_of_k.gram, system))  # without what is taken for its kernel
            take(_sharpness(known, residuals, system, rtol, options.seed))
        take(_of_criteria(critical, powers, partial(_regular, here, eta)))
    return so_far()


def _of_criteria(
    critical: Callable[[str | float], CriticalLearningRate], powers: Sequence[float], regular: Callable[[], str]
) -> Iterator[Threshold]:
    """Yield the thresholds of notions that have one, quick ones first."""
    yield _of(critical("gd"), GD, "full batches converge", "Chemnitz & Engel 2025, theorem A")
    yield _of(
        critical("mean-square"),
        MEAN_SQUARE,
        "E|x|^2 shrinks",
        "Mulayoff & Michaeli, arXiv 2306.07850, theorem 3",
        implies=(GD, BY_EIGENVECTOR, BY_TRACE, *(_moment(p) for p in powers if p < 2), ALMOST_SURE),
    )
    for p in powers:
        lower = tuple(_moment(q) for q in powers if q < p)
        yield _of(
            critical(p),
            _moment(p),
            f"E|x|^{p:g} shrinks" if p != 1 else "E|x| shrinks",
            "Chemnitz & Engel 2025, definition A.5",
            implies=(*lower, *([MEAN_SQUARE] if p > 2 else []), *([GD] if p >= 1 else []), ALMOST_SURE),
        )
    yield _of(
        critical("almost-sure"),
        ALMOST_SURE,
        "SGD converges near by",
        "Chemnitz & Engel 2025, theorem B",
        checked=regular(),
    )


def _orders(value: Any) -> list[float]:
    """Return the orders of moments, each once, without the second, which has a row of its own."""
    found = validation.numeric(value, "orders").astype(float).reshape(-1).tolist()
    for p in found:
        if not 0 < p <= _MOST_ORDER:
            raise ValueError(f"orders must be in (0, {_MOST_ORDER}], not {p}")
    return [p for p in dict.fromkeys(found) if p != 2]


def _moment(p: float) -> str:
    return f"p = {p:.12g}"


def _ordered(rows: Sequence[Threshold]) -> tuple[Threshold, ...]:
    """Return rows by their values, but none behind what it implies, as errors of simulations would have it."""
    values = {row.name: row.value for row in rows}

    def place(row: Threshold) -> tuple[bool, float, int]:
        least = min([row.value, *(values.get(name, math.inf) for name in row.implies)])
        return math.isnan(row.value), least, -len(row.implies)

    return tuple(sorted(rows, key=place))


def _of(
    found: CriticalLearningRate,
    name: str,
    meaning: str,
    source: str,
    *,
    checked: str = "",
    implies: tuple[str, ...] = (),
) -> Threshold:
    low, high = found.confidence_interval(0.95)
    return Threshold(
        name=name,
        value=found.value,
        standard_error=found.standard_error,
        low=low,
        high=high,
        kind="threshold",
        meaning=meaning,
        source=source,
        checked="interrupted: no more than a first guess"
        if found.stopped_by == INTERRUPTED
        else checked or f"linearised dynamics; {found.reason}",
        implies=implies,
        degrees_of_freedom=found.degrees_of_freedom,
    )


def _of_batches(system: LinearizedSGD, moments: Sequence[str]) -> Iterator[Threshold]:
    found = stability_of_batches(system)
    low, high = found.critical_learning_rate_bounds
    how = "exactly" if found.exact else f"between proven bounds, {found.upper / found.lower - 1:.1%} apart"
    yield Threshold(
        name=ALL_BATCHES,
        value=low,
        standard_error=0.0,
        low=low,
        high=high,
        kind="sufficient",
        meaning="SGD's mean stays near by",
        source="Mulayoff & Stich 2026, arXiv 2602.14789, theorem 3",
        checked=f"the worst batch, {how}: examples {', '.join(map(str, found.worst_batch[:8]))}"
        + (", .." if found.worst_batch.size > 8 else ""),
        implies=(WU, *moments, MEAN_SQUARE, ALMOST_SURE, GD),
    )


def _of_bounds(matrix: Any, system: LinearizedSGD) -> Iterator[Threshold]:
    bounds = threshold_bounds(matrix, system.law)
    paper = "Mulayoff & Michaeli, arXiv 2306.07850, equation"
    for name, value, kind, meaning, source, implies in (
        (
            WU,
            bounds.sufficient,
            "sufficient",
            "E|x|^2 shrinks",
            "Wu, Ma & E 2018, theorem 1",
            (MEAN_SQUARE, ALMOST_SURE, GD),
        ),
        (BY_EIGENVECTOR, bounds.by_eigenvector, "necessary", "E|x|^2 may shrink", f"{paper} 15", ()),
        (BY_TRACE, bounds.by_trace, "necessary", "E|x|^2 may shrink", f"{paper} 16", ()),
    ):
        yield Threshold(
            name=name,
            value=value,
            standard_error=0.0,
            low=value,
            high=value,
            kind=kind,
            meaning=meaning,
            source=source,
            checked="batches are independent and uniform",
            implies=implies,
        )


def _sharpness(known: Any, residuals: Any, system: LinearizedSGD, rtol: float, seed: Seed) -> Iterator[Threshold]:
    if residuals is None or system.law.sampling != "iid":
        return
    found = edge_measures(known, residuals, system.batch_size, rtol=rtol, rng=seed.generator(0))
    if not found.batch_sharpness > 0:
        return
    low, high = (2 / each for each in reversed(found.confidence_interval(0.95)))
    value = 2 / found.batch_sharpness
    yield Threshold(
        name=SHARPNESS,
        value=value,
        standard_error=value * found.batch_sharpness_standard_error / found.batch_sharpness,
        low=low,
        high=high,
        kind="observed",
        meaning="training still sharpens",
        source="Andreyev & Beneventano, arXiv 2412.20553, definition 3",
        checked="of the residuals as they are; no condition of stability",
        implies=(),
        degrees_of_freedom=found.degrees_of_freedom,
    )


def _regular(system: LinearizedSGD, eta: float | None) -> str:
    """Say whether the theorem applies."""
    found = None if eta is None else regularity_of(system)
    if found is None:
        return "theorem B is proven for single examples, at learning rates at which the minimum is regular"
    return "the minimum is regular at eta" if found.regular else "the minimum is not regular at eta"
