"""Priors of MONAI: its DiffusionModelUNet for two dimensions."""
from typing import Any

from models.wrapped import Wrapped, build


def unet(architecture: dict[str, Any]) -> Wrapped:
    """A ``DiffusionModelUNet``.

    Args:
        architecture: its keywords; spatial_dims is 2 where it is left out.

    Raises:
        ValueError: MONAI is not installed, keywords that it does not know, a network with classes or conditions.
    """
    keywords = {"spatial_dims": 2} | architecture
    if keywords["spatial_dims"] != 2 or keywords.get("with_conditioning") or keywords.get("num_class_embeds"):
        raise ValueError("architecture: spatial_dims other than 2, classes or conditions; accepted: a network of 2D "
                         "images alone")
    module = build("monai.networks.nets", "DiffusionModelUNet", keywords)
    levels = len(keywords.get("channels", (32, 64, 64, 64)))
    return Wrapped(module, lambda module, m, time: module(m, timesteps=time), 2 ** (levels - 1), module.in_channels)
