"""What the owner of a scan may not know: the volume, and what the body attenuates."""
from dataclasses import replace

import numpy as np
import torch

from physics.cone_beam import ConeBeam
from physics.geometry import ConeGeometry
from physics.sirt import sirt

COARSE = 64         # voxels, columns and views, at the most, of the reconstruction that the body is looked for in
TALL = 20           # times its width, the height of the only slice
BINS = 100
NARROW = 0.98       # of the way to the source, or the detector, that a volume may take


def with_volume(geometry: ConeGeometry) -> ConeGeometry:
    """The scan with a volume: the field of view of all columns and rows, in voxels of the pixels' size at the axis.

    The voxel is the pitch along u times source distance / (source distance + detector distance). In-plane the volume
    holds the circle around the axis that some view sees; a detector that is shifted sideways counts with its longer
    side. Along z it is what the detector sees at the axis.
    """
    source, centre, step_u, step_v = geometry.vectors.reshape(-1, 4, 3).transpose(1, 0, 2)
    if geometry.sideways:
        return replace(with_volume(geometry.turned()), **{name: getattr(geometry, name) for name in (
            "angles", "src_dist", "det_dist", "det_spacing", "det_offset", "view_vectors", "det_shape")})
    to_axis = np.hypot(*source[:, :2].T).mean()
    inwards = -source[:, :2] / np.hypot(*source[:, :2].T)[:, None]
    distance = ((centre - source)[:, :2] * inwards).sum(1).mean()
    shrink = to_axis / distance
    size = float(np.linalg.norm(step_u, axis=1).mean() * shrink)
    ends = np.multiply.outer((-geometry.det_shape[1] / 2, geometry.det_shape[1] / 2), step_u[:, :2]) + centre[:, :2]
    ray = ends - source[:, :2]
    fan = np.arcsin(abs(ray[..., 0] * inwards[:, 1] - ray[..., 1] * inwards[:, 0]) / np.linalg.norm(ray, axis=-1))
    radius = to_axis * np.sin(fan.max(0).mean())
    radius = min(radius, NARROW * to_axis / 2 ** 0.5, NARROW * max(distance - to_axis, radius / NARROW))
    across = max(int(np.ceil(2 * radius / size - 0.5)), 1)
    rise = (centre[:, 2] - source[:, 2]).mean() * shrink + source[:, 2].mean()
    height = np.abs(step_v[:, 2]).mean() * shrink * geometry.det_shape[0]
    return replace(geometry, volume_shape=(max(round(float(height / size)), 1), across, across), voxel_size=(size,) * 3,
                   volume_centre=(float(rise), 0.0, 0.0))


def body_attenuation(p: np.ndarray, geometry: ConeGeometry) -> float:
    """Attenuation of most of the body, per unit of length: the peak of the histogram of a coarse SIRT.

    Voxels count by their value, so that what little there is in much air does not; they are those of the middle slice,
    64 x 64, of a body that is taken to be alike above and below.

    Args:
        p: line integrals [views, v, u].
        geometry: of them, with a volume.

    Raises:
        ValueError: nothing attenuates.
    """
    flat, (top, bottom) = middle_rows(geometry, COARSE)
    size = max(1, geometry.det_shape[1] // (2 * COARSE))
    columns = geometry.det_shape[1] // size
    views = np.unique(np.linspace(0, geometry.views - 1, COARSE).round().astype(int)).tolist()
    means = np.stack([p[k, top:bottom, :columns * size].reshape(bottom - top, columns, size).mean((0, 2))
                      for k in views])[:, None]
    operator = ConeBeam(_blocks(tall(flat).select(views), bottom - top, size))
    values = sirt(torch.from_numpy(means)[None], operator, 30).flatten().numpy()
    values = values[values > 0.02 * values.max()] if values.max() > 0 else values[:0]
    if not len(values):
        raise ValueError("projections: nothing attenuates, so that mu_water cannot be estimated")
    counts, edges = np.histogram(values, BINS, (0, float(np.quantile(values, 0.995))))
    middles = (edges[:-1] + edges[1:]) / 2
    mass = np.convolve(counts * middles, (0.25, 0.5, 0.25), "same")
    near = slice(max(int(mass.argmax()) - 2, 0), int(mass.argmax()) + 3)
    return float((middles[near] * counts[near]).sum() / counts[near].sum())


def middle_rows(geometry: ConeGeometry, size: int) -> tuple[ConeGeometry, tuple[int, int]]:
    """The scan of the volume's middle slice alone, on at most size x size voxels of the same extent in-plane.

    Args:
        geometry: with a volume.
        size: voxels along x and y, at the most.

    Returns:
        The scan on the rows that this slice, no thicker than wide, shades; and which rows these are (half-open).

    Raises:
        ValueError: no ray meets it.
    """
    depth, *plane = geometry.volume_shape
    few = [min(count, size) for count in plane]
    steps = [extent * count / less for extent, count, less in zip(geometry.voxel_size[1:], plane, few)]
    height = depth * geometry.voxel_size[0]
    coarse = geometry.on_grid((1, *few), (min(height, steps[1]), *steps))
    top, bottom, *_ = coarse.window
    if bottom <= top:
        raise ValueError("volume_shape: no ray of any view meets the middle of the volume")
    return coarse.crop(top, bottom, 0, geometry.det_shape[1]), (top, bottom)


def tall(flat: ConeGeometry) -> ConeGeometry:
    """The scan of one slice that goes on above and below, so tall that no ray leaves it there."""
    return flat.on_grid(flat.volume_shape, (TALL * flat.voxel_size[2] * flat.volume_shape[2], *flat.voxel_size[1:]))


def _blocks(geometry: ConeGeometry, rows: int, columns: int) -> ConeGeometry:
    """The scan with blocks of rows x columns for pixels, by vectors."""
    shape = geometry.det_shape[0] // rows, geometry.det_shape[1] // columns
    vectors = geometry.crop(0, shape[0] * rows, 0, shape[1] * columns).vectors
    vectors[:, 6:9] *= columns
    vectors[:, 9:] *= rows
    return replace(geometry, angles=(), src_dist=None, det_dist=None, det_spacing=None, det_offset=(0, 0),
                   view_vectors=vectors, det_shape=shape)
