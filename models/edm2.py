"""The U-Net of EDM2 (Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models").

Its layers keep the mean square of what passes through them; equations are those of the paper's appendix. Names and
shapes of the parameters are those of the published snapshots, so that they load; the preconditioning around the network
is `models.prior.denoiser`'s.
"""
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from models.edm import check_unconditional

# The keywords that the published class is made with, and their defaults there.
DEFAULTS: dict[str, Any] = {
    "img_resolution": 64, "img_channels": 3, "model_channels": 192, "channel_mult": (1, 2, 3, 4),
    "channel_mult_noise": None, "channel_mult_emb": None, "num_blocks": 3, "attn_resolutions": (16, 8),
    "concat_balance": 0.5, "channels_per_head": 64, "res_balance": 0.3, "attn_balance": 0.3, "clip_act": 256,
}
WITHOUT_EFFECT = ("use_fp16", "sigma_data", "label_dim", "label_balance", "logvar_channels", "dropout")
SILU = 0.596    # root mean square of silu(x), x standard normal


class UNet(nn.Module):
    """What a noisy image and a time become: F of EDM's preconditioning.

    Shapes: x [B, C, H, W], H and W divisible by ``multiple``; time [B] or [1]; returns [B, C, H, W].

    Args:
        architecture: keywords by the names of `DEFAULTS`.

    Raises:
        ValueError: a keyword that is not known or a value that is not built, by its name.
    """

    def __init__(self, architecture: dict[str, Any]):
        super().__init__()
        keywords = _keywords(architecture)
        width, multipliers, blocks = (keywords[name] for name in ("model_channels", "channel_mult", "num_blocks"))
        widths = [width * multiplier for multiplier in multipliers]
        noise, embedding = (width * keywords[name] if keywords[name] else default for name, default in (
            ("channel_mult_noise", widths[0]), ("channel_mult_emb", max(widths))))
        sizes = [keywords["img_resolution"] >> level for level in range(len(widths))]
        self.multiple, self.channels = 2 ** (len(widths) - 1), keywords["img_channels"]
        self.balance = keywords["concat_balance"]

        def block(channels: int, out: int, attention: bool = False, **how: Any) -> Block:
            return Block(channels, out, embedding, keywords["channels_per_head"] if attention else 0,
                         (keywords["res_balance"], keywords["attn_balance"]), keywords["clip_act"], **how)

        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = Fourier(noise)
        self.emb_noise = Layer(noise, embedding)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        channels, skips = widths[0], [widths[0]]
        for size, out in zip(sizes, widths):
            name = f"{size}x{size}"
            if size == sizes[0]:
                self.enc[f"{name}_conv"] = Layer(self.channels + 1, channels, 3, 3)
            else:
                self.enc[f"{name}_down"] = block(channels, channels, resample="down")
                skips.append(channels)
            for k in range(blocks):
                self.enc[f"{name}_block{k}"] = block(channels, out, size in keywords["attn_resolutions"])
                channels = out
                skips.append(channels)
        for size, out in reversed(list(zip(sizes, widths))):
            name = f"{size}x{size}"
            if size == sizes[-1]:
                self.dec[f"{name}_in0"] = block(channels, channels, True, decoder=True)
                self.dec[f"{name}_in1"] = block(channels, channels, decoder=True)
            else:
                self.dec[f"{name}_up"] = block(channels, channels, decoder=True, resample="up")
            for k in range(blocks + 1):
                self.dec[f"{name}_block{k}"] = block(channels + skips.pop(), out, size in keywords["attn_resolutions"],
                                                     decoder=True)
                channels = out
        self.out_conv = Layer(channels, self.channels, 3, 3)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        embedding = silu(self.emb_noise(self.emb_fourier(time)))
        h, skips = torch.cat([x, torch.ones_like(x[:, :1])], dim=1), []     # ones in place of biases
        for layer in self.enc.values():
            h = layer(h, embedding) if isinstance(layer, Block) else layer(h)
            skips.append(h)
        for name, layer in self.dec.items():
            h = layer(joined(h, skips.pop(), self.balance) if "block" in name else h, embedding)
        return self.out_conv(h, self.out_gain)


