"""Z super-resolution: thick slices as averages of thin ones."""
from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate

from physics.operator import LinearOperator


class ZAverage(LinearOperator):
    """Averages `factor` neighbouring planes of the last axis: [H, 1, W, D] -> [H, 1, W, D / factor].

    A_T spreads y / factor over those planes; A_dagger, the Moore-Penrose inverse, repeats y: A A_dagger = 1.

    Args:
        shape: [H, 1, W, D].
        factor: planes that become one.

    Raises:
        ValueError: `factor` is below 2 or not whole, or D is no multiple of it.
    """

    def __init__(self, shape: Sequence[int], factor: int):
        if not factor >= 2 or factor % 1:
            raise ValueError(f"factor: expected a whole number of at least 2, found {factor}")
        if shape[-1] % factor or not shape[-1]:
            raise ValueError(f"shape: expected a multiple of {factor} as last axis, found {list(shape)}")
        self.factor = int(factor)
        super().__init__(shape, (*shape[:-1], shape[-1] // self.factor))

    def _forward(self, x):
        return x.unflatten(-1, (-1, self.factor)).mean(-1)

    def _adjoint(self, y):
        return self._pseudo_inverse(y) / self.factor

    def _pseudo_inverse(self, y):
        return y.repeat_interleave(self.factor, dim=-1)


def thick_slices(x: torch.Tensor, factor: int, oversample: int = 1) -> torch.Tensor:
    """The measurement [H, 1, W, D / factor] of x [H, 1, W, D]: what `ZAverage` gives.

    With `oversample` above 1 it averages that many times as many planes as thin, linear between those of x: a thick
    slice then has something of its neighbours, as it would not exactly agree with the operator in a scanner either.

    Raises:
        ValueError: as `ZAverage`.
    """
    if oversample > 1:
        x = interpolate(x, (x.shape[2], oversample * x.shape[3]), mode="bilinear")
    return ZAverage(x.shape, oversample * factor).A(x)


def as_slices(volume: torch.Tensor) -> torch.Tensor:
    """A volume [D, H, W] as the slices [H, 1, W, D] that contain z, one for every y."""
    return volume.permute(1, 2, 0)[:, None].contiguous()


def as_volume(x: torch.Tensor) -> torch.Tensor:
    """The volume [D, H, W] of slices [H, 1, W, D]."""
    return x[:, 0].permute(2, 0, 1)
