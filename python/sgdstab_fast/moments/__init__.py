"""Moment Lyapunov exponents, and probabilities over finite times."""
