"""What lines that were measured twice, from opposite sides, say about a scan: its direction and the detector's offset.

In the plane of the source, the ray at source angle t and fan angle g is that at t + 180 - 2 g and -g, read the other
way (t in degrees, g positive towards u). Needs no torch.
"""
from dataclasses import dataclass

import numpy as np

from physics.geometry import ConeGeometry
from physics.views import GAP, view_angles, view_steps

MOST = 512              # columns that are compared
REACH = 0.15            # of the detector's width, how far an offset is looked for
FEWEST = 0.02           # of the rays that see the object, which have to be measured twice
CLEARLY = 0.7           # of the misfit: one that is lower is another direction


@dataclass(frozen=True)
class Opposite:
    """What opposite rays say.

    Attributes:
        offset: how far along u the detector is from where the geometry has it, in the geometry's unit.
        misfit: rms of the differences at that offset, as a part of the rms of the line integrals.
        backwards: the same of a scan that turns the other way, at its own best offset.
        twice: part of the rays through the object that were measured twice.
    """
    offset: float
    misfit: float
    backwards: float
    twice: float

    @property
    def turns_back(self) -> bool:
        """Whether the scan turns against its angles."""
        return self.backwards < CLEARLY * self.misfit


def opposite_rays(p: np.ndarray, geometry: ConeGeometry) -> Opposite | None:
    """Compare rays that were measured twice, in the rows nearest to the plane of the source.

    Args:
        p: line integrals [views, v, u].
        geometry: of them, in mm or voxels; a detector across the axis, about at right angles to the central ray.

    Returns:
        What they say; None where nearly no line was measured twice, the plane is not on the detector, or all is air.
    """
    found = _sinogram(p, geometry)
    if found is None:
        return None
    sinogram, angle, u, distance, seen = found
    step = abs(u[1] - u[0])
    best = {}
    for way in (1, -1):
        turn = way * angle % (2 * np.pi)
        order, steps, typical = view_steps(turn)
        scan = sinogram[order], turn[order], steps <= GAP * typical

        def misfit(offset: float, every: int = 1, scan: tuple = scan) -> float:
            return _misfit(scan, u + offset, distance, seen, every)[0]

        reach, few = int(REACH * len(u)), -(-len(angle) // 60)
        middle = min((k * step for k in range(-reach, reach + 1)), key=lambda offset: misfit(offset, few))
        for width in (step / 2, step / 4):
            middle = min((middle - width, middle, middle + width), key=misfit)
        low, here, high = (misfit(middle + k * step / 2) for k in (-1, 0, 1))
        bend = low - 2 * here + high
        if np.isfinite(bend) and bend > 0:
            middle += float(np.clip(0.5 * (low - high) / bend, -1, 1)) * step / 2
        best[way] = float(middle), *_misfit(scan, u + middle, distance, seen)
    offset, least, twice = best[1]
    if not np.isfinite(least) or twice < FEWEST:
        return None
    return Opposite(offset, float(least ** 0.5), float(best[-1][1] ** 0.5), twice)


def _sinogram(p, geometry):
    """Mean of the middle rows [views, columns], source angles, u of the columns, distance, what counts as object."""
    source, centre, step_u, step_v = geometry.vectors.reshape(-1, 4, 3).transpose(1, 0, 2)
    if geometry.sideways or p.shape[2] < 8 or len(p) < 8:
        return None
    row = ((source[:, 2] - centre[:, 2]) / step_v[:, 2]).mean() + (p.shape[1] - 1) / 2
    if not -0.5 <= row <= p.shape[1] - 0.5:
        return None
    rows = sorted({int(np.clip(np.floor(row) + k, 0, p.shape[1] - 1)) for k in (0, 1)})
    block = -(-p.shape[2] // MOST)
    columns = p.shape[2] // block
    sinogram = p[:, rows, :columns * block].mean(1, dtype=np.float64).reshape(len(p), columns, block).mean(2)
    along = step_u[:, :2] / np.linalg.norm(step_u[:, :2], axis=1, keepdims=True)
    to_axis = -source[:, :2] / np.linalg.norm(source[:, :2], axis=1, keepdims=True)
    middle = ((centre - source)[:, :2] * along).sum(1).mean()
    distance = abs(((centre - source)[:, :2] * to_axis).sum(1)).mean()
    pitch = np.linalg.norm(step_u, axis=1).mean()
    # u is counted along (cos t, sin t); columns that run against it get falling u.
    sign = np.sign((along[:, 0] * to_axis[:, 1] - along[:, 1] * to_axis[:, 0]).sum()) or 1.0
    u = sign * (middle + pitch * (np.arange(columns) * block + (block - 1) / 2 - (p.shape[2] - 1) / 2))
    if u[0] > u[-1]:
        u, sinogram = u[::-1], sinogram[:, ::-1]
    limit = 0.05 * np.quantile(sinogram, 0.999)
    return (sinogram, view_angles(geometry), u, distance, limit) if limit > 0 else None


def _misfit(scan, u, distance, seen, every=1):
    """Mean squared difference of opposite rays over the mean square, and the part of the object's rays compared."""
    sinogram, angle, near = scan
    fan, here = np.arctan2(u, distance), sinogram[::every]
    wanted = (angle[::every, None] + np.pi - 2 * fan) % (2 * np.pi)
    after = np.searchsorted(angle, wanted.ravel()).reshape(wanted.shape) % len(angle)
    before = (after - 1) % len(angle)
    gap = (angle[after] - angle[before]) % (2 * np.pi)
    weight = np.where(gap > 0, ((wanted - angle[before]) % (2 * np.pi)) / np.maximum(gap, 1e-12), 0)
    column = (-u - u[0]) / (u[1] - u[0])
    inside = (column >= 0) & (column <= len(u) - 1)
    low = np.clip(np.floor(column).astype(int), 0, len(u) - 2)
    share = column - low
    found = sum(w * ((1 - share) * sinogram[view, low] + share * sinogram[view, low + 1])
                for w, view in ((1 - weight, before), (weight, after)))
    used = inside & near[before] & (here > seen)
    if not used.any():
        return np.inf, 0.0
    return float(((here - found)[used] ** 2).mean() / (here[used] ** 2).mean()), float(used.sum() / (here > seen).sum())
