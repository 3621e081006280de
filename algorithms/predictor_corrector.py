"""Unconditional sampling by predictor and corrector."""
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from algorithms.schedule import as_levels


@torch.no_grad()
def predictor_corrector(score: Callable, noise: Callable[[], torch.Tensor], sigmas: Iterable[float], x: torch.Tensor, *,
                        first: int = 0, snr: float = 0.16, n_steps_each: int = 1, observer: Any = None) -> torch.Tensor:
    """Draw a stack of slices from the diffusion prior alone.

    At every level first the Langevin corrector, then the reverse-diffusion predictor, as Song et al. 2021
    sample the VE-SDE ("Score-based generative modeling through SDEs", algorithms 2 and 4). The level below
    the last one is 0, and the step to it adds no noise.

    Args:
        score: function (x, sigma) -> score of the prior at noise level sigma; x [n, 1, H, W].
        noise: function () -> [n, 1, H, W], from algorithms.noise.
        sigmas: noise levels, falling, each above 0.
        x: [n, 1, H, W] noise of the first level.
        first: index of the level to begin at, that of x.
        snr: signal-to-noise ratio of the corrector, > 0.
        n_steps_each: corrector steps at every level, >= 0.
        observer: as in `algorithms.sampler.sample`; the estimate is the prior's clean one.

    Returns:
        The sample [n, 1, H, W].

    Raises:
        ValueError: no level, levels that do not fall or reach 0, snr or n_steps_each out of range.
    """
    if not snr > 0:
        raise ValueError(f"snr is {snr}; it must be above 0")
    if n_steps_each < 0:
        raise ValueError(f"n_steps_each is {n_steps_each}; it must be 0 or more")
    sigmas = as_levels(sigmas)
    for i, sigma in enumerate(sigmas[first:], first):
        for _ in range(n_steps_each):
            s, eps = score(x, sigma), noise()
            step = 2 * (snr * _mean_norm(eps) / _mean_norm(s)) ** 2
            x = x + step * s + math.sqrt(2 * step) * eps
        s = score(x, sigma)
        if observer:
            observer.estimate(i, x + sigma**2 * s, sigma)
        sigma_next = sigmas[i + 1] if i + 1 < len(sigmas) else 0.0
        G2 = sigma**2 - sigma_next**2
        x = x + G2 * s
        if sigma_next > 0:
            x = x + math.sqrt(G2) * noise()
            if observer:
                observer.keep(i + 1, x)
    return x


def _mean_norm(x):
    """Mean over the slices of the norm of each slice."""
    return x.flatten(1).norm(dim=1).mean().item()
