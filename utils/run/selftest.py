"""The self-test of a prior on loading: slices to denoise, and what follows."""
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from models.prior.selftest import intensities_verdict, self_test, verdict
from models.window import CT_WINDOW
from utils.io.files import ROOT
from utils.io.intensity import mr_window, scale_to_unit
from utils.io.read import read_volume

log = logging.getLogger(__name__)

DEMO = {"ct": ROOT / "demo" / "chest.nii.gz", "mr": ROOT / "demo" / "brain.nii.gz"}
COUNT = 2       # slices


def sample_slices(modality: str, size: int | None, path: Path | None = None) -> torch.Tensor:
    """Slices [COUNT, 1, size, size] in unit intensities, from the inner half of a volume; without a path the demo's.

    Args:
        modality: "ct" for axial slices, "mr" for those that contain z.
        size: in pixels; None is 128.
        path: of the volume.

    Raises:
        ValueError, OSError: a volume that cannot be read, or has one value.
    """
    volume = read_volume(path or DEMO[modality], "LPS", modality=modality)
    window = CT_WINDOW if modality == "ct" else mr_window(volume.array)
    stack = torch.from_numpy(scale_to_unit(volume.array, *window))
    stack = stack if modality == "ct" else stack.permute(1, 2, 0)      # as physics.zsr: one slice for every y
    square = F.interpolate(_inner(stack)[:, None], (size or 128,) * 2, mode="bilinear", antialias=True)
    return square.contiguous()


def _inner(stack: torch.Tensor) -> torch.Tensor:
    """`COUNT` slices from the inner half of a stack."""
    return stack[[len(stack) * (2 * k + 1 + COUNT) // (4 * COUNT) for k in range(COUNT)]]


def say_intensities(prior: Any, problem: Any, modality: str) -> None:
    """Warn where slices of a problem's initial image have other intensities than the prior knows.

    Args:
        prior: of `models.prior`; None for a method without one.
        problem: an `algorithms.problem.Problem`; without a measurement there is nothing to say.
        modality: "ct" or "mr".
    """
    if prior is None or problem.y is None:
        return
    if said := intensities_verdict(prior, _inner(problem.initial).cpu(), modality):
        log.warning(f"the initial reconstruction: {said}")


def self_test_verdict(card: Any, make: Callable[[Any], Any]) -> str:
    """Denoise slices of the demo's volume: what is wrong with a prior, in one line, or "".

    Args:
        card: of the prior, with its modality.
        make: the prior of a card, with the same weights.
    """
    return verdict(*self_test(card, make, sample_slices(card.modality, card.image_size)))
