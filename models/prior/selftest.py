"""Whether a prior denoises: on images with known noise, and where it does not, what else its card could say."""
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

LEVELS = (0.05, 0.15, 0.5)      # of unit intensities: where reconstructions pass
SEED = 0
# What a prior that fits does, generously: some of the noise goes; what is taken away is as much of the noise as the
# conditional mean takes, 1 - error; and the mean is not shifted.
MOST_ERROR, MOST_OFF, MOST_SHIFT = 0.7, 0.15, 0.15
BETTER = 0.9        # an alternative has to have this share of the card's error, at most, to be named

INTENSITIES = ((0, 1), (-1, 1), (0, 255))
SCHEDULES = ({"kind": "linear"}, {"kind": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
             {"kind": "scaled_linear"}, {"kind": "cosine"}, {"kind": "sigmoid"})
PREDICTIONS = {"epsilon": ("v", "sample"), "v": ("epsilon", "sample"), "sample": ("epsilon", "v"),
               "denoised": ("edm",), "edm": ("denoised",)}      # of the same inputs, or nearly
# What the intensities of data may have to become, a x + b in the window's unit, and how that is called.
AFFINE = {"ct": (("1024 HU less", 1, -1024 / 2600), ("1024 HU more", 1, 1024 / 2600),
                 ("half of their height above air", 0.5, 0), ("twice their height above air", 2, 0),
                 ("a tenth of their height above air", 0.1, 0), ("ten times their height above air", 10, 0)),
          "mr": (("half of their brightness", 0.5, 0), ("twice their brightness", 2, 0),
                 ("a tenth of their brightness", 0.1, 0), ("ten times their brightness", 10, 0))}
CT_WINDOWS = ((-1000, 1600), (-1000, 1000), (-1024, 3071), (-1000, 400), (-160, 240))


@dataclass(frozen=True)
class Denoising:
    """How a prior denoises at one level sigma.

    Attributes:
        sigma: the level.
        error: mean squared error of the denoised images, in units of the noise's sigma^2: 1 is no better than none.
        found: how much of the noise is in what was taken away (the slope of a regression): of the best estimate, the
            conditional mean, it is 1 - error.
        shift: mean of what was taken away, in units of sigma.
    """

    sigma: float
    error: float
    found: float
    shift: float

    @property
    def fits(self) -> bool:
        """Whether this is what a prior of such images does."""
        return (self.error < MOST_ERROR and abs(self.found - (1 - self.error)) < MOST_OFF
                and abs(self.shift) < MOST_SHIFT)


def denoising(prior: Any, images: torch.Tensor, last: int = len(LEVELS)) -> list[Denoising]:
    """Denoise images [n, 1, H, W] at the ``last`` of `LEVELS` that the prior knows, with the same noise always."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(SEED))
    found = []
    for sigma in [level for level in LEVELS if prior.sigma_min <= level <= prior.sigma_max][-last:]:
        taken = -sigma * prior(images + sigma * noise, sigma)       # in units of sigma
        error = (taken - noise).double()
        found.append(Denoising(sigma, error.square().mean().item(),
                               ((taken * noise).mean() / noise.square().mean()).item(), taken.mean().item()))
    return found


def total(results: list[Denoising]) -> float:
    """One number for all levels: the geometric mean of their errors; infinite where there is none."""
    if not results or any(not result.error < float("inf") for result in results):
        return float("inf")
    return torch.tensor([max(result.error, 1e-9) for result in results], dtype=torch.float64).log().mean().exp().item()


def alternatives(card: Any) -> Iterator[tuple[str, Any]]:
    """The cards that differ in one thing from this one, and what that is, in words."""
    for intensities in INTENSITIES:
        yield f"intensities: {list(intensities)}", replace(card, intensities=intensities)
    if card.prediction in ("epsilon", "v", "sample"):
        for schedule in SCHEDULES:
            yield "schedule: " + ", ".join(f"{key} {value}" for key, value in schedule.items()), replace(
                card, schedule=schedule)
    for prediction in PREDICTIONS.get(card.prediction, ()):
        yield f"prediction: {prediction}", replace(card, prediction=prediction)
    if card.modality == "ct":
        for window in CT_WINDOWS:
            yield f"window: {list(window)}", replace(card, window=window)


def self_test(card: Any, make: Callable[[Any], Any], images: torch.Tensor, thorough: bool = False,
              ) -> tuple[list[Denoising], list[tuple[str, float]]]:
    """Denoise, and where that does not look right try what else the card could say.

    Args:
        card: of the prior, see `utils.io.prior_file.Card`.
        make: the prior of a card, with the same weights.
        images: [n, 1, H, W] in unit intensities of the window that ``make`` was told.
        thorough: try the alternatives in any case.

    Returns:
        The card's own results, and the alternatives that do better: what is changed and its error (`total`) as a
        share of the card's, best first.
    """
    results = denoising(make(card), images)
    if all(result.fits for result in results) and not thorough:
        return results, []
    own, better = total(results), []
    for words, other in alternatives(card):
        if other == card:
            continue
        error = total(denoising(make(other), images))
        if error < BETTER * own:
            better.append((words, error / own))
    return results, sorted(better, key=lambda found: found[1])


def verdict(results: list[Denoising], better: list[tuple[str, float]]) -> str:
    """In one line, what is wrong with a prior and what its card should perhaps say; "" where it denoises."""
    bad = [result for result in results if not result.fits]
    if not bad:
        return ""
    worst = max(bad, key=lambda result: result.error)
    said = (f"does not denoise as its card says: at sigma {worst.sigma:g} an error of {worst.error:.3g} times the "
            f"noise's, {worst.found:.2f} of the noise found, a shift of {worst.shift:.2f} sigma")
    if not better:
        return said + "; no other intensities, schedule, prediction or window would do better"
    return f"{said}; with {better[0][0]} the error would be {better[0][1]:.2g} times that"


def intensities_verdict(prior: Any, images: torch.Tensor, modality: str) -> str:
    """In one line, that images have other intensities than a prior knows; "" where they have not, or nothing can tell.

    That the prior denoises what its card speaks of is known (`self_test`). Here only a shift counts, at the largest
    level: artefacts, such as streaks of few views, are taken away with the noise, but have a mean of about zero.

    Args:
        prior: that of the card.
        images: [n, 1, H, W], such as slices of an initial reconstruction.
        modality: "ct" or "mr", of these.
    """
    own = denoising(prior, images, 1)
    if not own or not abs(own[0].shift) > MOST_SHIFT:
        return ""
    fitting = next((words for words, a, b in AFFINE[modality]       # the likeliest first
                    if abs(denoising(prior, a * images + b, 1)[0].shift) <= MOST_SHIFT), None)
    return (f"intensities that the prior does not know: at sigma {own[0].sigma:g} it shifts them by "
            f"{own[0].shift:.2f} sigma" + (f"; it would not with {fitting}" if fitting else ""))
