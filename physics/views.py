"""Which views of a scan sparse-view and limited-angle reconstructions keep."""
import numpy as np

from physics.fdk import _azimuth, _sweep


def lact_views(geometry, degree):
    """Views of a limited-angle scan: those that cover the first `degree` degrees in the direction of the scan.

    A view covers the angle to the next one, so 360 views of a full turn give 0 to int(degree) - 1. ValueError for
    degrees out of range.
    """
    if not 1 <= degree <= 360:
        raise ValueError(f"degree: expected 1 to 360 degrees for LACT, found {degree}")
    azimuth = _azimuth(geometry.vectors)
    steps = (np.diff(azimuth) + np.pi) % (2 * np.pi) - np.pi
    way = -1 if len(steps) and np.median(steps) < 0 else 1
    away = np.rad2deg((way * (azimuth - azimuth[0]) + 1e-8) % (2 * np.pi))      # rounding must not make it 360
    width = np.rad2deg(_sweep(azimuth)[2])
    return [0, *(np.flatnonzero(away[1:] <= degree - width + 1e-5) + 1).tolist()]


def svct_views(geometry, degree):
    """`degree` views of a sparse-view scan, evenly spread over those there are. ValueError for more, or none."""
    if not 1 <= degree <= geometry.views or degree % 1:
        raise ValueError(f"degree: expected 1 to {geometry.views} whole views for SVCT, found {degree}")
    return np.linspace(0, geometry.views, int(degree), endpoint=False).astype(int).tolist()
