"""From options to the prior and the method that `algorithms.problem.reconstruct` is given."""
import logging
from functools import partial
from typing import Any

import torch

from algorithms.problem import Sampling, TotalVariation, Unconditional
from algorithms.schedule import sigma_levels
from models.precision import choose_precision, describe
from models.prior import Prior, check_levels, load_prior
from utils.cli import choices
from utils.cli.messages import input_errors
from utils.io.config import load_config
from utils.run.progress import progress_bar

log = logging.getLogger(__name__)


def set_up(options: Any, device: torch.device, image_size: int | None = None,
           ) -> tuple[Prior | None, Sampling | Unconditional | TotalVariation]:
    """The prior (None for a method without one) and the method.

    Args:
        options: the settings of a reconstruction, see `utils.cli.settings.Options`.
        device: where the network computes.
        image_size: width of the slices, which the prior's is compared with; None: any is fine.

    Raises:
        ValueError: files, levels or settings that don't go together, in one line that names them.
    """
    method = choices.named(choices.METHODS, options.method)
    if options.method == "ADMM-TV":
        return None, method.load()(**_keywords(method, options))
    config = load_config(options.config_path)
    first = check_levels(config, options.sigma_min, options.sigma_max)
    sigmas = sigma_levels(options.NFE, options.sigma_min, first).tolist()
    try:
        network = choices.named(choices.NETWORKS, config.model.name).load()(config)
    except ValueError as error:
        raise ValueError(f"{options.config_path}: {error}") from None
    with input_errors("--precision"):
        precision = choose_precision(options.precision, device)
    log.info(f"network in {describe(precision, device)}")
    prior = load_prior(network, options.checkpoint_path, config, options.modality, device, precision=precision,
                       batch_size=options.batch_size, image_size=image_size,
                       progress=lambda batches: progress_bar(batches, "slice batches", position=1, leave=False))
    noise = choices.named(choices.NOISE_CONTROLS, options.noise_control)
    control = noise.load()(**_keywords(noise, options))
    if options.method == "uncondition":
        return prior, Unconditional(sigmas=sigmas, noise=control, snr=config.sampling.snr,
                                    n_steps_each=config.sampling.n_steps_each)
    rule = choices.named(choices.RENOISE_METHODS, options.renoise_method)
    return prior, Sampling(
        sigmas=sigmas, data_step=partial(method.load(), **_keywords(method, options)), noise=control,
        renoise=rule.load()(**_keywords(rule, options)), use_init=options.use_init, w_dps=options.w_dps,
        final_sigma=options.sigma_min if options.modality == "ct" and options.method == "DDS" else None)


def _keywords(choice: choices.Choice, options: Any) -> dict:
    """The parameters of a choice that are keywords of its code, as they are set."""
    return {parameter.name: getattr(options, parameter.name) for parameter in choice.parameters
            if parameter.of_code and hasattr(options, parameter.name)}
