"""What the operators ask of their tensors."""
from collections.abc import Sequence

import torch


def check(name: str, tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The tensor itself, where it is floating point of this shape.

    Raises:
        ValueError: it is not; begins with `name`.
    """
    if tuple(tensor.shape) != tuple(shape) or not tensor.is_floating_point():
        raise ValueError(f"{name}: expected floating point {list(shape)}, "
                         f"found {tensor.dtype} {list(tensor.shape)}")
    return tensor


def without_gradient(*tensors: torch.Tensor | None) -> bool:
    """Whether what is computed from these tensors needs no gradient."""
    return not (torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors))
