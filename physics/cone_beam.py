"""Cone-beam CT: the operator, and the reconstructions SIRT and FDK."""
import math
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import pad

from op import cone_beam
from op.check import check
from op.smear import smear
from physics.geometry import ConeGeometry, read_geometry
from physics.operator import LinearOperator

__all__ = ["ConeBeam", "ConeGeometry", "fdk", "lact_views", "ray_weights", "read_geometry", "sirt", "svct_views"]


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


class ConeBeam(LinearOperator):
    """Line integrals of a volume [D, 1, H, W]: projections [1, views, det_v, det_u], by Joseph's method.

    Lengths count in the unit of the geometry, whose volume_shape, voxel_size and volume_centre are the grid. A_T
    is the exact adjoint, A_dagger is 100 iterations of SIRT without the bound, hence linear. `impl` as in
    `op.cone_beam.project`. Raises ValueError where the geometry has no volume_shape, or no ray meets the volume.
    """

    def __init__(self, geometry: ConeGeometry, impl=None):
        if geometry.volume_shape is None:
            raise ValueError("volume_shape: expected 3 positive whole numbers (z, y, x), found none")
        self.geometry, self.impl = geometry, impl
        top, bottom, left, right = self.window
        if top == bottom or left == right:
            raise ValueError("volume_shape: no ray of any view meets the volume; do all lengths have the unit "
                             f"{geometry.unit}?")
        depth, height, width = geometry.volume_shape
        super().__init__((depth, 1, height, width), (1, geometry.views, *geometry.det_shape))

    @property
    def window(self):
        """(top, bottom, left, right): detector rows and columns that can be other than zero, half-open."""
        return self.geometry.window

    def crop(self):
        """The same operator on its window of the detector, and that window (top, bottom, left, right).

        For solvers, to which the rest of the detector tells nothing; `fdk` wants the whole detector.
        """
        rows, columns = self.geometry.det_shape
        return (self if self.window == (0, rows, 0, columns) else self._cropped), self.window

    @cached_property
    def _cropped(self):
        return self._on(self.geometry.crop(*self.window))

    def _on(self, geometry):
        """The same kind of operator for another geometry."""
        return type(self)(geometry, self.impl)

    @cached_property
    def rays(self):
        vectors = self.geometry.vectors
        vectors[:, :6] -= np.tile(self.geometry.volume_centre[::-1], 2)
        return cone_beam.trace(vectors, self.geometry.det_shape, self.geometry.volume_shape, self.geometry.voxel_size)

    def _forward(self, x):
        return cone_beam.project(x[:, 0], self.rays, self.impl)[None]

    def _adjoint(self, y):
        return cone_beam.backproject(y[0], self.rays, self.impl)[:, None]

    def _pseudo_inverse(self, y):
        return sirt(y, self, nonnegative=False)

    def inverse_sums(self, like):
        """One over the row sums [1, views, v, u] and the column sums [D, 1, H, W], never inf; device of `like`.

        A ray that clips a corner tells only its noise, magnified: rows below a hundredth of the longest count
        as rays that miss. A voxel that no ray meets keeps what it has.
        """
        if self._sums is None:
            rows = self.A(like.new_ones(self.domain_shape))
            used = rows > 0.01 * rows.max()
            columns = self.A_T(used.to(like))
            self._sums = (torch.where(used, 1 / rows, 0.0),
                          torch.where(columns > 1e-6 * columns.max(), 1 / columns, 0.0))
        return tuple(sums.to(like) for sums in self._sums)

    _sums = None


def sirt(y, operator, iterations=100, nonnegative=True, progress=None):
    """SIRT from zero: x += C A_T R (y - A x), R and C inverse row and column sums; Gregor & Benson (2008).

    y            [1, views, det_v, det_u]; returns x [D, 1, H, W]
    operator     a ConeBeam
    nonnegative  project onto x >= 0 after every iteration
    progress     wraps the range of iterations, as tqdm does; None: nothing does
    """
    check("y", y, operator.range_shape)
    operator, (top, bottom, left, right) = operator.crop()
    y = y[..., top:bottom, left:right]
    rows, columns = operator.inverse_sums(y)
    x = y.new_zeros(operator.domain_shape)
    steps = range(iterations)
    for _ in progress(steps) if progress else steps:
        x += columns * operator.A_T(rows * (y - operator.A(x)))
        if nonnegative:
            x.clamp_(min=0)
    return x


