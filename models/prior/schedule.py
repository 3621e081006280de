"""Noise schedules: which time a model is told for a noise level, and which levels it knows.

Levels are those of images in the model's own intensities, in the variance-exploding form x + sigma eps. A
variance-preserving model sees that divided by sqrt(1 + sigma^2), so its abar is 1 / (1 + sigma^2).
"""
import math
from typing import Any, Protocol

import torch


class Schedule(Protocol):
    """``time(sigma)`` [B] of levels [B], from ``sigma_min`` to ``sigma_max``."""

    sigma_min: float
    sigma_max: float

    def time(self, sigma: torch.Tensor) -> torch.Tensor: ...


class Sigmas:
    """Models that are told the level itself, from ``sigma_min`` to ``sigma_max``."""

    def __init__(self, sigma_min: float, sigma_max: float):
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"sigma_min {sigma_min}, sigma_max {sigma_max}; accepted: 0 < sigma_min < sigma_max")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def time(self, sigma: torch.Tensor) -> torch.Tensor:
        return sigma


class VP:
    """The variance-preserving SDE of Song et al. 2021: -ln abar = t beta_min + t^2 (beta_max - beta_min) / 2.

    Models are told 999 t, for t from 0.001 to 1.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        if not 0 < beta_min < beta_max < math.inf:
            raise ValueError(f"beta_min {beta_min}, beta_max {beta_max}; accepted: 0 < beta_min < beta_max")
        self.low, self.rise = beta_min, beta_max - beta_min
        self.sigma_min, self.sigma_max = (math.sqrt(math.expm1(t * self.low + t * t * self.rise / 2))
                                          for t in (1e-3, 1.0))

    def time(self, sigma: torch.Tensor) -> torch.Tensor:
        depth = torch.log1p(sigma.double()**2)
        root = torch.sqrt(self.low**2 + 2 * self.rise * depth)
        return (999 * 2 * depth / (self.low + root)).to(sigma.dtype)    # of the two forms of the root, the stable one


class Betas:
    """Models that are told a step t of T, of which each has a beta: abar_t is the product of 1 - beta up to t.

    Between steps, t is interpolated over the logarithm of the level sqrt((1 - abar) / abar).
    """

    def __init__(self, betas: torch.Tensor):
        betas = betas.double()
        if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas <= 1)).all():
            raise ValueError("betas; accepted: two or more numbers above 0, at most 1")
        abar = (1 - betas).cumprod(0)
        abar = abar[abar > 1e-12]       # a last step of noise alone has no finite level
        self.levels = ((1 - abar) / abar).sqrt().log()
        self.sigma_min, self.sigma_max = self.levels[0].exp().item(), self.levels[-1].exp().item()

    def time(self, sigma: torch.Tensor) -> torch.Tensor:
        levels = self.levels.to(sigma.device)
        wanted = sigma.double().log()
        above = torch.searchsorted(levels, wanted).clamp(1, len(levels) - 1)
        share = (wanted - levels[above - 1]) / (levels[above] - levels[above - 1])
        return (above - 1 + share.clamp(0, 1)).to(sigma.dtype)


def named_betas(kind: str, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02,
                zero_terminal_snr: bool = False) -> torch.Tensor:
    """The betas [steps] of the schedules that other programs name, in float64.

    "linear" (Ho et al. 2020), "scaled_linear" (of the square roots: Rombach et al. 2022), "sigmoid" (from -6 to 6),
    "cosine" (Nichol & Dhariwal 2021, equation 17, with betas up to 0.999).

    Args:
        kind: one of these.
        steps: how many.
        beta_start: the first, of the first three.
        beta_end: the last of these.
        zero_terminal_snr: rescaled so that the last step is noise alone (Lin et al. 2024, algorithm 1).

    Raises:
        ValueError: another kind.
    """
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    if kind == "linear":
        betas = beta_start + ramp * (beta_end - beta_start)
    elif kind == "scaled_linear":
        betas = (beta_start**0.5 + ramp * (beta_end**0.5 - beta_start**0.5))**2
    elif kind == "sigmoid":
        betas = torch.sigmoid(12 * ramp - 6) * (beta_end - beta_start) + beta_start
    elif kind == "cosine":
        abar = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * math.pi / 2)**2
        betas = (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
    else:
        raise ValueError(f"kind {kind!r}; accepted: linear, scaled_linear, sigmoid, cosine")
    if zero_terminal_snr:
        root = (1 - betas).cumprod(0).sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        abar = root**2
        betas = 1 - torch.cat([abar[:1], abar[1:] / abar[:-1]])
    return betas


def make_schedule(kind: str, **values: Any) -> Schedule:
    """The schedule of this kind: "sigmas", "vp", "betas" (a list), or a kind of `named_betas`.

    Raises:
        ValueError: values that are out of range or not those of the kind.
    """
    try:
        if kind in ("sigmas", "vp"):
            return {"sigmas": Sigmas, "vp": VP}[kind](**values)
        return Betas(torch.tensor(values["betas"]) if kind == "betas" else named_betas(kind, **values))
    except (TypeError, KeyError):
        raise ValueError(f"schedule {kind}: {', '.join(values) or 'no values'} do not go with it") from None
