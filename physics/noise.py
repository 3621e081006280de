"""Measurement noise, and the statistical weights that fit it."""
import math

import torch

ATTENUATION = 0.01      # published: a line integral of 1 (voxels of intensity 1) attenuates by exp(-0.01)
BACKGROUND = 10.0       # photons a ray that are counted without having crossed the object


def add_noise(y: torch.Tensor, level: float, generator: torch.Generator | None = None,
              attenuation: float = ATTENUATION) -> torch.Tensor:
    """Noisy copy of a measurement, drawn on the CPU so that it does not depend on the device.

    Args:
        y: the measurement, of any shape.
        level: 0: none; 0 < level < 100: Gaussian of variance `level`; level >= 100: Poisson with `level` photons a ray,
            counts ~ Poisson(level exp(-attenuation y) + 10), zero counts set to 1, turned back into line integrals by
            -ln(counts / level) / attenuation.
        generator: on the CPU; None: torch's default.
        attenuation: of a line integral of 1; for CT that is 2.6 mu_water, from the geometry.

    Raises:
        ValueError: `level` is negative or not finite.
    """
    if not (math.isfinite(level) and level >= 0):
        raise ValueError(f"level: expected a finite number of at least 0, found {level}")
    if level == 0:
        return y.clone()
    if level < 100:
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        return y + math.sqrt(level) * noise.to(y.device)
    expected = level * torch.exp(-attenuation * y.cpu()) + BACKGROUND
    counts = torch.poisson(expected, generator=generator).clamp_(min=1)
    return (counts.div_(level).log_() / -attenuation).to(y.device)


def poisson_weights(y: torch.Tensor, attenuation: float = ATTENUATION) -> torch.Tensor:
    """Weights of the data term for line integrals y of counted photons, in the shape of y and with mean 1.

    The variance of a line integral is inverse to the photons counted, so a ray weighs exp(-attenuation y), as in
    Sauer & Bouman (1993), "A local update strategy for iterative reconstruction from projections", IEEE TSP 41(2),
    and Thibault et al. (2007), "A three-dimensional statistical approach to improved image quality for multislice
    helical CT", Med. Phys. 34(11).
    """
    weights = torch.exp(-attenuation * (y - y.min()))       # the smallest y has weight 1: never all of them zero
    return weights / weights.mean()


def snr_db(clean: torch.Tensor, noisy: torch.Tensor) -> float:
    """Signal-to-noise ratio 10 log10(|clean|^2 / |noisy - clean|^2) in dB, inf without noise."""
    error = (noisy - clean).double().norm().item()
    return 20 * math.log10(clean.double().norm().item() / error) if error else math.inf
