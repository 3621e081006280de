"""Objects that are wider than the volume, or than the detector: what the rays meet outside.

FDK takes rows that end inside the object for rows of an object that ends there, and solvers put whatever the rays
meet outside the volume into it. The remedies: rows are extended by the circle that fits their ends, and solvers work on
a larger grid, from which what lies outside the volume is projected and subtracted. For detectors whose rows lie across
the axis; one on its side is to be turned before (`ConeGeometry.turned`).
"""
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, pad

from physics.cone_beam import ConeBeam
from physics.geometry import ConeGeometry
from physics.views import view_angles

AIR = 0.04          # of the largest line integral: less is air


def volume_alone(y: torch.Tensor, geometry: ConeGeometry, solve: Callable, operator: Callable = ConeBeam,
                 chosen: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    """Line integrals of the volume alone, and its reconstruction: what the rays meet outside is found and taken out.

    Needed where rows end inside the object, where the object is wider than the volume, and where only some of the
    volume's slices are wanted. Costs one reconstruction of the larger grid and, if there is anything outside, one
    projection.

    Args:
        y: line integrals [1, views, det_v, det_u] of everything, of all views.
        geometry: of them, with the volume.
        solve: reconstructs x [D, 1, H, W] from line integrals and an operator, as `sirt`.
        operator: makes an operator from a geometry.
        chosen: slices of the volume, the others count as outside.

    Returns:
        [1, own views, det_v, det_u] of this process and [D, 1, H, W] of the chosen slices.
    """
    wide, wide_geometry = extend_rows(y, geometry)
    larger, (z, rows, columns) = with_margin(wide, wide_geometry)
    larger_operator = operator(larger)
    y, wide = operator(geometry).own_views(y), larger_operator.own_views(wide)
    x = solve(wide, larger_operator)
    begin, end, _ = chosen.indices(geometry.volume_shape[0])
    target = slice(z.start + begin, z.start + end), rows, columns
    inside = x[target[0], :, rows, columns].contiguous()
    if inside.shape == x.shape:
        return y, inside
    grid = geometry.moved_grid(larger.volume_shape, larger.volume_centre)
    return without_outside(y, operator(grid), x, target), inside


def cut_sides(y: torch.Tensor, geometry: ConeGeometry) -> tuple[bool, bool]:
    """Whether rows end inside the object at their first and at their last column, in at least one view of ten.

    The side of a shifted detector that ends closer to the axis than the other does not count: other views see further.

    Args:
        y: line integrals [1, views, det_v, det_u].
        geometry: of them.
    """
    profile = _profile(y, geometry)
    first, last = ((profile[:, ends].mean(1) > AIR * profile.max()).float().mean().item() > 0.1
                   for ends in (slice(0, 3), slice(-3, None)))
    low, high = _fan(geometry, [0, geometry.det_shape[1] - 1])
    return bool(first and low < -0.8 * high), bool(last and high > -0.8 * low)


def extend_rows(y: torch.Tensor, geometry: ConeGeometry) -> tuple[torch.Tensor, ConeGeometry]:
    """Rows go on beyond the edges of the detector where they are cut, as if the object's section were a circle.

    The square of a circle's projection is a parabola: here the one through both ends of the row's object, with the
    slope that the row has where it is cut. After Hsieh et al. (2004), "A novel reconstruction algorithm to extend the
    CT scan field-of-view", Med. Phys. 31(9), who take circles of water.

    Args:
        y: line integrals [1, views, det_v, det_u].
        geometry: of them.

    Returns:
        The extended line integrals and the geometry of a detector that is so wide; the same where nothing is cut.
    """
    cut = cut_sides(y, geometry)
    if not any(cut):
        return y, geometry
    (rows, columns), few = geometry.det_shape, max(4, geometry.det_shape[1] // 20)
    squares, there = y[0].clamp(min=0) ** 2, y[0] > AIR * y.max()
    at = torch.arange(columns, device=y.device, dtype=y.dtype)
    near = at[:few] - (few - 1) / 2
    ends = (squares[..., :few], squares[..., -few:])
    slopes = [(part * near).sum(-1) / near.square().sum() for part in ends]
    # The object in the row: up to the edge where it is cut, else to the last pixel that shows something.
    inside = [there[..., edge] | side for edge, side in zip((0, -1), cut)]
    begin = torch.where(there, at, columns).amin(-1) * ~inside[0]
    end = torch.where(inside[1], columns - 1, torch.where(there, at, 0).amax(-1))
    width = (end - begin).clamp(min=2 * few)
    values = [torch.where(there, part.mean(-1) + slope * way * (few - 1) / 2, 0)
              for part, slope, way, there in zip(ends, slopes, (-1, 1), inside)]
    chord = (values[1] - values[0]) / width
    bends = [(slope - chord) * way / (width - few + 1) for slope, way, side in zip(slopes, (1, -1), cut) if side]
    bend = _steady(torch.stack(bends), view_angles(geometry)).clamp(min=0)
    away = torch.arange(1, columns + 1, device=y.device, dtype=y.dtype)
    parts = [y[0]]
    for side, way in enumerate((-1, 1)):
        if cut[side]:
            steep = (way * chord - bend * width)[..., None]
            rest = values[side].clamp(min=0)[..., None] + steep * away - bend[..., None] * away ** 2
            falling = (steep < 0) & (rest > 0).cummin(-1).values
            beyond = torch.where(falling, rest.clamp(min=0).sqrt(), 0) * (1 - (away / columns) ** 2)
            parts.insert(len(parts) * side, beyond.flip(-1) if side == 0 else beyond)
    return (torch.cat(parts, -1)[None],
            geometry.crop(0, rows, -columns * cut[0], columns + columns * cut[1]))


def _steady(values, angle):
    """Medians of values [sides, views, rows] over the sides and an eighth of the views around each: [views, rows].

    What lies in the object bends rows here and there, its outline bends all that are alike.
    """
    order = torch.as_tensor(np.argsort(angle, kind="stable"), device=values.device)
    views, result = values.shape[1] // 16, torch.empty_like(values[0])
    framed = torch.cat([values[:, order[-views or len(order):]], values[:, order], values[:, order[:views]]], 1)
    around = framed.unfold(1, 2 * views + 1, 1)                             # [sides, views, rows, around]
    result[order] = around.movedim(0, -1).flatten(-2).median(-1).values
    return result


def with_margin(y: torch.Tensor, geometry: ConeGeometry) -> tuple[ConeGeometry, tuple[slice, ...]]:
    """The scan on a grid of the same voxels that holds what the rays meet, and where in it the volume is.

    In-plane the grid grows to the circle around the axis that holds the object's shadow in all views; along z to what
    rays through the volume cross inside that circle, where the object goes on above or below the volume. The same grid
    where nothing is outside.

    Args:
        y: line integrals [1, views, det_v, det_u]; extended where rows are cut.
        geometry: of them, with a volume.

    Returns:
        The geometry, and slices (z, y, x) of its volume.
    """
    profile = _profile(y, geometry)
    seen = np.flatnonzero((profile > AIR * profile.max()).any(0).cpu())
    distance = np.hypot(*geometry.vectors[:, :2].T).mean()
    radius = distance * np.sin(abs(_fan(geometry, seen[[0, -1]] + [-0.5, 0.5])).max())
    size, centre = np.array(geometry.voxel_size), np.array(geometry.volume_centre)
    half = np.array(geometry.volume_shape) * size / 2
    wanted = np.array([[half[0]] * 2, *([radius + way * centre[axis] for way in (1, -1)] for axis in (1, 2))])
    top, bottom = geometry.window[:2]
    height = y[0].mean(-1)                                                  # [views, rows]
    inside = distance - np.hypot(*half[1:])
    for way, row in enumerate((top, bottom - 1)):
        if height[:, row].mean() > 0.1 * height.mean(0).max() and radius > half[1:].max():
            wanted[0, way] *= (distance + radius) / inside
    more = np.ceil(np.maximum(wanted - half[:, None], 0) / size[:, None] - 0.5).clip(0).astype(int)
    shape = np.array(geometry.volume_shape) + more.sum(1)
    larger = geometry.moved_grid(shape.tolist(), (centre + (more[:, 1] - more[:, 0]) / 2 * size).tolist())
    return larger, tuple(slice(before, before + count)
                         for before, count in zip(more[:, 0].tolist(), geometry.volume_shape))


def without_outside(y: torch.Tensor, operator: ConeBeam, x: torch.Tensor,
                    target: tuple[slice, ...]) -> torch.Tensor:
    """Line integrals of the volume alone: y less the projections of what lies outside it.

    Args:
        y: line integrals [1, own views, det_v, det_u] of everything.
        operator: of a larger grid, on the detector of `y`.
        x: a reconstruction [D, 1, H, W] on that grid.
        target: slices (z, y, x) of the volume in it.
    """
    outside = x.clone()
    outside[target[0], :, target[1], target[2]] = 0
    return y - operator.A(outside)


def _profile(y, geometry):
    """Mean of the rows that show the volume, smoothed over three columns: [views, det_u]."""
    top, bottom = geometry.window[:2]
    mean = y[0, :, top:bottom].mean(1)
    return avg_pool2d(pad(mean[None], (1, 1), mode="replicate"), (1, 3), 1)[0]


def _fan(geometry, columns):
    """Mean fan angle of columns, counted from 0, positive towards u: float64 [n]."""
    source, centre, step_u, _ = geometry.vectors.reshape(-1, 4, 3)[..., :2].transpose(1, 0, 2)
    column = np.asarray(columns, dtype=float)[:, None, None] - (geometry.det_shape[1] - 1) / 2
    ray, axis = centre - source + column * step_u, -source
    cross, dot = ray[..., 0] * axis[:, 1] - ray[..., 1] * axis[:, 0], (ray * axis).sum(-1)
    return np.arctan2(cross, dot).mean(1)
