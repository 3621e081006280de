"""Reconstruction with in-plane total variation, without a learned prior."""
from typing import Any

import torch
import torch.nn.functional as F

from algorithms.cg import cgls
from algorithms.differences import in_plane, in_plane_T

OUTER = 30    # ADMM iterations


@torch.no_grad()
def admm_tv(operator: Any, y: torch.Tensor, *, lam: float = 3.0, rho: float = 50.0, outer: int = OUTER, inner: int = 20,
            observer: Any = None) -> torch.Tensor:
    """Minimise ``1/2 |A x - y|^2 + lam (|Dx x|_1 + |Dy x|_1)`` over stacks of slices.

    ADMM with scaled duals (Boyd et al. 2011, "Distributed optimization and statistical learning via ADMM",
    section 6.4.1) on the split z = D x, where D stacks the periodic forward differences along the two
    in-plane axes:

        x <- (A^T A + rho D^T D)^-1 (A^T y + rho D^T (z - u))      by CG, started at the last x
        z <- shrink(D x + u, lam / rho)
        u <- u + D x - z

    Args:
        operator: linear operator with A and A_T, between tensors [n, 1, H, W] and its range.
        y: measurement, in the range of A.
        lam: weight of the total variation, >= 0, in units of |A x|^2 per unit of intensity.
        rho: penalty of the split, > 0; it sets the speed, not the solution.
        outer: ADMM iterations, >= 1.
        inner: CG steps in each, >= 1.
        observer: gets ``estimate(iteration, x)`` after every iteration.

    Returns:
        x [n, 1, H, W], from x = 0.

    Raises:
        ValueError: lam, rho, outer or inner out of range.
    """
    if not lam >= 0:
        raise ValueError(f"lam is {lam}; it must be 0 or more")
    if not rho > 0:
        raise ValueError(f"rho is {rho}; it must be above 0")
    if outer < 1 or inner < 1:
        raise ValueError(f"outer is {outer} and inner is {inner}; both must be 1 or more")

    def quadratic(x):
        return in_plane_T(in_plane(x)).mul_(rho)

    x = torch.zeros_like(operator.A_T(y))
    z = in_plane(x)
    u = torch.zeros_like(z)
    for i in range(outer):
        x, _ = cgls(operator, y, x, inner, quadratic=quadratic, linear=in_plane_T(z - u).mul_(rho))
        u += in_plane(x)  # D x + u
        z = F.softshrink(u, lam / rho)
        u -= z
        if observer:
            observer.estimate(i, x)
    return x
