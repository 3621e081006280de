"""Noise levels of the variance-exploding SDE."""
import math
from collections.abc import Iterable
from itertools import pairwise

import torch

T_END = 1e-10  # the last time; sigma(T_END) is sigma_min to within 1e-9


def sigma_levels(nfe: int, sigma_min: float, sigma_max: float) -> torch.Tensor:
    """The noise levels that a sampler visits, from sigma_max down to sigma_min.

    ``sigma(t) = sigma_min (sigma_max / sigma_min)^t`` at ``nfe`` times evenly spaced from 1 to 1e-10
    (Song et al. 2021, "Score-based generative modeling through SDEs", appendix C).

    Args:
        nfe: number of levels, >= 1. A single level is sigma_max.
        sigma_min: smallest noise standard deviation, in units of the image.
        sigma_max: the largest.

    Returns:
        float64 tensor [nfe] on the CPU.

    Raises:
        ValueError: nfe < 1, or not 0 < sigma_min <= sigma_max < infinity.
    """
    if nfe < 1:
        raise ValueError(f"nfe is {nfe}; it must be 1 or more")
    if not 0 < sigma_min <= sigma_max < math.inf:
        raise ValueError(f"sigma_min is {sigma_min} and sigma_max is {sigma_max}; "
                         "they must satisfy 0 < sigma_min <= sigma_max < infinity")
    t = torch.linspace(1, T_END, nfe, dtype=torch.float64)
    return sigma_min * (sigma_max / sigma_min) ** t


def as_levels(sigmas: Iterable[float]) -> list[float]:
    """Noise levels as a list of floats, after checking that a sampler can walk down them.

    Raises:
        ValueError: no level, a level that is not above 0, or one above the level before it.
    """
    levels = [float(sigma) for sigma in sigmas]
    if not levels or not all(0 < sigma < math.inf for sigma in levels):
        raise ValueError(f"sigmas are {levels}; there must be one or more, each above 0")
    if any(lower > upper for upper, lower in pairwise(levels)):
        raise ValueError(f"sigmas are {levels}; they must fall from the first to the last")
    return levels
