"""What a run's volumes depend on: settings, versions, machine, and the content of its files and of the program."""
import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.precision import choose_precision
from utils.io.files import content_digest, program_digest
from utils.io.prior_file import prior_digest
from utils.io.yaml_file import read_yaml, short
from utils.run.setup import find_prior

log = logging.getLogger(__name__)

# Of the options, those that change no voxel.
UNRECORDED = ("resume", "source", "output", "threads", "debug", "verbosity", "preset", "environment", "modality")
FILES = ("data", "thick", "projections", "flat", "dark", "bad_pixels", "geometry", "checkpoint_path", "config_path")


def record(options: Any, device: str) -> dict:
    """The content of args.yaml: options, digests of the files that they name, versions and machine.

    Args:
        options: an object with the options as attributes; paths are noted as absolute ones.
        device: where the run computes, such as "cpu" or "cuda:0".

    Raises:
        ValueError: the run is to repeat or go on with that of ``options.source``, an args.yaml, and a file's content
            is another than then; or ``options.source`` is no args.yaml.
    """
    given = vars(options)
    settings = {key: str(value.absolute()) if isinstance(value, Path) else value for key, value in given.items()
                if key not in UNRECORDED}
    settings["device"], settings["precision"] = device, choose_precision(options.precision, torch.device(device))
    prior = {key: prior_digest(*find_prior(given[key])) for key in ("prior", "prior_2")
             if isinstance(given.get(key), Path)}
    settings["digests"] = {key: content_digest(given[key]) for key in FILES if given.get(key)} | prior
    settings["versions"] = {"program": program_digest(), "python": platform.python_version(),
                            "torch": str(torch.__version__), "numpy": np.__version__,
                            "SimpleITK": version("SimpleITK")}
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    settings["machine"] = {"platform": platform.platform(), "threads": torch.get_num_threads(), "gpu": gpu}
    if options.source:
        _compare(settings, options.source)
    return settings


def _compare(settings: dict, source: Path) -> None:
    """Refuse files with another content than the args.yaml ``source`` notes; say what else differs."""
    earlier = read_yaml(source)
    if not isinstance(earlier, dict) or not isinstance(earlier.get("digests"), dict):
        raise ValueError(f"{source}: not the args.yaml of a run; accepted: a file that a run of this program wrote")
    for key, digest in settings["digests"].items():
        if settings[key] == earlier.get(key) and digest != earlier["digests"].get(key):
            raise ValueError(f"{settings[key]}: its content has changed since {source} was written; accepted: the same "
                             "content")
    for key in ("versions", "machine"):
        if earlier.get(key) != settings[key]:
            log.warning("%s: made with other %s, so voxels may differ by rounding: %s; now %s", source, key,
                        _words(earlier.get(key)), _words(settings[key]))


def _words(values: Any) -> str:
    """The entries of a section of args.yaml, in one line."""
    return ", ".join(f"{key} {value}" for key, value in values.items()) if isinstance(values, dict) else short(values)
