"""Voxel-driven backprojection of a view: every voxel takes the value at its shadow on the detector."""
import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import grid_sample, pad

from op.build import Compiled
from op.check import check

COMPILED = Compiled("fdk_backproject")


class _Axis(ctypes.Structure):
    _fields_ = [("first", ctypes.c_double), ("step", ctypes.c_double), ("count", ctypes.c_int64)]


def fdk_backproject(volume: torch.Tensor, view: torch.Tensor, matrix: np.ndarray,
                    axes: Sequence[tuple[float, float]], scale: float, impl: str | None = None) -> None:
    """Add ``scale / depth^2`` times a view, linearly interpolated at the shadow of every voxel, to a volume.

    Args:
        volume: contiguous [H, W, D] = (y, x, z), changed in place.
        view: [rows, columns]; zero outside, to which values fall over one pixel.
        matrix: 3 x 4, takes (x, y, z, 1) to depth times (column, row, 1), pixels counted from the view's first.
        axes: (first, step) of the voxel centres along x, y and z.
        scale: see above.
        impl: "reference" (PyTorch), "compiled" (C++; float32 on CPU), or None: compiled where it is possible.

    Raises:
        ValueError: tensors of other shapes, integers, an unknown `impl`.
        NotCompiled: "compiled" where it is not possible.
    """
    check("volume", volume, volume.shape[:3])
    check("view", view, view.shape[:2])
    if not volume.is_contiguous():
        raise ValueError("volume: expected contiguous")
    if COMPILED.choose(impl, volume, view):
        _compiled(volume, view, matrix, axes, scale)
    else:
        _reference(volume, view, matrix, axes, scale)


def _compiled(volume, view, matrix, axes, scale):
    rows, columns = view.shape
    framed = pad(view.T, (1, 2, 1, 1)).contiguous()
    height, width, depth = volume.shape
    axes = (_Axis * 3)(*(_Axis(*axis, count) for axis, count in zip(axes, (width, height, depth))))
    matrix = np.ascontiguousarray(matrix, dtype=np.float64)
    COMPILED.call("fdk_backproject", framed, volume, matrix, axes, columns, rows, float(scale))


def _reference(volume, view, matrix, axes, scale):
    height, width, depth = volume.shape
    x, y, z = (first + step * torch.arange(count, dtype=volume.dtype, device=volume.device)
               for (first, step), count in zip(axes, (width, height, depth)))
    # To positions as grid_sample has them: -1 and 1 are the edges of the view.
    matrix = np.array(matrix, dtype=np.float64)
    for row, count in ((0, view.shape[1]), (1, view.shape[0])):
        matrix[row] = (2 * matrix[row] + matrix[2]) / count - matrix[2]
    across, down, away = ((m[0] * x + m[1] * y[:, None] + m[3])[..., None] + m[2] * z for m in matrix.tolist())
    grid = torch.stack([across / away, down / away], -1)
    # A batch of rows of voxels, because grid_sample shares the work among threads by batch.
    sampled = grid_sample(view.expand(height, 1, -1, -1), grid, align_corners=False)[:, 0]
    volume.addcmul_(sampled, scale / away.square())
