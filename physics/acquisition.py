"""A cone-beam scan as the solvers need it: which views, on which part of the detector, of which part of the volume."""
from collections.abc import Callable, Sequence
from functools import partial

import torch

from op.processes import ALONE, Processes
from physics.backends import cone_beam_operator
from physics.cone_beam import ConeBeam
from physics.fdk import check_fdk, fdk
from physics.geometry import ConeGeometry
from physics.margin import extend_rows, volume_alone, without_outside
from physics.noise import add_noise, noise_variance, poisson_weights
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
        measured: the rays may have met something outside the volume, which a simulation's never do.
        processes: that share the work; each has the projections of its own views, see `ConeBeam`.

    Raises:
        ValueError: a geometry that the projector or FDK cannot do, or views and slices that are not there.
    """

    def __init__(self, geometry: ConeGeometry, views: Sequence[int], projector: str = "auto",
                 slices: tuple[int, int] = (0, 0), measured: bool = False, processes: Processes = ALONE):
        if geometry.volume_shape is None:
            raise ValueError("volume_shape: missing; an acquisition has a volume")
        depth = geometry.volume_shape[0]
        begin, end = slices if slices != (0, 0) else (0, depth)
        if not 0 <= begin < end <= depth:
            raise ValueError(f"slices {begin} to {end}: accepted are begin < end <= {depth}, the number of slices")
        self.views, self.slices = list(views), slice(begin, end)
        self.operator_of = partial(cone_beam_operator, projector=projector, processes=processes)
        self.measured = measured and not geometry.sideways      # margins are worked out along rows across the axis
        self.full: ConeBeam = self.operator_of(geometry)
        self.few: ConeBeam = self.operator_of(geometry.select(views))
        self.doubt = check_fdk(self.few.geometry)
        self.operator, self.window = self.few.crop()
        if end - begin < depth:
            self.operator = self.operator_of(geometry.slab(begin, end).select(views).crop(*self.window))

    def simulate(self, x: torch.Tensor) -> torch.Tensor:
        """Line integrals [1, own views, v, u] of all views, of x [D, 1, H, W] or with pixels that are n times finer.

        On the grid of the reconstruction the measurement agrees with the operator exactly, which no scanner's does.

        Raises:
            ValueError: another shape than [D, 1, n H, n W].
        """
        times = x.shape[-1] // self.full.domain_shape[-1]
        if times < 2:
            return self.full.A(x)
        return self.operator_of(self.full.geometry.finer(times)).A(x).div_(times)

    def noisy(self, y: torch.Tensor, level: float, generator: torch.Generator, attenuation: float) -> torch.Tensor:
        """`physics.noise.add_noise` to line integrals of all views, the same however many processes share them."""
        if not level:
            return y
        return self.full.own_views(add_noise(self.full.all_views(y), level, generator, attenuation))

    def poisson_weights(self, y: torch.Tensor, attenuation: float) -> torch.Tensor:
        """`physics.noise.poisson_weights` of line integrals of the views that are used, for solvers."""
        return self.few.own_views(poisson_weights(self.on_window(self.few.all_views(y)), attenuation))

    def noise_variance(self, y: torch.Tensor, weights: torch.Tensor | None = None) -> float:
        """`physics.noise.noise_variance` of what solvers get: of a ray of weight 1, where there are weights."""
        return noise_variance(self.operator.all_views(y if weights is None else weights.sqrt() * y))

    def fdk_of_all(self, y: torch.Tensor) -> torch.Tensor:
        """FDK of the wanted slices [slices, 1, H, W] from all views y [1, own views, v, u]."""
        return self._fdk(y, self.full)

    def fdk(self, y: torch.Tensor) -> torch.Tensor:
        """The same from the views that are used."""
        return self._fdk(y, self.few)

    def _fdk(self, y, operator):
        if self.measured:
            whole, geometry = extend_rows(operator.all_views(y), operator.geometry)
            if geometry is not operator.geometry:
                operator = self.operator_of(geometry)
                y = operator.own_views(whole)
            del whole
        return fdk(y, operator)[self.slices]

    def used(self, y: torch.Tensor) -> torch.Tensor:
        """The projections of the views that are used, all of them, from those of all views that this process has."""
        if self._all_used:
            return self.full.all_views(y)
        own, chosen = self.full.own, torch.tensor(self.views)
        here = (chosen >= own.start) & (chosen < own.stop)
        found = y.new_zeros(1, len(chosen), *y.shape[2:])
        found[:, here] = y[:, chosen[here] - own.start]
        return self.full.processes.sum(found)

    def of_views(self, y: torch.Tensor) -> torch.Tensor:
        """The projections of this process's part of the views that are used, from its part of all."""
        return y if self._all_used else self.few.own_views(self.used(y))

    @property
    def _all_used(self):
        return self.views == list(range(self.full.geometry.views))

    def solvable(self, y: torch.Tensor, progress: Callable | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What solvers get of the projections y [1, own views, v, u] of the views used, and SIRT to start from.

        What the rays met outside the wanted slices, and of a measured object that is wider than the volume beside it,
        is taken out, as SIRT of a grid that holds it all knows it.

        Returns:
            (y in the range of ``operator``, SIRT [slices, 1, H, W]).
        """
        def solve(y, operator):
            return sirt(y, operator, progress=progress)

        if self.measured:
            y, initial = volume_alone(self.few.all_views(y), self.few.geometry, solve, self.operator_of, self.slices)
        else:
            whole = solve(y, self.few)
            initial = whole[self.slices].contiguous()
            if initial.shape != whole.shape:
                y = without_outside(y, self.few, whole, (self.slices, slice(None), slice(None)))
        return self.on_window(y).contiguous(), initial

    def on_window(self, y: torch.Tensor) -> torch.Tensor:
        """The part of projections [..., v, u] where the volume's shadow falls."""
        top, bottom, left, right = self.window
        return y[..., top:bottom, left:right]
