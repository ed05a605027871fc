"""What the gallery of examples asks: in which order, and how long one may take."""

import signal

ORDER = (
    "first_verdict",
    "critical_rates_of_a_network",
    "three_minima",
    "edge_of_stability",
    "theorem_b",
    "heavy_tails",
    "random_matrices",
    "cluster_sweep",
)
SECONDS = 120  # of what takes a few where nothing else runs


class Order:
    """The key by which examples are sorted; one that has no place here ends the build."""

    def __init__(self, folder):
        pass

    def __call__(self, name):
        """Return the place of a file."""
        return ORDER.index(name.removesuffix(".py"))


def limit_time(gallery, name, when):
    """Start the clock before an example, and stop it after: one that hangs would hold the build up for ever."""

    def end(*_):
        raise TimeoutError(f"{name} takes longer than {SECONDS} seconds")

    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, end)
        signal.alarm(SECONDS if when == "before" else 0)
