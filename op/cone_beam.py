"""Cone-beam line integrals by Joseph's method, and their exact adjoint.

Joseph (1982), "An improved algorithm for reprojecting rays through pixel images", IEEE TMI 1(3): step
through the planes of the in-plane axis that the ray is closest to, interpolate linearly in the other in-plane
axis and in z, multiply by the length of ray a plane. The volume is zero outside, so values taper over the
voxel beyond the outermost centres.

Detector columns are parallel to z, so the rays of one column differ only in z: per plane the two neighbouring
z-columns of the volume are blended once for the whole detector column. `trace` works out that geometry in
float64; `project` and `backproject` run on it.
"""
import ctypes
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import pad

from op import build
from op.check import check

CHUNK = 1 << 21         # samples (columns x planes x rows) that the reference handles at once


class Rays(NamedTuple):
    """Where the rays of a scan meet a volume; made by `trace`. Positions are voxel indices.

    Only detector rows and columns in `window` can meet the volume; `columns` holds the columns of that
    window. In plane p of its axis, a detector column meets the volume at in-plane index shift + p tilt; its
    row v, counted from the window's first, at z index z_source + (p - p_source) (slope + v slope_step).
    """
    columns: torch.Tensor   # [views, columns, 8] float64 on CPU, `struct Column` in cone_beam.cpp: axis (0 =
                            # x, 1 = y), shift, tilt, p_source, z_source, slope, slope_step, and length, the
                            # in-plane part of the length of ray a plane
    window: tuple           # (first row, last row + 1, first column, last column + 1)
    det_shape: tuple        # (v, u)
    volume_shape: tuple     # (D, H, W)
    voxel_z: float          # in the unit of the geometry

    def crop(self):
        """The same rays, for projections that hold only the window of the detector."""
        rows, columns = self.window[1] - self.window[0], self.window[3] - self.window[2]
        return self._replace(window=(0, rows, 0, columns), det_shape=(rows, columns))


def trace(vectors, det_shape, volume_shape, voxel_size=(1.0, 1.0, 1.0)) -> Rays:
    """Follow the rays of every view through a volume centred on the origin.

    vectors       [views, 12] in ASTRA's `cone_vec` order: source, detector centre, step from pixel to pixel
                  along u, step along v, each as (x, y, z). The v step must be parallel to z.
    det_shape     pixels (v, u)
    volume_shape  voxels (D, H, W) = (z, y, x)
    voxel_size    (z, y, x), same unit as the vectors

    Raises ValueError for vectors of another shape, a tilted v step, or a source that is not outside the
    volume and on one side of it.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != 12 or not np.isfinite(vectors).all():
        raise ValueError(f"vectors: expected finite numbers [views, 12], found shape {list(vectors.shape)}")
    size = np.array(volume_shape[::-1], dtype=np.float64)               # x, y, z from here on
    spacing = np.array(voxel_size[::-1], dtype=np.float64)
    source, centre, step_u, step_v = (vectors.reshape(-1, 4, 3) / spacing).transpose(1, 0, 2)
    if step_v[:, :2].any() or not step_v[:, 2].all():
        raise ValueError("vectors: the v step of every view must be parallel to z")
    source, centre = source + (size - 1) / 2, centre + (size - 1) / 2   # voxel indices from here on

    window = _shadow(source, centre, step_u, step_v, det_shape, size)
    u = np.arange(*window[2:]) - (det_shape[1] - 1) / 2
    first_row = window[0] - (det_shape[0] - 1) / 2
    ray = (centre - source)[:, None] + u[:, None] * step_u[:, None] + first_row * step_v[:, None]
    axis = (abs(ray[..., 1]) > abs(ray[..., 0])).astype(int)            # [views, columns]
    along = np.take_along_axis(ray, axis[..., None], 2)[..., 0]
    across = np.take_along_axis(ray, 1 - axis[..., None], 2)[..., 0]
    p_source = np.take_along_axis(source, axis, 1)
    tilt = across / along
    shift = np.take_along_axis(source, 1 - axis, 1) - p_source * tilt
    length = np.hypot(*(ray[..., :2] * spacing[:2]).transpose(2, 0, 1)) / abs(along)
    slope, slope_step = ray[..., 2] / along, step_v[:, None, 2] / along
    columns = np.stack(np.broadcast_arrays(
        axis, shift, tilt, p_source, source[:, None, 2], slope, slope_step, length), -1)
    return Rays(torch.from_numpy(columns), window, tuple(det_shape), tuple(volume_shape), float(spacing[2]))


def _shadow(source, centre, step_u, step_v, det_shape, size):
    """Rows and columns of the detector that the volume's support, index -1 to size, shades in any view."""
    corners = np.stack(np.meshgrid(*zip((-1, -1, -1), size), indexing="ij"), -1).reshape(-1, 3)
    normal = np.cross(step_u, step_v)
    to_corner = corners - source[:, None]
    depth = (to_corner @ normal[..., None])[..., 0] / ((centre - source) * normal).sum(-1, keepdims=True)
    if not (depth > 0).all():
        raise ValueError("the source must be outside the volume and in front of the detector in every view")
    hit = to_corner / depth[..., None] - (centre - source)[:, None]
    normal = (normal / (normal ** 2).sum(-1, keepdims=True))[:, None]
    shadow = []
    for pixel, count in (((np.cross(step_u[:, None], hit) * normal).sum(-1), det_shape[0]),
                         ((np.cross(hit, step_v[:, None]) * normal).sum(-1), det_shape[1])):
        pixel = pixel + (count - 1) / 2
        begin = int(np.clip(np.floor(pixel.min()), 0, count))
        shadow += [begin, int(np.clip(np.ceil(pixel.max()) + 1, begin, count))]
    return tuple(shadow)