def fdk(y, operator):
    """Volume [D, 1, H, W] from projections y [1, views, det_v, det_u]; Feldkamp, Davis & Kress (1984).

    Weights of the rays, ramp filter along u, voxel-driven backprojection weighted by the distance; a view at a
    time, in memory of a few volumes. Lines that are measured twice or never count as `ray_weights` says.

    Distances, principal points and pixel pitches come from the vectors of every view. Detectors may be shifted,
    turned about z (fan-beam formula of an oblique detector) and pitched about u. For sources that leave the circle
    and detectors rolled in their plane it is an approximation: rows are filtered as if they were horizontal, and
    the radius of the circle is that of the view's own source. Raises ValueError for sources on the axis and for
    u steps that are closer to z than to the horizontal.
    """
    check("y", y, operator.range_shape)
    geometry, (depth, _, height, width) = operator.geometry, operator.domain_shape
    top, bottom = operator.window[:2]
    left, right = geometry.shadow[2:]       # beyond the detector too: filtered values are not zero there
    extra = max(0, -left)
    matrices = geometry.crop(top, bottom, left, right).matrices
    axes = [(centre - (count - 1) / 2 * size, size) for count, size, centre in zip(
        (width, height, depth), geometry.voxel_size[::-1], geometry.volume_centre[::-1])]
    vectors, weights = geometry.vectors, torch.as_tensor(ray_weights(geometry)).to(y)
    ramp = _ramp(extra + max(geometry.det_shape[1], right), y)
    volume = y.new_zeros(height, width, depth)
    for i, (view, matrix, weight) in enumerate(zip(y[0], matrices, weights)):
        if i == 0 or geometry.view_vectors:                             # the same in all views of a circular scan
            lines, radius = _lines(vectors[i], geometry.det_shape, slice(top, bottom))
            lines = torch.as_tensor(lines).to(y)
        spectrum = torch.fft.rfft(pad(view[top:bottom] * lines * weight, (extra, 0)), n=2 * (len(ramp) - 1))
        filtered = torch.fft.irfft(spectrum * ramp)[:, left + extra:right + extra]
        smear(volume, filtered, matrix, axes, radius, operator.impl)
    return volume.permute(2, 0, 1)[:, None].contiguous()


def _lines(vector, det_shape, rows):
    """Weights of the pixels [rows, u] before the ramp filter of pitch 1, and the radius of the source's orbit.

    Cosine of the angle between ray and central ray, over the horizontal distance from the source to the line of
    the row, over the pitch: Kak & Slaney (1988), section 3.4, in the coordinates of any flat detector.
    """
    source, centre, step_u, step_v = vector.reshape(4, 3)
    radius, pitch = np.hypot(*source[:2]), np.hypot(*step_u[:2])
    if radius <= 1e-6 * np.linalg.norm(centre - source) or pitch < abs(step_u[2]):
        raise ValueError("view_vectors: FDK needs sources around the z axis, and rows of pixels (u) across it")
    row, column = (np.arange(count) - (count - 1) / 2 for count in det_shape)
    start = centre - source + row[rows, None] * step_v
    ray = start[:, None] + column[:, None] * step_u
    distance = abs(start[:, 0] * step_u[1] - start[:, 1] * step_u[0]) / pitch
    cosine = ray[..., :2] @ -source[:2] / radius / np.linalg.norm(ray, axis=-1)
    return cosine / (distance * pitch)[:, None], radius


