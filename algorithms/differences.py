"""Differences of neighbouring voxels of a stack of slices, and their adjoints."""
import torch


def in_plane(x: torch.Tensor) -> torch.Tensor:
    """Periodic forward differences along H and W: [n, 1, H, W] -> [2, n, 1, H, W]."""
    return torch.stack([x.roll(-1, axis) - x for axis in (-2, -1)])


def in_plane_T(g: torch.Tensor) -> torch.Tensor:
    """Adjoint of `in_plane`: [2, n, 1, H, W] -> [n, 1, H, W]."""
    return sum(g_axis.roll(1, axis) - g_axis for g_axis, axis in zip(g, (-2, -1), strict=True))


def across_slices(x: torch.Tensor) -> torch.Tensor:
    """Differences of neighbouring slices, without wrap-around: [n, 1, H, W] -> [n - 1, 1, H, W]."""
    return x[1:] - x[:-1]


def across_slices_T(g: torch.Tensor) -> torch.Tensor:
    """Adjoint of `across_slices`: [n - 1, 1, H, W] -> [n, 1, H, W]."""
    x = g.new_zeros(len(g) + 1, *g.shape[1:])
    x[1:] += g
    x[:-1] -= g
    return x
