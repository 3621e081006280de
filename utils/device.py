"""Where the computation runs."""
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
