"""What all results of simulations say about how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sgdstab_fast.results.chains import Chains


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedEstimate:
    """What every simulated estimate says about how it came about."""

    degrees_of_freedom: int
    """Of the standard error."""
    n_steps: int
    """Steps of all chains together, start-up included."""
    n_chains: int
    """Independent chains."""
    steps_per_batch: int
    """Steps whose log growth is recorded together."""
    start_up_steps: int
    """Steps cut off at the start of every chain."""
    chain_disagreement: float
    """Variance between chain means over what the variance within chains predicts; about 1 when chains mix."""
    converged: bool
    """Whether a tolerance was met by chains that had left their start-up behind."""
    stopped_by: str
    """``"rtol"``, ``"atol"``, ``"sign"``, ``"max_steps"``, or ``"closed form"`` where nothing was simulated."""
    drifts: bool
    """Whether the chains were still leaving their start-up when the run ended."""
    steps_per_epoch: float
    """N / batch_size."""
    provenance: Mapping[str, Any] = field(repr=False)
    """Seed entropy, SIMD level, versions, method."""
    chains: Chains[Any] | None = field(repr=False, compare=False)
    """The state at the end, from which to go on; None where nothing was simulated."""
