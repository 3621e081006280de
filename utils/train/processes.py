"""Several processes, a thread that works ahead, and signals."""
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

import torch
import torch.distributed as dist


class Processes:
    """The processes of one training, as torchrun starts them (RANK, WORLD_SIZE, LOCAL_RANK); without it, this one.

    Raises:
        ValueError: environment variables that are not as torchrun sets them, by name.
    """

    def __init__(self):
        self.rank, self.count, self.local = (self._number(name, default, least) for name, default, least in (
            ("RANK", 0, 0), ("WORLD_SIZE", 1, 1), ("LOCAL_RANK", 0, 0)))
        if self.rank >= self.count:
            raise ValueError(f"environment variable RANK: {self.rank}; accepted: below WORLD_SIZE, {self.count}")

    @staticmethod
    def _number(name: str, default: int, least: int) -> int:
        text = os.environ.get(name, str(default))
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise ValueError(f"environment variable {name}: {text!r}; accepted: a whole number of {least} or more, as "
                             "torchrun sets it, or none")
        return int(text)

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """Connect them: NCCL between GPUs, Gloo between CPUs. ConnectionError where that fails."""
        if self.count > 1:
            try:
                dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            except (ValueError, RuntimeError) as error:
                reason = shorten(str(error), 200, placeholder=" ...")
                raise ConnectionError(f"{self.count} processes can't be connected ({reason}); accepted: started by "
                                      "torchrun") from None
        yield
        if self.count > 1:    # not after an error: the others may be waiting, and torchrun ends them
            dist.destroy_process_group()

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace every tensor, in place, by its mean over the processes: all float32, of any shapes."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, (flat / self.count).split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view(tensor.shape))


def ahead(function: Callable, items: Iterable) -> Iterator:
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


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT (Ctrl-C) and SIGTERM in the list that this gives; a second one is as it was before."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def receive(number, frame):
        received.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, receive)
    try:
        yield received
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)
