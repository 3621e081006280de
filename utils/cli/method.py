"""From options to what `algorithms.problem.reconstruct` is told."""
from functools import partial
from typing import Any

from utils.cli import choices
from utils.cli.settings import Options


def method_of(options: Options, sigmas: Any, sampling: Any) -> Any:
    """The method of these options: a Sampling, Unconditional or TotalVariation of `algorithms.problem`.

    Args:
        options: the settings.
        sigmas: noise levels, None without a prior.
        sampling: the config's section of that name, with the corrector's settings; None without a prior.
    """
    from algorithms.problem import Sampling, Unconditional

    method = choices.named(choices.METHODS, options.method)
    if options.method == "ADMM-TV":
        return method.load()(**_keywords(method, options))
    noise = choices.named(choices.NOISE_CONTROLS, options.noise_control)
    control = noise.load()(**_keywords(noise, options))
    if options.method == "uncondition":
        return Unconditional(sigmas=sigmas, noise=control, snr=sampling.snr, n_steps_each=sampling.n_steps_each)
    rule = choices.named(choices.RENOISE_METHODS, options.renoise_method)
    return Sampling(sigmas=sigmas, data_step=partial(method.load(), **_keywords(method, options)), noise=control,
                    renoise=rule.load()(**_keywords(rule, options)), use_init=options.use_init, w_dps=options.w_dps,
                    final_sigma=options.sigma_min if options.modality == "ct" and options.method == "DDS" else None)


def _keywords(choice: choices.Choice, options: Options) -> dict:
    """The parameters of a choice that are keywords of its code, as they are set."""
    return {parameter.name: getattr(options, parameter.name) for parameter in choice.parameters
            if parameter.of_code and hasattr(options, parameter.name)}
