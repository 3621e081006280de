"""Guidance: the part of a level's step that comes from the measurement through the prior."""
import math
from collections.abc import Callable
from typing import Any

import torch

from algorithms.cg import dot, over_processes


def dps(score: Any, problem: Any, w_dps: float) -> Callable:
    """Diffusion posterior sampling: follow the gradient of the misfit with respect to the noisy image x.

    ``w_dps grad_x |y - A x0(x)|_W`` with Tweedie's x0(x) = x + sigma^2 s(x, sigma) and ``|r|^2_W = <r, W r>``.
    This is the step ``zeta / |y - A x0| grad_x |y - A x0|^2`` of Chung et al. 2023 (ICLR, arXiv 2209.14687,
    algorithm 1) with w_dps = 2 zeta; their code takes the gradient of the norm too. The norm is that of the
    whole volume. By the chain rule the gradient is J^T A^T W (A x0 - y) / |A x0 - y|_W with
    J = I + sigma^2 ds/dx: one application of A and A_T, then the network's transposed derivative, slice by slice.

    Args:
        score: the prior, with ``vjp(x, sigma, v)``: the transposed derivative of its score, applied to v.
        problem: an `algorithms.problem.Problem`; its weights are the diagonal of W.
        w_dps: length of the step, > 0, in units of intensity^2 per unit of y: a steepest-descent step
            does not overshoot below ``2 |A x0 - y| / |A|^2``.

    Returns:
        Function (x, x0, sigma) -> what to subtract, all [n, 1, H, W].

    Raises:
        ValueError: w_dps out of range.
    """
    if not 0 < w_dps < math.inf:
        raise ValueError(f"w_dps is {w_dps}; it must be above 0 and finite")
    operator, y, weights = problem.operator, problem.y, problem.weights

    def guidance(x, x0, sigma):
        r = operator.A(x0) - y
        Wr = r if weights is None else weights * r
        misfit = math.sqrt(over_processes(operator, dot(r, Wr)))
        if misfit == 0:
            return torch.zeros_like(x)
        v = operator.A_T(Wr)
        return torch.add(v, score.vjp(x, sigma, v), alpha=sigma**2).mul_(w_dps / misfit)

    return guidance