def ray_weights(geometry):
    """Weight of every view and detector column in the integral over the full turn: float64 [views, columns].

    The angle in radians that the view stands for, halfway to its neighbours on the circle, times the share of the
    line among all its measurements:

    - full turn, every line twice: 1/2;
    - full turn, and one side of the detector ends before the shadow of the cylinder inscribed in the volume, the
      other later: from 0 to 1 across the part that both sides see, smoothly. Wang (2002), "X-ray micro-CT with a
      displaced detector array", Med. Phys. 29(7);
    - short scan, half a turn at least: Parker (1982), "Optimal short scan convolution reconstruction for fan beam
      CT", Med. Phys. 9(2), with what is beyond half a turn for the fan. Exact from half a turn and the fan on;
    - limited angle, less than half a turn: 1, hardly any line is measured twice.

    A largest gap between views of more than 2.5 times the median one is not covered, and counts as a median one.
    """
    vectors, columns = geometry.vectors, geometry.det_shape[1]
    share, position, _, covered = _sweep(_azimuth(vectors))
    source, centre, step_u = vectors[:, :2], vectors[:, 3:5], vectors[:, 6:8]
    column = np.arange(columns) - (columns - 1) / 2
    fan = _fan_angle(source, centre[:, None] + column[:, None] * step_u[:, None])
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y, x = (middle + count / 2 * size * wave for middle, count, size, wave in zip(
        geometry.volume_centre[1:], geometry.volume_shape[1:], geometry.voxel_size[1:], (np.sin(turn), np.cos(turn))))
    reach = abs(_fan_angle(source, np.stack([x, y], -1)[None])).max()
    low, high = -fan.min(1).max(), fan.max(1).min()                     # seen on both sides of the axis in all views
    overlap, pixel = min(low, high), (low + high) / columns
    if covered > 2 * np.pi - 1e-9:
        weight = np.full(fan.shape, 0.5)
        if overlap < reach and abs(high - low) > 2 * pixel:
            inner = np.clip(np.sign(high - low) * fan / max(overlap, pixel), -1, 1)
            weight = (1 + np.sin(np.pi / 2 * inner)) / 2
    elif covered > np.pi - 1e-9:
        weight = _parker(position[:, None], fan, (covered - np.pi) / 2)
    else:
        weight = np.ones(fan.shape)
    return share[:, None] * weight


def _parker(angle, fan, spare):
    """Parker's weights at `angle` from the beginning of a scan over pi + 2 spare, for rays at `fan`."""
    begin, end = (np.clip(way / np.maximum(side, 1e-9), 0, 2) for way, side in (
        (angle, spare + fan), (np.pi + 2 * spare - angle, spare - fan)))
    return (np.sin(np.pi / 4 * begin) * np.sin(np.pi / 4 * end)) ** 2


def _fan_angle(source, points):
    """Angle [views, n] at sources [views, 2] from the axis to points [views or 1, n, 2], positive towards u."""
    x, y = np.moveaxis(points - source[:, None], -1, 0)
    x_axis, y_axis = -source.T[..., None]
    return np.arctan2(x * y_axis - y * x_axis, x * x_axis + y * y_axis)


def _azimuth(vectors):
    """Angle t of every view's source, from 0 to 2 pi."""
    return np.arctan2(vectors[:, 0], -vectors[:, 1]) % (2 * np.pi)


def _sweep(azimuth):
    """How views at these angles cover the circle: see `ray_weights`.

    Returns, in radians, the angle that each view stands for, its position from the beginning of the scan, the
    typical gap from view to view, and the angle covered.
    """
    order = np.argsort(azimuth)
    gaps = np.diff(azimuth[order], append=azimuth[order[0]] + 2 * np.pi)
    typical = np.quantile(gaps[gaps > 1e-9], 0.5, method="lower")
    last = gaps.argmax()
    order, gaps = np.roll(order, -1 - last), np.roll(gaps, -1 - last)
    if gaps[-1] > 2.5 * typical:
        gaps[-1] = typical
    share, position = np.empty((2, len(azimuth)))
    share[order] = (gaps + np.roll(gaps, 1)) / 2
    position[order] = np.cumsum(np.roll(gaps, 1)) - gaps[-1] / 2
    return share, position, typical, gaps.sum()


def _ramp(columns, like):
    """Real spectrum of the band-limited ramp on samples of pitch 1, long enough that nothing wraps around.

    Kak & Slaney (1988), "Principles of Computerized Tomographic Imaging", eq. 3.61: made in space, where it
    is exact, so that the mean is right.
    """
    length = 2 ** math.ceil(math.log2(max(2, 2 * columns)))
    n = torch.fft.fftfreq(length, 1 / length, dtype=like.dtype, device=like.device)
    kernel = torch.where(n % 2 == 0, 0.0, -1 / (math.pi * n) ** 2)
    kernel[0] = 0.25
    return torch.fft.rfft(kernel).real
