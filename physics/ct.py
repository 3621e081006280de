"""Cone-beam CT: geometry, operator, and the reconstructions FDK and SIRT."""
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import grid_sample

from op import cone_beam
from op.check import check
from physics.operator import LinearOperator

FULL_TURN = 360         # views of the demo geometry, one a degree


@dataclass(frozen=True, kw_only=True)
class ConeGeometry:
    """A point source and a flat detector that turn about z, the volume's centre at the origin.

    At angle t the source is at (s sin t, -s cos t, 0) and the detector's centre at (-d sin t, d cos t, 0) in
    (x, y, z); u runs along (cos t, sin t, 0), v along z. Lengths are in any one unit. Raises ValueError for
    values that are no geometry.
    """
    angles: tuple                           # radians, one a view
    src_dist: float = 700.0                 # s, from source to rotation axis
    det_dist: float = 500.0                 # d, from rotation axis to detector
    det_shape: tuple = (512, 512)           # pixels (v, u)
    det_spacing: tuple = (2.0, 2.0)         # from pixel to pixel (v, u)
    voxel_size: tuple = (1.0, 1.0, 1.0)     # (z, y, x)

    def __post_init__(self):
        for name, count in (("src_dist", None), ("det_dist", None), ("det_shape", 2), ("det_spacing", 2),
                            ("voxel_size", 3)):
            value = getattr(self, name)
            numbers = _floats(name, value if count else [value])
            if len(numbers) != (count or 1) or min(numbers) <= 0:
                raise ValueError(f"{name}: expected {count or 1} positive number(s), found {value}")
            object.__setattr__(self, name, numbers if count else numbers[0])
        if any(n != int(n) for n in self.det_shape):
            raise ValueError(f"det_shape: expected whole numbers, found {self.det_shape}")
        object.__setattr__(self, "det_shape", tuple(int(n) for n in self.det_shape))
        object.__setattr__(self, "angles", _floats("angles", self.angles))
        if not self.angles:
            raise ValueError("angles: expected at least one view, found none")

    @property
    def vectors(self):
        """float64 [views, 12], ASTRA's `cone_vec`: source, detector centre, u step, v step as (x, y, z)."""
        sin, cos, zero = np.sin(self.angles), np.cos(self.angles), np.zeros(len(self.angles))
        (dv, du), s, d = self.det_spacing, self.src_dist, self.det_dist
        return np.stack([s * sin, -s * cos, zero, -d * sin, d * cos, zero,
                         du * cos, du * sin, zero, zero, zero, zero + dv], axis=1)


def _floats(name, values):
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected numbers, found {values!r}") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name}: expected finite numbers, found {values!r}")
    return numbers


def demo_geometry(views):
    """The geometry of the demo, in voxels, with the given of its 360 views, for example `svct_views(20)`."""
    return ConeGeometry(angles=tuple(2 * math.pi * view / FULL_TURN for view in views))


def lact_views(degree):
    """Views of a limited-angle scan that covers `degree` degrees: 0 to int(360 degree / 360) - 1."""
    if not 1 <= degree <= 360:
        raise ValueError(f"degree: expected 1 to 360 degrees for LACT, found {degree}")
    return list(range(int(FULL_TURN * degree / 360)))


def svct_views(degree):
    """The `degree` views of a sparse-view scan, evenly spread over the full turn, on whole degrees."""
    if not 1 <= degree <= FULL_TURN or degree % 1:
        raise ValueError(f"degree: expected 1 to {FULL_TURN} whole views for SVCT, found {degree}")
    return np.linspace(0, FULL_TURN, int(degree), endpoint=False).astype(int).tolist()


class ConeBeam(LinearOperator):
    """Line integrals of a volume [D, 1, H, W]: projections [1, views, det_v, det_u], by Joseph's method.

    A_T is the exact adjoint, A_dagger is 100 iterations of SIRT without the bound, hence linear. `impl` as in
    `op.cone_beam.project`. Raises ValueError where the volume reaches the source's or the detector's orbit.
    """

    def __init__(self, geometry: ConeGeometry, volume_shape, impl=None):
        depth, height, width = volume_shape
        radius = math.hypot((height + 1) * geometry.voxel_size[1], (width + 1) * geometry.voxel_size[2]) / 2
        if radius >= min(geometry.src_dist, geometry.det_dist):
            raise ValueError(f"volume_shape: {list(volume_shape)} voxels reach {radius:g} from the axis, "
                             f"source and detector are at {geometry.src_dist:g} and {geometry.det_dist:g}")
        self.geometry, self.impl = geometry, impl
        self.rays = cone_beam.trace(geometry.vectors, geometry.det_shape, volume_shape, geometry.voxel_size)
        super().__init__((depth, 1, height, width), (1, len(geometry.angles), *geometry.det_shape))

    def _forward(self, x):
        return cone_beam.project(x[:, 0], self.rays, self.impl)[None]

    def _adjoint(self, y):
        return cone_beam.backproject(y[0], self.rays, self.impl)[:, None]

    def _pseudo_inverse(self, y):
        return sirt(y, self, nonnegative=False)

    @cached_property
    def inverse_sums(self):
        """One over the row sums [views, v, u] of the window and over the column sums [D, H, W]; never inf.

        A ray that clips a corner tells only its noise, magnified: rows below a hundredth of the longest count
        as rays that miss. A voxel that no ray meets keeps what it has.
        """
        rays = self.rays.crop()
        rows = cone_beam.project(torch.ones(rays.volume_shape), rays, self.impl)
        used = rows > 0.01 * rows.max()
        columns = cone_beam.backproject(used.float(), rays, self.impl)
        return (torch.where(used, 1 / rows, 0.0),
                torch.where(columns > 1e-6 * columns.max(), 1 / columns, 0.0))


