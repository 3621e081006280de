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
        height, width = x.shape[-2:]
        multiple = self.network.multiple
        pad = (0, -width % multiple, 0, -height % multiple)
        score = torch.empty_like(x)
        for begin in self.progress(range(0, len(x), self.batch_size)):
            batch = x[begin:begin + self.batch_size].to(self.device)
            if any(pad):
                # A slice thinner than its padding can't be reflected; repeat its edge instead.
                mode = "reflect" if pad[1] < width and pad[3] < height else "replicate"
                batch = F.pad(batch, pad, mode=mode)
            levels = torch.full((len(batch),), sigma, device=self.device)
            score[begin:begin + len(batch)] = self.network(batch, levels)[..., :height, :width].to(x.device)
        return score
