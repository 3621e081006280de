"""Denoisers of deepinv, such as DRUNet: D(m, sigma), mostly for low levels alone."""
from typing import Any

from models.wrapped import Wrapped, build

MULTIPLE = 8    # which its denoisers take, whatever they pad themselves


def denoiser(architecture: dict[str, Any]) -> Wrapped:
    """A denoiser of deepinv.models.

    Args:
        architecture: ``name`` of the class, and its keywords; nothing is downloaded.

    Raises:
        ValueError: deepinv is not installed, a class that it does not have, keywords that do not go with it.
    """
    keywords = dict(architecture)
    name = keywords.pop("name", "DRUNet")
    if keywords.setdefault("pretrained", None) is not None:
        raise ValueError(f"architecture: pretrained: {keywords['pretrained']!r}; accepted: none, with the file of "
                         "weights beside the card")
    module = build("deepinv.models", str(name), keywords)
    return Wrapped(module, lambda module, m, time: module(m, time), MULTIPLE, keywords.get("in_channels", 3))
