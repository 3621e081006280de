"""Configs of the published layout: YAML with the sections training, sampling, data and model."""
from pathlib import Path

from ml_collections import ConfigDict

from utils.io.yaml_file import key_name, read_yaml, short

NUMBER, WHOLE, FLAG, TEXT = "a number", "a whole number", "true or false", "a text"
WHOLES, NUMBERS = "a list of whole numbers", "a list of numbers"

# Every key of a config and the type of its value. Kept for the published files, and without effect here:
# seed, training.reduce_mean, data.dataset, data.save_path, model.beta_min, model.beta_max.
KEYS = {
    "training": {"continuous": FLAG, "reduce_mean": FLAG, "sde": TEXT, "preconditioning": TEXT},
    "sampling": {"n_steps_each": WHOLE, "noise_removal": FLAG, "probability_flow": FLAG, "snr": NUMBER,
                 "method": TEXT, "predictor": TEXT, "corrector": TEXT},
    "data": {"dataset": TEXT, "save_path": TEXT, "image_size": WHOLE, "num_channels": WHOLE,
             "is_complex": FLAG, "is_multi": FLAG, "centered": FLAG},
    "model": {"name": TEXT, "sigma_max": NUMBER, "sigma_min": NUMBER, "num_scales": WHOLE, "beta_min": NUMBER,
              "beta_max": NUMBER, "scale_by_sigma": FLAG, "ema_rate": NUMBER, "normalization": TEXT,
              "nonlinearity": TEXT, "nf": WHOLE, "ch_mult": WHOLES, "num_res_blocks": WHOLE,
              "attn_resolutions": WHOLES, "resamp_with_conv": FLAG, "conditional": FLAG, "fir": FLAG,
              "fir_kernel": NUMBERS, "skip_rescale": FLAG, "resblock_type": TEXT, "progressive": TEXT,
              "progressive_input": TEXT, "progressive_combine": TEXT, "attention_type": TEXT,
              "init_scale": NUMBER, "fourier_scale": NUMBER, "conv_size": WHOLE, "dropout": NUMBER,
              "embedding_type": TEXT},
}

SEED, OPTIONAL = 42, {"training": {"preconditioning": "none"}}      # what the published files do not say

# The sampler's settings that are built; other values are refused rather than ignored.
SAMPLING = {"noise_removal": True, "probability_flow": False, "method": "pc",
            "predictor": "reverse_diffusion", "corrector": "langevin"}


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


CHECKS = {
    NUMBER: _is_number,
    WHOLE: lambda value: isinstance(value, int) and not isinstance(value, bool),
    FLAG: lambda value: isinstance(value, bool),
    TEXT: lambda value: isinstance(value, str),
    WHOLES: lambda value: isinstance(value, list) and all(map(CHECKS[WHOLE], value)),
    NUMBERS: lambda value: isinstance(value, list) and all(map(_is_number, value)),
}


def load_config(path: str | Path) -> ConfigDict:
    """Read and check a config file.

    Returns a `ConfigDict` with the sections of `KEYS` and ``seed``. Raises ValueError, naming the file and the
    key, for a file that is not YAML, a missing, misspelt or wrongly typed key, or a sampling setting that is
    not built; FileNotFoundError when there is no such file.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected the sections {', '.join(KEYS)}")
    _compare_names(path, "", tree, [*KEYS, "seed"], optional=["seed"])
    if not CHECKS[WHOLE](tree.setdefault("seed", SEED)):
        raise ValueError(f"{path}: seed: {short(tree['seed'])}; expected {WHOLE}")
    for section, keys in KEYS.items():
        if not isinstance(tree[section], dict):
            raise ValueError(f"{path}: {section}: expected a section with keys")
        optional = OPTIONAL.get(section, {})
        _compare_names(path, f"{section}.", tree[section], keys, optional)
        tree[section] = optional | tree[section]
        for key, kind in keys.items():
            if not CHECKS[kind](tree[section][key]):
                raise ValueError(f"{path}: {section}.{key}: {short(tree[section][key])}; expected {kind}")
    for key, built in SAMPLING.items():
        if tree["sampling"][key] != built:
            raise ValueError(f"{path}: sampling.{key}: {short(tree['sampling'][key])} is not supported; "
                             f"accepted: {built!r}")
    return ConfigDict(tree)


def check_levels(config: ConfigDict, sigma_min: float, sigma_max: float) -> None:
    """Raise ValueError when noise levels are asked for that the prior of this config was not trained on."""
    low, high = config.model.sigma_min, config.model.sigma_max
    if not low <= sigma_min < sigma_max <= high:
        raise ValueError(f"--sigma-min {sigma_min:g} --sigma-max {sigma_max:g}: this prior knows {low:g} to {high:g} "
                         "(model.sigma_min and model.sigma_max of its config)")


def _compare_names(path, prefix: str, found: dict, expected, optional=()) -> None:
    unknown = [key for key in found if key not in expected]
    missing = [key for key in expected if key not in found and key not in optional]
    if unknown:
        raise ValueError(f"{path}: unknown key {prefix}{key_name(unknown[0])}")
    if missing:
        raise ValueError(f"{path}: missing key {prefix}{missing[0]}")
