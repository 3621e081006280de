"""Unconditional sampling by predictor and corrector."""
import math

import torch

from algorithms.schedule import as_levels


@torch.no_grad()
def predictor_corrector(score, noise, sigmas, *, snr=0.16, n_steps_each=1, callback=None, keep=None, start=None):
    """Draw a stack of slices from the diffusion prior alone.

    At every level first the Langevin corrector, then the reverse-diffusion predictor, as Song et al. 2021
    sample the VE-SDE ("Score-based generative modeling through SDEs", algorithms 2 and 4). The level below
    the last one is 0, and the step to it adds no noise.

    Args:
        score: function (x, sigma) -> score of the prior at noise level sigma; x [n, 1, H, W].
        noise: function () -> [n, 1, H, W], from algorithms.noise; it sets shape and device.
        sigmas: noise levels, falling, each above 0.
        snr: signal-to-noise ratio of the corrector, > 0.
        n_steps_each: corrector steps at every level, >= 0.
        callback: called at every level with a dict: 'level' (0, 1, ...), 'sigma', 'x0' (the clean estimate
            of the prior; not to be changed).
        keep, start: to go on after an interruption, as in `algorithms.sampler.sample`.

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
    first, x = start or (0, sigmas[0] * noise())
    for i, sigma in enumerate(sigmas[first:], first):
        for _ in range(n_steps_each):
            s, eps = score(x, sigma), noise()
            step = 2 * (snr * _mean_norm(eps) / _mean_norm(s)) ** 2
            x = x + step * s + math.sqrt(2 * step) * eps
        s = score(x, sigma)
        if callback:
            callback({"level": i, "sigma": sigma, "x0": x + sigma**2 * s})
        sigma_next = sigmas[i + 1] if i + 1 < len(sigmas) else 0.0
        G2 = sigma**2 - sigma_next**2
        x = x + G2 * s
        if sigma_next > 0:
            x = x + math.sqrt(G2) * noise()
            if keep:
                keep(i + 1, x)
    return x


def _mean_norm(x):
    """Mean over the slices of the norm of each slice."""
    return x.flatten(1).norm(dim=1).mean().item()
