"""The exponent lambda, the Lyapunov spectrum, and the verdict."""
