"""Which views of a scan sparse-view and limited-angle reconstructions keep."""
import numpy as np

from physics.geometry import ConeGeometry

DIRECTIONS = 2 ** 20    # that are told apart on the circle
GAP = 2.5               # typical steps: a wider one is a gap


def view_angles(geometry: ConeGeometry) -> np.ndarray:
    """Angle t of every view's source, in radians from 0 to 2 pi: float64 [views]."""
    vectors = geometry.vectors
    return np.arctan2(vectors[:, 0], -vectors[:, 1]) % (2 * np.pi)


def view_steps(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """How views at these angles, in radians, follow each other on the circle.

    Returns:
        Their order [views], the step from each of these to the next [views], and a typical step: the largest of most,
        so that a scan of mixed steps has no gaps, and a few gaps do not count.
    """
    order = np.argsort(angle, kind="stable")
    steps = np.diff(angle[order], append=angle[order[0]] + 2 * np.pi)
    return order, steps, np.quantile(steps[steps > 1e-9], 0.8, method="lower")


def lact_views(geometry: ConeGeometry, degree: float) -> list[int]:
    """Views of a limited-angle scan: those that cover its first `degree` degrees, each direction once.

    A view covers the angle to the next one, so 360 views of a full turn give 0 to int(degree) - 1.

    Args:
        geometry: of all views, in any order; see `_along` for what is first.
        degree: 1 to 360.

    Returns:
        Their indices, growing.

    Raises:
        ValueError: `degree` out of range.
    """
    if not 1 <= degree <= 360:
        raise ValueError(f"degree: expected 1 to 360 degrees for LACT, found {degree}")
    views, away, typical = _along(geometry)
    inside = np.rad2deg(away) <= degree - np.rad2deg(typical) + 1e-5
    inside[0] = True
    return sorted(views[inside].tolist())


def svct_views(geometry: ConeGeometry, degree: int) -> list[int]:
    """Views of a sparse-view scan: `degree` of them, evenly spread over the directions, each direction once.

    Of views that are evenly spread and in order these are `linspace(0, views, degree, endpoint=False)`, cast to int.

    Args:
        geometry: of all views, in any order; see `_along` for what is first.
        degree: how many; up to the number of directions.

    Returns:
        Their indices, growing.

    Raises:
        ValueError: `degree` is no whole number from 1 to the number of directions.
    """
    views, away, typical = _along(geometry)
    count = len(views)
    if not 1 <= degree <= count or degree % 1:
        raise ValueError(f"degree: expected 1 to {count} whole views for SVCT, found {degree}")
    steps = np.diff(away, append=2 * np.pi)
    steps = np.where(steps > GAP * typical, typical, steps)                 # there is nothing to choose in a gap
    covered = np.round((np.cumsum(steps) - steps) * count / steps.sum(), 6)   # in steps; whole where they are even
    place = np.searchsorted(covered, np.linspace(0, count, int(degree), endpoint=False), side="right") - 1
    chosen = np.arange(len(place))                                          # no view twice where they lie far apart
    place = np.minimum(np.maximum.accumulate(place - chosen) + chosen, count - len(place) + chosen)
    return sorted(views[place].tolist())


def _along(geometry):
    """The first view of every direction along the scan.

    The way is that of most steps from view to view, growing angles where there is none. The beginning is the end of
    the widest gap, or the first view where there is no gap.

    Returns:
        Indices of the views [directions], their angles in radians from the first [directions], a typical step.
    """
    angle = view_angles(geometry)
    turned = (np.diff(angle) + np.pi) % (2 * np.pi) - np.pi
    angle = -angle if len(turned) and (turned < 0).mean() > 0.8 else angle
    _, views = np.unique(np.round(angle / (2 * np.pi) * DIRECTIONS) % DIRECTIONS, return_index=True)
    away = angle[views] % (2 * np.pi)
    steps, typical = np.diff(away, append=away[0] + 2 * np.pi), view_steps(away)[2]
    begin = (steps.argmax() + 1) % len(views) if steps.max() > GAP * typical else views.argmin()
    views, away = np.roll(views, -begin), np.roll(away, -begin)
    away = (away - away[0] + 1e-8) % (2 * np.pi) - 1e-8                     # rounding must not make it a turn
    return views, away, typical
