"""NCSN++: the score network (Song et al. 2021), with the parameter names and order of published checkpoints."""
import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from models.layers import (
    SQRT_HALF,
    Attention,
    GaussianFourierProjection,
    PyramidDownsample,
    PyramidSum,
    ResidualBlock,
    conv,
    dense,
    group_norm,
    in_float32,
    norm_silu,
    positions,
    resampling,
)

# What is built, key by key; any other value is refused.
SUPPORTED = {
    "training.sde": ("vesde", "vpsde"),
    "training.continuous": (True,),
    "training.preconditioning": ("none", "edm"),
    "data.num_channels": (1,),
    "data.is_complex": (False,),
    "data.is_multi": (False,),
    "model.name": ("ncsnpp",),
    "model.normalization": ("GroupNorm",),
    "model.nonlinearity": ("swish",),
    "model.conditional": (True,),
    "model.fir": (True, False),
    "model.resamp_with_conv": (True,),
    "model.skip_rescale": (True,),
    "model.resblock_type": ("biggan",),
    "model.progressive": ("none", "output_skip"),
    "model.progressive_input": ("none", "input_skip", "residual"),
    "model.progressive_combine": ("sum",),
    "model.attention_type": ("ddpm",),
    "model.embedding_type": ("fourier", "positional"),
    "model.conv_size": (3,),
}


def check_config(config: Any) -> None:
    """See that NCSNpp builds what a config says.

    Raises:
        ValueError: it does not; names the first such key.
    """
    for key, accepted in SUPPORTED.items():
        section, name = key.split(".")
        value = config[section][name]
        if value not in accepted:
            raise ValueError(f"{key}: {value!r} is not supported; accepted: {', '.join(map(repr, accepted))}")
    model, size = config.model, config.data.image_size
    if len(model.fir_kernel) != 4 or not sum(model.fir_kernel):
        raise ValueError(f"model.fir_kernel: {list(model.fir_kernel)} is not supported; accepted: four taps with "
                         "a sum")
    if not 0 <= model.ema_rate < 1:
        raise ValueError(f"model.ema_rate: {model.ema_rate}; accepted: 0 <= ema_rate < 1")
    if model.nf < 4 or model.nf % 4 or not model.ch_mult or any(m < 1 for m in model.ch_mult):
        raise ValueError(f"model.nf, model.ch_mult: {model.nf}, {list(model.ch_mult)} are not supported; "
                         "accepted: a multiple of 4, and a list of positive whole numbers")
    if model.num_res_blocks < 1:
        raise ValueError(f"model.num_res_blocks: {model.num_res_blocks} is not supported; accepted: 1 or more")
    if size < 1 or size % 2 ** (len(model.ch_mult) - 1):
        raise ValueError(f"data.image_size: {size} cannot be halved {len(model.ch_mult) - 1} times; "
                         f"accepted: multiples of {2 ** (len(model.ch_mult) - 1)}")
    if config.training.preconditioning == "edm" and not model.scale_by_sigma:
        raise ValueError("model.scale_by_sigma: False is not supported with training.preconditioning: edm; "
                         "accepted: True")
    if config.training.preconditioning == "edm" and config.training.sde != "vesde":
        raise ValueError(f"training.sde: {config.training.sde!r} is not supported with training.preconditioning: edm; "
                         "accepted: 'vesde'")
    if not model.fir and (model.progressive, model.progressive_input) != ("none", "none"):
        raise ValueError("model.fir: False is not supported with a pyramid; accepted: True, or progressive and "
                         "progressive_input: none")
    if not 0 < model.sigma_min < model.sigma_max:
        raise ValueError(f"model.sigma_min, model.sigma_max: {model.sigma_min}, {model.sigma_max}; "
                         "accepted: 0 < sigma_min < sigma_max")


SIGMA_DATA = 0.5    # of images in [-1, 1] (Karras et al. 2022)


