"""FDK: filtered backprojection of cone-beam scans, weighted by how often each line is measured."""
import math

import numpy as np
import torch
from torch.nn.functional import pad

from op.check import check
from op.fdk_backproject import fdk_backproject
from physics.cone_beam import ConeBeam
from physics.geometry import ConeGeometry
from physics.views import GAP, view_angles, view_steps

TILT = 10                   # degrees of the central rays against the horizontal from which on FDK is doubtful
FADE = math.radians(20)     # over which views beside a gap hand over to those that measure the same lines


def fdk(y: torch.Tensor, operator: ConeBeam) -> torch.Tensor:
    """Volume [D, 1, H, W] from projections y [1, views, det_v, det_u]; Feldkamp, Davis & Kress (1984).

    Weights of the rays, ramp filter along u, voxel-driven backprojection weighted by the distance; a view at a
    time, in memory of a few volumes. Lines that are measured twice or never count as `ray_weights` says.

    Distances, principal points and pixel pitches come from the vectors of every view. Detectors may be shifted,
    turned about z (fan-beam formula of an oblique detector) and pitched about u. For sources that leave the circle
    and detectors rolled in their plane it is an approximation: rows are filtered as if they were horizontal, and
    the radius of the circle is that of the view's own source. Detectors may stand on their side. Rows that end inside
    the object: see `physics.margin.extend_rows`.

    Raises:
        ValueError: as `check_fdk`.
    """
    check("y", y, operator.range_shape)
    geometry, (depth, _, height, width) = operator.geometry, operator.domain_shape
    check_fdk(geometry)
    if geometry.sideways:
        y, geometry = y.mT, geometry.turned()
    top, bottom = geometry.window[:2]
    left, right = geometry.shadow[2:]       # beyond the detector too: filtered values are not zero there
    extra = max(0, -left)
    matrices = geometry.crop(top, bottom, left, right).matrices
    axes = [(centre - (count - 1) / 2 * size, size) for count, size, centre in zip(
        (width, height, depth), geometry.voxel_size[::-1], geometry.volume_centre[::-1])]
    vectors, weights = geometry.vectors, torch.as_tensor(ray_weights(geometry)).to(y)
    ramp = _ramp(extra + max(geometry.det_shape[1], right), y)
    volume, lines = y.new_zeros(height, width, depth), None
    for view, i in zip(y[0], range(geometry.views)[operator.own]):      # this process's views
        matrix, weight = matrices[i], weights[i]
        if lines is None or geometry.view_vectors:                      # the same in all views of a circular scan
            lines, radius = _lines(vectors[i], geometry.det_shape, slice(top, bottom))
            lines = torch.as_tensor(lines).to(y)
        spectrum = torch.fft.rfft(pad(view[top:bottom] * lines * weight, (extra, 0)), n=2 * (len(ramp) - 1))
        filtered = torch.fft.irfft(spectrum * ramp)[:, left + extra:right + extra]
        fdk_backproject(volume, filtered, matrix, axes, radius, operator.impl)
    return operator.processes.sum(volume.permute(2, 0, 1)[:, None].contiguous())


def check_fdk(geometry: ConeGeometry) -> str | None:
    """Whether FDK can reconstruct a scan; for use before anything is computed.

    Returns:
        What makes its result doubtful, in one line, or None.

    Raises:
        ValueError: sources on the z axis, or a detector neither of whose directions is across it.
    """
    geometry = geometry.turned() if geometry.sideways else geometry
    source, centre, *steps = geometry.vectors.reshape(-1, 4, 3).transpose(1, 0, 2)
    radius, pitch = np.hypot(*source.T[:2]), np.hypot(*steps[0].T[:2])
    bad = (radius <= 1e-6 * np.linalg.norm(centre - source, axis=1)) | (pitch < abs(steps[0][:, 2]))
    if bad.any():
        raise ValueError(f"view_vectors: FDK needs sources around the z axis, and rows or columns of pixels across it, "
                         f"which is not so in view {bad.argmax()}")
    tilt = np.degrees(np.arctan2(abs(source[:, 2] - geometry.volume_centre[0]), radius)).max()
    if tilt > TILT:
        return f"FDK takes the rays for nearly horizontal; in this scan the central ones rise by {tilt:.0f} degrees"
    if radius.max() > 1.1 * radius.min():
        return (f"FDK takes the source's path for a circle around z; in this scan it is {radius.min():.0f} to "
                f"{radius.max():.0f} {geometry.unit} from it")
    return None


def _lines(vector, det_shape, rows):
    """Weights of the pixels [rows, u] before the ramp filter of pitch 1, and the radius of the source's orbit.

    Cosine of the angle between ray and central ray, over the horizontal distance from the source to the line of
    the row, over the pitch: Kak & Slaney (1988), section 3.4, in the coordinates of any flat detector.
    """
    source, centre, step_u, step_v = vector.reshape(4, 3)
    radius, pitch = np.hypot(*source[:2]), np.hypot(*step_u[:2])
    row, column = (np.arange(count) - (count - 1) / 2 for count in det_shape)
    start = centre - source + row[rows, None] * step_v
    ray = start[:, None] + column[:, None] * step_u
    distance = abs(start[:, 0] * step_u[1] - start[:, 1] * step_u[0]) / pitch
    cosine = ray[..., :2] @ -source[:2] / radius / np.linalg.norm(ray, axis=-1)
    return cosine / (distance * pitch)[:, None], radius


