"""Noise that is alike over a length in mm."""
import math
from functools import lru_cache

import torch

from algorithms.noise import draw


class GaussianProcess:
    """A Gaussian process along the slices, independent from pixel to pixel.

    Stationary, of unit variance, with the correlation ``exp(-d^2 / (2 l^2))`` at distance d: the squared exponential
    of Rasmussen & Williams 2006, eq. 4.9.

    Args:
        noise_length: l in mm, > 0.

    Raises:
        ValueError: a length that is not above 0 and finite; at the first use, a spacing that is not.
    """

    def __init__(self, noise_length: float = 20.0):
        if not 0 < noise_length < math.inf:
            raise ValueError(f"noise_length is {noise_length}; it must be above 0, in mm")
        self.noise_length = noise_length

    def check(self, spacing: float | None) -> None:
        """See that the distance from slice to slice is known.

        Raises:
            ValueError: it is not.
        """
        if spacing is None or not 0 < spacing < math.inf:
            raise ValueError(f"spacing is {spacing}; a Gaussian process needs one above 0, in mm")

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str = "cpu",
                 spacing: float | None = None) -> torch.Tensor:
        self.check(spacing)
        noise = torch.zeros(shape, device=device)
        for first, weights in latents(shape[0], spacing, self.noise_length):
            weights = weights.to(device, torch.float32).view(-1, 1, 1, 1)
            noise[first:first + len(weights)].addcmul_(weights, draw(1, shape, generator, device))
        return noise


@lru_cache(maxsize=8)
def latents(n: int, spacing: float, length: float) -> list[tuple[int, torch.Tensor]]:
    """How independent latent images add up to the process over n slices, image by image.

    The kernel is the autocorrelation of the Gaussian ``exp(-t^2 / l^2)``, so white noise convolved with that has the
    correlation wanted (process convolution, Higdon 2002). The white noise lives on a grid of its own, of pitch 2 l / 3,
    which reaches past both ends of the stack and is cut off 3 l from a slice; the weights of a slice are scaled to unit
    variance. The correlation is then right to 1e-4, at any spacing and for any part of a stack. Slices further apart
    than 4.3 l correlate by less than that, and are independent.

    Args:
        n: number of slices, >= 1.
        spacing: distance from slice to slice, > 0.
        length: l, > 0, in the unit of the spacing.

    Returns:
        (first slice, float64 weights [k]) of every latent image: add it with these weights to the k slices from the
        first on. 10 + 1.5 (n - 1) spacing / length latent images, of which every slice takes 10; n, one a slice,
        where they are independent.
    """
    if spacing > 4.3 * length:
        return [(k, torch.ones(1, dtype=torch.float64)) for k in range(n)]
    pitch, reach = 2 / 3, 5  # grid in units of l; points on either side of a slice
    position = torch.arange(n, dtype=torch.float64) * (spacing / length / pitch)  # in grid points
    points = position.floor().long()[:, None] + torch.arange(1 - reach, reach + 1)
    weights = torch.exp(-((position[:, None] - points) * pitch).square())
    weights /= weights.norm(dim=1, keepdim=True)
    first, last = points[:, 0].contiguous(), points[:, -1].contiguous()  # both rise with the slice
    found = []
    for point in range(int(first[0]), int(last[-1]) + 1):
        begin, end = int(torch.searchsorted(last, point)), int(torch.searchsorted(first, point, right=True))
        slices = torch.arange(begin, end)
        found.append((begin, weights[slices, point - first[slices]]))
    return found
