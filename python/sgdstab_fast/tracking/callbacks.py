"""Callbacks of frameworks that train: Lightning and the Trainer of Hugging Face's transformers.

Each makes a `Watch` when training starts, on the first process alone, calls it after every optimiser step with the
learning rate of the optimiser, and closes it at the end, whatever happens. Nothing of the model or of the loop is
changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sgdstab_fast.results.warnings import warn
from sgdstab_fast.tracking.watch import Watch

if TYPE_CHECKING:
    from sgdstab_fast.tracking.tracker import StabilityTracker


def lightning_callback(tracker: StabilityTracker, inputs: Any, targets: Any = None, **options: Any) -> Any:
    """Return a callback for Lightning's Trainer, which measures the module while it trains.

    Parameters
    ----------
    tracker : StabilityTracker
        Where points go.
    inputs, targets
        The examples that K is of, as for `gram.from_torch`; the module's ``forward`` gives the outputs.
    **options
        Of `StabilityTracker.watch`. By default points are logged with the loggers of the trainer.

    Returns
    -------
    lightning.pytorch.callbacks.Callback
        For ``Trainer(callbacks=[..])``.

    Raises
    ------
    ImportError
        If neither lightning nor pytorch_lightning is installed.

    Warns
    -----
    AccuracyWarning
        When training starts, if the optimiser is not SGD with the tracker's momentum.

    Examples
    --------
    >>> import torch
    >>> import sgdstab_fast as sf
    >>> tracker = sf.StabilityTracker(learning_rate=0.1, batch_size=8, quantities="economy")
    >>> callback = sf.tracking.lightning_callback(  # doctest: +SKIP
    ...     tracker, torch.randn(64, 10), torch.randn(64, 1), loss="mean squared", every=100
    ... )
    >>> lightning.Trainer(callbacks=[callback])  # doctest: +SKIP
    """
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        try:
            from pytorch_lightning.callbacks import Callback  # the same under its older name
        except ImportError:
            raise ImportError("lightning_callback needs lightning: pip install lightning") from None

    class StabilityCallback(Callback):  # type: ignore[misc]
        """Measures stability after optimiser steps."""

        watch: Watch | None = None

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            def log(scalars: dict[str, float], step: int) -> None:
                for logger in trainer.loggers:
                    logger.log_metrics(scalars, step)

            if trainer.is_global_zero:
                _require_same(tracker, trainer.optimizers)
                self.watch = tracker.watch(pl_module, inputs, targets, **{"log": log, **options})

        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            if self.watch is not None:
                _tell(self.watch, trainer.global_step, trainer.optimizers)

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            self._close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self._close()

        def _close(self) -> None:
            if self.watch is not None:
                self.watch.close()
                self.watch = None

    return StabilityCallback()


def transformers_callback(
    tracker: StabilityTracker, inputs: Any, targets: Any = None, *, output: str = "logits", **options: Any
) -> Any:
    """Return a callback for the Trainer of Hugging Face's transformers, which measures the model while it trains.

    Parameters
    ----------
    tracker : StabilityTracker
        Where points go.
    inputs : dict of tensors
        The examples that K is of, as keywords of the model, without labels.
    targets : array_like, optional
        As for `gram.from_torch`.
    output : str, optional
        Which attribute of what the model returns holds the outputs.
    **options
        Of `StabilityTracker.watch`, such as ``loss="cross entropy"`` or ``log=``.

    Returns
    -------
    transformers.TrainerCallback
        For ``Trainer(callbacks=[..])``.

    Raises
    ------
    ImportError
        If transformers is not installed.

    Warns
    -----
    AccuracyWarning
        When training starts, if the optimiser is not SGD with the tracker's momentum.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> tracker = sf.StabilityTracker(learning_rate=0.1, batch_size=8, quantities="economy")
    >>> callback = sf.tracking.transformers_callback(  # doctest: +SKIP
    ...     tracker, {"input_ids": words}, labels, loss="cross entropy", every=100
    ... )
    >>> transformers.Trainer(model, settings, callbacks=[callback])  # doctest: +SKIP
    """
    try:
        from torch import nn
        from transformers import TrainerCallback
    except ImportError:
        raise ImportError("transformers_callback needs transformers: pip install transformers accelerate") from None

    class Outputs(nn.Module):  # type: ignore[misc]
        """The model, called with keywords, and of what it returns the outputs."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: dict[str, Any]) -> Any:
            return getattr(self.model(**inputs), output)

    class StabilityCallback(TrainerCallback):  # type: ignore[misc]
        """Measures stability after optimiser steps."""

        watch: Watch | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                _require_same(tracker, [kwargs["optimizer"]])
                self.watch = tracker.watch(Outputs(kwargs["model"]), inputs, targets, **options)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.watch is not None:
                _tell(self.watch, state.global_step, [kwargs["optimizer"]])

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.watch is not None:
                self.watch.close()
                self.watch = None

    return StabilityCallback()


def _tell(watch: Watch, step: int, optimizers: Any) -> None:
    """Call a watch, unless nothing moves, as at the start of a warm-up."""
    rate = float(optimizers[0].param_groups[0]["lr"])
    if rate > 0:
        watch(step, learning_rate=rate)


def _require_same(tracker: StabilityTracker, optimizers: Any) -> None:
    """Warn where the optimiser is not the one that the tracker follows."""
    if not optimizers:
        return
    optimiser = getattr(optimizers[0], "optimizer", optimizers[0])  # some are wrapped
    group = optimiser.param_groups[0]
    if "SGD" not in type(optimiser).__name__ or group.get("momentum", 0.0) != tracker.momentum:
        warn(
            f"the optimiser is {type(optimiser).__name__} with momentum {group.get('momentum', 0.0)}, and the tracker "
            f"follows SGD with momentum {tracker.momentum}: what it says is about that"
        )
