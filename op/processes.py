"""Several processes that share one piece of work."""
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Processes:
    """The processes of one run, which all do the same steps; by default this one alone.

    Attributes:
        rank: of this one, 0 to count - 1.
        count: of all.
        local: rank on this machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def started(cls) -> "Processes":
        """Those that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK); without it, this one.

        Raises:
            ValueError: environment variables that are not as torchrun sets them, by name.
        """
        rank, count, local = (cls._number(name, default, least) for name, default, least in (
            ("RANK", 0, 0), ("WORLD_SIZE", 1, 1), ("LOCAL_RANK", 0, 0)))
        if rank >= count:
            raise ValueError(f"environment variable RANK: {rank}; accepted: below WORLD_SIZE, {count}")
        return cls(rank, count, local)

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
                if device.type == "cuda":
                    torch.cuda.set_device(device)
                # Volumes may stay in the host's memory while the network is on a GPU.
                dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
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

    def part(self, count: int) -> slice:
        """Which of ``count`` things, that take the same time, are this process's: neighbours."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, after the sum over the processes, the same bits in all of them, has been put in its place.

        Raises:
            ConnectionError: another process has ended.
        """
        if self.count > 1:
            self._reduce(tensor, dist.ReduceOp.SUM)
        return tensor

    def total(self, value: float) -> float:
        """The sum of a number over the processes; ConnectionError as in `sum`."""
        return self.sum(torch.tensor(value, dtype=torch.float64)).item() if self.count > 1 else value

    def largest(self, tensor: torch.Tensor) -> torch.Tensor:
        """The largest value of all processes' tensors, which may be empty; ConnectionError as in `sum`."""
        if self.count == 1:
            return tensor.max()
        value = tensor.max() if tensor.numel() else tensor.new_tensor(-torch.inf)
        self._reduce(value, dist.ReduceOp.MAX)
        return value

    def whole(self, tensor: torch.Tensor, count: int, dim: int) -> torch.Tensor:
        """Of ``count`` things along ``dim`` all, where each process has its `part` of them."""
        if self.count == 1:
            return tensor
        shape = list(tensor.shape)
        shape[dim] = count
        result, own = tensor.new_zeros(shape), self.part(count)
        result.narrow(dim, own.start, own.stop - own.start).copy_(tensor)
        return self.sum(result)

    def _reduce(self, tensor: torch.Tensor, operation: Any) -> None:
        try:
            dist.all_reduce(tensor, operation)
        except RuntimeError as error:
            raise ConnectionError(f"another of the {self.count} processes has ended "
                                  f"({shorten(str(error), 100, placeholder=' ...')})") from None


ALONE = Processes()
