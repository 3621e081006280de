"""The data step of DDS, with total variation and a dual variable."""
from typing import Any, Literal

import torch

from algorithms.cg import cgls
from algorithms.data_steps import DataStep
from algorithms.differences import across_slices, across_slices_T, in_plane, in_plane_T

TV_THRESHOLD = 0.01   # weight / penalty: the difference that one ADMM iteration can flatten, in intensity


class DDS(DataStep):
    """Decomposed diffusion sampling: a few CG steps on the proximal problem, started at x0.

    They go towards the minimum of ``1/2 |A x - y|^2_W + rho/2 |x - x0|^2``, that is the solution of
    ``(A^T W A + rho I) x = A^T W y + rho x0``, with rho = w_tik / sigma^2 (Chung et al. 2024, ICLR, arXiv 2303.05754)
    and ``|r|^2_W = <r, W r>``; W = 1 / variance of y makes the data term its log-likelihood.

    A ``w_tik`` of "noise" is the variance of y's noise: data and prior are weighted as if x0 were off by sigma, as in
    DiffPIR (Zhu et al. 2023, CVPR workshops, arXiv 2305.08995) with lambda 1. At 0, CG fits the noise.

    **Total variation** adds ``w_dz |D x|_1``, where D takes the differences of neighbouring slices (no wrap-around),
    along the axis that the prior does not see, as in DiffusionMBIR (Chung et al. 2023, CVPR, arXiv 2211.10655); and
    ``w_tv |D x|_1`` with the differences within slices (periodic), those of ADMM-TV. Every level takes one iteration of
    ADMM on the split z = D x with scaled dual u, for each of the two that has a weight w,

        x <- (A^T W A + rho I + p D^T D)^-1 (A^T W y + rho x0 + p D^T (z - u))      by CG, started at x0
        z <- shrink(D x + u, w / p)
        u <- u + D x - z

    and z and u go on from level to level. Both follow from v = D x + u, u being v clamped to +-w / p, so v is all
    that is kept. The penalty p = w / TV_THRESHOLD sets the speed, not the solution, and vanishes with w: what is left
    is plain DDS.

    **A dual variable** (``dual``, a gain) remembers what data and prior disagree on, after dual-coupled plug-and-play
    diffusion (Du et al. 2026, arXiv 2602.23214), whose gain is 1; a gain below 1 is a leak. With the last x, the
    problem's initial image at first, ``d <- dual (d + x - x0)``; the step is then taken from x0 - d instead of x0, and
    the next level's noise is put on x + d (`centre`). So |d| stays below dual / (1 - dual) times the largest step
    |x - x0|.

    Args:
        problem: its operator has A and A_T, between tensors [n, 1, H, W] and the range of y; its weights are the
            diagonal of W, None is 1 everywhere.
        num_cg: CG steps a level, >= 1.
        w_tik: Tikhonov weight, >= 0: how hard x0 holds on, more so at low noise; or "noise".
        w_dz, w_tv: weights of the total variation across and within slices, >= 0, in units of |A x|^2 per unit of
            intensity.
        dual: gain of the dual variable, 0 (none) or more, below 1.

    Raises:
        ValueError: num_cg < 1, a weight < 0, a gain out of range, "noise" of a problem that does not say its variance.
    """

    def __init__(self, problem: Any, *, num_cg: int = 5, w_tik: float | Literal["noise"] = 0.0,
                 w_dz: float = 0.0, w_tv: float = 0.0, dual: float = 0.0):
        if num_cg < 1:
            raise ValueError(f"num_cg is {num_cg}; DDS needs 1 or more CG steps")
        tikhonov = problem.variance if w_tik == "noise" else w_tik
        if tikhonov is None:
            raise ValueError("w_tik is 'noise', and the problem does not say its variance")
        for name, weight in (("w_tik", tikhonov), ("w_dz", w_dz), ("w_tv", w_tv)):
            if not weight >= 0:
                raise ValueError(f"{name} is {weight}; it must be 0 or more")
        if not 0 <= dual < 1:
            raise ValueError(f"dual is {dual}; it must be 0 or more, and below 1")
        self.operator, self.y, self.weights = problem.operator, problem.measured, problem.weights
        self.num_cg, self.w_tik, self.dual = num_cg, tikhonov, dual
        self.splits = [(w / TV_THRESHOLD, D, D_T) for w, D, D_T in (
            (w_dz, across_slices, across_slices_T), (w_tv, in_plane, in_plane_T)) if w]
        self.v: list[torch.Tensor] = []             # of each split, from the first level on
        self.x = problem.initial                    # the last x
        self.d: torch.Tensor | None = None          # the dual variable

    def __call__(self, x0: torch.Tensor, sigma: float) -> torch.Tensor:
        rho = self.w_tik / sigma**2
        if self.dual:
            step = self.x - x0
            d = (step if self.d is None else step.add_(self.d)).mul_(self.dual)
            x0, self.d = x0 - d, d

        def quadratic(x):
            Mx = rho * x
            for penalty, D, D_T in self.splits:
                Mx.add_(D_T(D(x)), alpha=penalty)
            return Mx

        c = rho * x0
        v = self.v or [D(x0) for _, D, _ in self.splits]
        u = [each.clamp(-TV_THRESHOLD, TV_THRESHOLD) for each in v]
        for (penalty, _, D_T), v_D, u_D in zip(self.splits, v, u):
            c.add_(D_T(v_D - 2 * u_D), alpha=penalty)       # z - u = v - 2 u
        more = bool(rho or self.splits)
        x, _ = cgls(self.operator, self.y, x0, self.num_cg, weights=self.weights,
                    quadratic=quadratic if more else None, linear=c if more else None)
        self.v = [u_D.add_(D(x)) for (_, D, _), u_D in zip(self.splits, u)]
        if self.dual:       # else no volume is held from level to level
            self.x = x
        return x

    def centre(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.d is None else x + self.d

    def state_dict(self) -> dict:
        return {"v": self.v, "x": self.x if self.dual else None, "d": self.d}

    def load_state_dict(self, state: dict) -> None:
        self.v = [each.to(self.x) for each in state["v"]]
        if self.dual:
            self.x, self.d = (state[name].to(self.x) for name in ("x", "d"))
