"""The prior as the sampler sees it: the score of a whole stack of slices, computed batch by batch."""
import torch
import torch.nn.functional as F
from torch import nn


class SliceScore:
    """score(x, sigma) of every slice of a volume, in batches, at any in-plane size.

    Calling it with x [n, 1, H, W] and one sigma for all slices gives s(x, sigma) [n, 1, H, W] on x's device.
    Slices are padded by reflection to the next size that the network's levels divide, and cropped back.

    ``network`` is put in evaluation mode on ``device``; ``batch_size`` slices go through it at a time (the
    result does not depend on it beyond rounding). ``progress`` wraps the iterable of batches, for a progress
    bar.
    """

    def __init__(self, network: nn.Module, batch_size: int, device, progress=lambda batches: batches):
        self.network = network.to(device).eval().requires_grad_(False)
        self.batch_size, self.device, self.progress = batch_size, device, progress

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        score = torch.empty_like(x)
        for batch in self._batches(len(x)):
            score[batch] = self._score(x[batch].to(self.device), sigma).to(x.device)
        return score

    def vjp(self, x: torch.Tensor, sigma: float, v: torch.Tensor) -> torch.Tensor:
        """The transposed derivative of the score at x, applied to v: (ds/dx)^T v, all [n, 1, H, W].

        Slices are independent of each other, so it goes batch by batch too: a pass forwards and a pass back,
        with the memory for the activations of one batch.
        """
        product = torch.empty_like(x)
        for batch in self._batches(len(x)):
            with torch.enable_grad():
                x_batch = x[batch].to(self.device).requires_grad_()
                score = self._score(x_batch, sigma)
            gradient, = torch.autograd.grad(score, x_batch, v[batch].to(self.device))
            product[batch] = gradient.to(x.device)
        return product

    def _batches(self, count):
        return self.progress([slice(begin, begin + self.batch_size) for begin in range(0, count, self.batch_size)])

    def _score(self, x, sigma):
        """Score of one batch of slices, on the network's device."""
        height, width = x.shape[-2:]
        pad = (0, -width % self.network.multiple, 0, -height % self.network.multiple)
        if any(pad):
            # A slice thinner than its padding can't be reflected; repeat its edge instead.
            mode = "reflect" if pad[1] < width and pad[3] < height else "replicate"
            x = F.pad(x, pad, mode=mode)
        levels = torch.full((len(x),), sigma, device=self.device)
        return self.network(x, levels)[..., :height, :width]
