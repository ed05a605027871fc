"""Version and build of the package."""

from __future__ import annotations

from importlib.metadata import version

from sgdstab_fast._core.functions import core, simd_levels

__version__ = version("sgdstab_fast")


def build_info() -> dict[str, str]:
    """Return how the package was built and what it runs on.

    Returns
    -------
    dict
        ``version``, ``eigen``, ``compiler``, ``simd_level`` (in use) and ``simd_levels`` (that could be used, best
        first; choose with the environment variable ``SGDSTAB_SIMD``).

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> sf.build_info()["eigen"]
    '3.4.1'
    """
    return {
        "version": __version__,
        "eigen": core.eigen_version,
        "compiler": core.compiler,
        "simd_level": core.simd_level,
        "simd_levels": " ".join(simd_levels()),
    }
