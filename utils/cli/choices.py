"""Every choice that a user has: its name, its help, its default, and where its code is.

Flags, their checks, the evaluation's grids and docs/options.md are made from these tables, and only the standard
library is imported here. A new noise control, re-noising rule, data step or network is one file and one line.
"""
import importlib
from dataclasses import dataclass, field
from typing import Any

from utils.cli.types import number, one_of, truth, word_or


@dataclass(frozen=True)
class Parameter:
    """A setting of some choices, and its flag: ``noise_length`` is ``--noise-length``."""

    name: str               # keyword of the code
    kind: Any               # an argparse type
    metavar: str
    help: str
    modality: str = ""      # "ct" or "mr" where it is that of one alone
    of_code: bool = True    # False: not a keyword of the choice's code, but of the whole reconstruction


@dataclass(frozen=True)
class Choice:
    """One of several: ``code`` is "module:object", what `load` gives."""

    name: str
    help: str
    code: str = ""
    parameters: dict[Parameter, Any] = field(default_factory=dict)     # and their defaults
    modalities: tuple[str, ...] = ("ct", "mr")

    def load(self) -> Any:
        """The code of this choice; its module is imported now."""
        module, _, name = self.code.partition(":")
        return getattr(importlib.import_module(module), name)


MODALITIES = {"ct": "CT", "mr": "MR"}

TASKS = (
    Choice("LACT", "limited angle: --degree says how many degrees are covered", modalities=("ct",)),
    Choice("SVCT", "sparse views: --degree says how many, evenly spread", modalities=("ct",)),
    Choice("ZSR", "super-resolution along z: --degree says how many slices one thick slice averages",
           modalities=("mr",)),
)

WEIGHTS = (
    Choice("none", "all rays count the same"),
    Choice("poisson", "trusts each ray by its expected counts, for noisy scans", "physics.noise:poisson_weights"),
)

NUM_CG = Parameter("num_cg", number(int, 1, 10_000), "N", "conjugate-gradient steps a level")
W_TIK = Parameter("w_tik", word_or("noise", number(float, 0, 1e9)), "noise|W",
                  "weight of the Tikhonov term; noise: the variance of the projections' noise, found in them")
W_DZ = Parameter("w_dz", number(float, 0, 1e9), "W", "weight of total variation from slice to slice")
W_TV = Parameter("w_tv", number(float, 0, 1e9), "W", "weight of total variation within slices")
DUAL = Parameter("dual", number(float, 0, 0.95), "G", "gain of what remembers where data and prior disagree")
W_DPS = Parameter("w_dps", number(float, 0, 1e9), "W", "weight of the posterior-sampling gradient", of_code=False)
RAY_WEIGHTS = Parameter("weights", one_of(*(choice.name for choice in WEIGHTS)), "{none,poisson}",
                        "of the measured rays; poisson trusts each by its expected counts, for noisy scans", "ct",
                        of_code=False)
DENOISE_LAST = Parameter("denoise_last", truth, "true|false",
                         "let the prior, not the data, have the last word: denoise the last estimate once more, at "
                         "sigma-min", "ct", of_code=False)
ETA = Parameter("eta", number(float, 0, 1), "E", "share of new noise")
NOISE_LENGTH = Parameter("noise_length", number(float, above=0, most=1e6), "MM",
                         "distance over which noise stays alike")

METHODS = (
    Choice("DDS", "diffusion prior, data by conjugate gradients", "algorithms.data_steps.dds:DDS",
           {NUM_CG: 5, RAY_WEIGHTS: "none", W_TIK: 0.0, W_DZ: 0.0, W_TV: 0.0, DUAL: 0.0, W_DPS: 0.0,
            DENOISE_LAST: True}),
    Choice("DDNM", "diffusion prior, data by the pseudo-inverse", "algorithms.data_steps.ddnm:DDNM", {W_DPS: 0.0}),
    Choice("ADMM-TV", "total variation, no prior", "algorithms.problem:TotalVariation", {W_TV: 3.0},
           modalities=("ct",)),
    Choice("uncondition", "draws volumes from the prior alone", "algorithms.problem:Unconditional"),
)

NOISE_CONTROLS = (
    Choice("SLERP", "correlates neighbouring slices (ISCS)", "algorithms.noise.slerp:Slerp"),
    Choice("None", "draws every slice independently", "algorithms.noise.independent:Independent"),
    Choice("shared", "is the same in all slices", "algorithms.noise.shared:Shared"),
    Choice("GP", "is alike over a length in mm", "algorithms.noise.gaussian_process:GaussianProcess",
           {NOISE_LENGTH: 20.0}),
    Choice("zero", "is none at all", "algorithms.noise.zero:Zero"),
)

RENOISE_METHODS = (
    Choice("DDPM", "all noise is new", "algorithms.renoise.ddpm:DDPM"),
    Choice("DDIM", "new is what the step takes away", "algorithms.renoise.ddim:DDIM"),
    Choice("DDS", "old and new in proportion, of the full variance", "algorithms.renoise.dds:DDSRule", {ETA: 0.85}),
    Choice("DiffPIR", "old and new in proportion, less than the full variance", "algorithms.renoise.diffpir:DiffPIR",
           {ETA: 0.5}),
)

NETWORKS = (
    Choice("ncsnpp", "NCSN++ and DDPM++ of score_sde (Song et al. 2021)", "models.ncsnpp:NCSNpp"),
    Choice("adm", "U-Net of guided diffusion (Dhariwal & Nichol 2021)", "models.adm:UNet"),
    Choice("diffusers", "UNet2DModel of diffusers", "models.diffusers_unet:unet"),
    Choice("monai", "DiffusionModelUNet of MONAI", "models.monai_unet:unet"),
    Choice("edm", "SongUNet and DhariwalUNet of EDM (Karras et al. 2022)", "models.edm:unet"),
    Choice("edm2", "U-Net of EDM2 (Karras et al. 2024)", "models.edm2:UNet"),
    Choice("deepinv", "denoisers of deepinv", "models.deepinv_denoiser:denoiser"),
)

PRECISIONS = (
    Choice("auto", "is fp16 on CUDA, float32 on a CPU"),
    Choice("float32", "is the most exact"),
    Choice("bf16", "is fast where the processor has it"),
    Choice("fp16", "the same, with less range"),
)

PROJECTORS = (
    Choice("auto", "is native"),
    Choice("native", "is this program's own"),
    Choice("torch_radon", "needs CUDA and its package"),
    Choice("astra", "needs CUDA and its package"),
)


def named(table: tuple[Choice, ...], name: str) -> Choice:
    """The choice of this name.

    Raises:
        ValueError: there is none; lists the names.
    """
    for choice in table:
        if choice.name == name:
            return choice
    raise ValueError(f"{name!r}; accepted: {', '.join(names(table))}")


def names(table: tuple[Choice, ...], modality: str | None = None) -> list[str]:
    """The names in a table, of one modality or of all."""
    return [choice.name for choice in table if modality is None or modality in choice.modalities]


def parameters(*tables: tuple[Choice, ...]) -> dict[Parameter, list[Choice]]:
    """Every parameter in the tables with the choices that have it."""
    found: dict[Parameter, list[Choice]] = {}
    for choice in (choice for table in tables for choice in table):
        for parameter in choice.parameters:
            found.setdefault(parameter, []).append(choice)
    return found
