"""Chains in time: the only loop over steps."""
