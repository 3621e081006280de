"""Cone-beam line integrals by Joseph's method, and their exact adjoint.

Joseph (1982), "An improved algorithm for reprojecting rays through pixel images", IEEE TMI 1(3): step
through the planes of the in-plane axis that the ray is closest to, interpolate linearly in the other in-plane
axis and in z, multiply by the length of ray a plane. The volume is zero outside, so values taper over the
voxel beyond the outermost centres.

`trace` brings the geometry of a scan to voxel indices; `project` and `backproject` run on it.
"""
import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import pad

from op.build import Compiled
from op.check import check

COMPILED = Compiled("cone_beam")
CHUNK = 1 << 19         # samples (rays x planes) that the reference handles at once


class Rays(NamedTuple):
    """The rays of a scan, from each view's source to the pixels of the window; made by `trace`.

    Only detector rows and columns in `window` can meet the volume. The ray to row v, column u of the window has
    the direction first + u step_u + v step_v.
    """
    views: torch.Tensor     # [views, 12] float64 on CPU, `struct View` in joseph.h: source, first, step_u and
                            # step_v, each as (x, y, z) in voxel indices
    window: tuple           # (first row, last row + 1, first column, last column + 1)
    det_shape: tuple        # (v, u)
    volume_shape: tuple     # (D, H, W)
    voxel_size: tuple       # (z, y, x), in the unit of the geometry


def trace(vectors: np.ndarray, det_shape: Sequence[int], volume_shape: Sequence[int],
          voxel_size: Sequence[float] = (1.0, 1.0, 1.0)) -> Rays:
    """Follow the rays of every view through a volume centred on the origin.

    Args:
        vectors: [views, 12] in ASTRA's `cone_vec` order: source, detector centre, step from pixel to pixel along u,
            step along v, each as (x, y, z), in any direction. Views whose v step is parallel to z are computed
            several times as fast as others.
        det_shape: pixels (v, u).
        volume_shape: voxels (D, H, W) = (z, y, x).
        voxel_size: (z, y, x), same unit as the vectors.

    Raises:
        ValueError: vectors of another shape, parallel u and v steps, a source that is not outside the volume and on
            one side of it, and rays parallel to z: they cross no plane.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != 12 or not np.isfinite(vectors).all():
        raise ValueError(f"vectors: expected finite numbers [views, 12], found shape {list(vectors.shape)}")
    size = np.array(volume_shape[::-1], dtype=np.float64)               # x, y, z from here on
    spacing = np.array(voxel_size[::-1], dtype=np.float64)
    source, centre, step_u, step_v = (vectors.reshape(-1, 4, 3) / spacing).transpose(1, 0, 2)
    source, central = source + (size - 1) / 2, centre - source          # voxel indices from here on
    # Rounding errors of a v step along z would cost the speed of such views.
    step_v = np.where(abs(step_v) > 1e-12 * abs(step_v).max(1, keepdims=True), step_v, 0)

    window = _shadow(source, central, step_u, step_v, det_shape, size)
    top, left = window[0] - (det_shape[0] - 1) / 2, window[2] - (det_shape[1] - 1) / 2
    first = central + left * step_u + top * step_v
    _refuse_vertical(first, step_u, step_v, window)
    views = np.stack((source, first, step_u, step_v), 1).reshape(-1, 12)
    return Rays(torch.from_numpy(views), window, tuple(map(int, det_shape)), tuple(map(int, volume_shape)),
                tuple(map(float, voxel_size)))


def _shadow(source, central, step_u, step_v, det_shape, size):
    """Rows and columns of the detector that the volume's support, index -1 to size, shades in any view."""
    corners = np.stack(np.meshgrid(*zip((-1, -1, -1), size), indexing="ij"), -1).reshape(-1, 3)
    normal = np.cross(step_u, step_v)
    area, distance = (normal ** 2).sum(-1, keepdims=True), (central * normal).sum(-1, keepdims=True)
    if not (area > 1e-12 * (step_u ** 2).sum(-1, keepdims=True) * (step_v ** 2).sum(-1, keepdims=True)).all():
        raise ValueError("vectors: the u and v steps of every view must span its detector")
    to_corner = corners - source[:, None]
    depth = (to_corner @ normal[..., None])[..., 0]
    if not (depth * distance > 0).all():
        raise ValueError("the source must be outside the volume and in front of the detector in every view")
    hit = to_corner * (distance / depth)[..., None] - central[:, None]
    normal = (normal / area)[:, None]
    shadow = []
    for pixel, count in (((np.cross(step_u[:, None], hit) * normal).sum(-1), det_shape[0]),
                         ((np.cross(hit, step_v[:, None]) * normal).sum(-1), det_shape[1])):
        pixel = pixel + (count - 1) / 2
        begin = int(np.clip(np.floor(pixel.min()), 0, count))
        shadow += [begin, int(np.clip(np.ceil(pixel.max()) + 1, begin, count))]
    return tuple(shadow)


