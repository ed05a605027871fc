"""Theories beside linear stability: what else is measured at the edge of stability."""

from sgdstab_fast.nonlinear.edge_measures import EdgeMeasures, edge_measures

__all__ = ["EdgeMeasures", "edge_measures"]
