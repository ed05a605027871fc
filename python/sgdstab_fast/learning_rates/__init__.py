"""Over learning rates: critical ones, and stability maps."""
