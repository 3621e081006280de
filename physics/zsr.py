"""Z super-resolution: thick slices as averages of thin ones."""
import math
from collections.abc import Sequence

import numpy as np
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
        return repeated(y, self.factor)


PROFILES = ("box", "gauss")
REACH = 3.0     # standard deviations of a Gaussian profile


class ZProfile(LinearOperator):
    """Thick slices of any profile, with gaps or overlaps: [H, 1, W, D] -> [H, 1, W, D / factor].

    A thick slice is the mean of the planes of the last axis, weighted by the integral of its profile over each plane;
    at the ends of the volume over the planes that there are. A_T is the exact adjoint, A_dagger the Moore-Penrose
    inverse.

    Args:
        shape: [H, 1, W, D].
        factor: planes from one thick slice to the next.
        profile: "box", or "gauss" with the thickness as its full width at half maximum.
        thickness: of a slice, in units of the distance from one to the next: below 1 with a gap, above 1 overlapping.

    Raises:
        ValueError: as `ZAverage`; another profile; a thickness that is not positive, or above 4.
    """

    def __init__(self, shape: Sequence[int], factor: int, profile: str = "box", thickness: float = 1.0):
        ZAverage(shape, factor)     # what is wrong with shape and factor
        if profile not in PROFILES:
            raise ValueError(f"profile {profile!r}; accepted: {' or '.join(PROFILES)}")
        if not 0 < thickness <= 4:
            raise ValueError(f"thickness: {thickness:g} of the distance between slices; accepted: above 0 to 4")
        weights = _profile_weights(shape[-1], factor, profile, thickness)
        self.weights = torch.from_numpy(weights).float()
        self.inverse = torch.from_numpy(np.linalg.pinv(weights, rcond=1e-6)).float()
        super().__init__(shape, (*shape[:-1], shape[-1] // factor))

    def _forward(self, x):
        return x @ self.weights.T.to(x)

    def _adjoint(self, y):
        return y @ self.weights.to(y)

    def _pseudo_inverse(self, y):
        return y @ self.inverse.T.to(y)


def _profile_weights(planes: int, factor: int, profile: str, thickness: float) -> np.ndarray:
    """float64 [planes / factor, planes]: rows that add up to 1."""
    edges = np.arange(planes + 1) - 0.5
    centres = np.arange(planes // factor) * factor + (factor - 1) / 2
    away = edges[None] - centres[:, None]
    if profile == "box":
        below = np.clip(away / (thickness * factor) + 0.5, 0, 1)
    else:
        sigma = thickness * factor / (2 * math.sqrt(2 * math.log(2)))
        below = 0.5 * (1 + np.vectorize(math.erf)(np.clip(away / sigma, -REACH, REACH) / math.sqrt(2)))
    weights = np.diff(below, axis=1)
    return weights / weights.sum(1, keepdims=True)


def slice_operator(shape: Sequence[int], factor: int, profile: str = "box", thickness: float = 1.0) -> LinearOperator:
    """`ZAverage` of slices that touch and have a box for a profile, else `ZProfile`; arguments as there."""
    if profile == "box" and math.isclose(thickness, 1, rel_tol=1e-3):
        return ZAverage(shape, factor)
    return ZProfile(shape, factor, profile, thickness)


def repeated(y: torch.Tensor, factor: int) -> torch.Tensor:
    """Every thick slice of y [H, 1, W, D / factor] `factor` times: [H, 1, W, D]."""
    return y.repeat_interleave(factor, dim=-1)


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
