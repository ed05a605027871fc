"""Along a training run: stability at one point after another, beside training."""

from sgdstab_fast.tracking.callbacks import lightning_callback, transformers_callback
from sgdstab_fast.tracking.history import History
from sgdstab_fast.tracking.measurement import ECONOMY, QUANTITIES
from sgdstab_fast.tracking.point import Point
from sgdstab_fast.tracking.schedules import near_edge
from sgdstab_fast.tracking.tracker import StabilityTracker
from sgdstab_fast.tracking.watch import Watch

__all__ = [
    "ECONOMY",
    "QUANTITIES",
    "History",
    "Point",
    "StabilityTracker",
    "Watch",
    "lightning_callback",
    "near_edge",
    "transformers_callback",
]
