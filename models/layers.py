"""Building blocks of NCSN++ (Song et al. 2021, "Score-based generative modeling through SDEs", appendix H).

Attribute names (``Conv_0``, ``Dense_0``, ``NIN_0.W`` ...) and the order in which they are created are part of
the checkpoint format: exponential moving averages are stored as a list in that order.
"""
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from op.conv3x3 import conv3x3
from op.group_norm_silu import group_norm_silu
from op.upfirdn2d import upfirdn2d

SQRT_HALF = math.sqrt(0.5)
HALF = (torch.float16, torch.bfloat16)


def variance_scaling_(weight: torch.Tensor, fan_in: int, fan_out: int, scale: float = 1.0) -> torch.Tensor:
    """Fill ``weight`` uniformly with variance scale / mean(fan_in, fan_out) (a scale of 0 means almost zero)."""
    bound = math.sqrt(3.0 * max(scale, 1e-10) / ((fan_in + fan_out) / 2))
    with torch.no_grad():
        return weight.uniform_(-bound, bound)


def conv(channels_in: int, channels_out: int, size: int, init_scale: float = 1.0, **options: Any) -> nn.Conv2d:
    """A ``size`` x ``size`` convolution that keeps H and W, with variance-scaled weights and zero bias."""
    layer = nn.Conv2d(channels_in, channels_out, size, **{"padding": size // 2, **options})
    variance_scaling_(layer.weight, channels_in * size**2, channels_out * size**2, init_scale)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


def dense(features_in: int, features_out: int) -> nn.Linear:
    """A dense layer with variance-scaled weights and zero bias."""
    layer = nn.Linear(features_in, features_out)
    variance_scaling_(layer.weight, features_in, features_out)
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in groups of four channels, 32 groups at the most.

    Raises:
        ValueError: channels that do not divide into the groups.
    """
    groups = min(channels // 4, 32)
    if channels % groups:
        raise ValueError(f"model.nf, model.ch_mult: {channels} channels do not divide into {groups} groups; "
                         "accepted: values whose sums and products do (powers of two always)")
    return nn.GroupNorm(groups, channels, eps=1e-6)


def in_float32(x: torch.Tensor) -> torch.autocast:
    """A context in which layers on x's device compute in float32, whatever the precision around it."""
    return torch.autocast(x.device.type, enabled=False)


def norm_silu(norm: nn.GroupNorm, x: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
    """``silu(norm(x + shift))`` of x [B, C, H, W] and shift [B, C]."""
    return group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps, shift)


def same_size(convolution: nn.Conv2d, x: torch.Tensor, residual: torch.Tensor | None = None,
              scale: float = 1.0) -> torch.Tensor:
    """``scale (convolution(x) + residual)``, of a 3 x 3 convolution that keeps H and W."""
    return conv3x3(x, convolution.weight, convolution.get_parameter("bias"), residual, scale)


class FIR(nn.Module):
    """Low-pass filtering with a small separable kernel, alone or with resampling by two.

    ``resample`` is "down" (halve H and W), "up" (double them) or "conv" (only filter and pad by one sample a
    side, so that an unpadded 3x3 convolution of stride 2 halves). Paddings are those of StyleGAN2's resampling
    (Karras et al. 2020), for a kernel of four taps.
    """

    kernel: torch.Tensor
    SETTINGS: ClassVar = {  # resample -> up, down, (pad before, pad after), gain
        "down": (1, 2, (1, 1), 1.0),
        "up": (2, 1, (2, 1), 4.0),
        "conv": (1, 1, (2, 2), 1.0),
    }

    def __init__(self, taps: Sequence[float], resample: str):
        super().__init__()
        self.up, self.down, self.pad, gain = self.SETTINGS[resample]
        kernel = torch.outer(torch.tensor(taps, dtype=torch.float32), torch.tensor(taps, dtype=torch.float32))
        self.register_buffer("kernel", kernel * (gain / kernel.sum()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upfirdn2d(x, self.kernel, up=self.up, down=self.down, pad=self.pad)


def resampling(taps: Sequence[float] | None, direction: str) -> nn.Module:
    """What halves ("down") or doubles ("up") H and W: `FIR`, or without taps means of 2 x 2 pixels and repetition."""
    if taps:
        return FIR(taps, direction)
    return nn.AvgPool2d(2) if direction == "down" else nn.Upsample(scale_factor=2)


def positions(time: torch.Tensor, size: int) -> torch.Tensor:
    """Sines and cosines of a time [B] at size / 2 frequencies from 1 to 1 / 10000 (Ho et al. 2020): [B, size]."""
    rates = torch.exp(-math.log(10000) * torch.arange(size // 2, device=time.device) / (size // 2 - 1))
    phase = time[:, None] * rates.to(time.dtype)
    return torch.cat([phase.sin(), phase.cos()], dim=1)


class GaussianFourierProjection(nn.Module):
    """Fixed random Fourier features of log(sigma): [B] -> [B, 2 * size]."""

    def __init__(self, size: int, scale: float):
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=False)

    def forward(self, log_sigma: torch.Tensor) -> torch.Tensor:
        phase = log_sigma[:, None] * self.W[None, :] * (2 * math.pi)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class NIN(nn.Module):
    """A dense layer over channels ("network in network"): [B, in, N] -> [B, out, N]."""

    def __init__(self, channels_in: int, channels_out: int, init_scale: float):
        super().__init__()
        self.W = nn.Parameter(torch.empty(channels_in, channels_out))
        variance_scaling_(self.W, channels_in, channels_out, init_scale)
        self.b = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bcn,cd->bdn", x, self.W) + self.b[:, None]


class Attention(nn.Module):
    """Self-attention over all positions of a feature map (Ho et al. 2020), one head."""

    def __init__(self, channels: int, init_scale: float):
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0 = NIN(channels, channels, 0.1)
        self.NIN_1 = NIN(channels, channels, 0.1)
        self.NIN_2 = NIN(channels, channels, 0.1)
        self.NIN_3 = NIN(channels, channels, init_scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with in_float32(x):
            h = self.GroupNorm_0(x.float() if x.dtype in HALF else x).flatten(2)
        # Contiguous: the layout decides the rounding, and that of one image alone is another.
        query, key, value = (nin(h).transpose(1, 2).contiguous() for nin in (self.NIN_0, self.NIN_1, self.NIN_2))
        h = F.scaled_dot_product_attention(query, key, value)     # scores scaled by C^-1/2
        h = self.NIN_3(h.transpose(1, 2)).view_as(x)
        return (x + h) * SQRT_HALF


class ResidualBlock(nn.Module):
    """BigGAN residual block with noise-level conditioning; ``resample`` is None, "up" or "down"."""

    def __init__(self, channels_in: int, channels_out: int, temb: int, taps: Sequence[float] | None,
                 resample: str | None = None, dropout: float = 0.0, init_scale: float = 0.0):
        super().__init__()
        self.resample = resampling(taps, resample) if resample else None
        self.GroupNorm_0 = group_norm(channels_in)
        self.Conv_0 = conv(channels_in, channels_out, 3)
        self.Dense_0 = dense(temb, channels_out)
        self.GroupNorm_1 = group_norm(channels_out)
        self.Dropout_0 = nn.Dropout(dropout)
        self.Conv_1 = conv(channels_out, channels_out, 3, init_scale)
        if channels_in != channels_out or resample:
            self.Conv_2 = conv(channels_in, channels_out, 1)

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        h = norm_silu(self.GroupNorm_0, x)
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = same_size(self.Conv_0, h)
        h = self.Dropout_0(norm_silu(self.GroupNorm_1, h, self.Dense_0(F.silu(temb)).expand(len(h), -1)))
        if hasattr(self, "Conv_2"):
            x = self.Conv_2(x)
        return same_size(self.Conv_1, h, residual=x, scale=SQRT_HALF)


class PyramidDownsample(nn.Module):
    """FIR low-pass, then a strided 3x3 convolution: halves H and W of the residual input pyramid."""

    def __init__(self, channels_in: int, channels_out: int, taps: Sequence[float]):
        super().__init__()
        self.fir = FIR(taps, "conv")
        self.Conv2d_0 = conv(channels_in, channels_out, 3, stride=2, padding=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.Conv2d_0(self.fir(x))


class PyramidSum(nn.Module):
    """Add a 1x1 convolution of the input pyramid to the features."""

    def __init__(self, pyramid_channels: int, channels: int):
        super().__init__()
        self.Conv_0 = conv(pyramid_channels, channels, 1)

    def forward(self, pyramid: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return self.Conv_0(pyramid) + h