class Block(nn.Module):
    """A residual block that the time scales, of the encoder or the decoder; with ``per_head`` channels, attention.

    Args:
        channels, out, embedding: of the input, the output and the time.
        per_head: channels of a head, the least; 0, or more than there are: no attention.
        balances: of the residual branch and of attention with what they are added to.
        clip: the largest magnitude of an output; None: any.
        decoder: which block of the two.
        resample: "up", "down" or None.
    """

    def __init__(self, channels: int, out: int, embedding: int, per_head: int, balances: tuple[float, float],
                 clip: float | None, decoder: bool = False, resample: str | None = None):
        super().__init__()
        self.heads, self.balances, self.clip = out // per_head if per_head else 0, balances, clip
        if self.heads and out % self.heads:
            raise ValueError(f"architecture: channels_per_head: {per_head}; accepted: what divides {out} channels into "
                             "equal heads")
        self.decoder, self.resample = decoder, resample
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = Layer(channels if decoder else out, out, 3, 3)
        self.emb_linear = Layer(embedding, out)
        self.conv_res1 = Layer(out, out, 3, 3)
        self.conv_skip = Layer(channels, out, 1, 1) if channels != out else None
        self.attn_qkv = Layer(out, 3 * out, 1, 1) if self.heads else None
        self.attn_proj = Layer(out, out, 1, 1) if self.heads else None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        if self.resample:
            x = F.avg_pool2d(x, 2) if self.resample == "down" else F.interpolate(x, scale_factor=2)
        if not self.decoder:
            x = unit(self._skip(x), 1)
        scale = 1 + self.emb_linear(embedding, self.emb_gain)[:, :, None, None]
        branch = self.conv_res1(silu(self.conv_res0(silu(x)) * scale))
        x = summed(self._skip(x) if self.decoder else x, branch, self.balances[0])
        if self.attn_qkv is not None and self.attn_proj is not None:
            parts = self.attn_qkv(x).flatten(2).unflatten(1, (self.heads, -1, 3))
            query, key, value = (part.transpose(-1, -2) for part in unit(parts, 2).unbind(3))
            found = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2).flatten(1, 2).view_as(x)
            x = summed(x, self.attn_proj(found), self.balances[1])
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def _skip(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.conv_skip is None else self.conv_skip(x)


class Layer(nn.Module):
    """A convolution, or without a kernel a linear layer, whose weights have unit mean square (equations 47 and 66)."""

    def __init__(self, channels: int, out: int, *kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels, *kernel))

    def forward(self, x: torch.Tensor, gain: float | torch.Tensor = 1.0) -> torch.Tensor:
        fan_in = self.weight[0].numel()
        weight = unit(self.weight, tuple(range(1, self.weight.ndim))) * (gain / math.sqrt(fan_in))
        return F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class Fourier(nn.Module):
    """Cosines of a time [B] at random frequencies and phases: [B, channels] (equation 75)."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, time: torch.Tensor) -> torch.Tensor:
        return math.sqrt(2) * torch.cos(time.float()[:, None] * self.get_buffer("freqs") + self.get_buffer("phases"))


def unit(x: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
    """The tensor over its root mean square along ``dim``, of which 0.0001 is the least."""
    return x / (x.float().square().mean(dim, keepdim=True).sqrt() + 1e-4).to(x.dtype)


def silu(x: torch.Tensor) -> torch.Tensor:
    """SiLU that keeps the mean square (equation 81)."""
    return F.silu(x) / SILU


def summed(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """(1 - t) a + t b, scaled so that the mean square stays (equation 88)."""
    return torch.lerp(a, b, t) / math.hypot(1 - t, t)


def joined(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Channels of (1 - t) a beside those of t b, scaled so that the mean square stays (equation 103)."""
    channels = a.shape[1], b.shape[1]
    scale = math.sqrt(sum(channels)) / math.hypot(1 - t, t)
    return torch.cat([x * (scale * share / math.sqrt(count)) for x, share, count in zip((a, b), (1 - t, t), channels)],
                     dim=1)


def _keywords(given: dict[str, Any]) -> dict[str, Any]:
    """All keywords; ValueError for what is not built."""
    check_unconditional(given)
    for name, value in given.items():
        if name not in DEFAULTS and name not in WITHOUT_EFFECT and (name, value) != ("resample_filter", [1, 1]):
            raise ValueError(f"architecture: {name}: {value!r} is not supported; accepted: {', '.join(DEFAULTS)}")
    keywords = DEFAULTS | {name: value for name, value in given.items() if name in DEFAULTS}
    for name in ("img_resolution", "img_channels", "model_channels", "num_blocks", "channels_per_head"):
        if not isinstance(keywords[name], int) or keywords[name] < 1:
            raise ValueError(f"architecture: {name}: {keywords[name]!r}; accepted: a whole number above 0")
    for name in ("channel_mult", "attn_resolutions"):
        numbers = keywords[name]
        if not isinstance(numbers, (list, tuple)) or not all(isinstance(n, int) and n > 0 for n in numbers):
            raise ValueError(f"architecture: {name}: {numbers!r}; accepted: a list of whole numbers above 0")
    if not keywords["channel_mult"] or keywords["img_resolution"] % 2 ** (len(keywords["channel_mult"]) - 1):
        raise ValueError(f"architecture: channel_mult: {list(keywords['channel_mult'])}; accepted: one number or more, "
                         f"that halve img_resolution {keywords['img_resolution']} into whole numbers")
    return keywords
