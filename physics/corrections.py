"""What real detectors and beams add to line integrals, and how it is taken out; all work in place. Needs no torch."""
from collections.abc import Sequence

import numpy as np

from physics.beer_lambert import FLOAT_FLOOR
from physics.plausible import EDGE

SPREAD = 9          # columns, of the median that rings are told by


def subtract_scatter(p: np.ndarray, fraction: float, open_beam: np.ndarray | None = None) -> None:
    """Take out a constant background: T' = T - fraction mean(I0) / I0, p' = -ln T'.

    (Boellaard et al. 1997, Radiother. Oncol. 44(2), take such a constant; their fraction depends on the thickness.)

    Args:
        p: line integrals [views, v, u].
        fraction: of the open beam's mean, which reaches every pixel behind the object as scatter, 0 to below 1.
        open_beam: [v, u], I0; None: the same in all pixels.
    """
    share = fraction if open_beam is None else fraction * open_beam.mean() / np.maximum(open_beam, 1e-12)
    for view in p:
        view[:] = -np.log(np.maximum(np.exp(-view.astype(np.float64)) - share, FLOAT_FLOOR))


def level_air(p: np.ndarray) -> float:
    """Scale every view so that its margin is air: p' = p - (the median of the three columns at the lower side).

    For a beam whose output wanders from view to view; the object leaves one side of the detector free.

    Args:
        p: line integrals [views, v, u].

    Returns:
        The largest of these medians, which is far from 0 where a view has no air.
    """
    width, most = min(EDGE, p.shape[2]), 0.0
    for view in p:
        ends = [float(np.median(part)) for part in (view[:, :width], view[:, -width:])]
        offset = min(ends, key=abs)
        view -= np.float32(offset)
        most = max(most, abs(offset))
    return most


def subtract_rings(p: np.ndarray, spread: int = SPREAD) -> None:
    """Take out what a detector column adds to all views: p' = p - (mean over views - its median over columns).

    (Mean sinogram of Boin & Haibel 2006, Opt. Express 14(25), with a median for their moving average.) What lies on a
    circle around the axis in the object, and is thinner than half of ``spread`` columns, goes with it.

    Args:
        p: line integrals [views, v, u].
        spread: columns of the median, odd.
    """
    mean = p.mean(0, dtype=np.float64)
    half = min(spread // 2, p.shape[2] - 1)
    padded = np.pad(mean, ((0, 0), (half, half)), mode="reflect")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=1), axis=2)
    p -= (mean - smooth).astype(np.float32)


def harden(p: np.ndarray, coefficients: Sequence[float]) -> None:
    """Straighten a beam of many energies: p' = a1 p + a2 p^2 + ...

    Args:
        p: line integrals [views, v, u].
        coefficients: a1, a2, ...
    """
    for view in p:
        wide = view.astype(np.float64)
        view[:] = np.polynomial.polynomial.polyval(wide, (0.0, *coefficients))
