"""One noise image for all slices."""
import torch

from algorithms.noise import draw


class Shared:
    """The same image in every slice: as consistent as noise can be."""

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str = "cpu",
                 spacing: float | None = None) -> torch.Tensor:
        return draw(1, shape, generator, device).repeat(shape[0], 1, 1, 1)
