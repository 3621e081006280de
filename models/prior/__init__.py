"""A diffusion prior ready for use: the score of slices, and the noise levels that it knows."""
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import load_weights
from models.prior.denoiser import Denoiser
from models.prior.schedule import make_schedule
from models.slice_score import SliceScore

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

    @property
    def network(self) -> Any:
        """With its weights, as `make_prior` takes it."""
        return self.score.network.network

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.score(x, sigma)

    def vjp(self, x: torch.Tensor, sigma: float, v: torch.Tensor) -> torch.Tensor:
        """The transposed derivative of the score at x, applied to v, all [n, 1, H, W]."""
        return self.score.vjp(x, sigma, v)


def load_prior(card: Any, network: torch.nn.Module, path: Path, device: torch.device | str, *,
               window: tuple[float, float] | None = None, batch_size: int = 8, **batches: Any) -> Prior:
    """The prior that a card describes.

    Args:
        card: what the prior is, see `utils.io.prior_file.Card`.
        network: made of the card's architecture; it gets the weights.
        path: the weights, see `models.checkpoint.load_weights`.
        device: where the network computes.
        window: the intensities that 0 and 1 of the volume stand for, where those of the card are numbers too.
        batch_size: slices a network call.
        batches: progress, precision, processes and backend, see `models.slice_score.SliceScore`.

    Raises:
        ValueError: a file or a card that is not as described, or the weights of another prior.
    """
    check_own_words(load_weights(getattr(network, "module", network), path), path, card)
    return make_prior(card, network, device, window=window, batch_size=batch_size, **batches)


def make_prior(card: Any, network: torch.nn.Module, device: torch.device | str, *,
               window: tuple[float, float] | None = None, batch_size: int = 8, **batches: Any) -> Prior:
    """The prior of a network that has its weights; as `load_prior`."""
    scale = unit_scale(card.intensities, card.window, window)
    denoiser = Denoiser(network, card.prediction, make_schedule(**card.schedule), scale)
    low, high = levels(card, window)
    return Prior(SliceScore(denoiser, batch_size, device, **batches), low, high)


def unit_scale(intensities: tuple[float, float], own: Any, window: tuple[float, float] | None) -> tuple[float, float]:
    """(a, b) with which unit intensities x become those of a model, m = a x + b.

    Args:
        intensities: of the model, at the low and the high end of its window.
        own: its window, two numbers; anything else is that of the volume.
        window: what 0 and 1 of x stand for; None is the model's own.
    """
    a, b = intensities[1] - intensities[0], intensities[0]
    if window is None or not isinstance(own, (list, tuple)):
        return a, b
    width = own[1] - own[0]
    return a * (window[1] - window[0]) / width, b + a * (window[0] - own[0]) / width


def levels(card: Any, window: tuple[float, float] | None = None) -> tuple[float, float]:
    """The smallest and the largest noise level that a prior knows, in unit intensities."""
    schedule, a = make_schedule(**card.schedule), abs(unit_scale(card.intensities, card.window, window)[0])
    return schedule.sigma_min / a, schedule.sigma_max / a


def check_levels(low: float, high: float, sigma_min: float, sigma_max: float | None) -> float:
    """The first noise level: ``sigma_max``, or where that is None the prior's.

    Raises:
        ValueError: levels outside ``low`` to ``high``, which the prior was trained on.
    """
    first = high if sigma_max is None else sigma_max
    near = 1 + 1e-3     # the first of 1000 steps is 0.0100005
    if not low <= sigma_min * near < first * near <= high * near**2:
        raise ValueError(f"sigma_min {sigma_min:g}, sigma_max {first:g}: this prior knows {low:g} to {high:g} "
                         "(sigma_min and sigma_max of its config or card)")
    return min(first, high)


def check_own_words(content: dict, path: Path, card: Any) -> None:
    """Compare what a checkpoint says of its prior, if it does, with its card.

    Args:
        content: what `load_weights` returned; its "prior" was written by the program that trained it.
        path: of the checkpoint, for messages.
        card: what it is said to be.

    Raises:
        ValueError: another modality, or anything else that shapes the score.
    """
    own = content.get("prior")
    if not isinstance(own, dict):
        return
    if card.modality and own.get("modality", card.modality) != card.modality:
        raise ValueError(f"{path}: a prior of {str(own.get('modality')).upper()} slices; accepted: "
                         f"{card.modality.upper()}")
    if card.modality == "ct" and card.window and "window" in own and list(own["window"]) != list(card.window):
        raise ValueError(f"{path}: a prior of CT in the window {own['window']} HU; its card says {list(card.window)}")
    if card.network != "ncsnpp":
        return
    for key, value in score_settings(card.architecture).items():
        if key in own and own[key] != value:
            section = {"preconditioning": "training", "centered": "data", "image_size": "data"}.get(key, "model")
            raise ValueError(f"{path}: a prior with {section}.{key}: {own[key]}; its config says {value}")


def score_settings(config: Any) -> dict:
    """What shapes the score beside the weights: train.py writes it into a checkpoint, `check_own_words` compares it."""
    model = config.model
    return {"preconditioning": config.training.preconditioning, "centered": config.data.centered,
            "sigma_min": model.sigma_min, "sigma_max": model.sigma_max, "scale_by_sigma": model.scale_by_sigma,
            "fir_kernel": list(model.fir_kernel), "fourier_scale": model.fourier_scale,
            "progressive": model.progressive, "progressive_input": model.progressive_input,
            "attn_resolutions": list(model.attn_resolutions), "image_size": config.data.image_size}
