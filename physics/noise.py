"""Measurement noise, and the statistical weights that fit it."""
import math

import torch

ATTENUATION = 0.01      # published: a line integral of 1 (voxels of intensity 1) attenuates by exp(-0.01)
SEEN = 1 << 24          # values of a measurement, at most about, that its noise is found from
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


def noise_variance(y: torch.Tensor) -> float:
    """The variance of the noise of line integrals y [1, views, v, u], in the mean over u, found from y itself.

    Projections are smooth: fourth differences along u, and of these, where there are three rows, second differences
    along v, leave hardly anything but noise, whose variance they make 70 and 6 times as large (after Immerkaer 1996,
    "Fast noise variance estimation", CVIU 64(2)). Median absolute values (Donoho & Johnstone 1994, "Ideal spatial
    adaptation by wavelet shrinkage", Biometrika 81(3)), in every column over views and rows, leave out edges and bad
    views. Noise that neighbouring pixels share is found too small.

    Raises:
        ValueError: fewer than five columns.
    """
    if y.shape[-1] < 5:
        raise ValueError(f"y has {y.shape[-1]} columns; the noise is found from five or more")
    y = y[:, ::math.ceil(y.numel() / SEEN)]
    differences = y[..., 4:] + y[..., :-4] - 4 * (y[..., 3:-1] + y[..., 1:-3]) + 6 * y[..., 2:-2]
    gain = 70
    if y.shape[-2] >= 3:
        differences = differences[..., 2:, :] - 2 * differences[..., 1:-1, :] + differences[..., :-2, :]
        gain *= 6
    deviation = differences.flatten(0, -2).abs().median(0).values / 0.6745
    return deviation.double().square().mean().item() / gain


def snr_db(clean: torch.Tensor, noisy: torch.Tensor) -> float:
    """Signal-to-noise ratio 10 log10(|clean|^2 / |noisy - clean|^2) in dB, inf without noise."""
    error = (noisy - clean).double().norm().item()
    return 20 * math.log10(clean.double().norm().item() / error) if error else math.inf
