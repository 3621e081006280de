"""Cone-beam CT: the operator."""
from functools import cached_property

import numpy as np
import torch

from op import cone_beam
from op.processes import ALONE, Processes
from physics.geometry import ConeGeometry
from physics.operator import LinearOperator
from physics.sirt import sirt


class ConeBeam(LinearOperator):
    """Line integrals of a volume [D, 1, H, W]: projections [1, views, det_v, det_u], by Joseph's method.

    Lengths count in the unit of the geometry, whose volume_shape, voxel_size and volume_centre are the grid. A_T
    is the exact adjoint, A_dagger is 100 iterations of SIRT without the bound, hence linear.

    Args:
        geometry: with a volume.
        impl: as in `op.cone_beam.project`.
        processes: that share the views: each has whole volumes, and of projections its own views alone, [1, own views,
            det_v, det_u]: `own_views` and `all_views` go from one to the other.

    Raises:
        ValueError: no volume_shape, no ray that meets the volume, or rays parallel to z; names the geometry's field.
    """

    def __init__(self, geometry: ConeGeometry, impl: str | None = None, processes: Processes = ALONE):
        if geometry.volume_shape is None:
            raise ValueError("volume_shape: expected 3 positive whole numbers (z, y, x), found none")
        self.geometry, self.impl, self.processes = geometry, impl, processes
        self.own = processes.part(geometry.views)       # the views that this process computes
        top, bottom, left, right = self.window
        if top == bottom or left == right:
            raise ValueError("volume_shape: no ray of any view meets the volume; do all lengths have the unit "
                             f"{geometry.unit}?")
        try:
            rays = self._trace()            # finds what the projector cannot do
            self.rays = rays._replace(views=rays.views[self.own])
        except ValueError as error:
            name = "view_vectors" if geometry.view_vectors else "volume_shape"
            raise ValueError(f"{name}: {str(error).removeprefix('vectors: ')}") from None
        depth, height, width = geometry.volume_shape
        super().__init__((depth, 1, height, width), (1, len(self.rays.views), *geometry.det_shape))

    def own_views(self, y: torch.Tensor) -> torch.Tensor:
        """This process's part of all projections [1, views, det_v, det_u]."""
        return y if self.processes.count == 1 else y[:, self.own].clone()

    def all_views(self, y: torch.Tensor) -> torch.Tensor:
        """All projections [1, views, det_v, det_u], of which each process has its part."""
        return self.processes.whole(y, self.geometry.views, 1)

    def total(self, value: float) -> float:
        return self.processes.total(value)

    @property
    def window(self) -> tuple[int, int, int, int]:
        """(top, bottom, left, right): detector rows and columns that can be other than zero, half-open."""
        return self.geometry.window

    def crop(self) -> tuple["ConeBeam", tuple[int, int, int, int]]:
        """The same operator on its window of the detector, and that window (top, bottom, left, right).

        For solvers, to which the rest of the detector tells nothing; `fdk` wants the whole detector.
        """
        rows, columns = self.geometry.det_shape
        return (self if self.window == (0, rows, 0, columns) else self._cropped), self.window

    @cached_property
    def _cropped(self):
        return self.on(self.geometry.crop(*self.window))

    def on(self, geometry: ConeGeometry) -> "ConeBeam":
        """The same kind of operator for another geometry."""
        return type(self)(geometry, self.impl, self.processes)

    def _trace(self) -> cone_beam.Rays:
        # Views whose v step is parallel to z are the fast ones.
        geometry = self.geometry.turned() if self.geometry.sideways else self.geometry
        vectors = geometry.vectors
        vectors[:, :6] -= np.tile(geometry.volume_centre[::-1], 2)
        return cone_beam.trace(vectors, geometry.det_shape, geometry.volume_shape, geometry.voxel_size)

    def _forward(self, x):
        y = cone_beam.project(x[:, 0], self.rays, self.impl)[None]
        return y.mT.contiguous() if self.geometry.sideways else y

    def _adjoint(self, y):
        y = y.mT if self.geometry.sideways else y
        return self.processes.sum(cone_beam.backproject(y[0], self.rays, self.impl)[:, None])

    def _pseudo_inverse(self, y):
        return sirt(y, self, nonnegative=False)

    _sums: tuple[torch.Tensor, torch.Tensor] | None = None

    def inverse_sums(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One over the row sums [1, own views, v, u] and the column sums [D, 1, H, W], never inf; device of `like`.

        A ray that clips a corner tells only its noise, magnified: rows below a hundredth of the longest count
        as rays that miss. A voxel that no ray meets keeps what it has.
        """
        if self._sums is None:
            rows = self.A(like.new_ones(self.domain_shape))
            used = rows > 0.01 * self.processes.largest(rows)
            columns = self.A_T(used.to(like))
            self._sums = (torch.where(used, 1 / rows, 0.0),
                          torch.where(columns > 1e-6 * columns.max(), 1 / columns, 0.0))
        rows, columns = self._sums
        return rows.to(like), columns.to(like)
