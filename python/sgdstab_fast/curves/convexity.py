"""What convexity says of a function at one point from what is known at others.

Lambda lies between l_j and h_j at the points p_j. It is below every chord, and above the continuation of every chord:

    p between p_i < p_k:       Lambda(p) <= ((p_k - p) h_i + (p - p_i) h_k) / (p_k - p_i)
    p_i < p_k < p or reverse:  Lambda(p) >= l_k + (l_k - h_i) (p - p_k) / (p_k - p_i)
"""

from __future__ import annotations

import math

import numpy as np

from sgdstab_fast._core.arguments import FloatArray


def convex_bounds(at: float, points: FloatArray, lows: FloatArray, highs: FloatArray) -> tuple[float, float]:
    """Return what a convex function is between at one point.

    Parameters
    ----------
    at : float
        The point.
    points, lows, highs : array, shape (n,)
        Other points, distinct, and what the function is between there; infinite where nothing is known.

    Returns
    -------
    low, high : float
        Infinite where nothing follows.
    """
    before, after = points < at, points > at
    high, low = math.inf, -math.inf
    with np.errstate(invalid="ignore"):
        if before.any() and after.any():
            left, right = points[before][:, None], points[after]
            chords = ((right - at) * highs[before][:, None] + (at - left) * highs[after]) / (right - left)
            high = float(np.nanmin(chords, initial=math.inf))
        for side in (before, after):
            p, least, most = points[side], lows[side], highs[side]
            if p.size < 2:
                continue
            beyond = np.abs(p[:, None] - at) > np.abs(p - at)  # i beyond k, from where the bound is wanted
            slopes = (least - most[:, None]) / np.where(beyond, p - p[:, None], 1.0)
            lines = np.where(beyond, least + slopes * (at - p), -math.inf)
            low = max(low, float(np.nanmax(lines, initial=-math.inf)))
    return low, high
