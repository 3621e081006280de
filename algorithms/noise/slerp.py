"""Inter-slice consistent stochasticity: the noise of ISCS."""
import math

import torch

from algorithms.noise import draw


class Slerp:
    """Slices spread evenly over the arc between two independent images, drawn anew at every call.

    Slice k is ``sin((1 - a) theta) / sin(theta) z0 + sin(a theta) / sin(theta) z1`` with
    ``a = (16 k + 1 + 8 [n odd]) / (16 n + 1)`` and theta the angle between the two images, taken as vectors. This is
    the noise of Du et al. 2026 (ISCS, arXiv 2602.04162) in closed form: O(n) time, and no more memory than the noise.
    Parallel images span no arc: they get the linear weights ``1 - a`` and ``a``.
    """

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str = "cpu",
                 spacing: float | None = None) -> torch.Tensor:
        z0, z1 = (draw(1, shape, generator, device) for _ in range(2))
        return self.between(z0, z1, shape[0])

    @staticmethod
    def between(z0: torch.Tensor, z1: torch.Tensor, n: int) -> torch.Tensor:
        """The n slices [n, C, H, W] from image z0 to image z1, both [1, C, H, W].

        Raises:
            ValueError: the shapes differ or do not start with 1, or n < 1.
        """
        if z0.shape != z1.shape or z0.ndim != 4 or z0.shape[0] != 1:
            raise ValueError(f"z0 is {list(z0.shape)} and z1 is {list(z1.shape)}; both must be one [1, C, H, W]")
        if n < 1:
            raise ValueError(f"n is {n}; the number of slices must be 1 or more")
        k = torch.arange(n, dtype=torch.float64)
        a = (16 * k + 1 + 8 * (n % 2)) / (16 * n + 1)
        theta = _angle(z0, z1)
        if math.sin(theta) < 1e-6:
            w0, w1 = 1 - a, a
        else:
            w0, w1 = torch.sin((1 - a) * theta) / math.sin(theta), torch.sin(a * theta) / math.sin(theta)
        w0, w1 = (w.to(z0).view(n, 1, 1, 1) for w in (w0, w1))
        return (w0 * z0).addcmul_(w1, z1)  # in place: one stack of memory, not three


def _angle(u, v):
    """Angle between two tensors, in float64, exact near 0 and pi where the arc cosine is not (Kahan)."""
    u, v = u.double(), v.double()
    u, v = u * v.norm(), v * u.norm()
    return 2 * math.atan2((u - v).norm(), (u + v).norm())
