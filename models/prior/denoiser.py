"""What networks of every kind predict, as one thing: the score of images with intensities in [0, 1]."""
import math
from typing import Any

import torch
from torch import nn

from models.prior.schedule import Schedule

PREDICTIONS = ("score", "epsilon", "v", "sample", "denoised", "edm")
SIGMA_DATA = 0.5    # of EDM (Karras et al. 2022), for images in [-1, 1]


class Denoiser(nn.Module):
    """The score s(x, sigma) of x = x0 + sigma eps, x0 in [0, 1], whatever the network predicts.

    The network's images are m = a x + b, with noise of level sigma_m = |a| sigma. It is given m, or with a
    variance-preserving diffusion (epsilon, v, sample) m c with c = 1 / sqrt(1 + sigma_m^2), and the time of its
    schedule for sigma_m. Of its answer F follows an estimate e of the noise in m, and s = -e / sigma (e / sigma where
    a < 0):

    ========  ========================================================================================
    score     s = a F (score_sde's VE)
    epsilon   e = F (score_sde's VP, DDPM, guided diffusion)
    v         e = c F + c^2 sigma_m m (Salimans & Ho 2022)
    sample    e = (m - F) / sigma_m, as with
    denoised  which is given m itself
    edm       D = c_skip m + c_out F(c_in m, ln(sigma_m) / 4), e = (m - D) / sigma_m (Karras et al. 2022, table 1)
    ========  ========================================================================================

    Shapes: x [B, 1, H, W] with H and W divisible by ``multiple``, sigma [B]; returns [B, 1, H, W]. A network of more
    channels is shown the image in each, and its answers are averaged; channels beyond those (of a learnt variance)
    are left out.

    Args:
        network: (m, time) to F, with attributes ``multiple`` and ``channels``.
        prediction: one of `PREDICTIONS`.
        schedule: of `models.prior.schedule`, for m.
        scale: (a, b).

    Raises:
        ValueError: another prediction.
    """

    def __init__(self, network: Any, prediction: str, schedule: Schedule, scale: tuple[float, float] = (1.0, 0.0)):
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction {prediction!r}; accepted: {', '.join(PREDICTIONS)}")
        self.network, self.prediction, self.schedule, self.scale = network, prediction, schedule, scale
        self.multiple, self.channels = network.multiple, getattr(network, "channels", 1)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        a, b = self.scale
        m, levels = a * x + b, abs(a) * sigma
        level = levels[:, None, None, None]
        if self.prediction == "score":
            return a * self._answer(m, self.schedule.time(levels))
        if self.prediction == "edm":
            variance = level**2 + SIGMA_DATA**2
            answer = self._answer(m / variance.sqrt(), self.schedule.time(levels).log() / 4)
            noise = level / variance * m - SIGMA_DATA / variance.sqrt() * answer
        elif self.prediction == "denoised":
            noise = (m - self._answer(m, self.schedule.time(levels))) / level
        else:
            c = (1 + level**2).rsqrt()
            answer = self._answer(c * m, self.schedule.time(levels))
            noise = {"epsilon": lambda: answer, "v": lambda: c * answer + c**2 * level * m,
                     "sample": lambda: (m - answer) / level}[self.prediction]()
        return -math.copysign(1, a) * noise / sigma[:, None, None, None]

    def _answer(self, m: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        answer = self.network(m.expand(-1, self.channels, -1, -1), time)
        return answer[:, :self.channels].mean(dim=1, keepdim=True).to(m.dtype)

