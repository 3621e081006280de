"""What every measurement operator offers to the algorithms."""
from collections.abc import Sequence

import torch

from op.check import check


class LinearOperator:
    """A linear measurement y = A x with its exact adjoint A_T and a pseudo-inverse A_dagger.

    A subclass defines `_forward`, `_adjoint` and `_pseudo_inverse`, which see only tensors of the right shape; the
    public methods raise ValueError for any other shape and for integers.

    Args:
        domain_shape: of x, in the sampler's layout [slices, 1, H, W].
        range_shape: of y.
    """

    def __init__(self, domain_shape: Sequence[int], range_shape: Sequence[int]):
        self.domain_shape, self.range_shape = tuple(domain_shape), tuple(range_shape)

    def A(self, x: torch.Tensor) -> torch.Tensor:
        """The measurement [range_shape] of a volume [domain_shape]."""
        return self._forward(check(f"{type(self).__name__}.A", x, self.domain_shape))

    def A_T(self, y: torch.Tensor) -> torch.Tensor:
        """The adjoint: <A x, y> = <x, A_T y> for all x [domain_shape], y [range_shape]."""
        return self._adjoint(check(f"{type(self).__name__}.A_T", y, self.range_shape))

    def A_dagger(self, y: torch.Tensor) -> torch.Tensor:
        """A linear pseudo-inverse [domain_shape] of y [range_shape]; how exact, the subclass says."""
        return self._pseudo_inverse(check(f"{type(self).__name__}.A_dagger", y, self.range_shape))

    def total(self, value: float) -> float:
        """A sum over the range, such as |y|^2, of which ``value`` is what this process has: over all that share it."""
        return value

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _pseudo_inverse(self, y: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {list(self.domain_shape)} -> {list(self.range_shape)}>"
