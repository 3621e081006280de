"""Whether projections and a geometry can be what they are taken for. Needs no torch."""
import math

import numpy as np

from physics.geometry import ConeGeometry

MOST = 15.0             # of a line integral that can be measured: one photon in 3 million
NOISE = 0.05            # of a line integral, that says nothing
AIR = 0.05              # of the largest line integrals (99.9 %), that air does not reach
MU_WATER = 0.012, 0.12  # per mm: of water at 1 MeV it is 0.0071, at 200 keV 0.0137, at 40 keV 0.0268, at 20 keV 0.081,
                        # at 15 keV 0.167 (NIST XCOM)
RADIANS = 7.0           # degrees; a full turn is 6.28 radians
EDGE = 3                # columns at the edges of the detector


def check_line_integrals(p: np.ndarray) -> list[str]:
    """Look for the marks of values that are no line integrals of attenuation.

    Args:
        p: [views, v, u].

    Returns:
        A line for each thing that is odd.

    Raises:
        ValueError: where it is certain: counts (whole numbers above 15, or half of the values above 15),
            transmissions (all from 0 to 1, with 1 beside the object), or values below zero throughout.
    """
    found = _statistics(p)
    least, most, median, edges = found["least"], found["most"], found["median"], found["edges"]
    what = f"values from {least:g} to {most:g}, median {median:g}"
    if most > MOST and (found["whole"] or median > MOST):
        mark = "whole numbers" if found["whole"] else "half of them above 15"
        raise ValueError(f"projections: {what}, {mark}: counts or grey values, no line integrals; accepted with them: "
                         "a flat field or i0")
    if (most <= 0 and median < 0) or (median < -NOISE and found["positive"] < 0.01):
        raise ValueError(f"projections: {what}: line integrals are not below zero (the sign turned, or an open beam "
                         "that is too low?); accepted: -ln(transmission)")
    if edges is not None and least > -NOISE and most < 1.5 and 0.95 < edges[0] <= edges[1] < 1.05 >= median:
        raise ValueError(f"projections: {what}, about 1 at the edges of the detector: transmissions, no line "
                         "integrals; accepted with them: i0 = 1")
    said = []
    if found["whole"] and most > least:
        said.append(f"{what}, whole numbers: are they line integrals?")
    if most == least:
        said.append(f"one value, {least:g}, in all pixels")
    if found["above"]:
        said.append(f"{found['above']} values above {MOST:g}, up to {most:g}: more than a detector can measure")
    if edges is not None and edges[1] < -NOISE:
        said.append(f"air reads {edges[1]:.3g} at the edges of the detector, where 0 is right: is the open beam too "
                    "low?")
    return said


def _statistics(p: np.ndarray) -> dict:
    """Numbers of `check_line_integrals`, in one pass; median and edges of up to 64 views."""
    least, most, above, positive, whole = math.inf, -math.inf, 0, 0, True
    for view in p:
        least, most = min(least, float(view.min())), max(most, float(view.max()))
        above, positive = above + int((view > MOST).sum()), positive + int((view > 0).sum())
        whole = whole and bool((view == np.rint(view)).all())
    sample = range(0, len(p), -(-len(p) // 64))
    medians = [float(np.median(p[k])) for k in sample]
    edges = None
    if p.shape[2] >= 4 * EDGE:    # of each side and view the median; of these the smaller and the larger quartile
        ends = [float(np.median(part)) for k in sample for part in (p[k][:, :EDGE], p[k][:, -EDGE:])]
        edges = np.quantile(ends, (0.25, 0.75)).tolist()
    return {"least": least, "most": most, "above": above, "positive": positive / p.size, "whole": whole,
            "median": float(np.median(medians)), "edges": edges}


def truncated(p: np.ndarray) -> tuple[float, float]:
    """Tell how many views are cut off by the edges of the detector.

    A row of a view is cut where its outer columns read more than 5 % of what all views reach (99.9 %) and more than
    0.05, both in their median; a view where a tenth of the rows that see the object are.

    Args:
        p: line integrals [views, v, u].

    Returns:
        The part of the views that does not fall to air at the first columns, and at the last. Of a detector that is
        shifted sideways on purpose one of them is near 1.
    """
    width = max(1, min(EDGE, p.shape[2] // 4))
    peaks = np.array([np.quantile(view, 0.999) for view in p[::-(-len(p) // 64)]])
    limit = max(AIR * float(peaks.max()), NOISE)
    counts = np.zeros(2)
    for view in p:
        seen = max(int((view.max(axis=1) > 2 * limit).sum()), 1)
        for side, columns in enumerate((view[:, :width], view[:, -width:])):
            cut = np.median(columns, axis=1) > limit
            counts[side] += cut.sum() > 0.1 * seen
    return tuple((counts / len(p)).tolist())


def truncation(p: np.ndarray) -> list[str]:
    """Say where projections are cut off on both sides, which no shifted detector explains.

    Args:
        p: line integrals [views, v, u].

    Returns:
        One line, or none.
    """
    left, right = truncated(p)
    if min(left, right) < 0.05:
        return []
    return [f"the object is wider than the detector: {left:.0%} of the views do not fall to air at its first columns, "
            f"{right:.0%} at its last"]


def plausibility(geometry: ConeGeometry) -> list[str]:
    """Look for the marks of wrong units in a geometry.

    Args:
        geometry: a scan.

    Returns:
        A line for each thing that is odd, which begins with the name of the field.
    """
    said = []
    if len(geometry.angles) >= 10 and (reach := max(geometry.angles) - min(geometry.angles)) <= RADIANS:
        said.append(f"angles: {len(geometry.angles)} views within {reach:.3g} degrees: are they in radians?")
    mu = geometry.mu_water
    if geometry.unit == "mm" and mu and not MU_WATER[0] <= mu <= MU_WATER[1]:
        said.append(f"mu_water: {mu:g} per mm; water has {MU_WATER[0]:g} to {MU_WATER[1]:g} between 300 and 17 keV, "
                    "0.02 at 60 keV" + ("; is it per cm?" if mu > MU_WATER[1] else ""))
    return said
