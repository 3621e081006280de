"""The prior as the sampler sees it: the score of a whole stack of slices, computed batch by batch."""
import logging
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from models.precision import autocast
from op.processes import ALONE, Processes

log = logging.getLogger(__name__)


class SliceScore:
    """score(x, sigma) of every slice of a volume, in batches, at any in-plane size.

    Calling it with x [n, 1, H, W] and one sigma for all slices gives s(x, sigma) [n, 1, H, W] on x's device.
    Slices are padded by reflection to the next size that the network's levels divide, and cropped back.

    x may lie elsewhere than the network: batches are brought to it and back.

    Args:
        network: (x [B, 1, H, W], level [1], which all have) to the score; put in evaluation mode on ``device``; its
            `multiple` divides the sizes that it takes.
        batch_size: slices that go through it at a time. The network of a card of ours gives each slice the same bits
            whatever it is on a CPU, others to rounding. When the memory is too small for it, half as many from then on.
        device: where it computes.
        progress: wraps the iterable of batches, for a progress bar.
        precision: of the layers, a key of `models.precision.PRECISIONS`.
        processes: that share the slices; each gets the score of all.
        backend: of torch.compile, "inductor"; None does not compile. It sees the network as one graph, of batches of
            one size: smaller ones are filled up. `vjp` is not compiled.
    """

    def __init__(self, network: nn.Module, batch_size: int, device: torch.device | str, progress: Callable = iter,
                 precision: str = "float32", processes: Processes = ALONE, backend: str | None = None):
        # Channels last is the layout that convolutions are fastest in.
        self.network = network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.batch_size, self.device, self.progress = batch_size, torch.device(device), progress
        self.precision, self.processes = precision, processes
        self.compiled = None if backend is None else torch.compile(self.network, fullgraph=True, dynamic=False,
                                                                   backend=backend)
        self.timed: set[tuple] = set()      # the shapes that it was compiled for

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self._in_batches(x, lambda x, _: self._score(x, sigma))

    def vjp(self, x: torch.Tensor, sigma: float, v: torch.Tensor) -> torch.Tensor:
        """The transposed derivative of the score at x, applied to v: (ds/dx)^T v, all [n, 1, H, W].

        Slices are independent of each other, so it goes batch by batch too: a pass forwards and a pass back,
        with the memory for the activations of one batch.
        """
        def product(x, v):
            with torch.enable_grad():
                x.requires_grad_()
                score = self._score(x, sigma)
            return torch.autograd.grad(score, x, v)[0]
        return self._in_batches(x, product, v)

    def _in_batches(self, x, function, v=None):
        """``function`` (x, v) of every batch of slices, put together; a batch that memory is short for is split."""
        result, own = torch.zeros_like(x), self.processes.part(len(x))
        batches = [slice(begin, min(begin + self.batch_size, own.stop))
                   for begin in range(own.start, own.stop, self.batch_size)]
        for batch in self.progress(batches):
            begin, end = batch.start, batch.stop
            while begin < end:
                part = slice(begin, min(begin + self.batch_size, end))
                try:
                    # detach: a copy on the device, or a view here, that autograd may take as its own start
                    found = function(x[part].to(self.device).detach(), None if v is None else v[part].to(self.device))
                except RuntimeError as error:
                    if not _out_of_memory(error) or self.batch_size == 1:
                        raise
                    self.batch_size = max(1, self.batch_size // 2)
                    log.warning("out of memory: from here on %d slices a network call", self.batch_size)
                else:
                    result[part] = found.to(x.device)
                    begin = part.stop
        return self.processes.sum(result)

    def _score(self, x, sigma):
        """Score of one batch of slices, on the network's device."""
        height, width = x.shape[-2:]
        pad = (0, -width % self.network.multiple, 0, -height % self.network.multiple)
        if any(pad):
            # A slice thinner than its padding can't be reflected; repeat its edge instead.
            mode = "reflect" if pad[1] < width and pad[3] < height else "replicate"
            x = F.pad(x, pad, mode=mode)
        level = torch.full((1,), sigma, device=self.device)     # of one row: products of rows round by their number
        network = self.network if self.compiled is None or torch.is_grad_enabled() else self._compiled
        with autocast(self.precision, self.device):
            return network(x, level)[..., :height, :width].to(x.dtype)

    def _compiled(self, x, level):
        """The compiled network's answer, whose first for a shape says how long it took."""
        count, began = len(x), time.perf_counter()
        if copies := [-1] * (self.batch_size - count):
            x = torch.cat([x, x[copies]])
        found = self.compiled(x, level)[:count]
        if x.shape not in self.timed:
            self.timed.add(x.shape)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            log.info("network compiled in %.0f s, its first batch included", time.perf_counter() - began)
        return found


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: on a GPU a class of its own, in a library or on the CPU known by its text."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(text in str(error) for text in (
        "DefaultCPUAllocator", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory"))
