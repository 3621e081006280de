"""The diffusion loop: one for CT and MRI, for every consistency step, noise control and re-noising rule."""
import torch

from algorithms.renoise import renoise
from algorithms.schedule import as_levels


@torch.no_grad()
def sample(score, consistency, noise, sigmas, *, renoise_method, eta=None, guidance=None, x_init=None,
           final_sigma=None, callback=None, keep=None, start=None):
    """Reconstruct a stack of slices by posterior sampling with a 2D diffusion prior.

    The loop of ISCS (Du et al. 2026, arXiv 2602.04162): denoise, make consistent with the measurement,
    re-noise to the next level. The noise comes from ``noise`` everywhere, the first included.

    Args:
        score: function (x, sigma) -> score of the prior at noise level sigma; x [n, 1, H, W].
        consistency: function (x0, sigma) -> x0, from algorithms.consistency.
        noise: function () -> [n, 1, H, W], from algorithms.noise; it sets shape and device.
        sigmas: noise levels, falling, each above 0.
        renoise_method: one of algorithms.renoise.METHODS.
        eta: its share of new noise, for the methods that have one; None is their own.
        guidance: function (x, x0, sigma) -> correction, from algorithms.guidance; it is subtracted from x0
            before consistency, which has the last word. As every re-noising rule is x0 plus noise, that is
            the same as from the x of the next level, where DPS has it. None does nothing.
        x_init: [n, 1, H, W] image to start from, noised to the first level; None starts from noise alone.
        final_sigma: denoise the last estimate once more, at this level; None does not.
        callback: called at every level with a dict: 'level' (0, 1, ...), 'sigma', 'x0' (after consistency;
            not to be changed).
        keep: function (level, x), called before every level but the first with all that the rest depends on,
            besides the state of ``noise`` and ``consistency``; x is not to be changed.
        start: (level, x) that ``keep`` was given, to go on from there; None starts at the first level.

    Returns:
        The clean estimate [n, 1, H, W].

    Raises:
        ValueError: no level, levels that do not fall or reach 0, x_init of another shape than the noise,
            unknown renoise_method.
    """
    sigmas = as_levels(sigmas)
    first, x = start or (0, sigmas[0] * noise())
    if start is None and x_init is not None:
        if x_init.shape != x.shape:
            raise ValueError(f"x_init is {list(x_init.shape)}; the noise is {list(x.shape)}")
        x += x_init
    for i, sigma in enumerate(sigmas[first:], first):
        s = score(x, sigma)
        x0 = x + sigma**2 * s  # Tweedie
        if guidance:
            x0 = x0 - guidance(x, x0, sigma)
        x0 = consistency(x0, sigma)
        if callback:
            callback({"level": i, "sigma": sigma, "x0": x0})
        if i + 1 < len(sigmas):
            x = renoise(renoise_method, x0, s, noise(), sigma, sigmas[i + 1], eta)
            if keep:
                keep(i + 1, x)
    if final_sigma is not None:
        x0 = x0 + final_sigma**2 * score(x0, final_sigma)
    return x0
