"""Measurement noise."""
import math

import torch

ATTENUATION = 0.01      # a line integral of 1 (voxels of intensity 1) attenuates by exp(-0.01)
BACKGROUND = 10.0       # photons a ray that are counted without having crossed the object


def add_noise(y, level, generator=None):
    """Noisy copy of the measurement y, drawn on the CPU so that it does not depend on the device.

    level      0: none; 0 < level < 100: Gaussian of variance `level`; level >= 100: Poisson with `level`
               photons a ray, counts ~ Poisson(level exp(-0.01 y) + 10), zero counts set to 1, turned back
               into line integrals by -ln(counts / level) / 0.01
    generator  CPU torch.Generator; None: torch's default

    Raises ValueError for a level that is negative or not finite.
    """
    if not (math.isfinite(level) and level >= 0):
        raise ValueError(f"noise level: expected a finite number of at least 0, found {level}")
    if level == 0:
        return y.clone()
    if level < 100:
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        return y + math.sqrt(level) * noise.to(y.device)
    expected = level * torch.exp(-ATTENUATION * y.cpu()) + BACKGROUND
    counts = torch.poisson(expected, generator=generator).clamp_(min=1)
    return (counts.div_(level).log_() / -ATTENUATION).to(y.device)


def snr_db(clean, noisy):
    """Signal-to-noise ratio 10 log10(|clean|^2 / |noisy - clean|^2) in dB, inf without noise."""
    error = (noisy - clean).double().norm().item()
    return 20 * math.log10(clean.double().norm().item() / error) if error else math.inf
