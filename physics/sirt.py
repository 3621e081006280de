"""SIRT: the simultaneous iterative reconstruction technique."""
from collections.abc import Callable
from typing import Any

import torch

from op.check import check


def sirt(y: torch.Tensor, operator: Any, iterations: int = 100, nonnegative: bool = True,
         progress: Callable | None = None) -> torch.Tensor:
    """SIRT from zero: x += C A_T R (y - A x), R and C inverse row and column sums; Gregor & Benson (2008).

    Args:
        y: [1, views, det_v, det_u].
        operator: a ConeBeam.
        iterations: how many.
        nonnegative: project onto x >= 0 after every iteration.
        progress: wraps the range of iterations, as tqdm does; None: nothing does.

    Returns:
        x [D, 1, H, W].
    """
    check("y", y, operator.range_shape)
    operator, (top, bottom, left, right) = operator.crop()
    y = y[..., top:bottom, left:right]
    rows, columns = operator.inverse_sums(y)
    x = y.new_zeros(operator.domain_shape)
    steps = range(iterations)
    for _ in progress(steps) if progress else steps:
        x += columns * operator.A_T(rows * (y - operator.A(x)))
        if nonnegative:
            x.clamp_(min=0)
    return x
