"""Conjugate gradients for symmetric positive semidefinite operators."""
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class CGInfo(NamedTuple):
    iterations: int  # steps taken
    residual: float  # |b - N x| / |b| at the end; |b - N x| when b is zero


def cg(normal_operator: Callable[[torch.Tensor], torch.Tensor], b: torch.Tensor, x: torch.Tensor,
       iterations: int) -> tuple[torch.Tensor, CGInfo]:
    """Solve ``N x = b`` by conjugate gradients (Hestenes and Stiefel 1952).

    Stops early once the residual is so small that it is the rounding of ``N x``: steps along rounding noise
    would go nowhere, or far off where N has a null space.

    Args:
        normal_operator: function v -> N v on tensors of the shape of x; N symmetric positive semidefinite.
        b: right-hand side, the shape of x.
        x: starting point; it is not changed.
        iterations: most steps to take, each one application of N (and one more at the start).

    Returns:
        (x, info): the solution and a CGInfo. The residual is the one that the recursion carries.

    Raises:
        ValueError: b and x differ in shape.
    """
    if b.shape != x.shape:
        raise ValueError(f"b is {list(b.shape)} and x is {list(x.shape)}; they must agree")
    x = x.clone()
    Np = normal_operator(x)
    r = b - Np
    rr = dot(r, r)
    b_norm = math.sqrt(dot(b, b))
    stop = (10 * torch.finfo(x.dtype).eps * max(b_norm, math.sqrt(dot(Np, Np)))) ** 2
    p = r.clone()
    done = 0
    while done < iterations and not rr <= stop:  # "not <=": NaN goes on and shows in the result
        Np = normal_operator(p)
        curvature = dot(p, Np)
        if curvature <= 0:  # p lies in the null space: no step along it changes N x
            break
        alpha = rr / curvature
        x.add_(p, alpha=alpha)
        r.sub_(Np, alpha=alpha)
        rr, rr_old = dot(r, r), rr
        p.mul_(rr / rr_old).add_(r)
        done += 1
    return x, CGInfo(done, math.sqrt(rr) / (b_norm or 1.0))


PART = 1 << 30      # elements of a product: libraries count them in 32 bits


def dot(u: torch.Tensor, v: torch.Tensor) -> float:
    """The scalar product of two tensors of one shape, of any size."""
    return sum(torch.dot(a, b).item() for a, b in zip(u.flatten().split(PART), v.flatten().split(PART)))


def over_processes(operator: Any, value: float) -> float:
    """A sum over an operator's range of which ``value`` is this process's part: see `Problem.operator`."""
    return operator.total(value) if hasattr(operator, "total") else value
