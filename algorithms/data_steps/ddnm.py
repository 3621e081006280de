"""The data step of DDNM."""
from typing import Any

import torch

from algorithms.data_steps import DataStep


class DDNM(DataStep):
    """Denoising diffusion null-space model: replace the part of x0 that the measurement determines.

    ``x0 + A_dagger (y - A x0)`` (Wang et al. 2023, ICLR, arXiv 2212.00490). There is no objective here that weights or
    a total variation could be added to, and sigma plays no part.

    Args:
        problem: its operator has A and A_dagger, between tensors [n, 1, H, W] and the range of y.
    """

    def __init__(self, problem: Any):
        self.operator, self.y = problem.operator, problem.y

    def __call__(self, x0: torch.Tensor, sigma: float) -> torch.Tensor:
        return x0 + self.operator.A_dagger(self.y - self.operator.A(x0))
