"""Chains in time: where steps are taken, looked at and stopped."""
