"""From options to the prior and the method that `algorithms.problem.reconstruct` is given."""
import logging
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from algorithms.planes import SecondPlane
from algorithms.problem import Sampling, TotalVariation, Unconditional
from algorithms.schedule import sigma_levels
from models.checkpoint import read_checkpoint
from models.precision import choose_precision, describe
from models.prior import Prior, check_levels, levels, load_prior, make_prior
from models.prior.fit import misfit_of_pixels, misfits
from models.window import CT_WINDOW
from op.processes import ALONE, Processes
from utils.cli import choices
from utils.cli.messages import input_errors
from utils.io.prior_file import Card, NoCard, check_digest, parse_card, read_prior
from utils.io.volume import Volume
from utils.run.device import compiler
from utils.run.progress import progress_bar
from utils.run.selftest import self_test_verdict

log = logging.getLogger(__name__)


def set_up(options: Any, device: torch.device, volume: Volume, axis: int, processes: Processes = ALONE,
           ) -> tuple[Prior | None, Sampling | Unconditional | TotalVariation]:
    """The prior (None for a method without one) and the method.

    Args:
        options: the settings of a reconstruction, see `utils.cli.settings.Options`.
        device: where the network computes.
        volume: what is reconstructed, or its place: its plane and pixels are compared with those of the prior.
        axis: of its array [z, y, x] along which the prior's slices are stacked.
        processes: that share the slices.

    Raises:
        ValueError: files, levels or settings that don't go together, in one line that names them.
    """
    method = choices.named(choices.METHODS, options.method)
    if options.method == "ADMM-TV":
        return None, method.load()(**_keywords(method, options))
    with input_errors("--precision"):
        precision = choose_precision(options.precision, device)
    log.info(f"network in {describe(precision, device)}")
    where = options.prior or options.checkpoint_path, options.config_path
    card, prior = _loaded(options, find_prior(*where), options.config_path, volume, axis, device, processes)
    first = check_levels(prior.sigma_min, prior.sigma_max, options.sigma_min, options.sigma_max)
    sigmas = sigma_levels(options.NFE, options.sigma_min, first).tolist()
    noise = choices.named(choices.NOISE_CONTROLS, options.noise_control)
    control = noise.load()(**_keywords(noise, options))
    if options.method == "uncondition":
        return prior, Unconditional(sigmas=sigmas, noise=control, snr=card.sampling["snr"],
                                    n_steps_each=int(card.sampling["n_steps_each"]))
    rule = choices.named(choices.RENOISE_METHODS, options.renoise_method)
    return prior, Sampling(
        sigmas=sigmas, data_step=partial(method.load(), **_keywords(method, options)), noise=control,
        renoise=rule.load()(**_keywords(rule, options)), use_init=options.use_init, w_dps=options.w_dps,
        final_sigma=options.sigma_min if options.modality == "ct" and options.denoise_last else None,
        second=_second(options, prior, volume, device, first, processes) if options.prior_2 else None,
        mirror=(3,) if options.modality == "ct" and options.flips else ())     # left and right


def _loaded(options: Any, found: tuple[Card, Path], config: Path | None, volume: Volume, axis: int,
            device: torch.device, processes: Processes) -> tuple[Card, Prior]:
    """A prior for slices of the volume along ``axis``, after all that speaks against it is said."""
    card, weights = found
    window = CT_WINDOW if options.modality == "ct" else None
    size, pixels = _seen(volume, axis)
    doubts = misfits(card, options.modality, window or options.window, volume.plane(axis),
                     None if options.modality == "mr" or options.pixel_size else size)
    if apart := misfit_of_pixels(card, pixels):
        doubts.append(f"{apart} (--pixel-size prior resamples)")
    card = replace(card, modality=options.modality, window=card.window or window)
    keywords: dict = {"window": window, "batch_size": options.batch_size,
                      "precision": choose_precision(options.precision, device)}
    check_levels(*levels(card, window), options.sigma_min, options.sigma_max)     # before a large file is read
    with input_errors("--compile"):
        backend = compiler(device) if options.compile else None
    prior = open_prior(card, weights, device, config or weights, **keywords, processes=processes, backend=backend,
                       progress=lambda batches: progress_bar(batches, "slice batches", position=1, leave=False))
    said = self_test_verdict(card, lambda other: make_prior(other, prior.network, device, **keywords))
    for line in filter(None, [*doubts, said]):
        log.warning(f"{weights}: {line}")
    return card, prior


def _second(options: Any, prior: Prior, volume: Volume, device: torch.device, first: float,
            processes: Processes) -> SecondPlane:
    """The second plane: of CT as its card says, coronal without; of MR the slices along x, by ``prior`` if "same"."""
    if options.prior_2 == "same":
        return SecondPlane(prior=prior, spacing=volume.spacing[0])
    found = find_prior(options.prior_2)
    plane = found[0].plane or "coronal"
    if options.modality == "ct" and plane == "axial":
        raise ValueError(f"{found[1]}: a prior of axial slices; accepted: of coronal or sagittal ones, beside the "
                         "first prior's axial")
    axis = {"coronal": 1, "sagittal": 2}[plane] if options.modality == "ct" else 2
    prior = _loaded(options, found, None, volume, axis, device, processes)[1]
    check_levels(prior.sigma_min, prior.sigma_max, options.sigma_min, first)
    order = (3, 1, 0, 2) if (options.modality, plane) == ("ct", "sagittal") else (2, 1, 0, 3)
    return SecondPlane(prior=prior, order=order, spacing=volume.spacing[2 - axis])


def find_prior(path: Path, config: Path | None = None) -> tuple[Card, Path]:
    """`utils.io.prior_file.read_prior`, and of weights that nothing lies beside, the card within them.

    Raises:
        ValueError, OSError: in one line that names the file, and the key.
    """
    try:
        return read_prior(path, config)
    except NoCard:
        own = _own_card(path, path.stat().st_mtime_ns)
        if not isinstance(own, dict) or "network" not in own:
            raise
        return parse_card(own, f"{path}: prior"), path


@lru_cache(maxsize=4)
def _own_card(path: Path, changed: int) -> Any:
    """What a file of weights says of its prior; a large file is read once, however often a run asks."""
    return read_checkpoint(path).get("prior")


def open_prior(card: Card, weights: Path, device: torch.device, where: Path, **keywords: Any) -> Prior:
    """The prior of a card that stands ``where``, and its weights; ``keywords`` are those of `models.prior.load_prior`.

    Raises:
        ValueError: a network that is not known or cannot be built, weights that are not those of the card.
    """
    check_digest(card, weights)
    if card.network not in (known := choices.names(choices.NETWORKS)):
        raise ValueError(f"{where}: network: {card.network}; accepted: {', '.join(known)}")
    try:
        network = choices.named(choices.NETWORKS, card.network).load()(card.architecture)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return load_prior(card, network, weights, device, **keywords)


def _seen(volume: Volume, axis: int) -> tuple[int, tuple[float, float]]:
    """Width of the slices, and their pixels in mm, rows and columns."""
    rows, columns = (other for other in range(3) if other != axis)
    return volume.array.shape[columns], (volume.spacing[2 - rows], volume.spacing[2 - columns])


def _keywords(choice: choices.Choice, options: Any) -> dict:
    """The parameters of a choice that are keywords of its code, as they are set."""
    return {parameter.name: getattr(options, parameter.name) for parameter in choice.parameters
            if parameter.of_code and hasattr(options, parameter.name)}
