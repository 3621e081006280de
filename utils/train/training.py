"""What a training run needs beside the network: noise levels, precision, several processes, signals."""
import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
import torch.distributed as dist

from models.checkpoint import EMA, trainable

# Training draws ln sigma from a normal distribution, as Karras et al. 2022 (EDM, section 5), within the levels of the
# config. Intensities are in [0, 1]: at 0.15 the structures of an image begin to drown. EDM's spread is 1.2; a
# reconstruction runs through all levels from 0.01 on, so that they should all be seen.
SIGMA_CENTRE, SIGMA_SPREAD = 0.15, 2.0
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Diverged(RuntimeError):
    """The loss or its gradient is no number."""


def noise_levels(u: torch.Tensor, sigma_min: float, sigma_max: float) -> torch.Tensor:
    """The noise levels [B], float32, at the quantiles ``u`` [B] in [0, 1] of their distribution.

    It is log-normal, of median `SIGMA_CENTRE` and standard deviation `SIGMA_SPREAD` of ln sigma, truncated to
    [sigma_min, sigma_max].
    """
    centre = math.log(SIGMA_CENTRE)
    a, b = (torch.special.ndtr(torch.tensor((math.log(end) - centre) / SIGMA_SPREAD, dtype=torch.float64))
            for end in (sigma_min, sigma_max))
    return torch.exp(centre + SIGMA_SPREAD * torch.special.ndtri(a + (b - a) * u.double())).float()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Of the step with the index ``step`` of ``steps``: a linear warm-up (10 %, at most 100 steps), then a cosine."""
    warm_up = max(1, min(100, steps // 10))
    return peak * min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / steps)))


def choose_precision(name: str, device: torch.device) -> str:
    """A key of `PRECISIONS`; auto is bf16 on CUDA, float32 on the CPU."""
    return {"cuda": "bf16"}.get(device.type, "float32") if name == "auto" else name


def check_same_run(path, saved: dict | None, run: dict) -> None:
    """Raise ValueError naming the first setting (by flag) of ``run`` that is another in the checkpoint ``path``."""
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: cannot be continued, it is not a checkpoint of this program's training; accepted "
                         "with --init: as weights to start from")
    for flag, value in run.items():
        if saved.get(flag) != value:
            raise ValueError(f"{flag} {value}: {path} was made with {saved.get(flag)}; "
                             "accepted with --resume: the same")


@contextmanager
def averaged_weights(network: torch.nn.Module, ema: EMA):
    """``network`` in evaluation mode with the averaged weights; afterwards it trains on as it was."""
    kept = [p.detach().clone() for p in trainable(network)]
    _fill(network, ema.shadow_params)
    network.eval()
    try:
        yield network
    finally:
        _fill(network, kept)
        network.train()


@torch.no_grad()
def _fill(network, values):
    for parameter, value in zip(trainable(network), values, strict=True):
        parameter.copy_(value)


def ahead(function, items):
    """``function(item)`` of every item, in order, each computed in a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for item in items:
            future = pool.submit(function, item)
            if waiting:
                yield waiting.result()
            waiting = future
        if waiting:
            yield waiting.result()


class Processes:
    """The processes of one training, as torchrun starts them (RANK, WORLD_SIZE, LOCAL_RANK); without it, this one."""

    def __init__(self):
        self.rank, self.count, self.local = (
            int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))

    @contextmanager
    def connected(self, device: torch.device):
        """Connect them: NCCL between GPUs, Gloo between CPUs. RuntimeError where that fails."""
        if self.count > 1:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        yield
        if self.count > 1:    # not after an error: the others may be waiting, and torchrun ends them
            dist.destroy_process_group()

    def average(self, tensors) -> None:
        """Replace every tensor, in place, by its mean over the processes: all float32, of any shapes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, (flat / self.count).split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view(tensor.shape))


@contextmanager
def stop_signals():
    """Collect SIGINT (Ctrl-C) and SIGTERM in the list that this gives; a second one ends the program at once."""
    received, before = [], {}

    def receive(number, frame):
        received.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
