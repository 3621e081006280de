"""Pixels of the detector that do not measure: find them in the views, and interpolate from their neighbours."""
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from physics.beer_lambert import beam

FEWEST_VIEWS = 8      # less cannot tell a pixel that never changes from an object that does not
SAMPLES = 32          # views, evenly spread, that are compared with their neighbourhood
OUTSIDE = 2.5         # ranges of the neighbours that a pixel lies beyond them where it is an outlier
STEP = 0.02           # line integrals that this is at the least
TINY = 1e-6           # of the open beam: the least transmission that is compared


def find_bad_pixels(views: np.ndarray, flat: np.ndarray | None = None, dark: np.ndarray | None = None,
                    i0: float | None = None) -> np.ndarray:
    """Find dead, stuck and hot pixels.

    A pixel is bad where the open beam is not above dark; where it never changes over the views though its neighbours
    change in most of them; and where it lies beyond all of its neighbourhood (5 x 5) but one pixel, by 2.5 times the
    range of that neighbourhood, on the same side in most views. An object does none of this: its edges move over the
    detector, and what stays in place (a wire or a wall along the axis, the rim of a centred cylinder) has more than
    one pixel of its kind in each neighbourhood.

    Args:
        views: [views, v, u], line integrals without ``flat`` and ``i0``, counts with one of them.
        flat: open beam, [v, u] or frames [n, v, u].
        dark: signal without beam, the same; None: zero.
        i0: the open beam as one number, instead of ``flat``.

    Returns:
        bool [v, u]. Of fewer than 8 views only the open beam is looked at, and on a detector of one row nothing is
        taken for an outlier.

    Raises:
        ValueError: as `physics.beer_lambert.beam`.
    """
    shape, counted = views.shape[1:], flat is not None or i0 is not None
    level, gain = beam(shape, flat, dark, i0) if counted else (np.zeros(shape), np.ones(shape))
    dead = ~(gain > 0)
    if len(views) < FEWEST_VIEWS or dead.all():
        return dead
    gain = np.where(dead, 1, gain)

    def logarithm(view: np.ndarray) -> np.ndarray:
        if not counted:
            return view
        return -np.log(np.maximum((view - level) / gain, TINY)).astype(np.float32)

    return dead | _stuck(views, logarithm(views[0]), dead) | _outlying(views, logarithm)


def _stuck(views: np.ndarray, first: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """Pixels that never change among neighbours that do. ``first``: the line integrals of the first view.

    In a simulated scan without noise the air between two objects, a row of it perhaps, never changes. So where the
    line integral is that of air all neighbours have to change; else three quarters, as beside a dead column.
    """
    changes = np.zeros(views.shape[1:], np.int32)
    for one, other in pairwise(views):
        changes += one != other
    varying = changes >= (len(views) - 1) / 2
    known, around = _shifts(~dead, 1), _shifts(varying, 1)
    needed = sum(known) * np.where(np.abs(first) < STEP, 1, 0.75)
    return (changes == 0) & (sum(a & k for a, k in zip(around, known)) >= np.maximum(needed, 2))


def _outlying(views: np.ndarray, logarithm: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Pixels that lie far beyond their neighbourhood, on the same side in most views."""
    counts = np.zeros((2, *views.shape[1:]), np.int32)
    if min(views.shape[1:]) < 2:    # in one row a wire on the axis looks like a hot pixel
        return np.zeros(views.shape[1:], bool)
    sample = np.unique(np.linspace(0, len(views) - 1, SAMPLES).astype(int))
    for k in sample:
        view = np.asarray(logarithm(views[k]), np.float32)
        most, more = np.full((2, *view.shape), -np.inf, np.float32)    # the largest neighbour, and the second
        least, less = np.full((2, *view.shape), np.inf, np.float32)
        for value in _shifts(view, 2):
            np.maximum(more, np.minimum(most, value), out=more)
            np.maximum(most, value, out=most)
            np.minimum(less, np.maximum(least, value), out=less)
            np.minimum(least, value, out=least)
        margin = np.maximum(OUTSIDE * (more - less), STEP)
        counts[0] += view > more + margin
        counts[1] += view < less - margin
    return counts.max(axis=0) > len(sample) / 2


def _shifts(view: np.ndarray, reach: int) -> list[np.ndarray]:
    """The neighbours of every pixel as views [v, u], one after the other; the edges of the detector are mirrors."""
    rows = min(reach, len(view) - 1)
    columns = min(reach, view.shape[1] - 1)
    height, width = view.shape
    padded = np.pad(view, ((rows, rows), (columns, columns)), mode="reflect")
    return [padded[v:v + height, u:u + width] for v in range(2 * rows + 1) for u in range(2 * columns + 1)
            if (v, u) != (rows, columns)]


def repair(p: np.ndarray, bad: np.ndarray) -> None:
    """Replace bad pixels, in place, by the mean of the good ones around them, weighted by 1 / distance^2.

    The neighbourhood is the smallest square around a pixel with good pixels on it.

    Args:
        p: float32 [views, v, u].
        bad: bool [v, u].

    Raises:
        ValueError: when no pixel is good.
    """
    if not bad.any():
        return
    if bad.all():
        raise ValueError(f"bad: all of {bad.size} pixels; accepted: some that are good")
    places = [_sources(bad, v, u) for v, u in np.argwhere(bad)]
    count = max(len(weights) for _, weights in places)
    index, weight = np.zeros((len(places), count), np.intp), np.zeros((len(places), count))
    for k, (found, weights) in enumerate(places):
        index[k, :len(found)], weight[k, :len(found)] = found, weights
    for view in p:
        view[bad] = (view.ravel()[index] * weight).sum(1)


def _sources(bad: np.ndarray, v: int, u: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of the good pixels that stand in for (v, u), and their weights, which add up to 1."""
    reach = 0
    while True:
        reach += 1
        top, left = max(v - reach, 0), max(u - reach, 0)
        rows, columns = np.nonzero(~bad[top:v + reach + 1, left:u + reach + 1])
        if len(rows):
            rows, columns = rows + top, columns + left
            weights = 1.0 / ((rows - v) ** 2 + (columns - u) ** 2)
            return rows * bad.shape[1] + columns, weights / weights.sum()
