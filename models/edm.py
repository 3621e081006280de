"""The networks of EDM (Karras et al. 2022), SongUNet and DhariwalUNet, as deepinv builds them.

deepinv has them with the published names of parameters; the preconditioning around them is `models.prior.denoiser`'s.
"""
from typing import Any

from torch import nn

from models.wrapped import Wrapped, build

CLASSES = {"SongUNet": "NCSNpp", "DhariwalUNet": "ADMUNet"}
WITHOUT_EFFECT = ("model_type", "use_fp16", "sigma_min", "sigma_max", "sigma_data")


def unet(architecture: dict[str, Any]) -> Wrapped:
    """The layers F within an ``EDMPrecond``.

    Args:
        architecture: ``model_type``, SongUNet or DhariwalUNet, and the keywords of the published class.

    Raises:
        ValueError: deepinv is not installed, another class, keywords that do not go with it, classes of images.
    """
    kind = architecture.get("model_type", "DhariwalUNet")
    if kind not in CLASSES:
        raise ValueError(f"architecture: model_type: {kind!r}; accepted: {', '.join(CLASSES)}")
    check_unconditional(architecture)
    keywords = {name: value for name, value in architecture.items() if name not in WITHOUT_EFFECT}
    channels = keywords.pop("img_channels", None) or keywords.pop("in_channels", 3)
    keywords |= {"in_channels": channels, "out_channels": channels, "pretrained": None}
    module = build("deepinv.models", CLASSES[kind], {"augment_dim": 0} | keywords)
    for layer in module.modules():      # 4 channels a group, where deepinv has 32 groups whatever the width
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = min(32, layer.num_channels // 4)
    levels = len(keywords.get("channel_mult", (1, 2, 2, 2)))
    return Wrapped(module, lambda module, m, time: module.forward_unet(m, time), 2 ** (levels - 1), channels)


def check_unconditional(architecture: dict[str, Any]) -> None:
    """ValueError for a network of classes, or of another preconditioning than `models.prior.denoiser` has."""
    if architecture.get("label_dim"):
        raise ValueError("architecture: label_dim: a network with classes; accepted: 0")
    if architecture.get("sigma_data", 0.5) != 0.5:
        raise ValueError(f"architecture: sigma_data: {architecture['sigma_data']!r}; accepted: 0.5")
