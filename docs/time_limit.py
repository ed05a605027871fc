"""How long an example of the gallery may take: one that hangs would hold the build up for ever."""

import signal

SECONDS = 60


def limit_time(gallery, name, when):
    """Start the clock before an example, and stop it after; the build ends where it runs out."""
    if hasattr(signal, "SIGALRM"):
        signal.alarm(SECONDS if when == "before" else 0)
