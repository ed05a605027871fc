"""What estimates share: going on from an earlier result, warnings, and how a result came about."""

from __future__ import annotations

from typing import Any

import numpy as np

from sgdstab_fast._core.seeds import Seed
from sgdstab_fast.results.chains import Chains
from sgdstab_fast.results.printed import with_error
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.result import CLOSED_FORM
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.options import Budget
from sgdstab_fast.simulation.run import Run
from sgdstab_fast.systems.system import System

_NOTEWORTHY = 1e-2  # a relative standard error
_ROUNDING = 100  # times what rounding does to one evaluation


def require_own(result: Any, kind: type, system: System) -> None:
    """Refuse to go on from what is not an earlier result of this kind for this system."""
    if not isinstance(result, kind):
        raise TypeError(f"resume must be a {kind.__name__}, not {type(result).__name__}")
    known = result.provenance["system"]  # type: ignore[attr-defined]
    if known != system.fingerprint:
        raise ValueError(
            f"resume must come from this system, {system.fingerprint}, not from {known}: "
            "they differ in K, the learning rate or how steps are made of them"
        )


def resumed(result: Any, kind: type, system: System, shape: tuple[int, ...]) -> tuple[Chains[Any], Any]:
    """Return the chains and the provenance of an earlier result, if it is of the right kind and shape."""
    require_own(result, kind, system)
    chains: Chains[Any] | None = result.chains
    if chains is None:
        raise ValueError("resume must have taken steps to go on from: this result is a closed form")
    if chains.states.shape[1:] != shape:
        raise ValueError(f"resume must have states of shape {shape}, not {chains.states.shape[1:]}")
    return chains.copy(), result.provenance


def warn_of_trouble(budget: Budget, done: Run[Any]) -> None:
    """Warn, once for each, of what the result's attributes flag."""
    estimate = done.estimate
    if np.isnan(estimate.mean).any():
        warn("the run overflowed: an exponent is unknown")
    n_steps = done.chains.n_batches * done.chains.steps_per_batch
    if np.isposinf(estimate.standard_error).any():
        warn(f"chains of {n_steps} steps each say nothing of lambda: raise max_steps")
        return
    # An error bar that allows for slow mixing, and is small all the same, or as was asked for, needs no warning.
    allowance = estimate.bias_allowance
    matters = allowance is None or (
        done.stopped_by == "max_steps"
        and done.error > max(budget.rtol, _NOTEWORTHY) * done.size
        and allowance > _ROUNDING * done.chains.rounding
    )
    if estimate.drifts and estimate.mixed and matters:
        warn("the chains had not left their start-up when the run ended: raise max_steps")
    if not estimate.mixed and matters:
        warn(
            f"chains were not seen to forget their starts within {n_steps} steps each: the standard error, "
            f"{done.error:.2g}, allows for what that may cost; raise max_steps, or ask for less"
        )
    if budget.has_tolerance and done.stopped_by == "max_steps":
        found = with_error(float(estimate.mean[0]), done.error, estimate.degrees_of_freedom)
        warn(f"max_steps={budget.max_steps} ended the run with lambda = {found}, short of {budget.wanted}")


def common_attributes(done: Run[Any], system: System, run_provenance: Any) -> dict[str, Any]:
    """Return what every simulated estimate says about how it came about."""
    chains, estimate = done.chains, done.estimate
    return {
        "degrees_of_freedom": estimate.degrees_of_freedom,
        "n_steps": chains.n_steps,
        "n_chains": chains.n_chains,
        "steps_per_batch": chains.steps_per_batch,
        "start_up_steps": estimate.start_up * chains.steps_per_batch,
        "chain_disagreement": estimate.chain_disagreement,
        "converged": done.converged,
        "stopped_by": done.stopped_by,
        "drifts": estimate.drifts,
        "steps_per_epoch": system.steps_per_epoch,
        "provenance": run_provenance,
        "chains": chains,
    }


def closed_form_attributes(system: System, seed: Seed) -> dict[str, Any]:
    """Return what estimates that took no steps say about how they came about."""
    return {
        **CLOSED_FORM,
        "steps_per_batch": 0,
        "start_up_steps": 0,
        "chain_disagreement": 1.0,
        "drifts": False,
        "steps_per_epoch": system.steps_per_epoch,
        "provenance": provenance(seed, "closed form", system),
        "chains": None,
    }
