"""The diffusion loop: one for CT and MRI, for every data step, noise control and re-noising rule."""
from collections.abc import Callable, Iterable
from typing import Any

import torch

from algorithms.schedule import as_levels


@torch.no_grad()
def sample(score: Callable, data_step: Callable, noise: Callable[[], torch.Tensor], sigmas: Iterable[float],
           renoise: Callable, x: torch.Tensor, *, first: int = 0, guidance: Callable | None = None,
           final_sigma: float | None = None, observer: Any = None) -> torch.Tensor:
    """Reconstruct a stack of slices by posterior sampling with a 2D diffusion prior.

    The loop of ISCS (Du et al. 2026, arXiv 2602.04162): denoise, make consistent with the measurement, re-noise to the
    next level.

    Args:
        score: function (x, sigma) -> score of the prior at noise level sigma; x [n, 1, H, W].
        data_step: function (x0, sigma) -> x0, from algorithms.data_steps; the noise of the next level is put on its
            ``centre(x0)`` where it has one.
        noise: function () -> [n, 1, H, W], from algorithms.noise.
        sigmas: noise levels, falling, each above 0.
        renoise: function (x0, score, noise, sigma, sigma_next) -> x, from algorithms.renoise.
        x: [n, 1, H, W] noisy image at the first level: noise alone or with an image to start from, see `noisy`.
        first: index of the level to begin at, that of x.
        guidance: function (x, x0, sigma) -> correction, from algorithms.guidance; it is subtracted from x0 before the
            data step, which has the last word. As every re-noising rule is x0 plus noise, that is the same as from the
            x of the next level, where DPS has it. None does nothing.
        final_sigma: denoise the last estimate once more, at this level; None does not.
        observer: gets the estimate of every level, and ``keep(level, x)`` before every level but the first.

    Returns:
        The clean estimate [n, 1, H, W].

    Raises:
        ValueError: no level, or levels that do not fall or reach 0.
    """
    sigmas = as_levels(sigmas)
    centre = getattr(data_step, "centre", lambda x: x)
    for i, sigma in enumerate(sigmas[first:], first):
        s = score(x, sigma)
        x0 = x + sigma**2 * s  # Tweedie
        if guidance:
            x0 = x0 - guidance(x, x0, sigma)
        eps = None
        if x.is_cuda and i + 1 < len(sigmas):
            eps = noise()       # drawn on the host while the network is still at work; the data step would wait for it
        x0 = data_step(x0, sigma)
        if observer:
            observer.estimate(i, x0, sigma)
        if i + 1 < len(sigmas):
            x = renoise(centre(x0), s, noise() if eps is None else eps, sigma, sigmas[i + 1])
            if observer:
                observer.keep(i + 1, x)
    if final_sigma is not None:
        x0 = x0 + final_sigma**2 * score(x0, final_sigma)
    return x0


def noisy(noise: Callable[[], torch.Tensor], sigma: float, image: torch.Tensor | None = None) -> torch.Tensor:
    """Noise of level sigma [n, 1, H, W], on top of an image of that shape where one is given.

    Raises:
        ValueError: an image of another shape than the noise.
    """
    x = sigma * noise()
    if image is None:
        return x
    if image.shape != x.shape:
        raise ValueError(f"the image to start from is {list(image.shape)}; the noise is {list(x.shape)}")
    return x.add_(image)
