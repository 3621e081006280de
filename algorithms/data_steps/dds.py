"""The data step of DDS, with total variation across slices."""
from typing import Any

import torch

from algorithms.cg import cg
from algorithms.data_steps import DataStep
from algorithms.differences import across_slices, across_slices_T

TV_THRESHOLD = 0.01   # w_dz / penalty: the step between slices that one ADMM iteration can flatten, in intensity


class DDS(DataStep):
    """Decomposed diffusion sampling: a few CG steps on the proximal problem, started at x0.

    They go towards the minimum of ``1/2 |A x - y|^2_W + rho/2 |x - x0|^2``, that is the solution of
    ``(A^T W A + rho I) x = A^T W y + rho x0``, with rho = w_tik / sigma^2 (Chung et al. 2024, ICLR, arXiv 2303.05754)
    and ``|r|^2_W = <r, W r>``; W = 1 / variance of y makes the data term its log-likelihood.

    ``w_dz`` adds ``w_dz |D x|_1``, where D takes the differences of neighbouring slices (no wrap-around): the total
    variation along the axis that the prior does not see, as in DiffusionMBIR (Chung et al. 2023, CVPR, arXiv
    2211.10655). Every level takes one iteration of ADMM on the split z = D x with scaled dual u,

        x <- (A^T W A + rho I + p D^T D)^-1 (A^T W y + rho x0 + p D^T (z - u))      by CG, started at x0
        z <- shrink(D x + u, w_dz / p)
        u <- u + D x - z

    and z and u go on from level to level. Both follow from v = D x + u, u being v clamped to +-w_dz / p, so v is all
    that is kept. The penalty p = w_dz / TV_THRESHOLD sets the speed, not the solution, and vanishes with w_dz: what is
    left is plain DDS.

    Args:
        problem: its operator has A and A_T, between tensors [n, 1, H, W] and the range of y; its weights are the
            diagonal of W, None is 1 everywhere.
        num_cg: CG steps a level, >= 1.
        w_tik: Tikhonov weight, >= 0: how hard x0 holds on, more so at low noise.
        w_dz: weight of the total variation across slices, >= 0, in units of |A x|^2 per unit of intensity.

    Raises:
        ValueError: num_cg < 1, w_tik or w_dz < 0.
    """

    def __init__(self, problem: Any, *, num_cg: int = 5, w_tik: float = 0.0, w_dz: float = 0.0):
        if num_cg < 1:
            raise ValueError(f"num_cg is {num_cg}; DDS needs 1 or more CG steps")
        for name, weight in (("w_tik", w_tik), ("w_dz", w_dz)):
            if not weight >= 0:
                raise ValueError(f"{name} is {weight}; it must be 0 or more")
        self.operator, self.weights = problem.operator, problem.weights
        self.num_cg, self.w_tik, self.w_dz = num_cg, w_tik, w_dz
        self.ATWy = self._AT_W(problem.y)
        self.v: torch.Tensor | None = None       # [n - 1, 1, H, W], from the first level with w_dz on

    def __call__(self, x0: torch.Tensor, sigma: float) -> torch.Tensor:
        rho, penalty = self.w_tik / sigma**2, self.w_dz / TV_THRESHOLD

        def normal_operator(x):
            Nx = torch.add(self._AT_W(self.operator.A(x)), x, alpha=rho)
            return Nx.add_(across_slices_T(across_slices(x)), alpha=penalty) if self.w_dz else Nx

        b = torch.add(self.ATWy, x0, alpha=rho)
        if self.w_dz:
            v = across_slices(x0) if self.v is None else self.v
            u = v.clamp(-TV_THRESHOLD, TV_THRESHOLD)
            b.add_(across_slices_T(v - 2 * u), alpha=penalty)  # z - u = v - 2 u
        x, _ = cg(normal_operator, b, x0, self.num_cg)
        if self.w_dz:
            self.v = u.add_(across_slices(x))
        return x

    def state_dict(self) -> dict:
        return {"v": self.v}

    def load_state_dict(self, state: dict) -> None:
        self.v = None if state["v"] is None else state["v"].to(self.ATWy)

    def _AT_W(self, r):
        return self.operator.A_T(r if self.weights is None else self.weights * r)
