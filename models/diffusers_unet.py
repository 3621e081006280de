"""Priors of Hugging Face's diffusers: the U-Net of a DDPM pipeline."""
from typing import Any

from models.wrapped import Wrapped, build


def unet(architecture: dict[str, Any]) -> Wrapped:
    """A ``UNet2DModel``.

    Args:
        architecture: the keywords in its config.json; those with a leading underscore are notes.

    Raises:
        ValueError: diffusers is not installed, keywords that it does not know, a network with classes.
    """
    keywords = {name: value for name, value in architecture.items() if not name.startswith("_")}
    if keywords.get("class_embed_type") or keywords.get("num_class_embeds"):
        raise ValueError("architecture: a network with classes; accepted: one without")
    module = build("diffusers", "UNet2DModel", keywords)
    return Wrapped(module, lambda module, m, time: module(m, time).sample,
                   2 ** (len(module.config.block_out_channels) - 1), module.config.in_channels)
