"""Noise without any relation between slices, as 2D priors are usually sampled with."""
import torch

from algorithms.noise import draw


class Independent:
    """Every slice an image of its own."""

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str = "cpu",
                 spacing: float | None = None) -> torch.Tensor:
        return draw(shape[0], shape, generator, device)
