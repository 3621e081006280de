"""Configs of the published layout: YAML with the sections training, sampling, data and model."""
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from utils.io.schema import read
from utils.io.yaml_file import read_yaml

# Every key of a config and the type of its value. What a network builds of it, it checks itself. Kept for the published
# files, and without effect: seed, training.reduce_mean, data.dataset, data.save_path, model.beta_min, model.beta_max.


@dataclass(frozen=True, kw_only=True)
class Training:
    continuous: bool
    reduce_mean: bool
    sde: str
    preconditioning: str = "none"       # which the published files do not say


@dataclass(frozen=True)
class Sampling:
    """Of unconditional sampling; other values than these are refused rather than ignored."""
    n_steps_each: int                   # corrector steps a level
    noise_removal: Literal[True]
    probability_flow: Literal[False]
    snr: float                          # of the corrector's steps
    method: Literal["pc"]
    predictor: Literal["reverse_diffusion"]
    corrector: Literal["langevin"]


@dataclass(frozen=True)
class Data:
    dataset: str
    save_path: str
    image_size: int
    num_channels: int
    is_complex: bool
    is_multi: bool
    centered: bool                      # intensities in [-1, 1], not [0, 1]


@dataclass(frozen=True)
class Model:
    name: str
    sigma_max: float
    sigma_min: float
    num_scales: int
    beta_min: float
    beta_max: float
    scale_by_sigma: bool
    ema_rate: float
    normalization: str
    nonlinearity: str
    nf: int
    ch_mult: list[int]
    num_res_blocks: int
    attn_resolutions: list[int]
    resamp_with_conv: bool
    conditional: bool
    fir: bool
    fir_kernel: list[float]
    skip_rescale: bool
    resblock_type: str
    progressive: str
    progressive_input: str
    progressive_combine: str
    attention_type: str
    init_scale: float
    fourier_scale: float
    conv_size: int
    dropout: float
    embedding_type: str


@dataclass(frozen=True, kw_only=True)
class Config:
    training: Training
    sampling: Sampling
    data: Data
    model: Model
    seed: int = 42


def load_config(path: str | Path) -> ConfigDict:
    """Read and check a config file.

    Returns:
        The sections and keys of `Config`, as attributes and as items.

    Raises:
        ValueError: In one line that names the file and the key: not YAML, a key that is missing, misspelt or of a wrong
            type, or a sampling setting that is not built.
        OSError: When the file cannot be read.
    """
    tree = read_yaml(path)
    try:
        return config_of(tree)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def config_of(tree: Any) -> ConfigDict:
    """`load_config` of a tree of YAML; its ValueError names the key alone."""
    return ConfigDict(asdict(read(Config, tree)))
