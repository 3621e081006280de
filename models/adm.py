"""The U-Net of guided diffusion (Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis", "ADM").

Names and shapes of its parameters are those of published checkpoints, so that they load.
"""
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# The flags that the published programs make the network of, and their defaults there.
DEFAULTS: dict[str, Any] = {
    "image_size": 64, "in_channels": 3, "num_channels": 128, "num_res_blocks": 2, "channel_mult": "",
    "attention_resolutions": "16,8", "num_heads": 4, "num_head_channels": -1, "num_heads_upsample": -1,
    "use_scale_shift_norm": True, "resblock_updown": False, "use_new_attention_order": False, "dropout": 0.0,
    "learn_sigma": False, "class_cond": False,
}
WITHOUT_EFFECT = ("type", "out_channels", "use_fp16", "use_checkpoint", "var_type")     # here, on the clean estimate
MULTIPLIERS = {512: (0.5, 1, 1, 2, 2, 4, 4), 320: (1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4),
               64: (1, 2, 3, 4)}
GROUPS = 32


class UNet(nn.Module):
    """What a noisy image and a time become: the noise, and with ``learn_sigma`` its variance in more channels.

    Shapes: x [B, C, H, W], H and W divisible by ``multiple``; time [B], fractions too; returns [B, C or 2 C, H, W].

    Args:
        architecture: flags by the names of `DEFAULTS`; lists may be texts with commas.

    Raises:
        ValueError: a flag that is not known or a value that is not built, by its name.
    """

    def __init__(self, architecture: dict[str, Any]):
        super().__init__()
        flags = _flags(architecture)
        width, blocks, multipliers = flags["num_channels"], flags["num_res_blocks"], flags["channel_mult"]
        factors = [flags["image_size"] // size for size in flags["attention_resolutions"]]
        self.multiple, self.channels, self.width = 2 ** (len(multipliers) - 1), flags["in_channels"], width

        def block(channels: int, out: int, resample: str | None = None) -> ResidualBlock:
            return ResidualBlock(channels, out, 4 * width, flags["dropout"], flags["use_scale_shift_norm"], resample)

        def attention(channels: int, heads: int) -> Attention:
            if flags["num_head_channels"] > 0:
                heads = channels // flags["num_head_channels"]
            return Attention(channels, heads, flags["use_new_attention_order"])

        def resampling(channels: int, direction: str) -> nn.Module:
            if flags["resblock_updown"]:
                return block(channels, channels, direction)
            return Downsample(channels) if direction == "down" else Upsample(channels)

        self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        channels = first = int(multipliers[0] * width)
        self.input_blocks = nn.ModuleList([Steps(nn.Conv2d(self.channels, channels, 3, padding=1))])
        skips = [channels]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                layers: list[nn.Module] = [block(channels, int(multiplier * width))]
                channels = int(multiplier * width)
                if 2**level in factors:
                    layers.append(attention(channels, flags["num_heads"]))
                self.input_blocks.append(Steps(*layers))
                skips.append(channels)
            if level < len(multipliers) - 1:
                self.input_blocks.append(Steps(resampling(channels, "down")))
                skips.append(channels)
        self.middle_block = Steps(block(channels, channels), attention(channels, flags["num_heads"]),
                                  block(channels, channels))
        self.output_blocks = nn.ModuleList()
        heads = flags["num_heads_upsample"] if flags["num_heads_upsample"] > 0 else flags["num_heads"]
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for i in range(blocks + 1):
                layers = [block(channels + skips.pop(), int(multiplier * width))]
                channels = int(multiplier * width)
                if 2**level in factors:
                    layers.append(attention(channels, heads))
                if level and i == blocks:
                    layers.append(resampling(channels, "up"))
                self.output_blocks.append(Steps(*layers))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(
            first, self.channels * (2 if flags["learn_sigma"] else 1), 3, padding=1))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        embedding = self.time_embed(time_features(time, self.width))
        skips, h = [], x
        for step in self.input_blocks:
            h = step(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for step in self.output_blocks:
            h = step(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)


class Steps(nn.Sequential):
    """Layers after each other, of which residual blocks see the time too."""

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:    # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip, between which the time comes in; ``resample`` is "up", "down" or None."""

    def __init__(self, channels: int, out: int, embedding: int, dropout: float, scale_shift: bool,
                 resample: str | None = None):
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = {"up": nn.Upsample(scale_factor=2), "down": nn.AvgPool2d(2)}[resample] if resample else None
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out, 3,
                                                                                             padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, (2 if scale_shift else 1) * out))
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, out), nn.SiLU(), nn.Dropout(dropout),
                                        nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.in_layers[:2](x)
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h)
        time = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + time)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    """Self-attention over all positions; in the ``new_order`` queries, keys and values come one after the other."""

    def __init__(self, channels: int, heads: int, new_order: bool):
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"num_heads, num_head_channels: {channels} channels do not divide into {heads} heads")
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(2)
        split = (3, self.heads) if self.new_order else (self.heads, 3)
        qkv = self.qkv(self.norm(flat)).unflatten(1, (*split, -1))
        query, key, value = (part.transpose(-1, -2) for part in qkv.unbind(1 if self.new_order else 2))
        h = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2).flatten(1, 2)
        return (flat + self.proj_out(h)).view_as(x)


class Downsample(nn.Module):
    """Halves H and W by a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Doubles H and W, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2))


def time_features(time: torch.Tensor, width: int) -> torch.Tensor:
    """Cosines and sines of a time [B] at ``width`` / 2 frequencies from 1 down to 1 / 10000: [B, width]."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2, device=time.device) / (width // 2))
    phase = time[:, None].to(frequencies) * frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def _flags(given: dict[str, Any]) -> dict[str, Any]:
    """All flags, their lists as numbers; ValueError for what is not built."""
    for name, value in given.items():
        if name not in DEFAULTS and name not in WITHOUT_EFFECT and (name, value) != ("resamp_with_conv", True):
            raise ValueError(f"{name}: {value!r} is not supported; accepted: {', '.join(DEFAULTS)}")
    flags = DEFAULTS | {name: value for name, value in given.items() if name in DEFAULTS}
    if flags["class_cond"]:
        raise ValueError("class_cond: True is not supported; accepted: False, a network without classes")
    for name in ("attention_resolutions", "channel_mult"):
        flags[name] = _numbers(name, flags[name])
    flags["channel_mult"] = flags["channel_mult"] or MULTIPLIERS.get(flags["image_size"])
    if not flags["channel_mult"]:
        raise ValueError(f"channel_mult: none, and image_size {flags['image_size']} is not one of "
                         f"{', '.join(map(str, MULTIPLIERS))} that have a default")
    for name in ("image_size", "in_channels", "num_channels", "num_res_blocks"):
        if not isinstance(flags[name], int) or flags[name] < 1:
            raise ValueError(f"{name}: {flags[name]!r}; accepted: a whole number above 0")
    if any(int(multiplier * flags["num_channels"]) % GROUPS or multiplier <= 0 for multiplier in flags["channel_mult"]):
        raise ValueError(f"num_channels {flags['num_channels']}, channel_mult {list(flags['channel_mult'])}: accepted: "
                         f"products that {GROUPS} divides")
    return flags


def _numbers(name: str, value: Any) -> Sequence[float]:
    try:
        parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        numbers = [float(part) for part in (parts if isinstance(parts, (list, tuple)) else [parts])]
        return [int(number) if number == int(number) else number for number in numbers]
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {value!r}; accepted: numbers with commas between") from None