class NCSNpp(nn.Module):
    """Score of a variance-exploding diffusion, s(x, sigma) = grad log p_sigma(x).

    Of a variance-preserving one (``training.sde: vpsde``) the noise in x, and sigma is the time 999 t.

    The layers stand in ``all_modules`` in order of use; together with the buffer ``sigmas`` that is the checkpoint
    format.

    Shapes: x [B, 1, H, W] with H and W divisible by ``multiple`` (any such size, whatever
    ``data.image_size``), sigma [B]; returns [B, 1, H, W]. Intensities of x's clean image lie in [0, 1]
    (``data.centered: false``) or [-1, 1] (true).

    With ``training.preconditioning: edm`` the layers F see and give images of unit variance at every noise level
    (Karras et al. 2022, table 1): with x and sigma scaled to intensities in [-1, 1], whose standard deviation is
    taken as `SIGMA_DATA`, D(x) = c_skip x + c_out F(c_in x), and s = (D(x) - x) / sigma^2. The parameters are the
    same, not their values.

    Args:
        config: of the published layout, with sections ``training``, ``data`` and ``model``; see `SUPPORTED`.

    Raises:
        ValueError: a config value outside what is built, with its key.
    """

    def __init__(self, config: Any):
        super().__init__()
        check_config(config)
        model, image = config.model, config.data.num_channels
        self.centered = config.data.centered
        self.scale_by_sigma = model.scale_by_sigma
        self.edm = config.training.preconditioning == "edm"
        self.progressive = model.progressive
        self.progressive_input = model.progressive_input
        self.multiple = 2 ** (len(model.ch_mult) - 1)

        nf, taps = model.nf, list(model.fir_kernel) if model.fir else None
        self.positional = nf if model.embedding_type == "positional" else None
        levels = [nf * multiplier for multiplier in model.ch_mult]    # channels of each level
        has_attention = [config.data.image_size // 2**level in model.attn_resolutions
                         for level in range(len(levels))]

        def block(channels_in, channels_out, resample=None):
            return ResidualBlock(channels_in, channels_out, 4 * nf, taps, resample,
                                 dropout=model.dropout, init_scale=model.init_scale)

        sigmas = np.exp(np.linspace(math.log(model.sigma_max), math.log(model.sigma_min), model.num_scales))
        self.register_buffer("sigmas", torch.tensor(sigmas, dtype=torch.float32))
        self.pyramid_down = resampling(taps, "down")      # filters hold no parameters
        self.pyramid_up = resampling(taps, "up")

        modules: list[nn.Module] = [] if self.positional else [GaussianFourierProjection(nf, model.fourier_scale)]
        modules += [dense(nf if self.positional else 2 * nf, 4 * nf), dense(4 * nf, 4 * nf), conv(image, nf, 3)]
        channels, pyramid_channels = nf, image
        skips = [channels]
        self.down_plan, self.up_plan = [], []      # per level: has attention, is followed by resampling
        for level, out in enumerate(levels):
            last = level == len(levels) - 1
            self.down_plan.append((model.num_res_blocks, has_attention[level], not last))
            for _ in range(model.num_res_blocks):
                modules.append(block(channels, out))
                channels = out
                if has_attention[level]:
                    modules.append(Attention(channels, model.init_scale))
                skips.append(channels)
            if not last:
                modules.append(block(channels, channels, "down"))
                if self.progressive_input == "input_skip":
                    modules.append(PyramidSum(pyramid_channels, channels))
                elif self.progressive_input == "residual":
                    modules.append(PyramidDownsample(pyramid_channels, channels, list(model.fir_kernel)))
                    pyramid_channels = channels
                skips.append(channels)

        modules += [block(channels, channels), Attention(channels, model.init_scale), block(channels, channels)]

        for level, out in reversed(list(enumerate(levels))):
            self.up_plan.append((model.num_res_blocks + 1, has_attention[level], level > 0))
            for _ in range(model.num_res_blocks + 1):
                modules.append(block(channels + skips.pop(), out))
                channels = out
            if has_attention[level]:
                modules.append(Attention(channels, model.init_scale))
            if self.progressive == "output_skip":
                modules += [group_norm(channels), conv(channels, image, 3, model.init_scale)]
            if level > 0:
                modules.append(block(channels, channels, "up"))
        if self.progressive == "none":
            modules += [group_norm(channels), conv(channels, image, 3, model.init_scale)]
        self.all_modules = nn.ModuleList(modules)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] % self.multiple or x.shape[-2] % self.multiple:
            raise ValueError(f"image of {x.shape[-2]} x {x.shape[-1]}: both must be multiples of {self.multiple}")
        stretch = 1 if self.centered else 2     # from the image's intensities to [-1, 1]
        x = x if self.centered else 2 * x - 1
        levels = sigma[:, None, None, None]
        if self.edm:
            deviation = torch.sqrt((stretch * levels)**2 + SIGMA_DATA**2)
            x = x / deviation
            return (SIGMA_DATA / levels * self._layers(x, sigma) - stretch * x) / deviation
        output = self._layers(x, sigma)
        return output / levels if self.scale_by_sigma else output

    def loss_weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """Weight of |sigma s + eps|^2 in training at each of the levels [B], for targets of unit variance.

        1 for the plain network, whose target is -eps; with EDM preconditioning 1 + (sigma / SIGMA_DATA)^2, which makes
        it the error of the layers' own target (Karras et al. 2022, equation 8).
        """
        stretch = 1 if self.centered else 2
        return 1 + (stretch * sigma / SIGMA_DATA)**2 if self.edm else torch.ones_like(sigma)

    def _layers(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The image that the layers make of x."""
        layer = iter(self.all_modules)
        with in_float32(x):
            temb = positions(sigma, self.positional) if self.positional else next(layer)(torch.log(sigma))
            temb = next(layer)(temb)
            temb = next(layer)(F.silu(temb))

        pyramid, h = x, next(layer)(x)
        skips = [h]
        for blocks, has_attention, resamples in self.down_plan:
            for _ in range(blocks):
                h = next(layer)(h, temb)
                if has_attention:
                    h = next(layer)(h)
                skips.append(h)
            if resamples:
                h = next(layer)(h, temb)
                if self.progressive_input == "input_skip":
                    pyramid = self.pyramid_down(pyramid)
                    h = next(layer)(pyramid, h)
                elif self.progressive_input == "residual":
                    h = pyramid = (next(layer)(pyramid) + h) * SQRT_HALF
                skips.append(h)

        h = next(layer)(h, temb)
        h = next(layer)(h)
        h = next(layer)(h, temb)

        output = None
        for blocks, has_attention, resamples in self.up_plan:
            for _ in range(blocks):
                h = next(layer)(torch.cat([h, skips.pop()], dim=1), temb)
            if has_attention:
                h = next(layer)(h)
            if self.progressive == "output_skip":
                image = _to_image(layer, h)
                output = image if output is None else self.pyramid_up(output) + image
            if resamples:
                h = next(layer)(h, temb)
        return _to_image(layer, h) if output is None else output


def _to_image(layer: Iterator[nn.Module], h: torch.Tensor) -> torch.Tensor:
    """Features to an image through the next two layers: GroupNorm, swish, 3x3 convolution, never in half precision."""
    norm, convolution = cast(nn.GroupNorm, next(layer)), next(layer)
    with in_float32(h):
        return convolution(norm_silu(norm, h))