def project(volume, rays: Rays, impl=None):
    """Line integrals [views, det_v, det_u] of a volume [D, H, W]; its gradient is `backproject`.

    volume  float32, or float64 with the reference; any device
    rays    from `trace`
    impl    'reference' (PyTorch), 'compiled' (C++; float32 on CPU), or None: compiled where it is possible

    Raises ValueError for a volume of another shape or type than these, an unknown impl, and 'compiled' where
    it is not possible.
    """
    check("volume", volume, rays.volume_shape)
    return _Project.apply(volume, rays, _choose(volume, impl))


def backproject(projections, rays: Rays, impl=None):
    """The exact adjoint of `project`: a volume [D, H, W] from projections [views, det_v, det_u].

    Arguments and errors as there; its gradient is `project`.
    """
    check("projections", projections, (len(rays.columns), *rays.det_shape))
    return _Backproject.apply(projections, rays, _choose(projections, impl))


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, volume, rays, kernels):
        ctx.rays, ctx.kernels = rays, kernels
        top, bottom, left, right = rays.window
        projections = volume.new_zeros(len(rays.columns), *rays.det_shape)
        projections[:, top:bottom, left:right] = kernels[0](volume.permute(1, 2, 0), rays).transpose(1, 2)
        return projections

    @staticmethod
    def backward(ctx, gradient):
        return _Backproject.apply(gradient, ctx.rays, ctx.kernels), None, None


class _Backproject(torch.autograd.Function):
    @staticmethod
    def forward(ctx, projections, rays, kernels):
        ctx.rays, ctx.kernels = rays, kernels
        top, bottom, left, right = rays.window
        volume = kernels[1](projections[:, top:bottom, left:right].transpose(1, 2), rays)
        return volume.permute(2, 0, 1).contiguous()

    @staticmethod
    def backward(ctx, gradient):
        return _Project.apply(gradient, ctx.rays, ctx.kernels), None, None


# Both implementations work on volumes [H, W, D] and on the window's projections [views, columns, rows].

def _reference_project(volume, rays):
    height, width, depth = volume.shape
    lines = pad(volume, (1, 2, 1, 2, 1, 2)).flatten(0, 1)               # [(H+3)(W+3), D+3], zeros around
    out = volume.new_zeros(*rays.columns.shape[:2], rays.window[1] - rays.window[0])
    for view, chosen, line, next_line, weight, slice_, fraction, length in _weights(rays, volume):
        blend = torch.lerp(lines[line], lines[next_line], weight)       # [columns, planes, D+3]
        low = blend.gather(2, slice_)
        value = torch.lerp(low, blend.gather(2, slice_ + 1), fraction)  # [columns, planes, rows]
        out[view, chosen] = value.sum(1) * length
    return out