def sirt(y, operator, iterations=100, nonnegative=True, progress=None):
    """SIRT from zero: x += C A_T R (y - A x), R and C inverse row and column sums; Gregor & Benson (2008).

    y            [1, views, det_v, det_u]; returns x [D, 1, H, W]
    operator     a ConeBeam
    nonnegative  project onto x >= 0 after every iteration
    progress     wraps the range of iterations, as tqdm does; None: nothing does
    """
    rows, columns = (sums.to(y) for sums in operator.inverse_sums)
    top, bottom, left, right = operator.rays.window
    rays, y = operator.rays.crop(), check("y", y, operator.range_shape)[0, :, top:bottom, left:right]
    x = y.new_zeros(rays.volume_shape)
    steps = range(iterations)
    for _ in progress(steps) if progress else steps:
        residual = rows * (y - cone_beam.project(x, rays, operator.impl))
        x += columns * cone_beam.backproject(residual, rays, operator.impl)
        if nonnegative:
            x.clamp_(min=0)
    return x[:, None]


def fdk(y, operator):
    """Volume [D, 1, H, W] from projections y [1, views, det_v, det_u]; Feldkamp, Davis & Kress (1984).

    Cosine weights, ramp filter along u, voxel-driven backprojection weighted by the squared distance; views
    are weighted by `view_weights`. One view at a time, in memory of a few volumes.
    """
    check("y", y, operator.range_shape)
    geometry, (depth, _, height, width) = operator.geometry, operator.domain_shape
    (top, bottom, left, right), (rows, columns) = operator.rays.window, geometry.det_shape
    s, sd, (dv, du) = geometry.src_dist, geometry.src_dist + geometry.det_dist, geometry.det_spacing
    z, y_, x_ = (_centred(count, size, y) for count, size in zip((depth, height, width), geometry.voxel_size))
    v, u = _centred(rows, dv, y)[top:bottom], _centred(columns, du, y)
    cosine = sd / (sd ** 2 + v[:, None] ** 2 + u ** 2).sqrt()
    ramp = _ramp(columns, y) * sd / (s * du)                            # pixels as seen on the rotation axis
    volume = y.new_zeros(height, width, depth)
    grid = y.new_empty(height, width, depth, 2)
    for t, weight, view in zip(geometry.angles, view_weights(geometry.angles), y[0]):
        spectrum = torch.fft.rfft(view[top:bottom] * cosine, n=2 * (len(ramp) - 1))
        filtered = torch.fft.irfft(spectrum * ramp)[:, left:right]
        distance = s + y_[:, None] * math.cos(t) - x_ * math.sin(t)     # from source, along the central ray
        across = (y_[:, None] * math.sin(t) + x_ * math.cos(t)) * sd / distance
        # Positions as grid_sample has them: the edges of the window are -1 and 1.
        grid[..., 0] = ((2 * across / du + columns - 2 * left) / (right - left) - 1)[..., None]
        torch.mul((2 * sd / dv / (bottom - top) / distance)[..., None], z, out=grid[..., 1])
        grid[..., 1] += (rows - 2 * top) / (bottom - top) - 1
        # A batch of rows of voxels, because grid_sample shares the work among threads by batch.
        sampled = grid_sample(filtered.expand(height, 1, -1, -1), grid, align_corners=False)[:, 0]
        volume.addcmul_(sampled, (weight * (s / distance) ** 2)[..., None])
    return volume.permute(2, 0, 1)[:, None].contiguous()


def view_weights(angles):
    """Angle in radians that each view stands for, times how much of a line integral it holds.

    A view reaches halfway to its neighbours on the circle; a largest gap of more than 2.5 times the median one is
    not covered, and counts as a median one. Over a full turn every line is measured twice, hence the factor
    pi / covered, 1/2 there; below half a turn no line is measured twice, and the factor is 1.
    """
    angles = np.asarray(angles, dtype=np.float64) % (2 * np.pi)
    order = np.argsort(angles)
    gaps = np.diff(angles[order], append=angles[order[0]] + 2 * np.pi)
    typical = np.quantile(gaps[gaps > 1e-9], 0.5, method="lower")
    if gaps.max() > 2.5 * typical:
        gaps[gaps.argmax()] = typical
    weights = np.empty(len(angles))
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return (weights * np.pi / max(gaps.sum(), np.pi)).tolist()


def _centred(count, step, like):
    return (torch.arange(count, dtype=like.dtype, device=like.device) - (count - 1) / 2) * step


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
