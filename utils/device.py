"""Where the computation runs, and what it took."""
import sys
from contextlib import suppress

import torch


def choose_device(name: str, gpu: int = 0) -> torch.device:
    """The device called ``name``: cpu, cuda, cuda:K, or auto (CUDA where there is one, else the CPU).

    ``gpu`` is the index for auto and plain cuda. ValueError for a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{gpu}"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not index.isdigit():
        raise ValueError(f"--device {name}: accepted are auto, cpu, cuda, cuda:K")
    if int(index) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def peak_memory() -> str:
    """The most memory this process has had at a time, in words; that of the GPU too where one was used."""
    words = []
    with suppress(ImportError):     # Windows
        import resource
        unit = 1 if sys.platform == "darwin" else 1024      # macOS counts bytes, Linux KiB
        words.append(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB")
    if torch.cuda.is_initialized():
        words.append(f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB of the GPU")
    return ", ".join(words) or "unknown"
