"""What scans leave open about their orientation: mirrored, turning the other way, counted from another angle."""
from dataclasses import replace

import numpy as np

from physics.geometry import ConeGeometry
from physics.views import view_angles


def mirrored(geometry: ConeGeometry) -> ConeGeometry:
    """The scan in a mirror that exchanges left and right, x and -x: what it measures is the mirrored object.

    No measurement can tell the two apart.
    """
    if not geometry.view_vectors:
        return replace(geometry, angles=[-angle for angle in geometry.angles],
                       det_spacing=(geometry.det_spacing[0], -geometry.det_spacing[1]),
                       det_offset=(geometry.det_offset[0], -geometry.det_offset[1]))
    vectors = geometry.vectors.reshape(-1, 4, 3)
    vectors[..., 0] *= -1
    return replace(geometry, view_vectors=vectors.reshape(-1, 12))


def turning_back(geometry: ConeGeometry) -> ConeGeometry:
    """The scan with every view at minus its angle: source and detector as they are, turning the other way."""
    if not geometry.view_vectors:
        return replace(geometry, angles=[-angle for angle in geometry.angles])
    return _turned(geometry, -2 * view_angles(geometry))


def turned(geometry: ConeGeometry, degrees: float) -> ConeGeometry:
    """The scan with all its angles larger by so many degrees."""
    if not geometry.view_vectors:
        return replace(geometry, angles=[angle + degrees for angle in geometry.angles])
    return _turned(geometry, np.full(geometry.views, np.deg2rad(degrees)))


def _turned(geometry: ConeGeometry, angle: np.ndarray) -> ConeGeometry:
    """Every view turned about z by its angle, in radians."""
    vectors = geometry.vectors.reshape(-1, 4, 3)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = vectors[..., 0].copy(), vectors[..., 1].copy()
    vectors[..., 0], vectors[..., 1] = cos * x - sin * y, sin * x + cos * y
    return replace(geometry, view_vectors=vectors.reshape(-1, 12))


def shifted(geometry: ConeGeometry, sideways: float) -> ConeGeometry:
    """The scan with the detector shifted by a length along (cos t, sin t), where its columns run at angle t."""
    if not geometry.view_vectors:
        v, u = geometry.det_offset
        return replace(geometry, det_offset=(v, u + sideways))
    vectors, angle = geometry.vectors, view_angles(geometry)
    vectors[:, 3:5] += sideways * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return replace(geometry, view_vectors=vectors)
