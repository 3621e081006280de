"""Where the computation runs, and what it took."""
import importlib.util
import logging
import os
import shlex
import shutil
import sys
from contextlib import suppress

import torch

log = logging.getLogger(__name__)


def choose_device(name: str, gpu: int = 0) -> torch.device:
    """The device called ``name``: cpu, cuda, cuda:K, or auto (CUDA where there is one, else the CPU).

    Args:
        name: see above.
        gpu: the index for auto and plain cuda.

    Raises:
        ValueError: a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{gpu}"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index.isascii() and index.isdigit()):
        raise ValueError(f"device {name!r}; accepted: auto, cpu, cuda, cuda:K")
    if int(index) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def volumes_device(device: torch.device, values: int) -> torch.device:
    """Where the volumes and projections of a run stay, ``values`` float32 numbers at the most at a time.

    ``device``, or the CPU where they would take more than half of the memory that is free on a GPU: then the projector
    runs there too, and batches of slices go through the network on ``device`` and back.
    """
    if device.type == "cpu":
        return device
    needed, free = 4 * values, torch.cuda.mem_get_info(device)[0]
    if needed <= free / 2:
        return device
    log.info("volumes stay in the host's memory (about %.1f GB; %s has %.1f GB free), slices go through %s in batches",
             needed / 1e9, device, free / 1e9, device)
    return torch.device("cpu")


def compiler(device: torch.device) -> str:
    """The backend of torch.compile for a device.

    Raises:
        ValueError: what it needs is not installed.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ValueError("needs the package triton on CUDA, which is not installed; accepted: without")
    program = shlex.split(os.environ.get("CXX") or "g++")[0]
    if device.type == "cpu" and shutil.which(program) is None:
        raise ValueError(f"needs a C++ compiler on a CPU, and there is no {program} (or CXX); accepted: without")
    return "inductor"


def peak_memory() -> str:
    """The most memory this process has had at a time, in words; that of the GPU too where one was used."""
    words = []
    with suppress(ImportError):     # Windows
        import resource
        unit = 1 if sys.platform == "darwin" else 1024      # macOS counts bytes, Linux KiB
        words.append(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB")
    if torch.cuda.is_initialized():
        most = max(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
        words.append(f"{most / 1e9:.2f} GB of the GPU")
    return ", ".join(words) or "unknown"
