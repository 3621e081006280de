"""A cone-beam scan as the solvers need it: which views, on which part of the detector, of which part of the volume."""
from collections.abc import Callable, Sequence

import torch

from physics.backends import cone_beam_operator
from physics.cone_beam import ConeBeam
from physics.fdk import check_fdk, fdk
from physics.geometry import ConeGeometry
from physics.sirt import sirt


class Acquisition:
    """The operators of a scan of which some views are used, and some slices are wanted.

    Attributes:
        full: ConeBeam of all views and the whole volume, on the whole detector.
        few: of the views that are used.
        doubt: why FDK may be far off in this scan, or None.
        operator: of these views and the wanted slices, on the part of the detector where the volume's shadow falls:
            for solvers.

    Args:
        geometry: the scan in voxels, with a volume_shape.
        views: indices of the views that are used.
        projector: as in `physics.backends.cone_beam_operator`.
        slices: (begin, end) of the wanted slices along z, half-open; (0, 0): all.

    Raises:
        ValueError: a geometry that the projector cannot do, or views and slices that are not there.
    """

    def __init__(self, geometry: ConeGeometry, views: Sequence[int], projector: str = "auto",
                 slices: tuple[int, int] = (0, 0)):
        if geometry.volume_shape is None:
            raise ValueError("volume_shape: missing; an acquisition has a volume")
        depth = geometry.volume_shape[0]
        begin, end = slices if slices != (0, 0) else (0, depth)
        if not 0 <= begin < end <= depth:
            raise ValueError(f"slices {begin} to {end}: accepted are begin < end <= {depth}, the number of slices")
        self.views, self.slices = list(views), slice(begin, end)
        self.full: ConeBeam = cone_beam_operator(geometry, projector)
        self.few: ConeBeam = cone_beam_operator(geometry.select(views), projector)
        self.doubt = check_fdk(self.few.geometry)
        self.operator, self.window = self.few.crop()
        if end - begin < depth:
            self.operator = cone_beam_operator(geometry.slab(begin, end).select(views).crop(*self.window), projector)

    def fdk_of_all(self, y: torch.Tensor) -> torch.Tensor:
        """FDK of the wanted slices [slices, 1, H, W] from all views y [1, views, v, u]."""
        return fdk(y, self.full)[self.slices]

    def fdk(self, y: torch.Tensor) -> torch.Tensor:
        """The same from the views that are used."""
        return fdk(y, self.few)[self.slices]

    def of_views(self, y: torch.Tensor) -> torch.Tensor:
        """The projections of the views that are used, [1, views, v, u], from those of all views."""
        return y[:, self.views].contiguous()

    def solvable(self, y: torch.Tensor, progress: Callable | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What solvers get of the projections y [1, views, v, u] of the views that are used, and SIRT to start from.

        Where only some slices are wanted, what the rays met above and below is taken out, as SIRT of the whole volume
        knows it.

        Returns:
            (y in the range of ``operator``, SIRT [slices, 1, H, W]).
        """
        initial = sirt(y, self.few, progress=progress)
        if self.operator.domain_shape != self.few.domain_shape:
            outside = initial.clone()
            outside[self.slices] = 0
            y, initial = y - self.few.A(outside), initial[self.slices].contiguous()
        return self.on_window(y).contiguous(), initial

    def on_window(self, y: torch.Tensor) -> torch.Tensor:
        """The part of projections [..., v, u] where the volume's shadow falls."""
        top, bottom, left, right = self.window
        return y[..., top:bottom, left:right]