def _refuse_vertical(first, step_u, step_v, window):
    """ValueError where the direction that has neither x nor y is in the window, by Cramer's rule."""
    def area(a, b):
        return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]

    whole = area(step_u, step_v)                # 0: the detector is parallel to z, no ray is
    u, v = area(step_v, first), area(first, step_u)
    inside = whole != 0
    for pixel, count in ((u, window[3] - window[2]), (v, window[1] - window[0])):
        inside &= (pixel * np.sign(whole) > -abs(whole)) & (pixel * np.sign(whole) < abs(whole) * count)
    if inside.any():
        raise ValueError(f"vectors: view {int(inside.argmax())} has rays parallel to z")


def project(volume: torch.Tensor, rays: Rays, impl: str | None = None,
            out: torch.Tensor | None = None) -> torch.Tensor:
    """Line integrals [views, det_v, det_u] of a volume [D, H, W]; its gradient is `backproject`.

    Args:
        volume: float32, or float64 with the reference; any device.
        rays: from `trace`.
        impl: "reference" (PyTorch), "compiled" (float32: C++ on CPU, CUDA on its devices), or None: compiled where
            it is possible.
        out: contiguous tensor to write to, then returned without a gradient; None: a new one.

    Raises:
        ValueError: a volume of another shape or type, an unknown `impl`, an `out` that does not fit or would need a
            gradient.
        NotCompiled: "compiled" where it is not possible.
    """
    check("volume", volume, rays.volume_shape)
    return _apply(_Project, volume, rays, _choose(volume, impl), out)


def backproject(projections: torch.Tensor, rays: Rays, impl: str | None = None,
                out: torch.Tensor | None = None) -> torch.Tensor:
    """The exact adjoint of `project`: a volume [D, H, W] from projections [views, det_v, det_u].

    Arguments and errors as there; its gradient is `project`.
    """
    check("projections", projections, (len(rays.views), *rays.det_shape))
    return _apply(_Backproject, projections, rays, _choose(projections, impl), out)


def _apply(function, source, rays, kernels, out):
    if out is None:
        return function.apply(source, rays, kernels)
    shape = function.shape(rays)
    if out.shape != shape or out.dtype != source.dtype or out.device != source.device or not out.is_contiguous():
        raise ValueError(f"out: expected contiguous {source.dtype} {list(shape)} on {source.device}, "
                         f"found {out.dtype} {list(out.shape)} on {out.device}")
    if out.requires_grad or (torch.is_grad_enabled() and source.requires_grad):
        raise ValueError("out: there is no gradient through it")
    return function.write(source.detach(), rays, kernels, out)


class _Project(torch.autograd.Function):
    @staticmethod
    def shape(rays):
        return torch.Size((len(rays.views), *rays.det_shape))

    @staticmethod
    def write(volume, rays, kernels, out):
        return kernels[0](volume, rays, out.zero_())        # the kernels write only to the window

    @staticmethod
    def forward(ctx, volume, rays, kernels):
        ctx.rays, ctx.kernels = rays, kernels
        return _Project.write(volume, rays, kernels, volume.new_empty(_Project.shape(rays)))

    @staticmethod
    def backward(ctx, gradient):
        return _Backproject.apply(gradient, ctx.rays, ctx.kernels), None, None


class _Backproject(torch.autograd.Function):
    @staticmethod
    def shape(rays):
        return torch.Size(rays.volume_shape)

    @staticmethod
    def write(projections, rays, kernels, out):
        return kernels[1](projections, rays, out)

    @staticmethod
    def forward(ctx, projections, rays, kernels):
        ctx.rays, ctx.kernels = rays, kernels
        return _Backproject.write(projections, rays, kernels, projections.new_empty(_Backproject.shape(rays)))

    @staticmethod
    def backward(ctx, gradient):
        return _Project.apply(gradient, ctx.rays, ctx.kernels), None, None


