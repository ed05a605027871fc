"""Theories beside linear stability: what happens at the edge, and beyond it."""

from sgdstab_fast.nonlinear.batches import BatchStability, batch_stability
from sgdstab_fast.nonlinear.edge_measures import EdgeMeasures, edge_measures
from sgdstab_fast.nonlinear.from_torch import (
    PredictedDynamics,
    SelfStabilizationOfLoss,
    gd_oscillation_from_torch,
    self_stabilization_from_torch,
)
from sgdstab_fast.nonlinear.noise_equilibrium import (
    NoiseEquilibrium,
    RescalingEquilibrium,
    noise_equilibrium,
    rescaling_equilibrium,
)
from sgdstab_fast.nonlinear.oscillations import GDOscillation, gd_oscillation, interpolation_derivatives
from sgdstab_fast.nonlinear.self_stabilization import SelfStabilization, self_stabilization

__all__ = [
    "BatchStability",
    "EdgeMeasures",
    "GDOscillation",
    "NoiseEquilibrium",
    "PredictedDynamics",
    "RescalingEquilibrium",
    "SelfStabilization",
    "SelfStabilizationOfLoss",
    "batch_stability",
    "edge_measures",
    "gd_oscillation",
    "gd_oscillation_from_torch",
    "interpolation_derivatives",
    "noise_equilibrium",
    "rescaling_equilibrium",
    "self_stabilization",
    "self_stabilization_from_torch",
]
