"""Two stacks of slices of one volume, by turns: each with a prior and slice-consistent noise of its own."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from algorithms.noise import NoiseControl, noise_source


@dataclass(frozen=True, kw_only=True)
class SecondPlane:
    """The second of two perpendicular planes (TPDM: Lee et al. 2023, arXiv 2303.08440).

    Attributes:
        prior: as that of the first plane, for slices of this one; it may be the same.
        order: which axes of the volume [n, 1, H, W] are those of the second stack, as `torch.permute` has them:
            (2, 1, 0, 3) stacks along the rows of the first.
        share: of the levels that it has, 0 to 1; they are spread evenly: with 0.5, every second one.
        spacing: distance from slice to slice in mm, for noise controls that ask for it.
    """

    prior: Any
    order: tuple[int, ...] = (2, 1, 0, 3)
    share: float = 0.5
    spacing: float | None = None

    def __post_init__(self) -> None:
        if sorted(self.order) != [0, 1, 2, 3] or self.order[1] != 1:
            raise ValueError(f"order is {self.order}; it must be an order of 0, 1, 2, 3 with 1 in its place")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; it must be from 0 to 1")


class Planes:
    """The prior and the noise of a volume [n, 1, H, W] whose levels are shared by two planes.

    ``noise()`` begins a level: it is drawn for the plane that the level belongs to, and the score that follows is of
    that plane. ``level`` counts them, and is set where a run goes on.
    """

    def __init__(self, prior: Any, noise: Callable[[], torch.Tensor], second: SecondPlane, control: NoiseControl,
                 shape: torch.Size, generator: torch.Generator, device: torch.device):
        self.prior, self.first_noise, self.second, self.level = prior, noise, second, -1
        self.back = tuple(second.order.index(axis) for axis in range(4))
        other = tuple(shape[axis] for axis in second.order)
        self.second_noise = noise_source(control, other, generator, device, second.spacing)

    @property
    def is_second(self) -> bool:
        """Whether the level is the second plane's."""
        return int((self.level + 1) * self.second.share) > int(self.level * self.second.share)

    def noise(self) -> torch.Tensor:
        """New noise for the next level."""
        self.level += 1
        return self.second_noise().permute(self.back).contiguous() if self.is_second else self.first_noise()

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The score of the plane whose level it is."""
        if not self.is_second:
            return self.prior(x, sigma)
        return self.second.prior(x.permute(self.second.order).contiguous(), sigma).permute(self.back).contiguous()

    def vjp(self, x: torch.Tensor, sigma: float, v: torch.Tensor) -> torch.Tensor:
        """As `models.slice_score.SliceScore.vjp`."""
        if not self.is_second:
            return self.prior.vjp(x, sigma, v)
        turned = (part.permute(self.second.order).contiguous() for part in (x, v))
        return self.second.prior.vjp(next(turned), sigma, next(turned)).permute(self.back).contiguous()