def _reference_backproject(projections, rays):
    depth, height, width = rays.volume_shape
    lines = projections.new_zeros((height + 3) * (width + 3), depth + 3)
    for view, chosen, line, next_line, weight, slice_, fraction, length in _weights(rays, projections):
        value = (projections[view, chosen] * length)[:, None].expand(slice_.shape)
        blend = value.new_zeros(*line.shape, depth + 3)
        blend.scatter_add_(2, slice_, value * (1 - fraction)).scatter_add_(2, slice_ + 1, value * fraction)
        lines.index_add_(0, line.flatten(), (blend * (1 - weight)).flatten(0, 1))
        lines.index_add_(0, next_line.flatten(), (blend * weight).flatten(0, 1))
    return lines.view(height + 3, width + 3, depth + 3)[1:-2, 1:-2, 1:-2]


def _weights(rays, like):
    """Interpolation for a chunk of detector columns at a time, into the zero-padded z-columns of the volume.

    Yields view, columns [c], z-column and its neighbour [c, planes], weight of the neighbour [c, planes, 1],
    slice and fraction of the next slice [c, planes, rows], length of ray a plane [c, rows]. Positions are
    rounded to the working precision only once they are small.
    """
    depth, height, width = rays.volume_shape
    row = torch.arange(rays.window[1] - rays.window[0], device=like.device, dtype=like.dtype)
    along_x, along_y = (width, height, 1, width + 3), (height, width, width + 3, 1)
    for view, columns in enumerate(rays.columns.to(like.device)):
        for axis, (planes, breadth, plane_step, step) in enumerate((along_x, along_y)):
            p = torch.arange(planes, device=like.device)
            chunk = max(1, CHUNK // (planes * max(len(row), depth)))
            for chosen in (columns[:, 0] == axis).nonzero()[:, 0].split(chunk):
                _, shift, tilt, p_source, z_source, slope, slope_step, length = columns[chosen].T[..., None]
                across = (shift + p * tilt).clamp(-1, breadth)
                first = across.floor()
                line = (first.long() + 1) * step + (p + 1) * plane_step
                away = p - p_source
                start, step_z = z_source + away * slope, away * slope_step
                z = torch.addcmul(start.to(like.dtype)[..., None], step_z.to(like.dtype)[..., None], row)
                z = z.clamp_(-1, depth)
                below = z.floor()
                rise = (slope + slope_step * row) * rays.voxel_z
                yield (view, chosen, line, line + step, (across - first).to(like.dtype)[..., None],
                       below.long() + 1, z - below, torch.hypot(length, rise).to(like.dtype))


# The compiled kernels: C++ in cone_beam.cpp, float32 on CPU.

class _Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("columns", "rows", "depth", "height", "width")]
    _fields_ += [("voxel_z", ctypes.c_double)]


def _compiled_project(volume, rays):
    out = volume.new_empty(*rays.columns.shape[:2], rays.window[1] - rays.window[0])
    return _call("cone_beam_project", volume.contiguous(), out, rays)


def _compiled_backproject(projections, rays):
    depth, height, width = rays.volume_shape
    out = projections.new_zeros(height, width, depth)
    return _call("cone_beam_backproject", projections.contiguous(), out, rays)


def _call(name, source, target, rays):
    rows, columns = rays.window[1] - rays.window[0], rays.columns[..., 0].numel()
    sizes = _Sizes(columns, rows, *rays.volume_shape, rays.voxel_z)
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (source, target, rays.columns))
    getattr(_library(), name)(*pointers, ctypes.byref(sizes), torch.get_num_threads())
    return target


def _library():
    # The part of -ffast-math that min, max and rounding need to vectorise; the whole of it may switch off
    # denormals for the process.
    flags = ("-ffinite-math-only", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
    return build.load("cone_beam", ["cone_beam.cpp"], extra_cflags=flags)


def _choose(tensor, impl):
    """The pair of kernels (project, backproject) for a tensor like this."""
    if impl not in (None, "reference", "compiled"):
        raise ValueError(f"impl: expected 'reference', 'compiled' or None, found {impl!r}")
    fits = tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    if impl == "compiled" and not fits:
        raise ValueError(f"impl 'compiled': expected float32 on cpu, found {tensor.dtype} on {tensor.device}")
    if impl != "reference" and fits and _library():
        return _compiled_project, _compiled_backproject
    if impl == "compiled":
        raise ValueError("impl 'compiled': the C++ code of cone_beam could not be built here")
    return _reference_project, _reference_backproject