def _reference_project(volume, rays, out):
    values = pad(volume, (1, 2) * 3).flatten()                          # zeros around
    top, _, left, _ = rays.window
    for view, rows, columns, corners, length in _samples(rays, volume):
        sums = sum(weight * values.index_select(0, index.flatten()).view_as(weight) for index, weight in corners)
        out[view, top + rows, left + columns] = sums.sum(1) * length
    return out


def _reference_backproject(projections, rays, out):
    depth, height, width = rays.volume_shape
    values = projections.new_zeros(depth + 3, height + 3, width + 3)
    top, _, left, _ = rays.window
    for view, rows, columns, corners, length in _samples(rays, projections):
        value = (projections[view, top + rows, left + columns] * length)[:, None]
        for index, weight in corners:
            values.view(-1).index_add_(0, index.flatten(), (weight * value).flatten())
    return out.copy_(values[1:-2, 1:-2, 1:-2])


def _samples(rays, like):
    """Bilinear interpolation along a chunk of rays at a time, in a volume with zeros around it.

    Yields view, row and column of the rays in the window, the four neighbours of each plane's sample as
    pairs of index and weight [rays, planes], and length of ray a plane [rays]. Positions are rounded to the
    working precision only once they are small.
    """
    depth, height, width = rays.volume_shape
    top, bottom, left, right = rays.window
    spacing = torch.tensor(rays.voxel_size[::-1], dtype=torch.float64, device=like.device)
    strides = 1, width + 3, (height + 3) * (width + 3)
    v = torch.arange(bottom - top, device=like.device)[:, None, None]
    u = torch.arange(right - left, device=like.device)[:, None]
    for view, (source, first, step_u, step_v) in enumerate(rays.views.to(like.device).view(-1, 4, 3)):
        direction = first + u * step_u + v * step_v                     # [rows, columns, (x, y, z)]
        steep = direction[..., 1].abs() > (1 + 1e-9) * direction[..., 0].abs()     # TIE in joseph.h
        for axis, other, planes, breadth in (0, 1, width, height), (1, 0, height, width):
            p = torch.arange(planes, device=like.device)
            for chosen in (steep == axis).nonzero().split(max(1, CHUNK // planes)):
                rows, columns = chosen.T
                ray = direction[rows, columns]
                t = (p - source[axis]) / ray[:, axis, None]             # [rays, planes]
                across = (source[other] + t * ray[:, other, None]).clamp_(-1, breadth)
                z = (source[2] + t * ray[:, 2, None]).clamp_(-1, depth)
                low, below = across.floor(), z.floor()
                index = (low.long() + 1) * strides[other] + (below.long() + 1) * strides[2] + (p + 1) * strides[axis]
                high, above = (across - low).to(like.dtype), (z - below).to(like.dtype)
                corners = ((index, (1 - high) * (1 - above)), (index + strides[other], high * (1 - above)),
                           (index + strides[2], (1 - high) * above),
                           (index + strides[2] + strides[other], high * above))
                length = (ray * spacing).norm(dim=1) / ray[:, axis].abs()
                yield view, rows, columns, corners, length.to(like.dtype)


# The compiled kernels: C++ in cone_beam.cpp and CUDA in cone_beam.cu, float32.

class _Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in (
        "views", "det_rows", "det_columns", "top", "bottom", "left", "right", "depth", "height", "width")]
    _fields_ += [(name, ctypes.c_double) for name in ("voxel_x", "voxel_y", "voxel_z")]


def _compiled_project(volume, rays, out):
    return _call("cone_beam_project", volume.contiguous(), rays, out)


def _compiled_backproject(projections, rays, out):
    return _call("cone_beam_backproject", projections.contiguous(), rays, out)


def _call(name, source, rays, out):
    sizes = _Sizes(len(rays.views), *rays.det_shape, *rays.window, *rays.volume_shape, *rays.voxel_size[::-1])
    scratch, needed = [], np.zeros(1, dtype=np.int64)
    if COMPILED.has("cone_beam_scratch", source):
        COMPILED.call("cone_beam_scratch", source, needed, rays.views, sizes)
        scratch = [torch.empty(int(needed[0]), dtype=torch.uint8, device=source.device)]
    COMPILED.call(name, source, out, rays.views, sizes, *scratch)
    return out


def _choose(tensor, impl):
    """The pair of kernels (project, backproject) for a tensor like this."""
    if COMPILED.choose(impl, tensor):
        return _compiled_project, _compiled_backproject
    return _reference_project, _reference_backproject
