"""A calibrated 90 % interval about the mean of samples, for settings whose errors were measured on patients."""
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch.nn.functional import avg_pool3d, pad

from utils.io.files import ROOT
from utils.io.schema import Check, read
from utils.io.yaml_file import read_yaml

CALIBRATIONS = ROOT / "configs" / "intervals.yaml"
LEVEL = 0.9                     # the part of the voxels whose truth is to lie inside
FOREGROUND = 0.15               # of the unit range, what the truth is above where there is more than air
# Of a run's args.yaml, on which its errors depend; and the prior.
SETTINGS = ("task", "degree", "sino_noise", "method", "prior_2", "use_init", "NFE", "sigma_max", "sigma_min",
            "noise_control", "renoise_method", "flips", "samples", "eta", "noise_length", "num_cg", "weights", "w_tik",
            "w_tv", "w_dz", "w_dps", "dual", "denoise_last")
PRIOR = ("prior", "checkpoint_path", "config_path")      # of its digests

Positive = Annotated[float, Check("number above 0", lambda value: value > 0)]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Half the width of the interval: the factor of a voxel's tissue class times the samples' spread about it."""

    settings: dict[str, Any]            # what `settings_of` gives for the runs that it holds for
    edges: tuple[float, ...]            # between the classes: means of the samples, in the prior's unit range
    factors: tuple[Positive, ...]       # one more
    measured: str                       # on what, and what it covered there

    def __post_init__(self):
        if len(self.factors) != len(self.edges) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"{len(self.factors)} factors and edges {list(self.edges)}; accepted: edges that rise, "
                             "and one factor more")


def settings_of(settings: dict) -> dict[str, Any]:
    """What the errors of a run depend on, of the content of its args.yaml."""
    digests = settings.get("digests", {})
    return ({name: settings[name] for name in SETTINGS if settings.get(name) is not None}
            | {name: digests[name] for name in PRIOR if name in digests})


def calibration_for(settings: dict, path: Path = CALIBRATIONS) -> Calibration | None:
    """The calibration of a run with this args.yaml; None where the errors of such runs were not measured.

    They were measured on simulations, so that a measured scan has none.

    Raises:
        ValueError: the file is no list of calibrations.
    """
    try:
        known = read(dict[str, Calibration], read_yaml(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if settings.get("projections") or settings.get("thick"):
        return None     # the errors were measured on simulations
    wanted = settings_of(settings)
    return next((each for each in known.values() if each.settings == wanted), None)


def half_width(mean: torch.Tensor, std: torch.Tensor, calibration: Calibration) -> torch.Tensor:
    """Half the width [D, H, W] of the interval.

    Args:
        mean: of the samples [D, H, W], in the prior's unit range.
        std: their standard deviation, likewise.
        calibration: of their settings.
    """
    classes = _classes(mean, calibration.edges)
    return torch.tensor(calibration.factors, dtype=mean.dtype)[classes] * local(std)


def local(std: torch.Tensor) -> torch.Tensor:
    """Root mean square of a standard deviation [D, H, W] over 3 x 3 x 3 voxels, since few samples tell little."""
    squares, voxels = avg_pool3d(pad(torch.stack((std.square(), torch.ones_like(std))), (1,) * 6), 3, stride=1)
    return (squares / voxels).sqrt()


def _classes(mean: torch.Tensor, edges: tuple[float, ...]) -> torch.Tensor:
    return torch.bucketize(mean, torch.tensor(edges, dtype=mean.dtype), right=True)


def coverage(mean: torch.Tensor, half: torch.Tensor, truth: torch.Tensor) -> dict[str, float | None]:
    """Parts of the voxels whose truth lies inside: of "whole", and of "foreground" (None where all is background)."""
    inside, foreground = (mean - truth).abs() <= half, truth > FOREGROUND
    return {"whole": inside.float().mean().item(),
            "foreground": inside[foreground].float().mean().item() if foreground.any() else None}


def calibrated(cases: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], edges: tuple[float, ...],
               ) -> tuple[float, ...]:
    """The factor of each class: the mean over cases of the quantile `LEVEL` of |mean - truth| / spread there.

    Every case counts alike, however many voxels of the class it has; one with fewer than 100 is left out.

    Args:
        cases: (mean, standard deviation, truth), each [D, H, W], in the prior's unit range.
        edges: as in `Calibration`.

    Raises:
        ValueError: a class that no case has.
    """
    found: list[list[float]] = [[] for _ in range(len(edges) + 1)]
    for mean, std, truth in cases:
        classes, ratio = _classes(mean, edges), (mean - truth).abs() / local(std).clamp_min(1e-9)
        for each, quantiles in enumerate(found):
            if (own := ratio[classes == each]).numel() >= 100:
                quantiles.append(own.kthvalue(round(LEVEL * own.numel())).values.item())
    if missing := [k for k, quantiles in enumerate(found) if not quantiles]:
        raise ValueError(f"no case has voxels of class {missing[0]} of the edges {list(edges)}")
    return tuple(sum(quantiles) / len(quantiles) for quantiles in found)
