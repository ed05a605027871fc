"""The tracker: points of a training run, one after the other, each starting from what is known of the last."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.seeds import Seed, seed_from
from sgdstab_fast.gram.torch_kernel import from_torch
from sgdstab_fast.results.storage import File, Stored, reading, store, store_as
from sgdstab_fast.systems.recurrence import recurrence_of
from sgdstab_fast.systems.sampling import SAMPLINGS
from sgdstab_fast.tracking.history import History
from sgdstab_fast.tracking.measurement import Carried, Settings, chosen, measured
from sgdstab_fast.tracking.point import COLUMNS, TEXTS, WHOLE, Point
from sgdstab_fast.tracking.run import Run
from sgdstab_fast.tracking.schedules import Schedule
from sgdstab_fast.tracking.watch import Log, Watch

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from sgdstab_fast.plotting.axes import Axes


class StabilityTracker:
    """Follows the stability of SGD along a training run.

    Every `update` measures a Gram matrix: critical learning rates beside the present one, Lyapunov exponents, sharpness
    and batch sharpness, and a verdict. Points are cheap after the first, since each starts from what is known of the
    last, where that helps, and all take the same random numbers.

    Parameters
    ----------
    learning_rate : float
        Step size eta > 0 of the training; `update` takes another where it changes.
    batch_size : int, optional
        Examples B per step.
    momentum, nesterov, sampling
        As for `LinearizedSGD`.
    quantities : str or sequence of str, optional
        ``"all"``; ``"economy"``, what needs no simulation; or some of ``"sharpness"``, ``"largest_step"``,
        ``"critical_mean_square"``, ``"batch_sharpness"``, ``"mean_square_exponent"``, ``"verdict"``, ``"exponent"``,
        ``"n_positive_exponents"``, ``"fast_exponent"``, ``"critical_almost_sure"``, each with the columns of `Point`
        that go with it.
    rtol : float, optional
        Relative standard error of what is simulated. Exponents of less than 0.1 in an epoch are known to
        ``0.1 * rtol`` in an epoch.
    seconds : float, optional
        What a point may take, about: less is simulated, and standard errors are larger instead. What needs no
        simulation is measured whatever it takes. By default no point is cut short.
    rng : optional
        Whatever ``numpy.random.default_rng`` takes.
    n_threads : int, optional
        Threads; all available processors by default, and one beside training.

    Attributes
    ----------
    history : History
        Columns by name, such as ``history["mean_square_ratio"]``; see `Point` for what they are.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.

    References
    ----------
    Chemnitz & Engel 2025, section 2.6, asks how lambda behaves along a training run.

    Examples
    --------
    >>> import numpy as np
    >>> import sgdstab_fast as sf
    >>> gram = np.array([[4.0, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]])
    >>> tracker = sf.StabilityTracker(learning_rate=0.4, quantities="economy")
    >>> for step in (0, 100, 200):  # K grows
    ...     point = tracker.update(gram * (1 + step / 2000), step=step, residuals=[1, -2, 0.5, 1])
    >>> tracker.history["mean_square_ratio"].round(4)  # the critical learning rate over the present one
    array([1.0513, 1.0012, 0.9557])
    """

    def __init__(
        self,
        learning_rate: float,
        batch_size: int = 1,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        sampling: str = "iid",
        quantities: Any = "all",
        rtol: float = 1e-2,
        seconds: float | None = None,
        rng: Any = 0,
        n_threads: int | None = None,
    ) -> None:
        recurrence_of(momentum, nesterov)
        settings = Settings(
            learning_rate=validation.positive_number(learning_rate, "learning_rate"),
            batch_size=validation.integer(batch_size, "batch_size"),
            sampling=validation.choice(sampling, "sampling", SAMPLINGS),
            momentum=float(momentum),
            nesterov=validation.flag(nesterov, "nesterov"),
            quantities=chosen(quantities),
            rtol=validation.positive_number(rtol, "rtol"),
            seconds=None if seconds is None else validation.positive_number(seconds, "seconds"),
            seed=seed_from(rng),
            n_threads=None if n_threads is None else validation.thread_count(n_threads),
        )
        self._run = Run(settings)

    @property
    def learning_rate(self) -> float:
        """The learning rate of points that are given no other."""
        return self._run.settings.learning_rate

    @property
    def batch_size(self) -> int:
        """The batch size of points that are given no other."""
        return self._run.settings.batch_size

    @property
    def momentum(self) -> float:
        """Of the optimiser that is followed."""
        return self._run.settings.momentum

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is measured."""
        return self._run.settings.quantities

    @property
    def history(self) -> History:
        """All points so far, as columns."""
        return self._run.history

    def update(
        self,
        kernel: Any,
        *,
        step: int,
        residuals: Any = None,
        loss: float | None = None,
        groups: Any = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
    ) -> Point:
        """Measure a Gram matrix, and add it to the history.

        Parameters
        ----------
        kernel : gram.Kernel or array_like, shape (N, N)
            K at this step. One that is not finite is that of a network that has diverged, which the point says.
        step : int
            Of the training; later than that of the last point.
        residuals : array_like, shape (N,) or (N, m), optional
            f - y, for batch sharpness and its like; a kernel has its own. Without them those columns are NaN.
        loss : float, optional
            For the history; a kernel has its own.
        groups : array_like, shape (N rows,), optional
            Which rows belong to the same example; a kernel has its own.
        learning_rate, batch_size : optional
            Where they are not those of the tracker: of this point alone.

        Returns
        -------
        Point
            What was measured.

        Raises
        ------
        ValueError, TypeError
            If steps do not increase, K has another size than before, or an argument is out of range.

        Warns
        -----
        AccuracyWarning
            If a quantity cannot be measured, or is less accurate than asked for; once for each reason.

        Examples
        --------
        >>> import sgdstab_fast as sf
        >>> tracker = sf.StabilityTracker(0.4, quantities=["critical_mean_square", "verdict"])
        >>> tracker.update([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], step=0)
        Point(step=0, verdict='stable', mean_square_ratio=1.0513)
        """
        given = self._run.given(
            kernel,
            step,
            residuals=residuals,
            loss=loss,
            groups=groups,
            learning_rate=learning_rate,
            batch_size=batch_size,
        )
        return self._run.take(*measured(self._run.settings, given, self._run.carried))

    def update_from_torch(
        self,
        model: Any,
        inputs: Any,
        targets: Any = None,
        *,
        step: int,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> Point:
        """Compute K of a network of torch, measure it, and add it to the history.

        Parameters
        ----------
        model, inputs, targets
            As for `gram.from_torch`. The model is left as it is; one whose outputs or gradients are not finite has
            diverged, which the point says.
        step : int
            Of the training; later than that of the last point.
        learning_rate, batch_size : optional
            Where they are not those of the tracker: of this point alone.
        **options
            Of `gram.from_torch`, such as ``loss=torch.nn.MSELoss()``.

        Returns
        -------
        Point
            What was measured.

        Raises
        ------
        ValueError, TypeError, ImportError
            As `update` and `gram.from_torch` do.

        Warns
        -----
        AccuracyWarning
            As `update` does.

        Examples
        --------
        >>> import torch
        >>> import sgdstab_fast as sf
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> inputs, targets = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 1)
        >>> tracker = sf.StabilityTracker(0.01, quantities="sharpness")
        >>> tracker.update_from_torch(model, inputs, targets, step=0)  # 2 N over the largest eigenvalue, over 0.01
        Point(step=0, verdict='', gd_ratio=13.393)
        """
        began, run = time.perf_counter(), self._run
        given = run.given(None, step, learning_rate=learning_rate, batch_size=batch_size)
        try:
            kernel = from_torch(model, inputs, targets=targets, **options)
        except validation.NotFiniteError as error:
            return run.take_diverged(given, str(error), time.perf_counter() - began)
        given = run.given(kernel, step, learning_rate=learning_rate, batch_size=batch_size)
        point, carried = measured(run.settings, given, run.carried)
        return run.take(dataclasses.replace(point, seconds=time.perf_counter() - began), carried)

    def watch(
        self,
        model: Any,
        inputs: Any,
        targets: Any = None,
        *,
        every: int | Schedule = 100,
        budget: float | None = None,
        log: Log | None = None,
        prefix: str = "stability/",
        executor: Executor | None = None,
        background: bool = True,
        **options: Any,
    ) -> Watch:
        """Return what measures a network of torch while it trains: call it after every step.

        Parameters
        ----------
        model, inputs, targets
            As for `gram.from_torch`. Of the model a copy is measured, in evaluation mode, so that training goes on
            meanwhile; the model itself is neither wrapped nor changed.
        every : int or callable, optional
            Steps between points, or a function that says of a step whether to measure there, such as `near_edge`.
        budget : float, optional
            Share of the time since the start that points may take in all, such as 0.05: those that would take more are
            left out.
        log : callable, optional
            ``log(scalars, step)`` for every point, on the thread that trains, with the step that it belongs to.
        prefix : str, optional
            Of the names of what is logged.
        executor : concurrent.futures.Executor, optional
            Where to measure; by default a thread.
        background : bool, optional
            Whether training goes on while a point is measured. A point that is due before the last one is done is then
            taken as soon as that is, of the network as it is then, instead of all that became due meanwhile. If False,
            every point is measured where it is due: the same steps in every run.
        **options
            Of `gram.from_torch`, such as ``loss=torch.nn.MSELoss()``.

        Returns
        -------
        Watch
            A context manager to call with the step.

        Raises
        ------
        ValueError, TypeError
            If an argument is out of range, or the model cannot be copied.

        Examples
        --------
        >>> import torch
        >>> import sgdstab_fast as sf
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> inputs, targets = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 1)
        >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> tracker = sf.StabilityTracker(0.01, quantities="economy")
        >>> with tracker.watch(model, inputs, targets, every=10, background=False) as watch:
        ...     for step in range(21):
        ...         watch(step)
        ...         optimiser.zero_grad()
        ...         (model(inputs) - targets).square().mean().div(2).backward()
        ...         optimiser.step()
        >>> tracker.history["step"]
        array([ 0, 10, 20])
        """
        return Watch(
            self._run,
            model,
            inputs,
            targets,
            every=every,
            budget=budget,
            log=log,
            prefix=prefix,
            executor=executor,
            background=background,
            options=options,
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the history; see `History.plot`."""
        return self.history.plot(ax)

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return all columns of the history by their names, as data frames take them."""
        return self.history.to_dict()

    def save(self, file: File) -> None:
        """Write settings and history to a .npz file, which `sgdstab_fast.load` reads.

        Parameters
        ----------
        file : path or binary file
            Where to; an existing file is replaced once everything is written.
        """
        run, own, seed = self._run, self._run.settings, self._run.settings.seed
        settings = {name: value for name, value in vars(own).items() if name != "seed"}
        header = {
            "settings": settings,
            "seed": {"key": list(seed.key), "entropy": seed.entropy, "spawn_key": list(seed.spawn_key)},
            "n_rows": run.carried.n_rows,
            "notes": [list(point.notes) for point in run.points],
        }
        store(file, "StabilityTracker", header, self.to_dict())

    @classmethod
    def load(cls, file: File) -> StabilityTracker:
        """Read what `save` wrote; the next point is measured without what the last one knew.

        Parameters
        ----------
        file : path or binary file
            A .npz file.

        Returns
        -------
        StabilityTracker

        Raises
        ------
        ValueError
            If the file is not one of a tracker.
        """
        with reading(file, "StabilityTracker.save", ["StabilityTracker"]) as found:
            return cls.of(found)

    @classmethod
    def of(cls, found: Stored) -> StabilityTracker:
        """Return the tracker that a file holds."""
        settings, seed = dict(found.header["settings"]), found.header["seed"]
        tracker = cls(**settings)
        entropy = Seed(tuple(seed["key"]), seed["entropy"], tuple(seed["spawn_key"]))
        tracker._run = Run(dataclasses.replace(tracker._run.settings, seed=entropy))
        tracker._run.carried = Carried(n_rows=found.header["n_rows"])
        if len(found.header["notes"]) != len(found.arrays["step"]):
            raise ValueError("it has notes of another number of points")
        for row, notes in enumerate(found.header["notes"]):
            values: dict[str, Any] = {
                name: str(found.arrays[name][row])
                if name in TEXTS
                else int(found.arrays[name][row])
                if name in WHOLE
                else float(found.arrays[name][row])
                for name in COLUMNS
                if name in found.arrays
            }
            tracker._run.points.append(Point(**values, notes=tuple(notes)))
        return tracker

    def __repr__(self) -> str:
        own = self._run.settings
        others = f", momentum={own.momentum:g}" if own.momentum else ""
        what = f"learning_rate={own.learning_rate:g}, batch_size={own.batch_size}{others}"
        return f"StabilityTracker({what}, {self.history!r})"


store_as("StabilityTracker", vars, StabilityTracker.of, StabilityTracker)
