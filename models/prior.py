"""A diffusion prior ready for use: the score of slices, and the noise levels that it knows."""
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import load_weights
from models.slice_score import SliceScore
from models.window import CT_WINDOW

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prior:
    """``prior(x, sigma)`` is the score of slices x [n, 1, H, W] with intensities in [0, 1].

    Attributes:
        score: the network over batches of slices.
        sigma_min, sigma_max: the noise levels that it was trained on.
    """

    score: SliceScore
    sigma_min: float
    sigma_max: float

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.score(x, sigma)

    def vjp(self, x: torch.Tensor, sigma: float, v: torch.Tensor) -> torch.Tensor:
        """The transposed derivative of the score at x, applied to v, all [n, 1, H, W]."""
        return self.score.vjp(x, sigma, v)


def load_prior(network: torch.nn.Module, path: Path, config: Any, modality: str, device: torch.device, *,
               batch_size: int = 8, image_size: int | None = None, progress: Callable = iter,
               precision: str = "float32") -> Prior:
    """The prior in a checkpoint file.

    Args:
        network: made from the config, such as ``models.ncsnpp.NCSNpp(config)``; it gets the weights.
        path: the weights, see `models.checkpoint.load_weights`.
        config: of the published layout.
        modality: "ct" or "mr", what it is to be used for.
        device: where the network computes.
        batch_size: slices a network call.
        image_size: width of the slices; None: any is fine.
        progress: wraps the batches, for a progress bar.
        precision: of the network's layers, a key of `models.precision.PRECISIONS`.

    Raises:
        ValueError: a file or a config that is not as described, or a prior for something else.
    """
    check_prior(load_weights(network, path), path, modality, config, image_size)
    return Prior(SliceScore(network, batch_size, device, progress, precision), config.model.sigma_min,
                 config.model.sigma_max)


def check_levels(config: Any, sigma_min: float, sigma_max: float | None) -> float:
    """The first noise level: ``sigma_max``, or where that is None the config's.

    Raises:
        ValueError: levels that the prior of this config was not trained on.
    """
    low, high = config.model.sigma_min, config.model.sigma_max
    first = high if sigma_max is None else sigma_max
    if not low <= sigma_min < first <= high:
        raise ValueError(f"sigma_min {sigma_min:g}, sigma_max {first:g}: this prior knows {low:g} to {high:g} "
                         "(model.sigma_min and model.sigma_max of its config)")
    return first


def check_prior(content: dict, path: Path, modality: str, config: Any, image_size: int | None = None) -> None:
    """Compare what a checkpoint says of its prior, if it does, with what it is to be used for.

    Args:
        content: what `load_weights` returned; its "prior" is written by train.py.
        path: of the checkpoint, for messages.
        modality: "ct" or "mr".
        config: what its network was built from.
        image_size: width of the slices; another one than the prior's is only said, as it works less well.

    Raises:
        ValueError: another modality, window of CT, or anything else that shapes the score.
    """
    prior = content.get("prior")
    if not isinstance(prior, dict):
        return
    if prior.get("modality") != modality:
        raise ValueError(f"{path}: a prior of {str(prior.get('modality')).upper()} slices; accepted: "
                         f"{modality.upper()}")
    if modality == "ct" and list(prior.get("window", ())) != list(CT_WINDOW):
        raise ValueError(f"{path}: a prior of CT in the window {prior.get('window')} HU; accepted: {list(CT_WINDOW)}")
    for key, own in score_settings(config).items():
        if key in prior and prior[key] != own:
            section = {"preconditioning": "training", "centered": "data", "image_size": "data"}.get(key, "model")
            raise ValueError(f"{path}: a prior with {section}.{key}: {prior[key]}; its config says {own}")
    if image_size is not None and prior.get("image_size") != image_size:
        log.warning("%s: a prior of images of %s pixels on slices of %d: sizes that agree work better", path,
                    prior.get("image_size"), image_size)


def score_settings(config: Any) -> dict:
    """What shapes the score beside the weights: train.py writes it into a checkpoint, `check_prior` compares it."""
    model = config.model
    return {"preconditioning": config.training.preconditioning, "centered": config.data.centered,
            "sigma_min": model.sigma_min, "sigma_max": model.sigma_max, "scale_by_sigma": model.scale_by_sigma,
            "fir_kernel": list(model.fir_kernel), "fourier_scale": model.fourier_scale,
            "progressive": model.progressive, "progressive_input": model.progressive_input,
            "attn_resolutions": list(model.attn_resolutions), "image_size": config.data.image_size}