def ray_weights(geometry: ConeGeometry) -> np.ndarray:
    """Weight of every view and detector column in the integral over the full turn: float64 [views, columns].

    The angle in radians that the view stands for, halfway to its neighbours on the circle, times the share of the
    line among its measurements. In the plane of the source the ray at angle t and fan angle g is measured again at
    t + 180 degrees - 2 g and -g. Each measurement has a confidence, and the share is the ray's own in the sum of both:
    a line measured once counts 1, twice 1/2, and where one measurement ends the other takes over smoothly. The
    confidence is a product of

    - the angle's: from 0 at the edge of a gap between views to 1 at `FADE` from it. In a short scan this does what the
      weights of Parker (1982), "Optimal short scan convolution reconstruction for fan beam CT", Med. Phys. 9(2), do,
      for any number of gaps;
    - the column's, where one side of a shifted detector ends before the shadow of the cylinder inscribed in the volume:
      from 0 at that edge to 1 across what both sides see. In a full turn these are the weights of Wang (2002), "X-ray
      micro-CT with a displaced detector array", Med. Phys. 29(7).

    A gap between views is more than 2.5 times a typical one; no view stands for more of it than half a typical one.
    Where lines are lost for good in a gap of less than half a turn, the rays at their fan angle beside it stand
    in for them: see `_stand_in`.
    """
    vectors, columns, angle = geometry.vectors, geometry.det_shape[1], view_angles(geometry)
    source, centre, step_u = vectors[:, :2], vectors[:, 3:5], vectors[:, 6:8]
    column = np.arange(columns) - (columns - 1) / 2
    fan = _fan_angle(source, centre[:, None] + column[:, None] * step_u[:, None])
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y, x = (middle + count / 2 * size * wave for middle, count, size, wave in zip(
        geometry.volume_centre[1:], geometry.volume_shape[1:], geometry.voxel_size[1:], (np.sin(turn), np.cos(turn))))
    reach = abs(_fan_angle(source, np.stack([x, y], -1)[None])).max()
    low, high = -fan.min(1).max(), fan.max(1).min()                     # seen on both sides of the axis in all views
    overlap, pixel = min(low, high), (low + high) / columns
    shifted = overlap < reach and abs(high - low) > 2 * pixel
    share, gaps = _coverage(angle)

    def confidence(at, ray):
        sure = np.ones(np.broadcast_shapes(at.shape, ray.shape))
        if shifted:
            sure *= _smooth((1 + np.sign(high - low) * ray / max(overlap, pixel)) / 2)
        for middle, half in gaps:
            sure *= _smooth((_apart(at, middle) - half) / FADE)
        return sure

    own, again = confidence(angle[:, None], fan), confidence(angle[:, None] + np.pi - 2 * fan, -fan)
    own = np.maximum(own, 1e-9)                                         # it is measured, if at the very edge
    return share[:, None] * own / (own + again) * (1 + _stand_in(angle, gaps, fan.mean(0), confidence))


def _stand_in(angle, gaps, fan, confidence):
    """How much more rays count for lines that were never measured: [views, columns].

    Those at their fan angle that are lost in a gap of less than half a turn, shared smoothly among the views within its
    own width, or within `FADE` if that is less: never more than twice what they count.
    """
    more = np.zeros((len(angle), len(fan)))
    for middle, half in gaps:
        fade = min(2 * half, FADE)
        inside = middle + half * (np.arange(-15.5, 16) / 16)[:, None]
        lost = (confidence(inside + np.pi - 2 * fan, -fan) == 0).mean(0)
        more += (1 - _smooth((_apart(angle, middle) - half) / fade))[:, None] * lost * (half < np.pi / 2)
    return more


def _apart(angle, other):
    """Distance of angles on the circle, 0 to pi."""
    return abs((angle - other + np.pi) % (2 * np.pi) - np.pi)


def _smooth(x):
    """From 0 at 0 to 1 at 1, with no slope at either."""
    return np.sin(np.pi / 2 * np.clip(x, 0, 1)) ** 2


def _coverage(angle):
    """How views at these angles cover the circle: see `ray_weights`.

    Returns:
        The angle that each view stands for, and the gaps [(middle, half the width)], all in radians.
    """
    order, steps, typical = view_steps(angle)
    wide = steps > GAP * typical
    covered = np.where(wide, typical, steps)
    share = np.empty(len(angle))
    share[order] = (covered + np.roll(covered, 1)) / 2
    return share, [(angle[order[i]] + steps[i] / 2, (steps[i] - typical) / 2) for i in np.flatnonzero(wide)]


def _fan_angle(source, points):
    """Angle [views, n] at sources [views, 2] from the axis to points [views or 1, n, 2], positive towards u."""
    x, y = np.moveaxis(points - source[:, None], -1, 0)
    x_axis, y_axis = -source.T[..., None]
    return np.arctan2(x * y_axis - y * x_axis, x * x_axis + y * y_axis)


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
