"""Curves through numbers: moments over orders, zeros over learning rates."""
