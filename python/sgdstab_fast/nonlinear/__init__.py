"""Theories beside linear stability: what happens at the edge, and beyond it."""

from sgdstab_fast.nonlinear.batches import BatchStability, batch_stability
from sgdstab_fast.nonlinear.edge_measures import EdgeMeasures, edge_measures
from sgdstab_fast.nonlinear.oscillations import GDOscillation, gd_oscillation, interpolation_derivatives

__all__ = [
    "BatchStability",
    "EdgeMeasures",
    "GDOscillation",
    "batch_stability",
    "edge_measures",
    "gd_oscillation",
    "interpolation_derivatives",
]
